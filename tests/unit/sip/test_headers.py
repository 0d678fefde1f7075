"""URIs and structured header values, legal and not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kedge.sip.errors import PARSE_REASONS, ParseError
from kedge.sip.headers import (
    find_branch,
    find_tag,
    parse_cseq,
    parse_name_addr,
    parse_params,
    parse_via,
    split_commas,
)
from kedge.sip.names import CACHE, canonical_name
from kedge.sip.uri import parse_uri

ROUGH = st.text(alphabet=st.sampled_from(list(' \t"\\<>;,=:@[]tagbrnch/SIP2.0UDP%5?')), max_size=40)


def outcome(read: Callable[[str], object], value: str) -> object:
    """What was read, or the reason why not; any other exception goes up."""
    try:
        return read(value)
    except ParseError as error:
        return PARSE_REASONS.index(error.reason)


@pytest.mark.parametrize(
    ("text", "user", "host", "port", "params", "headers"),
    [
        ("sip:alice@example.com", "alice", "example.com", None, {}, ""),
        ("sip:192.0.2.1:5070;lr", "", "192.0.2.1", 5070, {"lr": None}, ""),
        ("sips:a@[2001:db8::1]:5061;transport=tls", "a", "2001:db8::1", 5061, {"transport": "tls"}, ""),
        ("sip:[::1]", "", "::1", None, {}, ""),
        ("sip:user;par=u%40h@example.com?Subject=x&a=b", "user;par=u%40h", "example.com", None, {}, "Subject=x&a=b"),
        ("tel:+15551234;phone-context=example.com", "+15551234", "", None, {"phone-context": "example.com"}, ""),
        ("urn:service:sos.fire", "service:sos.fire", "", None, {}, ""),
        ("nobodyKnowsThisScheme:totallyopaquecontent", "totallyopaquecontent", "", None, {}, ""),
    ],
)
def test_a_uri_is_read_and_written_back(
    text: str, user: str, host: str, port: int | None, params: dict[str, str | None], headers: str
) -> None:
    uri = parse_uri(text)

    assert (uri.user, uri.host, uri.port, uri.params, uri.headers) == (user, host, port, params, headers)
    assert str(uri) == text.replace("nobodyKnowsThisScheme", "nobodyknowsthisscheme")


def test_a_password_is_kept_apart_from_the_user() -> None:
    uri = parse_uri("SIP:alice:secret@example.com")

    assert (uri.scheme, uri.user, uri.password) == ("sip", "alice", "secret")
    assert str(uri) == "sip:alice:secret@example.com"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "alice",
        ":x",
        "sip:",
        "sip:@",
        "tel:",
        "sip:a@b@c",
        "sip:a@host:0",
        "sip:a@host:65536",
        "sip:a@host:",
        "sip:a@host:5060x",
        "sip:a@host:٥٠٦٠",
        "sip:a@[::1",
        "sip:a@[::1]5060",
        "sip:a@[zz]",
        "sip:a@ho st",
        "s p:a@b",
    ],
)
def test_a_malformed_uri_is_refused(text: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse_uri(text)

    assert caught.value.reason == "uri"


@pytest.mark.parametrize(
    ("value", "display", "uri", "params"),
    [
        ("<sip:a@b>", "", "sip:a@b", {}),
        ("sip:a@b;tag=1", "", "sip:a@b", {"tag": "1"}),
        ("<sip:a@b;tag=no>;TAG=yes", "", "sip:a@b;tag=no", {"tag": "yes"}),
        ('"A, \\"B\\" <x>" <sip:a@b>;tag=1;x', '"A, \\"B\\" <x>"', "sip:a@b", {"tag": "1", "x": None}),
        ('"\\\\" <sip:a@b>', '"\\\\"', "sip:a@b", {}),
        ("caller<sip:a@b> ; tag = 1", "caller", "sip:a@b", {"tag": "1"}),
        ('<sip:a@b>;x=">;tag=no";tag=yes', "", "sip:a@b", {"x": '">;tag=no"', "tag": "yes"}),
        ("<sip:a@b>;tag=1;tag=2", "", "sip:a@b", {"tag": "1"}),
    ],
)
def test_an_address_is_read(value: str, display: str, uri: str, params: dict[str, str | None]) -> None:
    address = parse_name_addr(value)

    assert (address.display, address.uri, address.params) == (display, uri, params)
    assert find_tag(value) == address.tag == (params.get("tag") or "")
    assert str(parse_name_addr(str(address))) == str(address)


@pytest.mark.parametrize(
    "value", ["", "a", '"a', '"a\\" <sip:a@b>', "<sip:a@b", "<>", 'x"y" <sip:a@b>', '"a"', "*", ":"]
)
def test_a_malformed_address_is_refused_by_both_readers(value: str) -> None:
    for read in (parse_name_addr, find_tag):
        with pytest.raises(ParseError) as caught:
            read(value)
        assert caught.value.reason == "address"


@given(ROUGH)
@example('<sip:a@b>;x=";tag=1')
def test_the_quick_tag_finder_agrees_with_the_full_reader(value: str) -> None:
    assert outcome(find_tag, value) == outcome(lambda text: parse_name_addr(text).tag, value)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("SIP/2.0/UDP 192.0.2.1:5070;branch=z9hG4bKa", None),
        ("SIP/2.0/UDP [2001:db8::1]:5070;branch=z9hG4bKa;rport", None),
        ("SIP/2.0/TCP host", None),
        (
            "SIP / 2.0 / UDP first.example.com: 4000;ttl=16 ;maddr=192.0.2.9 ;Branch=z9",
            "SIP/2.0/UDP first.example.com:4000;ttl=16;maddr=192.0.2.9;branch=z9",
        ),
        ("sip/2.0/udp h", "SIP/2.0/udp h"),
    ],
)
def test_a_via_is_read_and_written(value: str, written: str | None) -> None:
    assert str(parse_via(value)) == (written or value)


def test_a_via_tells_branch_received_and_rport() -> None:
    via = parse_via("SIP/2.0/UDP h;branch=b;received=192.0.2.1;rport=4711")
    asked = parse_via("SIP/2.0/UDP h:5070;rport")

    assert (via.branch, via.received, via.rport, via.port) == ("b", "192.0.2.1", 4711, None)
    assert (asked.branch, asked.received, asked.rport, asked.port) == ("", "", None, 5070)
    assert "rport" in asked.params


@pytest.mark.parametrize(
    "value",
    ["", "SIP/2.0/UDP", "SIP/2.0/UDP ", "SIP/3.0/UDP h", "SIP/2.0/U/P h", "SIP/2.0/UDP h:x", "UDP h", "SIP/2.0/ h"],
)
def test_a_malformed_via_is_refused(value: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse_via(value)

    assert caught.value.reason == "via"


@pytest.mark.parametrize(
    "row",
    [
        "SIP/2.0/UDP h;branch=one",
        "SIP/2.0/UDP h;branch=one;rport",
        "SIP/2.0/UDP h ; branch = one, SIP/2.0/UDP g;branch=two",
        "SIP/2.0/UDP h;branch=one ,SIP/2.0/UDP g;branch=two",
        'SIP/2.0/UDP h;x=";branch=no";branch=one',
    ],
)
def test_the_branch_is_that_of_the_top_via(row: str) -> None:
    assert find_branch(row) == "one"


def test_a_via_row_without_branch_has_none() -> None:
    assert find_branch("SIP/2.0/UDP h, SIP/2.0/UDP g;branch=two") == ""


@pytest.mark.parametrize(("value", "expected"), [("1 INVITE", (1, "INVITE")), ("0009 \t ACK", (9, "ACK"))])
def test_cseq(value: str, expected: tuple[int, str]) -> None:
    assert parse_cseq(value) == expected


@pytest.mark.parametrize(
    "value", ["", "1", "INVITE", "-1 BYE", "+1 BYE", "1 2 BYE", "2147483648 BYE", "1_0 BYE", "1 B@E"]
)
def test_a_malformed_cseq_is_refused(value: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse_cseq(value)

    assert caught.value.reason == "cseq"


def test_the_largest_cseq() -> None:
    assert parse_cseq("2147483647 BYE") == (2**31 - 1, "BYE")


@pytest.mark.parametrize(
    ("value", "pieces"),
    [
        ("a", ["a"]),
        ("", []),
        ("a, b ,,c", ["a", "b", "c"]),
        ('"x,y" <sip:a,b@c>;d="e,f", <sip:g>', ['"x,y" <sip:a,b@c>;d="e,f"', "<sip:g>"]),
        ('"\\",", b', ['"\\","', "b"]),
        ('a, "never closed, b', ["a", '"never closed, b']),
        ("a, <never closed, b", ["a", "<never closed, b"]),
    ],
)
def test_commas(value: str, pieces: list[str]) -> None:
    assert split_commas(value) == pieces


def test_params() -> None:
    assert parse_params(';A=1; b ;c="x;y=z"; = ;d=') == {"a": "1", "b": None, "c": '"x;y=z"', "d": ""}


@given(ROUGH)
def test_readers_raise_parse_errors_only(value: str) -> None:
    for read in (parse_name_addr, parse_via, parse_uri, parse_cseq, find_branch):
        outcome(read, value)
    assert all(piece == piece.strip(" \t") for piece in split_commas(value))


@pytest.mark.parametrize(
    ("raw", "canonical"),
    [
        ("Call-ID", "Call-ID"),
        ("call-id", "Call-ID"),
        ("i", "Call-ID"),
        ("I", "Call-ID"),
        ("CSEQ \t", "CSeq"),
        ("www-authenticate", "WWW-Authenticate"),
        ("x-fOO-bar", "X-Foo-Bar"),
        ("v", "Via"),
        ("", ""),
        ("A B", ""),
        ("Ä", ""),
        (" Via", ""),
    ],
)
def test_canonical_names(raw: str, canonical: str) -> None:
    assert canonical_name(raw) == canonical
    assert canonical_name(raw) == canonical  # from the cache


def test_invented_names_do_not_fill_the_memory() -> None:
    for number in range(5000):
        assert canonical_name(f"x-{number}") == f"X-{number}"
    canonical_name("x" * 4000)

    assert len(CACHE) <= 1024
    assert max(map(len, CACHE)) <= 48
    assert canonical_name("v") == "Via"
