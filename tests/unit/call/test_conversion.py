"""One leg of a call turned into SRTP, or back: offered through a new session, kept through moves, undone if refused."""

from __future__ import annotations

import pytest
from tests.unit.call.phones import Party, Reply
from tests.unit.call.world import CALLEE, CALLER, Talk, World, profile_and_key

from kedge.call.leg import Leg
from kedge.relay.model import FailoverPolicy, Intent
from kedge.sip.message import Request, Response

RTP, SRTP = "RTP/AVP", "RTP/SAVP"


def talking(world: World) -> Talk:
    """A call in RTP between phones that can do SRTP as well."""
    world.left.spare_key, world.right.spare_key = "ofAlice", "ofBob"
    return world.call()


def leg_of(talk: Talk, side: str) -> Leg:
    return talk.call.caller if side == "caller" else talk.call.callee


def convert(talk: Talk, side: str, profile: str, *, seconds: float = 0.5) -> None:
    talk.world.b2bua.failover.convert(leg_of(talk, side), profile, talk.world.now)
    talk.world.run(seconds)


def profiles(talk: Talk) -> tuple[str, str]:
    """What the two parties speak: each by its own last word."""
    spoken = [profile_and_key(party.local)[0] for party in (talk.caller, talk.callee)]
    return spoken[0], spoken[1]


@pytest.mark.parametrize("side", ["caller", "callee"])
def test_a_leg_becomes_srtp_and_rtp_again_while_the_other_stays(side: str) -> None:
    world = World()
    talk = talking(world)
    relay = talk.relay

    convert(talk, side, SRTP)
    encrypted = profiles(talk)
    world.assert_anchored(talk, relay)
    convert(talk, side, RTP)

    assert encrypted == ((SRTP, RTP) if side == "caller" else (RTP, SRTP))
    assert profiles(talk) == (RTP, RTP)
    world.assert_anchored(talk, relay)
    assert world.books.results() == ["Moved", "Moved"]
    assert world.b2bua.failover.wants == {}
    world.run(1.0)
    assert len(world.daemons[relay].sessions) == 1, "the old session lingers, and goes"
    talk.caller.bye()
    world.assert_empty()


def test_both_legs_become_srtp_one_after_the_other() -> None:
    world = World()
    talk = talking(world)

    convert(talk, "caller", SRTP)
    convert(talk, "callee", SRTP)

    assert profiles(talk) == (SRTP, SRTP)
    world.assert_anchored(talk)
    convert(talk, "caller", RTP)
    assert profiles(talk) == (RTP, SRTP)
    world.assert_anchored(talk)


@pytest.mark.parametrize("side", ["caller", "callee"])
def test_it_stays_so_through_moves_with_other_keys_of_each_relay(side: str) -> None:
    world = World(4)
    talk = talking(world)
    convert(talk, side, SRTP)
    party = talk.caller if side == "caller" else talk.callee
    keys = [profile_and_key(party.remote)[1]]

    world.lose(talk)
    keys.append(profile_and_key(party.remote)[1])
    world.assert_anchored(talk)
    world.intend(talk.relay, Intent.DRAIN)
    world.run(1.0)
    keys.append(profile_and_key(party.remote)[1])

    world.assert_anchored(talk)
    assert profiles(talk) == ((SRTP, RTP) if side == "caller" else (RTP, SRTP))
    assert len(set.union(*keys)) == 3
    assert all(len(offered) == 1 for offered in keys), "the suite in force alone is offered again"
    assert world.books.results() == ["Moved"] * 3


@pytest.mark.parametrize("converted", ["caller", "callee"])
@pytest.mark.parametrize("side", ["caller", "callee"])
@pytest.mark.parametrize("kind", ["hold", "late", "update"])
def test_a_partys_own_exchange_leaves_both_legs_as_they_are(converted: str, side: str, kind: str) -> None:
    world = World()
    talk = talking(world)
    convert(talk, converted, SRTP)
    party = talk.caller if side == "caller" else talk.callee

    if kind == "hold":
        party.hold()
    else:
        party.reinvite(late=kind == "late", update=kind == "update")
    world.run(1.0)

    assert profiles(talk) == ((SRTP, RTP) if converted == "caller" else (RTP, SRTP))
    world.assert_anchored(talk)
    world.lose(talk)
    world.assert_anchored(talk)


@pytest.mark.parametrize("converted", ["caller", "callee"])
@pytest.mark.parametrize("side", ["caller", "callee"])
def test_a_relay_lost_amid_a_partys_own_exchange_is_replaced_with_the_conversion(converted: str, side: str) -> None:
    world = World()
    talk = talking(world)
    convert(talk, converted, SRTP)
    party = talk.caller if side == "caller" else talk.callee
    party.hold()
    world.run(0.0025)
    world.daemons[talk.relay].kill()
    world.run(1.0)

    assert profiles(talk) == ((SRTP, RTP) if converted == "caller" else (RTP, SRTP))
    world.assert_anchored(talk)


@pytest.mark.parametrize("side", ["caller", "callee"])
def test_a_party_that_refuses_keeps_its_call_as_it_was(side: str) -> None:
    world = World()
    talk = talking(world)
    relay, session = talk.relay, talk.call.session
    party = talk.caller if side == "caller" else talk.callee
    party.spare_key = ""

    convert(talk, side, SRTP)

    assert profiles(talk) == (RTP, RTP)
    assert talk.call.session == session
    world.assert_anchored(talk, relay)
    assert world.books.results() == ["RolledBack"]
    assert talk.call.anchored_message == f"{'left' if side == 'caller' else 'right'} answered 488"
    assert world.b2bua.failover.wants == {}
    world.run(1.0)
    assert list(world.daemons[relay].sessions) == [session]


def test_the_other_partys_refusal_takes_the_converted_leg_back_as_well() -> None:
    world = World()
    talk = talking(world)
    talk.caller.replies.append(488)

    convert(talk, "callee", SRTP, seconds=1.0)

    assert profiles(talk) == (RTP, RTP)
    world.assert_anchored(talk)
    assert world.books.results() == ["RolledBack"]
    world.lose(talk)
    world.assert_anchored(talk)


def without_media(party: Party, request: Request) -> Response:
    """Accept a re-INVITE, but not the m-line in it (RFC 3264 section 6)."""
    response = party.accept(request)
    party.local = response.body = response.body.replace(b"m=audio %d" % party.port, b"m=audio 0")
    return response


def in_rtp(party: Party, request: Request) -> Response:
    """Accept a re-INVITE, but speak RTP: an answer may not have another profile than its offer."""
    response = party.accept(request)
    party.local = response.body = b"\r\n".join(
        line for line in response.body.replace(b"RTP/SAVP", b"RTP/AVP").split(b"\r\n") if b"crypto" not in line
    )
    party.key = ""
    return response


@pytest.mark.parametrize("reply", [without_media, in_rtp])
def test_an_answer_without_the_media_as_it_was_offered_is_a_refusal(reply: Reply) -> None:
    world = World()
    talk = talking(world)
    session = talk.call.session
    talk.callee.replies.append(reply)

    convert(talk, "callee", SRTP, seconds=1.0)

    assert profiles(talk) == (RTP, RTP)
    assert talk.call.session == session
    world.assert_anchored(talk)
    assert world.books.results() == ["RolledBack"]
    assert talk.call.anchored_message == "right answered without the media as it was offered"


def test_a_party_that_has_moved_its_port_amid_is_found_after_the_way_back() -> None:
    world = World()
    talk = talking(world)
    talk.caller.replies.append(488)
    old_port = talk.callee.port

    def elsewhere(party: Party, request: Request) -> Response:
        party.port = old_port + 100
        return party.accept(request)

    talk.callee.replies.append(elsewhere)
    convert(talk, "callee", SRTP, seconds=1.0)

    assert talk.callee.port != old_port
    world.assert_anchored(talk)
    assert world.books.results() == ["RolledBack"]


def test_a_relay_that_does_not_convert_is_not_believed() -> None:
    world = World(2)
    talk = talking(world)
    other = next(name for name in world.daemons if name != talk.relay)
    world.daemons[talk.relay].distort = lambda command, output: output.replace(b"RTP/SAVP", b"RTP/AVP")

    convert(talk, "callee", SRTP)

    assert profiles(talk) == (RTP, SRTP)
    world.assert_anchored(talk, other)


def test_a_relay_that_makes_no_key_is_not_believed() -> None:
    world = World(1)
    talk = talking(world)
    world.daemons[talk.relay].distort = lambda command, output: b"\r\n".join(
        line for line in output.split(b"\r\n") if not line.startswith(b"a=crypto")
    )

    convert(talk, "callee", SRTP)

    assert profiles(talk) == (RTP, RTP)
    assert world.sent("INVITE", CALLEE)[1:] == []
    assert talk.call.anchored_message == "relay r1: m-line 1 is RTP/SAVP without a key"


def test_phones_are_offered_suites_that_they_know_and_no_more() -> None:
    world = World()
    talk = talking(world)

    convert(talk, "callee", SRTP)

    offer = world.sent("INVITE", CALLEE)[-1].message.body
    assert [line.split()[1] for line in offer.split(b"\r\n") if line.startswith(b"a=crypto")] == [
        b"AES_CM_128_HMAC_SHA1_80", b"AES_CM_128_HMAC_SHA1_32",
    ]  # fmt: skip
    assert b"crypto" not in world.sent("INVITE", CALLER)[-1].message.body


def test_a_relay_lost_amid_the_conversion_is_replaced_and_the_wish_stands() -> None:
    world = World()
    talk = talking(world)
    world.b2bua.failover.convert(talk.call.callee, SRTP, world.now)
    world.run(0.0025)
    assert talk.call.move is not None

    world.lose(talk, seconds=1.0)

    world.assert_anchored(talk)
    assert world.b2bua.failover.wants == {}


def test_a_call_whose_relay_is_lost_is_saved_first_and_converted_then() -> None:
    world = World()
    talk = talking(world)
    world.daemons[talk.relay].kill()
    world.b2bua.failover.convert(talk.call.callee, SRTP, world.now)
    world.run(2.0)

    world.assert_anchored(talk)


def test_a_conversion_that_is_taken_back_in_time_asks_nobody() -> None:
    world = World()
    talk = talking(world)
    talk.caller.reinvite()
    world.run(0.0015)
    assert not talk.call.settled, "so it waits"
    world.b2bua.failover.convert(talk.call.callee, SRTP, world.now)
    world.b2bua.failover.take_back(talk.call, world.now)
    world.run(1.0)

    assert profiles(talk) == (RTP, RTP)
    assert world.books.moves == []


def manual() -> World:
    """A world where lost calls stay until somebody asks."""
    return World(failover=FailoverPolicy(automatic=False))


def test_a_call_without_a_relay_is_moved_as_it_is_before_a_party_is_asked_for_more() -> None:
    world = manual()
    talk = talking(world)
    talk.callee.spare_key = ""
    world.lose(talk, seconds=1.0)
    assert talk.call.is_lost

    convert(talk, "callee", SRTP, seconds=2.0)

    world.assert_anchored(talk)
    assert world.books.results()[:2] == ["Moved", "RolledBack"], "its refusal costs nothing"


@pytest.mark.parametrize("converted", ["caller", "callee"])
@pytest.mark.parametrize("side", ["caller", "callee"])
@pytest.mark.parametrize("late", [False, True])
def test_a_partys_exchange_that_finds_the_relay_dead_has_the_conversion_at_another(
    converted: str, side: str, late: bool
) -> None:
    world = manual()
    talk = talking(world)
    convert(talk, converted, SRTP)
    world.lose(talk, seconds=1.0)
    assert talk.call.is_lost

    (talk.caller if side == "caller" else talk.callee).reinvite(late=late)
    world.run(1.0)

    assert profiles(talk) == ((SRTP, RTP) if converted == "caller" else (RTP, SRTP))
    world.assert_anchored(talk)


def test_keys_in_an_answer_to_an_offer_without_are_no_srtp() -> None:
    world = World()
    world.right.unasked_key = "unasked"

    talk = world.call()
    heard = [told_by_callee(talk)]
    talk.caller.reinvite()
    world.run(0.5)
    heard.append(told_by_callee(talk))
    world.lose(talk)
    heard.append(told_by_callee(talk))

    assert b"inline:unasked" in talk.callee.local
    assert not any(b"crypto" in one for one in heard)
    assert b"crypto" not in talk.caller.remote


def told_by_callee(talk: Talk) -> bytes:
    return talk.world.daemons[talk.relay].sessions[talk.call.session].heard["b"]


def test_keys_that_nobody_asked_for_are_dropped_of_early_media_too() -> None:
    world = World()
    world.right.unasked_key = "unasked"
    world.right.ringing = ((0.0, 183, True), (0.5, 200, True))
    party = world.left.invite()
    world.run(0.2)
    early = [session.heard["b"] for daemon in world.daemons.values() for session in daemon.sessions.values()]
    world.run(1.0)

    assert len(early) == 1
    assert b"crypto" not in early[0]
    assert b"crypto" not in party.remote
    world.assert_anchored(world.talk_of(party))


@pytest.mark.parametrize("again", [False, True])
def test_keys_that_nobody_asked_for_are_dropped_of_an_answer_in_an_ack(again: bool) -> None:
    world = World()
    if not again:
        world.left.unasked_key = "unasked"
    talk = world.call(late=True)
    if again:
        world.left.unasked_key = "unasked"
        talk.caller.reinvite(late=True)
        world.run(0.5)

    assert b"inline:unasked" in talk.caller.local
    assert b"crypto" not in world.daemons[talk.relay].sessions[talk.call.session].heard["a"]
    assert b"crypto" not in talk.callee.remote
