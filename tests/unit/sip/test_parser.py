"""The parser: what it accepts, what it refuses and why, and what remains answerable."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge.sip.errors import PARSE_REASONS, ParseError
from kedge.sip.message import Request, Response
from kedge.sip.parser import MAX_HEADERS, is_keepalive, parse_message

INVITE = (
    b"INVITE sip:bob@example.com SIP/2.0\r\n"
    b"Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKa;rport\r\n"
    b"Max-Forwards: 70\r\n"
    b'From: "Alice" <sip:alice@example.com>;tag=f1\r\n'
    b"To: <sip:bob@example.com>\r\n"
    b"Call-ID: c1@192.0.2.1\r\n"
    b"CSeq: 1 INVITE\r\n"
    b"Contact: <sip:alice@192.0.2.1>\r\n"
    b"Content-Type: application/sdp\r\n"
    b"Content-Length: 5\r\n"
    b"\r\n"
    b"v=0\r\n"
)
OK = b"SIP/2.0 200 OK\r\n" + INVITE.partition(b"\r\n")[2].replace(b"To: <sip:bob@example.com>", b"t: sip:bob@h;tag=t1")


def parse_request(data: bytes) -> Request:
    message = parse_message(data)
    assert isinstance(message, Request)
    return message


def refused(data: bytes) -> ParseError:
    with pytest.raises(ParseError) as caught:
        parse_message(data)
    assert caught.value.reason in PARSE_REASONS
    return caught.value


def test_a_request() -> None:
    request = parse_request(INVITE)

    assert (request.method, request.uri) == ("INVITE", "sip:bob@example.com")
    assert (request.call_id, request.cseq, request.cseq_method) == ("c1@192.0.2.1", 1, "INVITE")
    assert (request.from_tag, request.to_tag, request.branch) == ("f1", "", "z9hG4bKa")
    assert request.top_via.host == "192.0.2.1"
    assert request.get("Contact") == "<sip:alice@192.0.2.1>"
    assert request.get("Content-Length") is None
    assert request.body == b"v=0\r\n"


def test_a_response() -> None:
    response = parse_message(OK)

    assert isinstance(response, Response)
    assert (response.status, response.reason) == (200, "OK")
    assert (response.from_tag, response.to_tag, response.branch) == ("f1", "t1", "z9hG4bKa")
    assert response.top_via.port == 5060


@pytest.mark.parametrize("line", [b"SIP/2.0 200 ", b"SIP/2.0 200", b"sip/2.0 200 OK"])
def test_a_status_line_may_lack_its_phrase_and_have_any_case(line: bytes) -> None:
    response = parse_message(OK.replace(b"SIP/2.0 200 OK", line, 1))

    assert isinstance(response, Response)
    assert response.status == 200


def test_the_same_message_with_all_that_is_tolerated() -> None:
    odd = (
        b"\r\n\r\n"
        b"INVITE sip:bob@example.com SIP/2.0\r\n"
        b"v:  SIP / 2.0 / UDP 192.0.2.1 : 5060 ;\r\n branch = z9hG4bKa ;rport\r\n"
        b"MAX-forwards : 0070\r\n"
        b'f:\r\n\t"Alice"\r\n <sip:alice@example.com> ;  tag=f1\r\n'
        b"t:<sip:bob@example.com>  \r\n"
        b"i:c1@192.0.2.1\r\n"
        b"cSEQ:   0001\r\n   INVITE\r\n"
        b"m: <sip:alice@192.0.2.1>\r\n"
        b"c: application/sdp\r\n"
        b"l :\t5\r\n"
        b"\r\n"
        b"v=0\r\nbeyond what was stated"
    )
    plain, request = parse_request(INVITE), parse_request(odd)

    assert request.names == plain.names
    for name in ("method", "uri", "call_id", "cseq", "cseq_method", "from_tag", "to_tag", "branch", "body"):
        assert getattr(request, name) == getattr(plain, name)
    assert str(request.top_via) == str(plain.top_via)


def test_a_message_without_content_length_has_all_the_rest_as_body() -> None:
    assert parse_request(INVITE.replace(b"Content-Length: 5\r\n", b"") + b"a=1").body == b"v=0\r\na=1"


def test_bytes_that_are_no_utf8_are_passed_on_as_they_came() -> None:
    data = INVITE.replace(b'"Alice"', b'"Al\xff\xc3\xbc\xed\xa0\x80"').replace(b"c1@", b"\xfec1@")

    assert parse_request(data).to_bytes() == data


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"SIP/2.0\r\nVia", b"SIP/7.0\r\nVia", "version"),
        (b"INVITE sip:bob@example.com SIP", b"INVITE  sip:bob@example.com SIP", "start_line"),
        (b"INVITE sip:bob@example.com SIP", b"INVITE <sip:bob@example.com> SIP", "start_line"),
        (b"INVITE sip:bob@example.com SIP", b"INVITE sip:bob@example.com; lr SIP", "start_line"),
        (b"INVITE sip:bob@example.com SIP/2.0", b"INVITE sip:bob@example.com SIP/2.0 ", "start_line"),
        (b"INVITE sip:bob@example.com SIP", b"INVITE bob SIP", "start_line"),
        (b"CSeq: 1 INVITE", b"CSeq: 1 BYE", "cseq"),
        (b"CSeq: 1 INVITE", b"CSeq: 2147483648 INVITE", "cseq"),
        (b"CSeq: 1 INVITE", b"CSeq: one INVITE", "cseq"),
        (b"CSeq: 1 INVITE", b"CSeq: 1 INVITE\r\nCSeq: 2 INVITE", "duplicate_header"),
        (b"To: <", b"To: <sip:eve@example.com>\r\nt: <", "duplicate_header"),
        (b"Call-ID: c", b"i: other\r\nCall-ID: c", "duplicate_header"),
        (b"Max-Forwards: 70", b"Max-Forwards: 70\r\nMax-Forwards: 0", "duplicate_header"),
        (b"Content-Length: 5", b"Content-Length: 5\r\nl: 0", "duplicate_header"),
        (b"Content-Length: 5", b"Content-Length: 6", "content_length"),
        (b"Content-Length: 5", b"Content-Length: -1", "content_length"),
        (b"Content-Length: 5", b"Content-Length: 5_0", "content_length"),
        (b"Content-Length: 5", b"Content-Length: ", "content_length"),
        (b"Content-Length: 5", b"Content-Length: 99999999999999999999", "content_length"),
        (b'"Alice" <', b'"Alice <', "address"),
        (b"To: <sip:bob@example.com>", b"To: <sip:bob@example.com", "address"),
        (b"Max-Forwards: 70", b"Max Forwards: 70", "header_line"),
        (b"Max-Forwards: 70", b"Max-Forwards", "header_line"),
        (b"Max-Forwards: 70", b": 70", "header_line"),
    ],
)
def test_what_is_wrong_but_answerable(old: bytes, new: bytes, reason: str) -> None:
    assert old in INVITE

    error = refused(INVITE.replace(old, new, 1))

    assert error.reason == reason
    assert error.status == (505 if reason == "version" else 400)
    assert error.request is not None
    assert error.request.method == "INVITE"
    assert error.request.branch == "z9hG4bKa"
    assert error.request.get("Call-ID") is not None


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"INVITE sip:bob@example.com SIP/2.0\r\n", b"", "start_line"),
        (b"INVITE sip:bob@example.com SIP/2.0", b"hello world", "start_line"),
        (b"INVITE sip:bob@example.com SIP/2.0", b"IN@ITE sip:bob@example.com SIP/2.0", "start_line"),
        (b"Via: SIP", b"X-Via: SIP", "missing_header"),
        (b"From: ", b"X-From: ", "missing_header"),
        (b"To: ", b"X-To: ", "missing_header"),
        (b"Call-ID: ", b"X-Call-ID: ", "missing_header"),
        (b"Call-ID: c1@192.0.2.1", b"Call-ID: ", "missing_header"),
        (b"CSeq: ", b"X-CSeq: ", "missing_header"),
        (b"Via: SIP/2.0/UDP", b"Via: SIP/3.0/UDP", "via"),
        (b"192.0.2.1:5060", b"192.0.2.1:0", "via"),
        (b"\r\n\r\n", b"\r\n", "truncated"),
        (b"\r\nTo: ", b"\nTo: ", "line_ending"),
        (b"Alice", b"Al\rice", "line_ending"),
        (b"Alice", b"Al\nice", "line_ending"),
        (b"Alice", b"A" * 9000, "line_too_long"),
        (b"To: ", b"X: 1\r\n" * (MAX_HEADERS + 1) + b"To: ", "too_many_headers"),
    ],
)
def test_what_cannot_be_answered(old: bytes, new: bytes, reason: str) -> None:
    assert old in INVITE

    error = refused(INVITE.replace(old, new, 1))

    assert error.reason == reason
    assert error.request is None


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"SIP/2.0 99 No", "start_line"),
        (b"SIP/2.0 700 No", "start_line"),
        (b"SIP/2.0 0200 OK", "start_line"),
        (b"SIP/2.0 4294967301 better not break the receiver", "start_line"),
        (b"SIP/2.0 OK", "start_line"),
        (b"SIP/2.0  200 OK", "start_line"),
        (b"SIP/3.0 200 OK", "version"),
    ],
)
def test_a_malformed_status_line(line: bytes, reason: str) -> None:
    error = refused(OK.replace(b"SIP/2.0 200 OK", line, 1))

    assert error.reason == reason
    assert error.request is None


def test_a_response_with_a_short_body_is_refused() -> None:
    assert refused(OK.replace(b"Content-Length: 5", b"Content-Length: 6")).reason == "content_length"


def test_many_vias_and_routes_are_no_duplicates() -> None:
    extra = b"Via: SIP/2.0/UDP 192.0.2.2;branch=z9hG4bKb\r\nRoute: <sip:a>\r\nRoute: <sip:b>\r\nTo: "
    request = parse_request(INVITE.replace(b"To: ", extra, 1))

    assert len(request.get_all("Via")) == 2
    assert request.branch == "z9hG4bKa"


def test_the_limit_of_size() -> None:
    assert parse_message(INVITE, max_bytes=len(INVITE)).body
    with pytest.raises(ParseError) as caught:
        parse_message(INVITE, max_bytes=len(INVITE) - 1)
    assert caught.value.reason == "too_large"


@pytest.mark.parametrize("data", [b"", b"\r\n", b"\r\n\r\n", b"\0", b"\0\0\0\0"])
def test_keepalives(data: bytes) -> None:
    assert is_keepalive(data)
    assert refused(data).reason == "keepalive"


def test_a_message_is_no_keepalive() -> None:
    assert not is_keepalive(INVITE)
    assert not is_keepalive(b"x\r\n")


def test_long_runs_of_line_ends_are_no_message() -> None:
    assert refused(b"\r\n" * 30_000).reason == "keepalive"


TOKEN = st.text(alphabet="ABCdef019-.!%*_+`'~", min_size=1, max_size=12)
VALUE = st.text(alphabet=st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=40).map(
    lambda text: text.strip(" \t")
)


@st.composite
def messages(draw: st.DrawFn) -> Request | Response:
    message: Request | Response
    if draw(st.booleans()):
        message = Request(draw(TOKEN), "sip:" + draw(TOKEN))
        method = message.method
    else:
        message = Response(draw(st.integers(100, 699)), draw(VALUE))
        method = draw(TOKEN)
    message.add("Via", f"SIP/2.0/UDP h;branch={draw(TOKEN)}")
    message.add("From", f"<sip:{draw(TOKEN)}@h>;tag={draw(TOKEN)}")
    message.add("To", f"<sip:{draw(TOKEN)}@h>")
    message.add("Call-ID", draw(TOKEN))
    message.add("CSeq", f"{draw(st.integers(0, 2**31 - 1))} {method}")
    for name, value in draw(st.lists(st.tuples(TOKEN.map(lambda text: f"X-{text}".lower()), VALUE), max_size=4)):
        message.add("-".join([part.capitalize() for part in name.split("-")]), value)
    message.body = draw(st.binary(max_size=40))
    return message


@given(messages())
def test_what_is_written_is_read_back(message: Request | Response) -> None:
    read = parse_message(message.to_bytes())

    assert type(read) is type(message)
    assert read.same_as(message)
    for name in ("call_id", "cseq", "cseq_method", "from_tag", "to_tag", "branch"):
        assert getattr(read, name) == getattr(message, name)


@given(st.binary(max_size=200))
def test_any_bytes_raise_parse_errors_only(data: bytes) -> None:
    with pytest.raises(ParseError):
        parse_message(data)


@given(
    st.sampled_from([INVITE, OK]),
    st.lists(st.tuples(st.integers(0, len(INVITE)), st.integers(0, 8), st.binary(max_size=4)), min_size=1, max_size=5),
)
def test_mutated_messages_raise_parse_errors_only(data: bytes, edits: list[tuple[int, int, bytes]]) -> None:
    for at, removed, inserted in edits:
        data = data[:at] + inserted + data[at + removed :]
    try:
        message = parse_message(data)
    except ParseError as error:
        PARSE_REASONS.index(error.reason)  # or ValueError
    else:
        assert parse_message(message.to_bytes()).same_as(message)
