"""Plans by example, and by what holds for each of them whatever the set is."""

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.relay.plans import QUIET, Set, limit, make_set, named, sets, zones_served

from kedge.relay.plan import (
    Pace,
    Plan,
    PlanCall,
    PlanRelay,
    UnknownRelayError,
    headroom,
    plan_drain,
    plan_loss,
    plan_rebalance,
)
from kedge.relay.plan_model import NO_CAPACITY, NO_RELAY, UNMOVABLE


def by_target(plan: Plan) -> dict[str, int]:
    return dict(Counter(move.target for move in plan.moves))


# --- who goes, where to -----------------------------------------------------------------------------------------------


def test_emergency_calls_go_first_then_the_longest_silent_then_by_id() -> None:
    relays = [PlanRelay(uid="a", name="a", sessions=5), PlanRelay(uid="b", name="b")]
    calls = [
        PlanCall("heard", "a"),
        PlanCall("young", "a", silent_since=9.0),
        PlanCall("same", "a", silent_since=1.0),
        PlanCall("old", "a", silent_since=1.0),
        PlanCall("sos", "a", emergency=True),
    ]
    plan = plan_loss(relays, calls, "a")
    assert [move.call for move in plan.moves] == ["sos", "old", "same", "young", "heard"]


def test_calls_even_out_what_the_targets_have() -> None:
    some = make_set([30, 10, 0])
    assert by_target(plan_drain(some.relays, some.calls, "r0")) == {"r1": 10, "r2": 20}


def test_calls_spread_by_weight() -> None:
    some = make_set([40, 0, 0], weights=[1, 1, 3])
    assert by_target(plan_drain(some.relays, some.calls, "r0")) == {"r1": 10, "r2": 30}


def test_relays_that_a_rollout_is_about_to_replace_get_only_what_has_no_room_elsewhere() -> None:
    some = make_set([10, 0, 5, 0], capacity=12)
    relays = [replace(relay, outgoing=relay.uid in ("r0", "r1")) for relay in some.relays]
    assert by_target(plan_drain(relays, some.calls, "r0")) == {"r2": 3, "r3": 7}
    assert by_target(plan_drain(relays[:3], some.calls, "r0")) == {"r1": 3, "r2": 7}


def test_a_call_stays_in_its_zone_even_if_it_has_to_move_again_there() -> None:
    old = PlanRelay(uid="b", name="b", zone="z", outgoing=True)
    new = PlanRelay(uid="c", name="c", zone="y")
    calls = [PlanCall("here", "a", zone="z"), PlanCall("anywhere", "a")]
    plan = plan_drain([PlanRelay(uid="a", name="a", sessions=2), old, new], calls, "a")
    assert {move.call: move.target for move in plan.moves} == {"here": "b", "anywhere": "c"}


def test_moves_alternate_between_targets_so_that_none_gets_a_burst() -> None:
    some = make_set([40, 20, 0])
    targets = [move.target for move in plan_drain(some.relays, some.calls, "r0").moves]
    assert Counter(targets) == {"r1": 10, "r2": 30}
    assert all(targets[start : start + 8].count("r1") == 2 for start in range(0, 40, 8))


def test_what_does_not_fit_is_listed_and_emergency_calls_are_not_among_it() -> None:
    some = make_set([4, 9, 9], capacity=10)
    calls = [call._replace(emergency=call.id == "c0-0003") for call in some.calls]
    plan = plan_loss(some.relays, calls, "r0")
    assert [move.call for move in plan.moves] == ["c0-0003", "c0-0000"]
    assert [(left.call, left.reason) for left in plan.unplaced] == [
        ("c0-0001", NO_CAPACITY),
        ("c0-0002", NO_CAPACITY),
    ]


def test_sessions_of_other_processes_take_room_and_what_is_left_is_shared() -> None:
    some = make_set([20, 0], capacity=30)
    taken = [replace(relay, others=10 * (relay.uid == "r1"), replicas=2) for relay in some.relays]
    plan = plan_drain(taken, some.calls, "r0")
    assert (len(plan.moves), len(plan.unplaced)) == (10, 10)


def test_two_relays_drained_at_once_are_no_targets_of_each_other() -> None:
    some = make_set([10, 10, 0, 0])
    plan = plan_drain(some.relays, some.calls, {"r0", "r1"})
    assert plan.after == {"r0": 0, "r1": 0, "r2": 10, "r3": 10}


@pytest.mark.parametrize("state", [{"serving": False}, {"leaving": True}, {"weight": 0}])
def test_a_relay_that_drains_is_cordoned_or_weighs_nothing_is_never_a_target(state: dict[str, int]) -> None:
    some = make_set([2, 0, 0])
    relays = [some.relays[0], *(replace(relay, **state) for relay in some.relays[1:])]  # type: ignore[arg-type]
    plan = plan_loss(relays, some.calls, "r0")
    assert plan.moves == ()
    assert {left.reason for left in plan.unplaced} == {NO_RELAY}


def test_calls_that_cannot_move_are_listed_with_the_reason_given() -> None:
    relays = make_set([2, 0]).relays
    calls = [PlanCall("x", "r0", movable=False, reason="Recording"), PlanCall("y", "r0", movable=False)]
    plan = plan_drain(relays, calls, "r0")
    assert [(left.call, left.reason) for left in plan.unmovable] == [("x", "Recording"), ("y", UNMOVABLE)]
    assert plan.after == {"r0": 2, "r1": 0}


def test_calls_stay_in_their_zone_until_it_is_full() -> None:
    relays = [
        PlanRelay(uid="a1", name="a1", zone="a", sessions=8),
        PlanRelay(uid="a2", name="a2", zone="a", sessions=5, capacity=9),
        PlanRelay(uid="b1", name="b1", zone="b"),
    ]
    calls = [PlanCall(f"{zone or 'x'}{number}", "a1", zone=zone) for zone in ("a", "") for number in range(6)]
    plan = plan_drain(relays, calls[:10], "a1")
    went = {move.call: move.target for move in plan.moves}
    assert [went[f"a{number}"] for number in range(6)] == ["a2"] * 4 + ["b1"] * 2
    assert {went[f"x{number}"] for number in range(4)} == {"b1"}


def test_an_unknown_relay_is_the_askers_fault() -> None:
    some = make_set([1, 0])
    with pytest.raises(UnknownRelayError, match="'r9'"):
        plan_drain(some.relays, some.calls, ["r0", "r9"])


# --- how long it takes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pace", "seconds"),
    [
        (Pace(), 0.0),
        (Pace(rate=100), 2.0),  # 100 calls, two legs each
        (Pace(rate=1000, rate_per_peer=50), 3.0),  # one peer has a leg of each call, and both of each second one
        (Pace(rate=1000, rate_per_peer=50, calls=20), 5.0),
    ],
)
def test_duration_is_that_of_the_tightest_limit(pace: Pace, seconds: float) -> None:
    some = make_set([100, 0])
    calls = [call._replace(peers=("pbx", "pbx" if number % 2 else "trunk")) for number, call in enumerate(some.calls)]
    assert plan_drain(some.relays, calls, "r0", pace=pace).seconds == pytest.approx(seconds)


# --- N+1 --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loads", "spare", "ok"),
    [([100, 100, 0], 1, True), ([100, 100, 1], 1, False), ([100, 0, 0], 2, True), ([1], 1, False), ([0], 1, True)],
)
def test_headroom_for_the_loss_of_the_largest(loads: list[int], spare: int, ok: bool) -> None:
    assert headroom(make_set(loads, capacity=100).relays, spare)[0] is ok


def test_headroom_counts_calls_that_have_to_go_and_no_room_where_none_may_come() -> None:
    some = make_set([60, 60, 60], capacity=100)
    relays = [replace(some.relays[0], leaving=True), some.relays[1], replace(some.relays[2], others=10)]
    assert headroom(relays, 0) == (True, "190 calls, room for 200 if 0 of 2 relays failed")
    assert headroom(relays, 1) == (False, "190 calls, room for 100 if 1 of 2 relays failed")


# --- what holds for every plan ----------------------------------------------------------------------------------------


def plans_of(some: Set) -> list[Plan]:
    """Return a drain of those that are to leave (else of the first relay), a loss of the first, and a rebalance."""
    leaving = {relay.uid for relay in some.relays if relay.leaving} or {"r0"}
    return [
        plan_drain(some.relays, some.calls, leaving),
        plan_loss(some.relays, some.calls, "r0"),
        plan_rebalance(some.relays, some.calls, imbalance=0, rest=60, now=1000.0),
    ]


@QUIET
@given(sets())
def test_no_relay_is_over_its_capacity_at_any_time_and_all_targets_serve(some: Set) -> None:
    for plan in plans_of(some):
        loads = dict(plan.before)
        for move in plan.moves:
            target = some.relay(move.target)
            assert target.target
            loads[move.target] += 1  # reserved before the call leaves its old relay
            assert loads[move.target] <= limit(target)
            loads[move.source] -= 1
        assert loads == plan.after


@QUIET
@given(sets())
def test_every_call_is_named_once_and_goes_from_where_it_is(some: Set) -> None:
    for plan in plans_of(some):
        assert len(set(named(plan))) == len(named(plan))
        on = {call.id: call for call in some.calls}
        assert all(on[move.call].relay == move.source != move.target and on[move.call].movable for move in plan.moves)
        assert all(on[left.call].movable for left in plan.unplaced)
        assert all(left.reason for left in (*plan.unplaced, *plan.unmovable))


@QUIET
@given(sets())
def test_all_calls_of_a_drained_relay_go_or_are_listed_and_none_is_left_while_there_is_room(some: Set) -> None:
    plan = plan_drain(some.relays, some.calls, "r0")
    there = {call.id for call in some.calls if call.relay == "r0"}
    assert set(named(plan)) == there
    room = sum(relay.room for relay in some.relays if relay.target and relay.uid != "r0")
    assert len(plan.moves) == min(room, len(there) - len(plan.unmovable))


@QUIET
@given(sets())
def test_a_call_leaves_its_zone_only_when_the_zone_is_full(some: Set) -> None:
    plan = plan_drain(some.relays, some.calls, "r0")
    served = zones_served(some, without=["r0"])
    for zone in served:
        homed = {call.id for call in some.calls if call.zone == zone}
        out = [move for move in plan.moves if move.call in homed and some.relay(move.target).zone != zone]
        inside = sum(move.call in homed for move in plan.moves) - len(out)
        room = sum(relay.room for relay in some.relays if relay.target and relay.zone == zone and relay.uid != "r0")
        assert not out or inside == room


@QUIET
@given(sets(), st.randoms(use_true_random=False))
def test_the_order_of_relays_and_calls_does_not_matter(some: Set, rng: random.Random) -> None:
    relays, calls = list(some.relays), list(some.calls)
    rng.shuffle(relays)
    rng.shuffle(calls)
    assert plans_of(Set(tuple(relays), tuple(calls))) == plans_of(some)


@QUIET
@given(sets())
def test_a_second_drain_moves_nothing(some: Set) -> None:
    then = some.after(plan_drain(some.relays, some.calls, "r0"))
    assert plan_drain(then.relays, then.calls, "r0").moves == ()


@QUIET
@given(sets(), st.integers(1, 4))
def test_no_call_without_a_zone_would_be_better_off_elsewhere(some: Set, weight: int) -> None:
    calls = [call._replace(zone="") for call in some.calls]
    relays = [replace(relay, weight=relay.weight * weight) for relay in some.relays]
    plan = plan_drain(relays, calls, "r0")
    took = by_target(plan)
    targets = [relay for relay in relays if relay.target and relay.uid != "r0"]
    for used in targets:
        for other in targets:
            if took.get(used.uid) and plan.after[other.uid] < limit(other):
                assert plan.after[used.uid] / used.weight <= (plan.after[other.uid] + 1) / other.weight
