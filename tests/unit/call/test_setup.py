"""Setting calls up: routes, refusals, cancellations, forks, late offers, and relays that fail meanwhile."""

from __future__ import annotations

import ipaddress
import random
from collections import Counter
from dataclasses import replace

import pytest
from tests.unit.call.phones import Party
from tests.unit.call.world import CALLEE, CALLER, KEDGE, Packet, World

from kedge.base.address import Address
from kedge.call.routing import Peer, Route
from kedge.relay.model import Intent
from kedge.sip.message import Request, Response
from kedge.sip.parser import parse_message

SECOND: Address = ("203.0.113.2", 5060)


def refused(world: World, party: Party, status: int) -> Response:
    """The call was refused with that status, and nothing is left of it."""
    assert world.until(lambda: not party.alive, 200.0)
    assert party.status == status, party.log
    response = party.responses[-1]
    world.assert_empty()
    return response


def ask(world: World, text: str, source: Address = CALLER) -> Response:
    """Send a request as it is; return the answer."""
    since = len(world.packets)
    world.send(text.replace("\n", "\r\n").encode(), source, KEDGE)
    world.run(0.5)
    answers = [one for one in world.packets[since:] if one.source == KEDGE and one.destination == source]
    message = answers[-1].message
    assert isinstance(message, Response)
    return message


def request(method: str, *, extra: str = "", to_tag: str = "", body: str = "", forwards: int = 70) -> str:
    tag = f";tag={to_tag}" if to_tag else ""
    return (
        f"{method} sip:100@192.0.2.1 SIP/2.0\nVia: SIP/2.0/UDP 198.51.100.1:5060;branch=z9hG4bK{method}{len(extra)}\n"
        f"Max-Forwards: {forwards}\nFrom: <sip:a@example.org>;tag=x\nTo: <sip:100@192.0.2.1>{tag}\nCall-ID: one\n"
        f"CSeq: 1 {method}\nContact: <sip:a@198.51.100.1>\n{extra}Content-Length: {len(body)}\n\n{body}"
    )


@pytest.mark.parametrize("late", [False, True])
def test_a_call_is_set_up_and_ended_and_leaves_nothing(late: bool) -> None:
    world = World()
    talk = world.call(late=late)
    world.assert_anchored(talk)

    talk.callee.bye()

    world.assert_empty()
    assert world.books.setups == [200]
    assert talk.caller.events()[-1] == "BYE"


def test_next_hop_is_asked_when_the_first_does_not_answer() -> None:
    world = World(hops=(SECOND, CALLEE))
    party = world.left.invite()

    world.run(10.0)

    assert party.talking
    first, second = world.sent("INVITE", SECOND)[0], world.sent("INVITE", CALLEE)[0]
    assert second.at - first.at == pytest.approx(4.0)
    assert first.message.call_id != second.message.call_id
    party.bye()
    world.assert_empty()


@pytest.mark.parametrize("status", [503, 408])
def test_next_hop_is_asked_after(status: int) -> None:
    world = World(hops=(SECOND, CALLEE))
    world.phone("eve", SECOND).ringing = ((0.0, status, False),)

    talk = world.call()

    world.assert_anchored(talk)
    assert talk.callee.phone.name == "bob"


def test_a_first_hop_that_answers_too_late_gets_ack_and_bye() -> None:
    world = World(hops=(SECOND, CALLEE))
    late = world.phone("eve", SECOND)
    late.ringing = ((5.0, 200, True),)
    world.tamper = lambda one: None if one.source == SECOND and one.word.startswith("1") else 0.0

    party = world.left.invite()
    world.run(12.0)

    assert party.talking
    assert late.made[0].events() == ["got ACK", "got BYE", "BYE"]


@pytest.mark.parametrize("status", [302, 404, 480, 486, 500, 603])
def test_refusals_pass_with_their_headers(status: int) -> None:
    world = World()
    world.right.ringing = ((0.2, status, False),)
    world.right.answer_headers = {"X-Why": "because", "Reason": "Q.850;cause=17"}

    response = refused(world, world.left.invite(), status)

    assert (response.get("X-Why"), response.get("Reason")) == ("because", "Q.850;cause=17")


def test_a_redirection_passes_its_contact() -> None:
    world = World()
    world.right.ringing = ((0.0, 302, False),)
    world.right.answer_headers = {"Contact": "<sip:other@example.net>"}

    response = refused(world, world.left.invite(), 302)

    assert response.get_all("Contact") == ["<sip:other@example.net>"]


@pytest.mark.parametrize("after", [0.0005, 0.0015, 0.0025, 0.0035, 0.0045, 0.5])
@pytest.mark.parametrize("late", [False, True])
def test_cancel_at_each_stage(after: float, late: bool) -> None:
    world = World()
    world.right.ringing = ((0.0, 180, False), (2.0, 200, True))
    party = world.left.invite(late=late)
    world.at(after, party.cancel)

    refused(world, party, 487)

    assert all(one.events()[-1] == "cancelled" for one in world.right.made)


def test_cancel_that_crosses_the_200_ends_the_callee_with_bye() -> None:
    world = World()
    world.right.ringing = ((0.0, 180, False), (0.5, 200, True))
    for daemon in world.daemons.values():
        daemon.delay = 0.3
    party = world.left.invite()
    world.until(lambda: bool(world.right.made) and world.right.made[0].talking)
    party.cancel()

    refused(world, party, 487)

    assert world.right.made[0].events()[-1] == "BYE"


def test_bye_before_the_callers_ack_is_sent_after_it() -> None:
    world = World()
    delays = iter([1.2])
    world.tamper = lambda one: next(delays, 0.0) if one.word == "ACK" and one.source == CALLER else 0.0
    party = world.left.invite()
    world.until(lambda: bool(world.right.made) and world.right.made[0].talking)
    world.run(0.1)

    world.right.made[0].bye()
    world.run(0.2)
    assert world.sent("BYE", CALLER) == []
    world.run(3.0)

    assert party.events()[-1] == "BYE"
    world.assert_empty()


def test_a_repeated_invite_is_absorbed_and_one_of_another_branch_is_merged() -> None:
    world = World()
    world.right.ringing = ((0.0, 180, False), (2.0, 200, True))
    party = world.left.invite()
    world.run(0.3)
    invite = next(one for one in world.packets if one.word == "INVITE" and one.source == CALLER)
    world.send(invite.data, CALLER, KEDGE)
    world.run(0.3)
    assert len(world.sent("INVITE", CALLEE)) == 1

    answer = ask(world, invite.data.replace(b"branch=z9hG4bK", b"branch=z9hG4bKx").decode().replace("\r\n", "\n"))

    assert answer.status == 482  # RFC 3261 section 8.2.2.2
    world.run(3.0)
    assert party.talking


def test_a_second_fork_gets_ack_and_bye() -> None:
    world = World()
    talk = world.call()
    ok = next(one for one in world.packets if one.word == "200 INVITE" and one.source == CALLEE)
    tag = talk.callee.local_tag.encode()

    world.send(ok.data.replace(b"tag=" + tag, b"tag=fork"), CALLEE, KEDGE)
    world.run(0.1)

    forked = [one.word for one in world.packets if one.source == KEDGE and one.message.to_tag == "fork"]
    assert forked == ["ACK", "BYE"]
    world.assert_anchored(talk)


def test_a_late_offer_goes_from_the_200_to_the_ack() -> None:
    world = World()
    talk = world.call(late=True)

    assert world.sent("INVITE", CALLEE)[0].message.body == b""
    assert world.sent("ACK", CALLEE)[0].message.body
    world.assert_anchored(talk)
    talk.caller.reinvite(late=True)
    world.run(1.0)
    world.assert_anchored(talk)
    assert talk.callee.events()[-1] == "got ACK"


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("fault", ["No more ports", None, b"v=0\r\n"])
def test_a_relay_that_fails_at_the_offer_is_replaced(fault: str | bytes | None, late: bool) -> None:
    world = World()
    for name in ("r1", "r2"):
        world.daemons[name].distort = lambda command, output: fault

    party = world.left.invite(late=late)
    world.run(12.0)

    talk = world.talk_of(party)
    world.assert_anchored(talk, "r3")
    talk.caller.bye()
    world.assert_empty()


def test_without_any_relay_503() -> None:
    world = World()
    for daemon in world.daemons.values():
        daemon.kill()
    world.run(1.0)

    response = refused(world, world.left.invite(), 503)

    assert response.get("Retry-After")
    assert world.right.made == []


def test_a_full_kedge_says_503_with_retry_after() -> None:
    world = World(settings={"max_calls": 1})
    world.call()
    party = world.left.invite()
    world.run(0.1)

    assert party.status == 503
    assert party.responses[-1].get("Retry-After") == "10"


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_full_peer_says_503_with_retry_after(side: str) -> None:
    peers = tuple(
        Peer(name, (ipaddress.ip_network(network),), max_calls=int(name == side))
        for name, network in (("left", "198.51.100.0/24"), ("right", "203.0.113.0/24"))
    )
    world = World(peers=peers)
    talk = world.call()
    party = world.left.invite()
    world.run(0.1)
    assert party.status == 503
    assert party.responses[-1].get("Retry-After") == "10"

    talk.caller.bye()
    world.run(0.1)
    assert world.call().alive


@pytest.mark.parametrize(
    ("text", "status", "header"),
    [
        (request("INVITE", forwards=0), 483, None),
        (request("INVITE", extra="Require: 100rel\n"), 420, ("Unsupported", "100rel")),
        (request("REGISTER"), 405, ("Allow", "INVITE")),
        (request("SUBSCRIBE"), 405, ("Allow", "INVITE")),
        (request("DANCE"), 501, None),
        (request("BYE", to_tag="none"), 481, None),
        (request("BYE"), 481, None),
        (request("INFO", to_tag="none"), 481, None),
        (request("OPTIONS"), 200, ("Allow", "INVITE")),
        (request("INVITE", extra="Content-Type: application/sdp\n", body="rubbish"), 400, None),
        (request("INVITE").replace("<sip:a@198.51.100.1>", "<sip:a"), 400, None),
    ],
)
def test_what_no_rule_covers_gets_the_right_status(text: str, status: int, header: tuple[str, str] | None) -> None:
    world = World()

    response = ask(world, text)

    assert response.status == status
    if header is not None:
        assert header[1] in (response.get(header[0]) or "")
    world.assert_empty()


def test_strangers_get_403_and_unknown_numbers_404() -> None:
    world = World(route={"user_prefix": "1"})
    stranger = ("10.0.0.1", 5060)
    world.phone("mallory", stranger)

    assert ask(world, request("INVITE").replace("198.51.100.1:5060", "10.0.0.1:5060"), stranger).status == 403
    refused(world, world.left.invite("200"), 404)


def test_passing_of_headers() -> None:
    for trusted in (False, True):
        world = World(trusted=trusted)
        headers = {
            "Diversion": "<sip:1@example.org>;reason=no-answer", "User-to-User": "3435;encoding=hex", "X-Own": "it",
            "P-Asserted-Identity": "<sip:boss@example.org>", "Max-Forwards": "20", "Supported": "100rel, timer",
        }  # fmt: skip
        world.call(headers=headers)

        invite = world.sent("INVITE", CALLEE)[0].message
        for name in ("Diversion", "User-to-User", "X-Own"):
            assert invite.get(name) == headers[name]
        assert (invite.get("P-Asserted-Identity") is not None) is trusted
        assert invite.get("Max-Forwards") == "19"
        assert invite.get("Supported") == "timer"  # 100rel is not for us to promise
        assert isinstance(invite, Request)
        assert invite.uri == "sip:100@203.0.113.1:5060"


def test_routes_are_kept_on_both_legs() -> None:
    world = World()
    world.right.record_route = ("<sip:203.0.113.1;lr;p=far>", "<sip:203.0.113.1;lr;p=near>")
    talk = world.call(headers={"Record-Route": "<sip:198.51.100.1;lr;p=1>, <sip:198.51.100.1;lr;p=2>"})
    world.lose(talk)

    to_caller, to_callee = (one.message for one in world.sent("INVITE")[-2:])
    assert to_caller.get_all("Route") == ["<sip:198.51.100.1;lr;p=1>", "<sip:198.51.100.1;lr;p=2>"]
    assert to_callee.get_all("Route") == ["<sip:203.0.113.1;lr;p=near>", "<sip:203.0.113.1;lr;p=far>"]
    assert world.sent("200 INVITE")[0].message.get("Record-Route") is not None


def test_only_the_description_in_a_multipart_body_is_rewritten() -> None:
    world = World()
    probe = Party(world.left, "probe", caller=True)
    sdp = probe.describe().decode()
    body = (
        "--b\r\nContent-Type: application/sdp\r\n\r\n" + sdp + "--b\r\n"
        "Content-Type: application/pidf+xml\r\n\r\n<where/>\r\n--b--\r\n"
    )
    world.left.invite(body=body.encode(), headers={"Content-Type": "multipart/mixed;boundary=b"})
    world.run(0.1)

    passed = world.sent("INVITE", CALLEE)[0].message
    assert passed.get("Content-Type") == "multipart/mixed;boundary=b"
    assert passed.body.endswith(b"<where/>\r\n--b--\r\n")
    assert b"c=IN IP4 127.0.0." in passed.body
    assert b"c=IN IP4 198.51.100.1" not in passed.body


def test_no_ack_ends_the_call_after_64_t1() -> None:
    world = World()
    world.tamper = lambda one: None if one.word == "ACK" and one.source == CALLER else 0.0
    party = world.left.invite()
    world.run(31.0)
    assert len(world.b2bua.calls) == 1

    world.run(3.0)

    assert len(world.b2bua.calls) == 0
    assert party.events()[-1] == "BYE"
    world.assert_empty()


def test_nobody_answers_until_the_ring_timeout() -> None:
    world = World()
    world.right.ringing = ((0.1, 180, False),)

    refused(world, world.left.invite(), 408)

    assert world.right.made[0].events() == ["cancelled"]


def test_lost_packets_in_any_place_only_delay() -> None:
    def loses(index: int) -> tuple[World, int]:
        world = World()
        count = [0]

        def tamper(packet: Packet) -> float | None:
            count[0] += 1
            return None if count[0] == index else 0.0

        world.tamper = tamper
        party = world.left.invite()
        assert world.until(lambda: party.talking), (index, party.log)
        world.run(5.0)
        world.assert_anchored(world.talk_of(party))
        party.bye()
        world.assert_empty()
        return world, count[0]

    _, total = loses(0)
    for index in range(1, total + 1):
        loses(index)


def test_in_dialog_methods_that_are_not_served() -> None:
    world = World()
    talk = world.call()
    talk.caller.send("PRACK")
    talk.caller.send("DANCE")
    world.run(0.1)

    statuses = {one.cseq_method: one for one in talk.caller.responses if one.cseq > 1}
    assert (statuses["PRACK"].status, statuses["DANCE"].status) == (405, 501)
    assert "INVITE" in (statuses["PRACK"].get("Allow") or "")


@pytest.mark.parametrize("method", ["INFO", "MESSAGE", "REFER", "NOTIFY", "OPTIONS"])
def test_other_requests_pass_with_body_and_answer(method: str) -> None:
    world = World()
    talk = world.call()

    talk.caller.send(method, b"v=0 but not sdp", {"Content-Type": "text/plain", "X-A": "1"})
    world.run(0.1)

    got = talk.callee.requests[-1]
    assert (got.method, got.body, got.get("X-A")) == (method, b"v=0 but not sdp", "1")
    assert talk.caller.responses[-1].status == 200


def test_an_operator_ends_a_call_that_still_rings() -> None:
    world = World()
    world.right.ringing = ((0.0, 180, False),)
    party = world.left.invite()
    world.run(0.5)
    (call,) = world.b2bua.calls.values()

    world.b2bua.hang_up(call, world.now, reason="Ended by an operator", cause=200)
    del call

    refused(world, party, 480)
    assert world.right.made[0].events() == ["cancelled"]


def test_a_drained_relay_gets_no_new_call() -> None:
    world = World()
    world.intend("r1", Intent.DRAIN)
    world.intend("r2", Intent.CORDON)

    assert world.call().relay == "r3"


def test_messages_written_can_be_read() -> None:
    world = World()
    talk = world.call()
    world.lose(talk)
    for packet in world.packets:
        assert parse_message(packet.data).same_as(packet.message)


@pytest.mark.parametrize(
    ("given", "sent"), [("", "33"), ("20", "19"), ("0070", "69"), ("9999999999999", "254"), ("x", "33")]
)
def test_max_forwards_is_what_came_less_one_or_ours(given: str, sent: str) -> None:
    world = World(settings={"max_forwards": 33})
    line = f"Max-Forwards: {given}\n" if given else ""

    ask(world, request("INVITE").replace("Max-Forwards: 70\n", line))

    assert world.sent("INVITE", CALLEE)[0].message.get("Max-Forwards") == sent


def test_what_is_our_own_says_whose_it_is_and_what_is_a_partys_does_not() -> None:
    world = World(settings={"user_agent": "Kedge 1"})
    world.right.answer_headers = {"Server": "bob"}
    talk = world.call(headers={"User-Agent": "alice"})
    invite, ok = world.sent("INVITE", CALLEE)[0].message, world.sent("200 INVITE", CALLER)[0].message
    world.lose(talk)
    reinvites = [one.message for one in world.sent("INVITE")[1:]]
    world.b2bua.hang_up(talk.call, world.now, reason="Enough")
    world.run(0.5)
    byes = [one.message for one in world.sent("BYE")]

    assert (invite.get_all("User-Agent"), ok.get_all("Server")) == (["alice"], ["bob"])
    assert [one.get("User-Agent") for one in [*reinvites, *byes]] == ["Kedge 1"] * 4
    assert [one.get("Server") for one in (ask(world, request("OPTIONS")), ask(world, request("DANCE")))] == [
        "Kedge 1"
    ] * 2
    assert refused(world, busy(world), 486).get("Server") is None


def busy(world: World) -> Party:
    world.right.ringing, world.right.answer_headers = ((0.0, 486, False),), {}
    return world.left.invite()


def test_without_a_name_nothing_says_whose_it_is() -> None:
    world = World(settings={"user_agent": ""})
    talk = world.call()
    world.lose(talk)
    talk.caller.bye()
    world.run(0.5)

    sent = [one.message for one in world.packets if one.source == KEDGE]
    assert not [one for one in sent if one.get("Server") is not None or one.get("User-Agent") is not None]


def test_next_hops_with_weights_share_first_tries_and_the_rest_follow() -> None:
    hops = tuple((f"203.0.113.{number}", 5060) for number in (11, 12, 13, 14))
    route = Route(name="all", relay_set="default/edge", next_hops=hops, weights=(0, 300, 100, 0))
    rng = random.Random(7)

    orders = Counter(route.hops(rng) for _ in range(4000))

    assert set(orders) == {(hops[1], hops[2], hops[0], hops[3]), (hops[2], hops[1], hops[0], hops[3])}
    assert orders[hops[1], hops[2], hops[0], hops[3]] / 4000 == pytest.approx(0.75, abs=0.03)
    assert replace(route, weights=()).hops(rng) == hops


def test_a_call_fails_over_in_the_order_that_was_drawn_for_it() -> None:
    world = World(hops=(CALLEE, SECOND), route={"weights": (0, 1)})
    world.phone("eve", SECOND).ringing = ((0.0, 503, False),)

    talk = world.call()

    assert [one.destination for one in world.sent("INVITE")] == [SECOND, CALLEE]
    world.assert_anchored(talk)
