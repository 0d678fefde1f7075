"""Messages: headers as lists, the attributes that follow them, responses made from requests."""

from __future__ import annotations

import pytest

from kedge.sip.errors import ParseError
from kedge.sip.headers import parse_via
from kedge.sip.message import REASONS, Request, Response, make_response
from kedge.sip.parser import parse_message


def an_invite() -> Request:
    request = Request("INVITE", "sip:bob@example.com")
    request.add("Via", "SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKa")
    request.add("Via", "SIP/2.0/UDP 192.0.2.2:5060;branch=z9hG4bKb")
    request.add("From", "<sip:alice@example.com>;tag=f1")
    request.add("To", "<sip:bob@example.com>")
    request.add("Call-ID", "c1")
    request.add("CSeq", "7 INVITE")
    request.add("Timestamp", "54")
    request.add("X-Foo", "bar")
    return request


def test_attributes_follow_the_headers() -> None:
    request = an_invite()
    assert (request.call_id, request.cseq, request.cseq_method) == ("c1", 7, "INVITE")
    assert (request.from_tag, request.to_tag, request.branch) == ("f1", "", "z9hG4bKa")
    assert request.top_via.host == "192.0.2.1"

    request.set("To", "<sip:bob@example.com>;tag=t1")
    request.set("CSeq", "8 INVITE")
    request.set("Via", "SIP/2.0/UDP 192.0.2.3;branch=z9hG4bKc")
    request.remove("Call-ID")

    assert (request.to_tag, request.cseq, request.branch, request.call_id) == ("t1", 8, "z9hG4bKc", "")
    assert request.top_via.host == "192.0.2.3"
    assert request.get_all("Via") == ["SIP/2.0/UDP 192.0.2.3;branch=z9hG4bKc"]

    for name in ("Via", "From", "To", "CSeq"):
        request.remove(name)
    assert (request.branch, request.from_tag, request.to_tag, request.cseq, request.cseq_method) == ("", "", "", 0, "")


def test_set_keeps_the_place_of_the_first_row_and_appends_a_new_name() -> None:
    request = an_invite()

    request.set("Via", "SIP/2.0/UDP h;branch=z9hG4bKc")
    request.set("X-New", "1")

    assert request.names == ["Via", "From", "To", "Call-ID", "CSeq", "Timestamp", "X-Foo", "X-New"]


def test_get_and_get_all() -> None:
    request = an_invite()

    assert request.get("X-Foo") == "bar"
    assert request.get("X-Bar") is None
    assert [value[-1] for value in request.get_all("Via")] == ["a", "b"]
    assert request.get_all("X-Bar") == []


def test_a_message_without_via_has_no_top_via() -> None:
    with pytest.raises(ParseError, match="via"):
        _ = Request("BYE", "sip:a@b").top_via


def test_replacing_the_top_via_leaves_the_others() -> None:
    request = Request("BYE", "sip:a@b")
    request.add("Via", "SIP/2.0/UDP a;branch=1 , SIP/2.0/UDP b;branch=2")
    request.add("Via", "SIP/2.0/UDP c;branch=3")

    request.replace_top_via(parse_via("SIP/2.0/UDP a;branch=1;rport=9"))

    assert request.values == ["SIP/2.0/UDP a;branch=1;rport=9, SIP/2.0/UDP b;branch=2", "SIP/2.0/UDP c;branch=3"]
    assert request.top_via.rport == 9


def test_a_message_writes_its_own_content_length() -> None:
    request = Request("INFO", "sip:a@b")
    request.add("X-Ü", "grüß dich \udcff")
    request.add("Content-Length", "999")
    request.set("Content-Length", "998")
    request.body = b"\x00body"

    assert request.to_bytes() == (
        "INFO sip:a@b SIP/2.0\r\nX-Ü: grüß dich ".encode() + b"\xff\r\nContent-Length: 5\r\n\r\n\x00body"
    )


def test_a_response_copies_what_rfc_3261_section_8_2_6_says() -> None:
    response = make_response(an_invite(), 486, to_tag="t1")

    assert response.to_bytes() == (
        b"SIP/2.0 486 Busy Here\r\n"
        b"Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKa\r\n"
        b"Via: SIP/2.0/UDP 192.0.2.2:5060;branch=z9hG4bKb\r\n"
        b"From: <sip:alice@example.com>;tag=f1\r\n"
        b"To: <sip:bob@example.com>;tag=t1\r\n"
        b"Call-ID: c1\r\n"
        b"CSeq: 7 INVITE\r\n"
        b"Content-Length: 0\r\n\r\n"
    )


def test_attributes_of_a_made_response_are_those_of_its_bytes() -> None:
    made = make_response(an_invite(), 200, to_tag="t1")
    read = parse_message(made.to_bytes())

    for name in ("call_id", "cseq", "cseq_method", "from_tag", "to_tag", "branch"):
        assert getattr(made, name) == getattr(read, name)


def test_a_100_has_no_to_tag_of_ours_and_the_timestamp() -> None:
    response = make_response(an_invite(), 100, to_tag="t1")

    assert response.get("To") == "<sip:bob@example.com>"
    assert response.to_tag == ""
    assert response.get("Timestamp") == "54"


def test_a_to_tag_that_is_there_stays() -> None:
    request = an_invite()
    request.set("To", "<sip:bob@example.com>;tag=old")

    response = make_response(request, 200, to_tag="new")

    assert response.get("To") == "<sip:bob@example.com>;tag=old"
    assert response.to_tag == "old"


def test_reason_phrases() -> None:
    assert make_response(an_invite(), 481).reason == "Call/Transaction Does Not Exist"
    assert make_response(an_invite(), 499).reason == "Unknown"
    assert make_response(an_invite(), 200, "Fine").reason == "Fine"
    assert all(100 <= status <= 699 and phrase for status, phrase in REASONS.items())


@pytest.mark.parametrize(
    ("status", "provisional", "success", "final"),
    [(100, True, False, False), (199, True, False, False), (200, False, True, True), (300, False, False, True)],
)
def test_classes_of_responses(status: int, provisional: bool, success: bool, final: bool) -> None:
    response = Response(status)

    assert (response.is_provisional, response.is_success, response.is_final) == (provisional, success, final)


def test_same_as_sees_each_part() -> None:
    def changed(name: str) -> Request:
        request = an_invite()
        if name == "start":
            request.uri = "sip:eve@example.com"
        elif name == "name":
            request.names[-1] = "X-Bar"
        elif name == "value":
            request.values[-1] = "baz"
        elif name == "body":
            request.body = b"x"
        return request

    assert an_invite().same_as(changed("nothing"))
    for name in ("start", "name", "value", "body"):
        assert not an_invite().same_as(changed(name))
