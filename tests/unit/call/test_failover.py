"""Which calls move, when, in what order, and what is left when they are over."""

from __future__ import annotations

import gc
import ipaddress
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.call.world import CALLEE, CALLER, KEDGE, Talk, World, living_objects

from kedge.base.address import Address
from kedge.call.pacing import Budget
from kedge.call.routing import Peer
from kedge.relay.model import FailoverPolicy, Intent, RelayState


def gather(world: World, name: str, count: int, **kwargs: Any) -> list[Talk]:
    """Set ``count`` calls up on one relay."""
    for other in world.daemons:
        world.intend(other, Intent.SERVE if other == name else Intent.CORDON)
    talks: list[Talk] = [world.call(**kwargs) for _ in range(count)]
    for other in world.daemons:
        world.intend(other, Intent.SERVE)
    return talks


def test_restart_at_the_same_address_loses_sessions_and_anchors_calls_anew() -> None:
    world = World()
    talk = world.call()
    old = talk.relay

    world.daemons[old].restart(world.now)
    world.run(2.5)

    assert world.books.moves[-1][1:] == ("RelayRestarted", "Moved")
    world.assert_anchored(talk)
    assert talk.relay != old
    assert world.books.gaps[-1] >= 0.5  # it was asked last who it is half a second before, and answers at once now


def test_a_restart_that_cost_a_probe_is_counted_from_the_last_sign_of_life_before() -> None:
    world = World()
    talk = world.call()
    world.run(1.7)
    killed = world.now
    world.daemons[talk.relay].kill()
    assert world.until(lambda: world.relay(talk.relay).health.refused, 1.0)
    world.daemons[talk.relay].restart(world.now)

    world.run(3.0)

    gap, ended = world.books.gaps[-1], talk.call.last_move_at
    assert world.books.moves[-1][1:] == ("RelayRestarted", "Moved")
    assert killed - 0.11 <= ended - gap <= killed


def test_the_only_relay_restarts_and_gets_its_calls_back() -> None:
    world = World(1)
    talk = world.call()

    world.daemons["r1"].restart(world.now)
    world.run(2.5)

    world.assert_anchored(talk, "r1")


def test_no_relay_left_calls_wait_and_move_when_one_returns() -> None:
    world = World(1)
    talk = world.call()
    world.daemons["r1"].kill()
    world.run(20.0)
    assert talk.call.anchored_reason == "NoRelay"

    world.daemons["r1"].restart(world.now)
    world.run(2.0)

    world.assert_anchored(talk, "r1")
    assert talk.call.anchored_reason == "Settled"


def test_a_drain_that_no_relay_has_room_for_leaves_no_word_of_it_when_it_is_taken_back() -> None:
    world = World(1)
    talk = world.call()
    world.intend("r1", Intent.DRAIN)
    world.run(1.0)
    assert (talk.call.anchored_reason, talk.call.anchored_message) == ("Settled", "no relay of the set has room")

    world.intend("r1", Intent.SERVE)
    world.run(1.0)

    assert (talk.call.anchored_reason, talk.call.anchored_message) == ("Settled", "")


def test_no_relay_within_patience_ends_the_call_with_a_reason() -> None:
    world = World(1, settings={"patience": 10.0})
    talk = world.call()
    world.daemons["r1"].kill()
    world.run(9.0)
    assert talk.alive

    world.run(3.0)

    assert not talk.alive
    assert "no relay of the set has room" in talk.caller.events()[-2]
    world.assert_empty()


def test_loss_while_only_180s_were_sent_the_200_carries_another_relay_and_the_callee_is_told_after() -> None:
    world = World()
    world.right.ringing = ((0.0, 180, False), (2.0, 200, True))
    party = world.left.invite()
    world.run(0.5)
    (call,) = world.b2bua.calls.values()
    old = call.relay
    assert old is not None
    world.daemons[old.name].kill()
    world.run(1.0)
    assert [one.word for one in world.packets if one.source == KEDGE and one.word == "INVITE"] == ["INVITE"]

    world.run(2.0)

    talk = world.talk_of(party)
    assert [one.destination for one in world.sent("INVITE")] == [CALLEE, CALLEE]
    assert len(party.offers) == 1  # its 200 was right at once
    world.assert_anchored(talk)
    assert talk.relay != old.name
    assert all(report.pending == 0 for report in world.books.reports)


def test_loss_after_sdp_in_a_183_the_200_repeats_it_and_both_are_told_after_the_ack() -> None:
    world = World()
    world.right.ringing = ((0.0, 183, True), (2.0, 200, True))
    party = world.left.invite()
    world.run(0.5)
    early = next(one.message.body for one in world.sent("183 INVITE"))
    world.daemons[world.name_at("127.0.0." + early.split(b"c=IN IP4 127.0.0.")[1][:1].decode())].kill()

    world.run(3.0)

    ok = world.sent("200 INVITE")[0]
    assert ok.message.body == early  # RFC 6337 section 3.1
    ack = next(one.at for one in world.packets if one.word == "ACK" and one.source == CALLER)
    later = [one for one in world.sent("INVITE") if one.at > ok.at]
    assert {one.destination for one in later} == {CALLER, CALLEE}
    assert all(one.at > ack for one in later)
    world.assert_anchored(world.talk_of(party))


def test_manual_mode_moves_nothing_by_itself_but_what_is_asked_for() -> None:
    world = World(failover=FailoverPolicy(automatic=False))
    talk, other = gather(world, "r1", 2)
    since = world.now

    world.intend("r1", Intent.DRAIN)
    world.run(2.0)
    world.daemons["r1"].kill()
    world.run(40.0)
    assert world.sent("INVITE", since=since) == []
    assert talk.call.anchored_reason == "RelayDown"
    assert "FailoverNotAutomatic" in [reason for reason, _ in world.books.events]

    assert world.b2bua.move_to(talk.call, world.relay("r2"), world.now) == ""
    world.run(1.0)

    world.assert_anchored(talk, "r2")
    assert other.relay == "r1"


def test_explicit_wish_moves_a_call_to_that_relay() -> None:
    world = World()
    talk = world.call()
    target = next(name for name in world.daemons if name != talk.relay)

    assert world.b2bua.move_to(talk.call, world.relay(target), world.now) == ""
    world.run(0.5)

    world.assert_anchored(talk, target)
    assert world.books.moves == [(talk.id, "Requested", "Moved")]


def test_wish_for_a_relay_of_another_set_or_an_ended_call_is_refused_with_a_reason() -> None:
    world = World()
    talk = world.call()
    call = talk.call
    target = world.relay(next(name for name in world.daemons if name != talk.relay))
    talk.caller.bye()
    world.run(0.1)

    assert world.b2bua.move_to(call, target, world.now) == "the call has ended"


def test_removal_from_the_inventory_drains() -> None:
    world = World()
    talk = world.call()
    old = talk.relay
    del world.descriptions[old]

    world.apply()
    world.run(1.0)

    world.assert_anchored(talk)
    assert talk.relay != old


def test_a_drain_without_another_relay_waits_and_keeps_the_audio() -> None:
    world = World(1)
    talk = world.call()
    world.intend("r1", Intent.DRAIN)
    world.run(60.0)

    world.assert_anchored(talk, "r1")
    assert world.b2bua.failover.wants != {}


def rate(world: World, since: float, to: Address | None = None) -> int:
    """Most re-INVITEs of any second."""
    times = [one.at for one in world.sent("INVITE", to, since=since)]
    return max(sum(1 for other in times if at <= other < at + 1.0) for at in times)


def test_reinvites_keep_to_the_rate_of_all() -> None:
    world = World(2, failover=FailoverPolicy(rate=20.0, rate_per_peer=1000.0))
    talks = gather(world, "r1", 40)
    since = world.now

    world.daemons["r1"].kill()
    world.run(10.0)

    assert 18 <= rate(world, since) <= 22
    for talk in talks:
        world.assert_anchored(talk, "r2")


def test_reinvites_keep_to_the_rate_of_each_peer_and_others_overtake() -> None:
    fast: Address = ("198.51.100.200", 5060)
    peers = (
        Peer("slow", (ipaddress.ip_network("198.51.100.0/25"),)),
        Peer("fast", (ipaddress.ip_network("198.51.100.128/25"),)),
        Peer("right", (ipaddress.ip_network("203.0.113.0/25"),)),
        Peer("far", (ipaddress.ip_network("203.0.113.128/25"),)),
    )
    world = World(2, failover=FailoverPolicy(rate=1000.0, rate_per_peer=10.0), peers=peers)
    talks = gather(world, "r1", 30)
    world.phone("dave", ("203.0.113.200", 5060))
    (route,) = world.b2bua.routing.routes
    world.b2bua.routing.routes = (replace(route, peer="fast", next_hops=(("203.0.113.200", 5060),)), route)
    world.left = world.phone("carol", fast)
    (last,) = gather(world, "r1", 1)
    since = world.now

    world.daemons["r1"].kill()
    world.run(10.0)

    assert 9 <= rate(world, since, CALLER) <= 12
    assert world.sent("INVITE", fast)[0].at < since + 0.5
    for talk in [*talks, last]:
        world.assert_anchored(talk, "r2")


def test_emergency_calls_go_first() -> None:
    world = World(2, failover=FailoverPolicy(rate=10.0))
    talks = gather(world, "r1", 10)
    (emergency,) = gather(world, "r1", 1, headers={"Resource-Priority": "esnet.0"})
    since = world.now

    world.daemons["r1"].kill()
    world.run(6.0)

    first = world.sent("INVITE", CALLER, since=since)[0]
    assert first.message.call_id == emergency.caller.call_id
    for talk in [*talks, emergency]:
        world.assert_anchored(talk, "r2")


def test_budget_spends_only_what_it_was_asked_to() -> None:
    budget = Budget()
    assert budget.wait(40.0, 2.0, 0.0) == 0.0
    assert budget.wait(40.0, 2.0, 0.0) == 0.0  # looking costs nothing
    budget.spend(2.0)
    assert budget.wait(40.0, 2.0, 0.0) == pytest.approx(0.05)
    assert budget.wait(40.0, 2.0, 0.05) == 0.0


def test_capacity_is_reserved_and_given_back_to_the_last_place() -> None:
    world = World(2, limit=10)
    talks = gather(world, "r1", 8)
    more = gather(world, "r2", 5)

    world.daemons["r1"].kill()
    world.run(3.0)

    assert world.relay("r2").sessions == 10
    assert world.relay("r1").sessions == 3
    for talk in [*talks, *more]:
        talk.caller.bye()
    world.daemons["r1"].restart(world.now)
    world.run(3.0)
    assert [relay.sessions for relay in world.fleet.relays.values()] == [0, 0]
    world.assert_empty()


def test_a_call_that_moved_and_ended_is_freed_without_the_garbage_collector() -> None:
    gc.collect()
    gc.disable()
    try:
        world = World()
        talk = world.call()
        world.lose(talk)
        talk.caller.hold()
        world.run(1.0)
        talk.callee.bye()
        world.assert_empty()
        assert not living_objects()
    finally:
        gc.enable()


def test_a_relay_that_was_frozen_is_told_to_delete_what_its_calls_left_there() -> None:
    world = World()
    talk = world.call()
    old = talk.relay
    world.daemons[old].mode = "frozen"
    world.run(1.0)
    world.assert_anchored(talk)
    assert len(world.daemons[old].sessions) == 1

    world.daemons[old].mode = "up"
    world.run(2.0)

    assert world.relay(old).state is RelayState.READY
    assert world.daemons[old].sessions == {}


def test_a_plan_is_carried_out() -> None:
    world = World()
    talks = gather(world, "r1", 4)

    world.b2bua.failover.carry_out(
        [(talk.id, "uid-r2") for talk in talks[:2]] + [("gone", "uid-r2")], "Plan", world.now
    )
    world.run(1.0)

    assert [talk.relay for talk in talks] == ["r2", "r2", "r1", "r1"]


def in_order(world: World, talks: list[Talk], since: float) -> list[int]:
    """Return in which order calls were re-INVITEd, as places in ``talks``."""
    ids = [talk.caller.call_id for talk in talks]
    return list(dict.fromkeys(ids.index(one.message.call_id) for one in world.sent("INVITE", CALLER, since=since)))


def test_calls_without_audio_go_before_those_that_only_have_to_leave_and_the_longest_silent_first() -> None:
    world = World(4, failover=FailoverPolicy(rate=4.0))
    drained, second, first = gather(world, "r1", 2), gather(world, "r2", 2), gather(world, "r3", 2)
    world.intend("r2", Intent.CORDON)
    since = world.now

    world.intend("r1", Intent.DRAIN)
    world.daemons["r3"].kill()
    world.run(0.2)
    world.daemons["r2"].kill()
    world.run(10.0)

    order = in_order(world, [*drained, *second, *first], since)
    assert order[0] == 0, "it had begun before anything was lost"
    assert order[1:] == [4, 5, 2, 3, 1]


@pytest.mark.parametrize("emergency_first", [True, False])
def test_whether_an_emergency_call_goes_before_one_that_has_been_silent_for_longer(emergency_first: bool) -> None:
    world = World(3, failover=FailoverPolicy(rate=4.0, emergency_first=emergency_first))
    longer = gather(world, "r1", 3)
    emergency = gather(world, "r2", 1, headers={"Resource-Priority": "esnet.0"})
    world.intend("r2", Intent.CORDON)
    since = world.now

    world.daemons["r1"].kill()
    world.run(0.2)
    world.daemons["r2"].kill()
    world.run(10.0)

    assert in_order(world, [*longer, *emergency], since) == ([0, 3, 1, 2] if emergency_first else [0, 1, 2, 3])


def test_a_call_whose_move_has_failed_rests_from_plans_but_not_from_persons_or_losses() -> None:
    world = World(settings={"rest": 30.0})
    (talk,) = gather(world, "r1", 1)
    failover, ask = world.b2bua.failover, [(talk.id, "uid-r2")]
    talk.callee.replies.append(488)
    failover.carry_out(ask, "Rebalance", world.now)
    world.run(1.0)
    assert world.books.results() == ["RolledBack"]

    failover.carry_out(ask, "Rebalance", world.now)
    world.run(28.0)
    assert talk.relay == "r1", "it rests"
    failover.want(talk.call, "Requested", world.now, target=world.relay("r3"))
    world.run(0.5)
    assert talk.relay == "r3", "a person need not wait"
    world.lose(talk)
    assert talk.relay != "r3", "nor does a loss"
    world.assert_anchored(talk)

    world.run(5.0)
    target = "r2" if talk.relay == "r1" else "r1"
    failover.carry_out([(talk.id, f"uid-{target}")], "Rebalance", world.now)
    world.run(0.5)
    assert talk.relay == target
