"""A rebalance moves as few calls as any could, which is shown against all that could be done in small sets."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.relay.plans import (
    NOW,
    QUIET,
    REST,
    RESTED_SINCE,
    RESTING_SINCE,
    Set,
    best,
    bounds,
    make_set,
    named,
    sets,
    worth,
)

from kedge.relay.plan import Plan, PlanCall, PlanRelay, plan_rebalance
from kedge.relay.plan_model import NO_CAPACITY, RESTING, Bounds
from kedge.relay.plan_shares import bounds_of, fair_shares


def rebalance(some: Set, imbalance: float = 10) -> Plan:
    return plan_rebalance(some.relays, some.calls, imbalance=imbalance, rest=REST, now=NOW)


# --- by example -------------------------------------------------------------------------------------------------------


def test_from_three_to_four_relays_the_new_one_gets_its_share() -> None:
    plan = rebalance(make_set([1000, 1000, 1000, 0]), imbalance=0)
    assert len(plan.moves) == len({move.call for move in plan.moves}) == 750
    assert plan.after == {"r0": 750, "r1": 750, "r2": 750, "r3": 750}


def test_the_default_imbalance_takes_only_as_many_as_make_the_new_relay_balanced() -> None:
    plan = rebalance(make_set([1000, 1000, 1000, 0]))
    assert plan.balanced
    assert plan.bounds["r3"] == Bounds(675, 825)
    assert (len(plan.moves), plan.after["r3"]) == (675, 675)
    # Any 675 would do; those taken leave the others nearly alike.
    assert max(plan.after.values()) - min(plan.after[uid] for uid in ("r0", "r1", "r2")) <= 10


def test_one_new_relay_beside_twenty_is_not_left_empty() -> None:
    plan = rebalance(make_set([100] * 20 + [0]))
    assert plan.after["r20"] == plan.bounds["r20"].lower == 85


@pytest.mark.parametrize("loads", [[], [7], [750, 825, 675, 750], [0, 0, 0], [1, 0, 0], [3, 3, 2]])
def test_a_set_in_balance_moves_nothing(loads: list[int]) -> None:
    plan = rebalance(make_set(loads))
    assert (plan.moves, plan.balanced) == ((), True)


def test_shares_go_by_weight() -> None:
    assert rebalance(make_set([40, 0], weights=[1, 3]), imbalance=0).after == {"r0": 10, "r1": 30}


def test_a_share_above_the_capacity_goes_to_the_others() -> None:
    plan = rebalance(make_set([130, 10, 10], weights=[1, 1, 8], capacity=70), imbalance=0)
    assert plan.after == {"r0": 40, "r1": 40, "r2": 70}


def test_calls_that_were_moved_of_late_stay_and_are_named() -> None:
    some = make_set([4, 0])
    calls = tuple(call._replace(last_move_at=RESTING_SINCE) for call in some.calls[:3])
    plan = rebalance(Set(some.relays, (*calls, some.calls[3])), imbalance=0)
    assert [move.call for move in plan.moves] == ["c0-0003"]
    assert not plan.balanced
    assert {(left.call, left.reason) for left in plan.unmovable} == {(call.id, RESTING) for call in calls}


def test_emergency_calls_go_last_and_those_that_never_moved_first() -> None:
    some = make_set([4, 0])
    first, second, *others = some.calls
    calls = (first._replace(emergency=True), second._replace(last_move_at=RESTED_SINCE), *others)
    assert {move.call for move in rebalance(Set(some.relays, calls), imbalance=0).moves} == {"c0-0002", "c0-0003"}


def test_each_zone_is_level_for_itself_and_calls_of_no_zone_fill_the_lowest() -> None:
    relays = [
        PlanRelay(uid="a1", name="a1", zone="a", sessions=60),
        PlanRelay(uid="a2", name="a2", zone="a"),
        PlanRelay(uid="b1", name="b1", zone="b", sessions=20),
    ]
    calls = [PlanCall(f"a{number:02d}", "a1", zone="a") for number in range(60)]
    calls += [PlanCall(f"x{number:02d}", "b1") for number in range(20)]
    plan = plan_rebalance(relays, calls, imbalance=0)
    assert plan.after == {"a1": 30, "a2": 30, "b1": 20}
    assert all(move.target == "a2" for move in plan.moves)


def test_calls_come_home_when_their_zone_is_back() -> None:
    relays = [
        PlanRelay(uid="a1", name="a1", zone="a"),
        PlanRelay(uid="b1", name="b1", zone="b", sessions=20),
    ]
    calls = [PlanCall(f"{zone}{number}", "b1", zone=zone) for zone in "ab" for number in range(10)]
    plan = plan_rebalance(relays, calls, imbalance=0)
    assert {move.call for move in plan.moves} == {f"a{number}" for number in range(10)}


def test_a_scale_out_in_the_midst_of_a_drain_is_one_plan() -> None:
    some = make_set([30, 30, 30, 0])
    relays = (replace(some.relays[0], leaving=True, serving=False), *some.relays[1:])
    plan = rebalance(Set(relays, some.calls), imbalance=0)
    assert plan.after == {"r0": 0, "r1": 30, "r2": 30, "r3": 30}
    assert {(move.source, move.target) for move in plan.moves} == {("r0", "r3")}


def test_a_cordoned_relay_keeps_its_calls_and_is_left_out_of_the_reckoning() -> None:
    some = make_set([90, 20, 0])
    relays = (replace(some.relays[0], serving=False), *some.relays[1:])
    plan = rebalance(Set(relays, some.calls), imbalance=0)
    assert plan.after == {"r0": 90, "r1": 10, "r2": 10}


def test_a_drain_without_room_is_told_as_such() -> None:
    some = make_set([5, 9], capacity=10)
    relays = (replace(some.relays[0], leaving=True), some.relays[1])
    plan = rebalance(Set(relays, some.calls))
    assert [(left.relay, left.reason) for left in plan.unplaced] == [("r0", NO_CAPACITY)] * 4
    assert not plan.balanced


def test_calls_leave_a_relay_before_others_come_to_it() -> None:
    """Relay a2 is full: only when calls of no zone have left it can those of zone a come."""
    relays = [
        PlanRelay(uid="a1", name="a1", zone="a", sessions=10, capacity=10, leaving=True),
        PlanRelay(uid="a2", name="a2", zone="a", sessions=10, capacity=10),
        PlanRelay(uid="b1", name="b1", zone="b", capacity=20),
    ]
    calls = [PlanCall(f"a{number}", "a1", zone="a") for number in range(10)]
    calls += [PlanCall(f"x{number}", "a2") for number in range(10)]
    plan = plan_rebalance(relays, calls, imbalance=0)
    assert [(move.source, move.target) for move in plan.moves] == [("a2", "b1")] * 10 + [("a1", "a2")] * 10


def test_no_call_leaves_its_zone_only_to_even_out_load() -> None:
    """Relay a2 is full of calls that cannot move, so that a1 has too many: b1 is no place for them while a1 serves."""
    relays = [
        PlanRelay(uid="a1", name="a1", zone="a", sessions=10),
        PlanRelay(uid="a2", name="a2", zone="a", sessions=8, capacity=8),
        PlanRelay(uid="b1", name="b1", zone="b"),
    ]
    calls = [PlanCall(f"a{number}", "a1", zone="a") for number in range(10)]
    calls += [PlanCall(f"x{number}", "a2", movable=False) for number in range(8)]
    plan = plan_rebalance(relays, calls, imbalance=0)
    assert plan.moves == ()
    assert [left.relay for left in plan.unplaced] == ["a1"] * 4
    assert {left.relay for left in plan.unmovable} == {"a2"}


def test_a_zone_is_not_kept_room_for_calls_that_can_never_come() -> None:
    relays = [PlanRelay(uid="a1", name="a1", zone="a"), PlanRelay(uid="b1", name="b1", zone="b", sessions=8, weight=3)]
    calls = [PlanCall(f"a{number}", "b1", zone="a", movable=number > 3) for number in range(8)]
    assert plan_rebalance(relays, calls, imbalance=0).after == {"a1": 4, "b1": 4}
    calls[4:] = [call._replace(zone="b") for call in calls[4:]]
    assert plan_rebalance(relays, calls, imbalance=0).bounds == {"a1": (2, 2), "b1": (6, 6)}


def test_what_seemed_good_at_first_is_taken_back_where_fewer_moves_do() -> None:
    """Three relays are entered through hubs of their own; the cheapest path goes back over what an earlier one did."""
    rows = [("a", 3, ""), ("c", 1, "leaving"), ("b", 2, "leaving"), ("b", 1, ""), ("c", 2, ""), ("", 1, "")]
    limits = [6, 7, 7, 1, 1, 2]
    relays = tuple(
        PlanRelay(
            uid=f"r{index}",
            name=f"r{index}",
            zone=zone,
            weight=weight,
            sessions=int(index < 4),
            capacity=most,
            leaving=state == "leaving",
        )
        for index, ((zone, weight, state), most) in enumerate(zip(rows, limits, strict=True))
    )
    homes = [("r3", ""), ("r2", "b"), ("r1", "a"), ("r0", "c")]
    calls = tuple(PlanCall(f"of-{at}", at, zone=zone) for at, zone in homes)
    some = Set(relays, calls)
    plan = rebalance(some, imbalance=0)
    ends = {move.call: move.target for move in plan.moves}
    assert worth(some, ends, bounds(some, 0)) == best(some, 0) == (0, 0, 0, 3)


# --- shares -----------------------------------------------------------------------------------------------------------


@QUIET
@given(st.lists(st.integers(1, 5), min_size=1, max_size=8), st.integers(0, 1000))
def test_without_zones_a_share_is_that_of_the_weight(weights: list[int], calls: int) -> None:
    relays = [PlanRelay(uid=str(index), name="", weight=weight) for index, weight in enumerate(weights)]
    shares = fair_shares(relays, {"": calls})
    assert shares == pytest.approx([calls * weight / sum(weights) for weight in weights], abs=1e-6)


@QUIET
@given(sets())
def test_shares_hold_all_calls_that_there_is_room_for_and_each_zone_is_level(some: Set) -> None:
    relays = [relay for relay in some.relays if relay.target]
    counts = {"": 7, "a": 20, "b": 5}
    shares = fair_shares(relays, counts)
    limits = [max(0, relay.capacity - relay.others) for relay in relays]
    assert sum(shares) == pytest.approx(min(sum(counts.values()), sum(limits)), abs=1e-6)
    for relay, share, most in zip(relays, shares, limits, strict=True):
        assert -1e-6 <= share <= most
        for other, others_share in zip(relays, shares, strict=True):
            if other.zone == relay.zone and share < most - 1e-6:
                assert share / relay.weight >= others_share / other.weight - 1e-6


def test_bounds_round_outwards_and_stop_at_the_capacity() -> None:
    relay = PlanRelay(uid="a", name="a", capacity=11)
    assert bounds_of(relay, 2.5, 0) == (2, 3)
    assert bounds_of(relay, 10, 10) == (9, 11)
    assert bounds_of(relay, 10, 50) == (5, 11)
    assert bounds_of(relay, 0, 50) == (0, 0)


# --- what holds for every set -----------------------------------------------------------------------------------------

IMBALANCES = st.sampled_from([0, 10, 50])


@settings(max_examples=300, deadline=None)
@given(sets(relays=4, calls=5, capacity=5, unlisted=1), IMBALANCES)
def test_no_plan_does_better(some: Set, imbalance: int) -> None:
    plan = rebalance(some, imbalance)
    ends = {move.call: move.target for move in plan.moves}
    assert worth(some, ends, bounds(some, imbalance)) == best(some, imbalance)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 7), min_size=3, max_size=3).filter(lambda loads: sum(loads) <= 9),
    st.lists(st.integers(1, 3), min_size=3, max_size=3),
    IMBALANCES,
)
def test_no_plan_does_better_with_more_calls_of_no_zone(loads: list[int], weights: list[int], imbalance: int) -> None:
    some = make_set(loads, weights=weights)
    plan = rebalance(some, imbalance)
    ends = {move.call: move.target for move in plan.moves}
    assert worth(some, ends, bounds(some, imbalance)) == best(some, imbalance)
    assert plan.balanced


@QUIET
@given(st.lists(st.tuples(st.integers(0, 200), st.integers(1, 4)), min_size=1, max_size=8), IMBALANCES)
def test_without_zones_the_moves_are_what_is_over_or_what_is_missing(
    rows: list[tuple[int, int]], imbalance: int
) -> None:
    some = make_set([load for load, _ in rows], weights=[weight for _, weight in rows])
    plan = rebalance(some, imbalance)
    over = sum(max(0, plan.before[uid] - bound.upper) for uid, bound in plan.bounds.items())
    missing = sum(max(0, bound.lower - plan.before[uid]) for uid, bound in plan.bounds.items())
    assert len(plan.moves) == max(over, missing)
    assert plan.balanced


@QUIET
@given(sets(), IMBALANCES, st.sampled_from([0.0, REST]))
def test_a_second_rebalance_moves_nothing(some: Set, imbalance: int, rest: float) -> None:
    def plan(of: Set) -> Plan:
        return plan_rebalance(of.relays, of.calls, imbalance=imbalance, rest=rest, now=NOW)

    assert plan(some.after(plan(some))).moves == ()


@QUIET
@given(sets(), IMBALANCES)
def test_a_resting_call_moves_only_off_a_relay_that_is_to_be_left(some: Set, imbalance: int) -> None:
    resting = {call.id for call in some.calls if call.last_move_at == RESTING_SINCE}
    for move in rebalance(some, imbalance).moves:
        assert move.call not in resting or some.relay(move.source).leaving


@QUIET
@given(sets(), IMBALANCES)
def test_every_movable_call_of_a_relay_to_be_left_goes_or_is_listed(some: Set, imbalance: int) -> None:
    plan = rebalance(some, imbalance)
    leaving = {relay.uid for relay in some.relays if relay.leaving}
    assert {call.id for call in some.calls if call.relay in leaving} <= set(named(plan))


@QUIET
@given(sets(relays=8, calls=80, capacity=30), st.randoms(use_true_random=False))
def test_any_order_of_arguments_gives_the_same_plan(some: Set, rng: random.Random) -> None:
    relays, calls = list(some.relays), list(some.calls)
    rng.shuffle(relays)
    rng.shuffle(calls)
    assert rebalance(Set(tuple(relays), tuple(calls))) == rebalance(some)
