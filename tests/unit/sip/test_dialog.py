"""Dialogs: the requests they write, the order of CSeq, routes and targets."""

from __future__ import annotations

import pytest

from kedge.sip.dialog import Dialog
from kedge.sip.message import Message, Request, Response
from kedge.sip.parser import parse_message


def dialog() -> Dialog:
    made = Dialog(
        call_id="c1", local='"Kedge" <sip:k@x>', local_tag="ours", remote="<sip:p@y>", remote_tag="theirs",
        via=("192.0.2.1", 5060),
    )  # fmt: skip
    made.remote_target = "sip:p@198.51.100.1:5070"
    return made


def with_headers(made: Message, **headers: list[str]) -> Message:
    for name, values in headers.items():
        for value in values:
            made.add(name.replace("_", "-"), value)
    return made


def test_requests_can_be_read_and_are_in_order() -> None:
    one = dialog()
    first, second = (parse_message(one.request("INVITE", "z9hG4bK1", "X-A: 1\r\n", b"v=0\r\n")) for _ in range(2))

    assert isinstance(first, Request)
    assert (first.uri, first.call_id, first.from_tag, first.to_tag) == (one.remote_target, "c1", "ours", "theirs")
    assert (first.cseq, second.cseq) == (1, 2)
    assert (first.get("X-A"), first.get("Content-Type"), first.body) == ("1", "application/sdp", b"v=0\r\n")
    assert first.get("Contact") == "<sip:192.0.2.1:5060>"


def test_an_ack_has_the_number_of_its_invite() -> None:
    one = dialog()
    one.request("INVITE", "z9hG4bK1")
    one.request("UPDATE", "z9hG4bK2")

    ack = parse_message(one.ack(1, "z9hG4bK3"))

    assert (ack.cseq, ack.cseq_method) == (1, "ACK")


def test_route_set_as_it_came_from_a_request_and_reversed_from_a_response() -> None:
    rows = ["<sip:a;lr>, <sip:b;lr>", "<sip:c;lr>"]
    for source, expected in (
        (Request("INVITE", "sip:x"), ["<sip:a;lr>", "<sip:b;lr>", "<sip:c;lr>"]),
        (Response(200), ["<sip:c;lr>", "<sip:b;lr>", "<sip:a;lr>"]),
    ):
        one = dialog()
        one.learn_routes(with_headers(source, Record_Route=rows))
        assert parse_message(one.request("BYE", "z9hG4bK1")).get_all("Route") == expected


@pytest.mark.parametrize(
    ("target", "routes", "hop"),
    [
        ("sip:p@198.51.100.1:5070", [], ("198.51.100.1", 5070)),
        ("sip:p@198.51.100.1", [], ("198.51.100.1", 5060)),
        ("sip:p@[2001:db8::1]:5062", [], ("2001:db8::1", 5062)),
        ("sip:p@198.51.100.1", ["<sip:203.0.113.1:5080;lr>"], ("203.0.113.1", 5080)),
        ("sip:p@phone.example.org", [], None),
        ("rubbish", [], None),
    ],
)
def test_next_hop(target: str, routes: list[str], hop: tuple[str, int] | None) -> None:
    one = dialog()
    one.remote_target, one.route_set = target, routes

    assert one.next_hop() == hop


def test_target_is_refreshed_by_a_contact_that_can_be_read() -> None:
    one = dialog()
    one.request("INVITE", "z9hG4bK1")
    for contact in (None, "<sip:broken"):
        one.refresh_target(with_headers(Response(200), Contact=[contact] if contact else []))
        assert one.remote_target == "sip:p@198.51.100.1:5070"

    one.refresh_target(with_headers(Response(200), Contact=["<sip:p@198.51.100.2>;expires=5"]))

    assert one.request("BYE", "z9hG4bK2").startswith(b"BYE sip:p@198.51.100.2 SIP/2.0\r\n")


def test_cseq_must_not_go_back() -> None:
    one = dialog()
    results = []
    for number in (5, 6, 6, 5, 7):
        request = Request("INFO", "sip:x")
        request.add("CSeq", f"{number} INFO")
        results.append(one.accepts_cseq(request))

    assert results == [True, True, True, False, True]
