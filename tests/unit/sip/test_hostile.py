"""Hostile and odd input to the whole layer: it costs a counter, never an exception.

The messages are of the kinds of RFC 4475 (torture tests): legal but odd, illegal but answerable, and neither.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.sip.transactions_kit import PEER, Bench, first_word, request, response

from kedge.sip.errors import PARSE_REASONS
from kedge.sip.headers import parse_name_addr, parse_via, split_commas
from kedge.sip.message import Message
from kedge.sip.parser import parse_message
from kedge.sip.uri import parse_uri

BASIC = request("OPTIONS")


def odd(old: bytes, new: bytes) -> bytes:
    assert old in BASIC
    return BASIC.replace(old, new)


LEGAL = {
    "tortuous white space and folding": (
        b"INVITE sip:vivek@chair.example.com;unknownparam SIP/2.0\r\n"
        b"TO :\r\n sip:vivek@chair.example.com ;   tag    = 19\r\n"
        b'from   : "J R \\\\\\""       <sip:jr@example.com>\r\n  ;\r\n  tag = 98\r\n'
        b"MaX-fOrWaRdS: 0068\r\nCall-ID: ws.1@192.0.2.1\r\nContent-Length   : 3\r\ncseq: 0009\r\n  INVITE\r\n"
        b"Via  : SIP  /   2.0\r\n /UDP\r\n    192.0.2.2;branch=z9hG4bKdjuw\r\ns :\r\n"
        b"NewFangledHeader:   newfangled value\r\n continued newfangled value\r\n"
        b"UnknownHeaderWithUnusualValue: ;;,,;;,;\r\nContent-Type: application/sdp\r\n"
        b"Route:\r\n <sip:services.example.com;lr;unknownwith=value;unknown-no-value>\r\n"
        b"v:  SIP  / 2.0  / TCP     spindle.example.com   ;\r\n  branch  =   z9hG4bK9  ,\r\n"
        b" SIP  /    2.0   / UDP  192.168.255.111   ; branch=\r\n z9hG4bK3\r\n"
        b'm:"Quoted string \\"\\"" <sip:jr@example.com> ; newparam =\r\n      newvalue ;\r\n  second ; q = 0.33\r\n'
        b"\r\nv=0"
    ),
    "every character a method may have": BASIC.replace(b"OPTIONS", b"!interesting-Method0123456789_*+`.%indeed'~"),
    "control characters in quoted pairs": odd(b"From: <", b'From: "BEL:\\\x07 NUL:\\\x00 DEL:\\\x7f" <'),
    "percent-escaped nulls in URIs": odd(b"sip:bob@", b"sip:null-%00-null@"),
    "a method called as a name would be": BASIC.replace(b"OPTIONS", b"RE%47IST%45R"),
    "no white space between display name and <": odd(b"From: <", b"From: caller<"),
    "semicolon and question mark in the user part": odd(b"sip:bob@", b"sip:user;par=u%40example.net?x=y@"),
    "the transport of another time": odd(b"SIP/2.0/UDP", b"SIP/2.0/UNKNOWN"),
    "an unknown scheme": odd(b"sip:bob@example.com SIP", b"nobodyKnowsThisScheme:totallyopaquecontent SIP"),
    "an unknown scheme in From and To": odd(b"<sip:alice@example.com>", b"isbn:2983792873"),
    "bytes that are no UTF-8": odd(b"From: <", b'From: "\xff\xfe\xc0\xaf" <'),
    "values of extreme length": odd(b"Call-ID: c1", b"Call-ID: " + b"c" * 8000),
    "an empty header": odd(b"Route: <sip:192.0.2.9;lr>", b"Subject:\r\nRoute: <sip:192.0.2.9;lr>"),
    "a body longer than stated": BASIC + b"INVITE sip:second@example.com SIP/2.0\r\n\r\n",
    "line ends before it": b"\r\n\r\n\r\n" + BASIC,
    "a multipart body with boundaries that look like headers": BASIC.replace(b"Content-Length: 0\r\n", b"")
    + b"--x\r\nVia: SIP/2.0/UDP h\r\n\r\n\x00\xff--x--",
}

ANSWERABLE = {
    "extra spaces in the start line": odd(b"sip:bob@example.com SIP", b"sip:bob@example.com  SIP"),
    "space at the end of the start line": odd(b"SIP/2.0\r\nVia", b"SIP/2.0  \r\nVia"),
    "a request-URI in brackets": odd(b"sip:bob@example.com SIP", b"<sip:bob@example.com> SIP"),
    "white space in the request-URI": odd(b"sip:bob@example.com SIP", b"sip:bob@example.com; lr SIP"),
    "a quote not closed in To": odd(b"To: <", b'To: "Mr. J. User <'),
    "a bracket not closed in From": odd(b"alice@example.com>", b"alice@example.com"),
    "a negative Content-Length": odd(b"Content-Length: 0", b"Content-Length: -999"),
    "a body shorter than stated": odd(b"Content-Length: 0", b"Content-Length: 9999"),
    "a CSeq out of range": odd(b"CSeq: 1", b"CSeq: 36893488147419103232"),
    "a CSeq of another method": odd(b"1 OPTIONS", b"1 NOPTIONS"),
    "two different Call-IDs": odd(b"Call-ID: c1", b"Call-ID: c1\r\nCall-ID: c2"),
    "a header line without colon": odd(b"Max-Forwards: 70", b"Max-Forwards 70"),
    "a protocol of the future": odd(b"SIP/2.0\r\nVia", b"SIP/7.0\r\nVia"),
}

UNREADABLE = {
    "nothing but noise": bytes(range(256)),
    "a STUN binding request": b"\x00\x01\x00\x00\x21\x12\xa4\x42" + b"x" * 12,
    "an HTTP request": b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n",
    "a start line alone": b"OPTIONS sip:a@b SIP/2.0\r\n\r\n",
    "no end of headers": BASIC[:-2],
    "no Via": odd(b"Via:", b"Vita:"),
    "no Call-ID": odd(b"Call-ID: c1\r\n", b""),
    "a Via of another protocol": odd(b"SIP/2.0/UDP", b"SAP/2.0/UDP"),
    "a Via port of zero": odd(b"192.0.2.1:5060", b"192.0.2.1:0"),
    "bare line feeds": BASIC.replace(b"\r\n", b"\n") + b"\r\n\r\n",
    "a smuggled header": odd(b"Call-ID: c1", b"Call-ID: c1\rX-Evil: 1"),
    "a status out of range": response(200).replace(b" 200 ", b" 4294967301 "),
    "a huge line": odd(b"Call-ID: c1", b"Call-ID: " + b"c" * 60_000),
    "a storm of headers": odd(b"To: ", b"a: b\r\n" * 5000 + b"To: "),
    "a datagram of the largest size": b" " * 65_507,
    "colons": b":" * 65_000,
    "folds": b"A: b\r\n " * 8000 + b"\r\n\r\n",
    "quotes and brackets": odd(b"Via: SIP", b'Via: "<' * 1000 + b"SIP"),
}


def read_all(message: Message) -> None:
    """Read each value with each reader that a user may call on it."""
    assert parse_via(str(message.top_via)).branch == message.branch
    for name in ("From", "To"):
        parse_name_addr(message.get(name) or "")
    for name in ("Route", "Contact"):
        for row in message.get_all(name):
            for value in split_commas(row):
                parse_uri(parse_name_addr(value).uri)


@pytest.mark.parametrize("data", LEGAL.values(), ids=list(LEGAL))
def test_legal_but_odd_requests_reach_the_user(data: bytes) -> None:
    bench = Bench()

    assert bench.receive(data) == []

    (tx,) = bench.user.requests
    read_all(tx.request)
    parse_uri(tx.request.uri)
    assert parse_message(tx.request.to_bytes()).same_as(tx.request)
    assert sum(bench.layer.counters.parse_errors.values()) == 0


@pytest.mark.parametrize("data", ANSWERABLE.values(), ids=list(ANSWERABLE))
def test_what_can_be_answered_is_refused_without_state(data: bytes) -> None:
    bench = Bench()

    (sent,) = bench.receive(data)

    assert first_word(sent) == ("505" if b"SIP/7.0" in data else "400")
    assert len(sent) <= len(data)
    assert b"\r\nVia: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKa\r\n" in sent
    assert bench.user.events == []
    assert bench.is_empty
    assert sum(bench.layer.counters.parse_errors.values()) == 1


@pytest.mark.parametrize("data", UNREADABLE.values(), ids=list(UNREADABLE))
def test_what_cannot_be_read_costs_one_counter(data: bytes) -> None:
    bench = Bench()

    assert bench.receive(data) == []

    assert bench.user.events == []
    assert bench.is_empty
    assert sum(bench.layer.counters.parse_errors.values()) == 1


def test_a_bad_ack_is_not_answered() -> None:
    assert Bench().receive(request("ACK").replace(b"1 ACK", b"1 INVITE")) == []


@pytest.mark.parametrize("data", [b"", b"\r\n\r\n", b"\0\0\0\0"])
def test_keepalives_are_counted_and_not_answered(data: bytes) -> None:
    bench = Bench()

    assert bench.receive(data) == []
    assert bench.layer.counters.keepalives == 1
    assert sum(bench.layer.counters.parse_errors.values()) == 0


def test_a_datagram_that_is_longer_than_allowed_costs_one_counter() -> None:
    data = request("OPTIONS")
    enough, too_small = Bench(max_bytes=len(data)), Bench(max_bytes=len(data) - 1)

    assert len(enough.receive(data)) == 0
    assert too_small.receive(data) == []

    assert [one.layer.counters.parse_errors["too_large"] for one in (enough, too_small)] == [0, 1]
    assert [len(one.layer.servers) for one in (enough, too_small)] == [1, 0]


def test_every_reason_has_its_counter_from_the_start() -> None:
    assert set(Bench().layer.counters.parse_errors) == set(PARSE_REASONS)


SEEDS = [
    request("INVITE", extra="Contact: <sip:alice@192.0.2.1>\r\n", body="v=0"),
    request("CANCEL"),
    request("ACK"),
    request("BYE", to_tag="t1", sent_by="10.0.0.1;rport"),
    response(180, "INVITE"),
    response(200, "INVITE"),
    response(486, "INVITE"),
    response(200, "CANCEL"),
    *LEGAL.values(),
]
EDIT = st.tuples(
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 12),
    st.one_of(
        st.binary(max_size=3), st.sampled_from([b"\r\n", b"\r\n ", b'"', b"<", b">", b";", b",", b":", b"@", b"Via"])
    ),
)


@given(st.lists(st.tuples(st.sampled_from(SEEDS), st.lists(EDIT, max_size=4)), min_size=1, max_size=8))
def test_a_layer_in_use_takes_mutated_messages_without_an_exception(
    datagrams: list[tuple[bytes, list[tuple[float, int, bytes]]]],
) -> None:
    bench = Bench()
    bench.send("INVITE")
    for index, (data, edits) in enumerate(datagrams):
        for place, removed, inserted in edits:
            at = int(place * len(data))
            data = data[:at] + inserted + data[at + removed :]
        bench.receive(data, float(index), PEER)
        bench.run(until=index + 0.9)
    for tx in bench.user.requests:
        if tx.request.method:
            bench.layer.respond_bytes(tx, 200, tx.request.to_bytes(), 10.0)
    bench.run(until=1000.0)

    assert bench.is_empty


@given(st.binary(max_size=100))
def test_any_datagram_is_taken_without_an_exception(data: bytes) -> None:
    bench = Bench()

    assert bench.receive(data) == []
    assert sum(bench.layer.counters.parse_errors.values()) + bench.layer.counters.keepalives == 1
