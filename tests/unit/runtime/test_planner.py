"""The planner at its ports: records in, moves asked for out, time as a number."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
from tests.unit.runtime.planner_world import SET, World

from kedge.ports.records import Condition
from kedge.relay.model import (
    DrainPolicy,
    FailoverPolicy,
    InventorySnapshot,
    PlacementPolicy,
    RebalancePolicy,
    RelaySetPolicy,
)
from kedge.relay.plan import Move, PlanKind
from kedge.runtime.planning import PlanRequestError
from kedge.runtime.steering import Steering, Task

# --- drain ------------------------------------------------------------------------------------------------------------


async def test_a_drained_relay_loses_all_its_calls_to_those_with_the_most_room() -> None:
    world = World(40, 10, 20)
    await world.run(1)

    world.change("r0", intent="Drain")
    await world.run(5)

    assert world.loads() == [0, 35, 35]
    assert world.times_asked() == Counter(dict.fromkeys(world.times_asked(), 1))
    assert {reason for *_, reason in world.asked} == {"Drain"}
    done = world.progress()
    assert (done.kind, done.relay, done.calls, done.moved, done.failed) == ("Drain", "relay-r0", 40, 40, 0)
    assert done.done
    assert done.seconds_left == 0
    assert world.events == [("DrainDone", "relay relay-r0 is drained: 40 of 40 calls moved, 0 failed")]


async def test_what_was_shown_is_what_happens() -> None:
    world = World(33, 7, 12, 3)
    await world.run(1)
    plan = await world.planner.show(PlanKind.DRAIN, relay="relay-r0")
    assert world.asked == []

    world.change("r0", intent="Drain")
    await world.run(5)

    assert dict(plan.after) == dict(zip(world.relays, world.loads(), strict=True))
    assert {(move.call, move.target) for move in plan.moves} == {(call, to) for _, call, to, _ in world.asked}


async def test_a_drain_takes_a_quarter_of_the_pace_of_a_failover() -> None:
    world = World(1000, 0, failover=FailoverPolicy(rate=800, rate_per_peer=400))
    await world.run(1)

    world.change("r0", intent="Drain")
    await world.run(4)

    assert len(world.asked) == pytest.approx(400, rel=0.05)
    assert world.busiest_second() <= 110
    assert world.progress().seconds_left == pytest.approx(6, abs=0.3)


async def test_figures_add_up_at_any_time() -> None:
    world = World(300, 0, failover=FailoverPolicy(rate=800, rate_per_peer=400))
    world.add_calls("r0", 5, movable=Condition(status=False, reason="Recording"))
    world.change("r0", intent="Drain")

    for _ in range(20):
        await world.run(0.25)
        task = world.progress()
        assert task.calls == 305
        assert task.moved <= world.moves()
        assert task.failed == 5
    assert world.progress().moved == 300
    assert not world.progress().done
    assert world.progress().message == "5 calls cannot leave yet: Recording"


async def test_a_drain_that_is_taken_back_ends_at_once() -> None:
    never = RebalancePolicy(allowed=False, on_scale_out=False)
    world = World(300, 100, failover=FailoverPolicy(rate=800, rate_per_peer=400), rebalance=never)
    world.change("r0", intent="Drain")
    await world.run(1)
    asked = len(world.asked)

    world.change("r0", intent="Serve")
    await world.run(10)

    assert 50 < asked < 150
    assert len(world.asked) == asked
    assert world.loads() == [300 - asked, 100 + asked]
    done = world.progress()
    assert (done.done, done.moved, done.calls, done.message) == (True, asked, 300, "it was taken back")


async def test_a_drain_that_is_wished_again_goes_on() -> None:
    world = World(300, 100, failover=FailoverPolicy(rate=800, rate_per_peer=400))
    for intent in ("Drain", "Serve", "Drain"):
        world.change("r0", intent=intent)
        await world.run(0.5)
    await world.run(5)

    assert world.loads() == [0, 400]
    assert max(world.times_asked().values()) == 1


async def test_two_drains_at_once_spare_each_other() -> None:
    world = World(50, 50, 0, 0)
    world.change("r0", intent="Drain")
    world.change("r1", intent="Drain")
    await world.run(5)

    assert world.loads() == [0, 0, 50, 50]
    assert {target for _, _, target, _ in world.asked} == {"r2", "r3"}
    assert max(world.times_asked().values()) == 1
    assert sorted(message for _, message in world.events) == [
        f"relay relay-{uid} is drained: 50 of 50 calls moved, 0 failed" for uid in ("r0", "r1")
    ]


async def test_a_second_drain_begins_when_the_first_is_half_done() -> None:
    world = World(200, 0, 0, failover=FailoverPolicy(rate=800, rate_per_peer=400))
    world.change("r0", intent="Drain")
    await world.run(1)

    world.change("r1", intent="Drain")
    await world.run(6)

    assert world.loads() == [0, 0, 200]
    assert max(call.anchors for call in world.calls.values()) <= 2


async def test_a_target_that_is_lost_during_a_drain() -> None:
    world = World(200, 0, 0, failover=FailoverPolicy(rate=800, rate_per_peer=400))
    world.change("r0", intent="Drain")
    await world.run(1)

    world.lose("r1")
    await world.run(10)

    assert world.loads() == [0, 0, 200]
    late = [target for at, _, target, _ in world.asked if at > 101.01]
    assert set(late) == {"r2"}


async def test_a_relay_that_joins_during_a_drain_gets_its_share() -> None:
    world = World(200, 0, failover=FailoverPolicy(rate=800, rate_per_peer=400))
    world.change("r0", intent="Drain")
    await world.run(1)

    world.add_relay("r2")
    await world.run(5)

    assert world.loads() == [0, pytest.approx(100, abs=2), pytest.approx(100, abs=2)]
    assert max(world.times_asked().values()) == 1


async def test_no_move_is_asked_for_to_a_relay_in_doubt() -> None:
    world = World(200, 0, 0, failover=FailoverPolicy(rate=800, rate_per_peer=400))
    world.change("r0", intent="Drain")
    await world.run(1)
    asked = len(world.asked)

    world.relays["r1"] = replace(world.relays["r1"], state="Suspect")  # nobody wakes the planner
    await world.run(10)

    assert {target for _, _, target, _ in world.asked[asked:]} == {"r2"}
    assert world.loads()[0] == 0


async def test_the_drained_relay_is_lost() -> None:
    world = World(200, 0, 0, failover=FailoverPolicy(rate=800, rate_per_peer=400))
    world.change("r0", intent="Drain")
    await world.run(1)
    asked = len(world.asked)

    world.lose("r0")
    await world.run(10)

    assert len(world.asked) == asked
    assert world.progress().message == "the relay was lost"


async def test_a_relay_that_is_gone_once_it_is_empty_has_been_drained() -> None:
    world = World(40, 0)
    world.change("r0", intent="Drain")
    await world.run(0.3)

    del world.relays["r0"]
    await world.run(3)

    assert world.progress().moved == world.progress().calls == 40
    assert world.progress().message == ""


async def test_calls_without_room_are_told_and_move_when_there_is_room() -> None:
    world = World(30, 0)
    world.change("r1", capacity=10)
    world.change("r0", intent="Drain")
    await world.run(5)
    assert world.loads() == [20, 10]
    stuck = world.progress()
    assert (stuck.calls, stuck.moved, stuck.failed) == (30, 10, 20)
    assert stuck.message == "20 calls cannot leave yet: NoCapacity"

    world.add_relay("r2")
    await world.run(5)

    assert world.loads()[0] == 0
    assert world.progress().moved == 30
    assert max(world.times_asked().values()) == 1


async def test_without_any_other_relay_calls_stay() -> None:
    world = World(3)
    world.change("r0", intent="Drain")
    await world.run(5)

    assert world.asked == []
    assert world.progress().message == "3 calls cannot leave yet: NoRelay"


async def test_calls_that_cannot_leave_are_named_once_but_not_thousands_of_them() -> None:
    world = World(3)
    world.change("r0", intent="Drain")
    await world.run(4)
    assert world.events == []
    await world.run(6)
    assert world.events == [
        ("CallNotMoved", f"call c0000{number} cannot leave relay relay-r0 yet: NoRelay") for number in range(3)
    ]

    many = World(1000)
    many.change("r0", intent="Drain")
    await many.run(20)
    assert len(many.events) == 20


async def test_calls_that_are_set_up_meanwhile_have_not_failed() -> None:
    world = World(0, 0)
    (ringing,) = world.add_calls("r0", 1, movable=Condition(status=False, reason="NotEstablished"))
    world.change("r0", intent="Drain")
    await world.run(3)
    assert (world.progress().calls, world.progress().failed, world.asked) == (1, 0, [])

    world.calls[ringing] = replace(world.calls[ringing], movable=Condition(status=True, reason="InDialog"))
    await world.run(3)

    assert world.progress().moved == 1


async def test_a_refusal_is_asked_again_ever_more_seldom() -> None:
    world = World(2, 0)
    world.refusing = {"c00000"}
    world.change("r0", intent="Drain")
    await world.run(1.9)
    assert world.times_asked()["c00000"] == 1

    await world.run(40)

    times = [at for at, call, *_ in world.asked if call == "c00000"]
    assert [round(after - before) for before, after in pairwise(times)] == [2, 4, 8, 16]
    assert (world.progress().failed, world.progress().moved) == (1, 1)


async def test_a_move_that_takes_long_is_not_asked_for_again() -> None:
    world = World(20, 0)
    world.round_trip = 30.0
    world.change("r0", intent="Drain")
    await world.run(29)
    assert set(world.times_asked().values()) == {1}
    assert world.progress().failed == 0

    await world.run(2)

    assert world.progress().moved == 20


@pytest.mark.parametrize("hang_up", [True, False])
async def test_the_deadline(hang_up: bool) -> None:
    world = World(2, 0, drain=DrainPolicy(deadline=30, hang_up_unmovable=hang_up))
    (fixed,) = world.add_calls("r0", 1, movable=Condition(status=False, reason="Recording"))
    world.refusing = {"c00000"}
    world.change("r0", intent="Drain")
    await world.run(29)
    assert world.hung_up == []

    await world.run(3)

    assert sorted(world.hung_up) == (["c00000", fixed] if hang_up else [])
    assert world.progress().done is hang_up


async def test_emergency_calls_go_first() -> None:
    world = World(50, 0)
    urgent = world.add_calls("r0", 3, emergency=True)
    world.change("r0", intent="Drain")
    await world.run(5)

    assert [call for _, call, *_ in world.asked][:3] == urgent


async def test_a_set_that_is_gone_is_still_emptied() -> None:
    world = World(10, 0)
    await world.run(1)
    world.planner.apply(InventorySnapshot())
    world.change("r0", intent="Drain")
    await world.run(3)

    assert world.loads() == [0, 10]


# --- rebalance --------------------------------------------------------------------------------------------------------

EXACT = RebalancePolicy(imbalance=0, rate=50)


async def test_scale_out_is_evened_out_after_the_settle_time() -> None:
    world = World(40, 40, 40, rebalance=EXACT)
    await world.run(1)

    world.add_relay("r3")
    await world.run(1.9)
    assert world.asked == []
    await world.run(5)

    assert world.loads() == [30, 30, 30, 30]
    assert len(world.asked) == 30
    assert max(world.times_asked().values()) == 1
    done = world.progress()
    assert (done.kind, done.calls, done.moved, done.failed, done.done) == ("Rebalance", 30, 30, 0, True)
    assert world.events == [("RebalanceDone", "calls are spread: 30 of 30 calls moved, 0 failed")]


async def test_relays_that_join_one_after_the_other_make_one_rebalance() -> None:
    world = World(60, 60, rebalance=EXACT)
    await world.run(1)
    for uid in ("r2", "r3"):
        world.add_relay(uid)
        await world.run(1.5)
    await world.run(5)

    assert world.loads() == [30, 30, 30, 30]
    assert max(call.anchors for call in world.calls.values()) == 1


async def test_a_rebalance_keeps_to_its_pace() -> None:
    world = World(600, 0, rebalance=replace(EXACT, rate=50))
    await world.run(1)
    world.planner.rebalance("voice")
    await world.run(4)

    assert len(world.asked) == pytest.approx(200, abs=12)
    assert world.busiest_second() <= 55
    assert world.progress().seconds_left == pytest.approx(2, abs=0.4)


async def test_a_relay_that_joins_during_a_rebalance() -> None:
    world = World(300, 0, rebalance=replace(EXACT, rest=0))
    world.round_trip = 4.0
    await world.run(1)
    world.planner.rebalance("voice")
    await world.run(1)
    asked = len(world.asked)

    world.add_relay("r2")
    await world.run(1.8)
    assert len(world.asked) == asked, "what comes of it is known only when the relays have settled"
    await world.run(20)

    assert world.loads() == [100, 100, 100]
    assert max(world.times_asked().values()) == 1


async def test_a_pace_below_one_a_look() -> None:
    world = World(20, 0, rebalance=replace(EXACT, rate=0.5))
    await world.run(1)
    world.planner.rebalance("voice")
    await world.run(10)

    assert 5 <= len(world.asked) <= 6


async def test_a_return_is_evened_out() -> None:
    world = World(30, 30, rebalance=EXACT)
    await world.run(1)
    world.lose("r1")
    await world.run(3)
    assert world.loads() == [60, 0]

    world.change("r1", state="Ready")
    await world.run(20)
    assert world.loads() == [30, 30], "only those that had not moved are moved; the others rest"
    assert max(call.anchors for call in world.calls.values()) == 1


async def test_what_rests_is_moved_after_its_rest() -> None:
    world = World(0, 30, rebalance=replace(EXACT, rest=60))
    world.add_relay("r2")
    await world.run(1)
    world.lose("r1")
    await world.run(1)
    back = world.now
    world.change("r1", state="Ready")
    await world.run(55)
    assert world.asked == []

    await world.run(20)

    assert world.loads() == [10, 10, 10]
    assert min(at for at, *_ in world.asked) >= back + 59


async def test_a_relay_in_doubt_has_not_joined_when_it_is_well_again() -> None:
    world = World(50, 10, rebalance=EXACT)
    await world.run(3)
    for state in ("Suspect", "Ready"):
        world.change("r1", state=state)
        await world.run(4)

    assert world.asked == []


async def test_a_set_in_balance_moves_nothing() -> None:
    world = World(100, 105, 95, rebalance=RebalancePolicy())
    await world.run(1)
    world.planner.rebalance("")
    await world.run(5)

    assert world.asked == []
    assert (world.progress().calls, world.progress().done, world.progress().message) == (0, True, "")


@pytest.mark.parametrize("allowed", [True, False], ids=["Manual", "Disabled"])
async def test_modes(allowed: bool) -> None:
    world = World(40, rebalance=RebalancePolicy(on_scale_out=False, allowed=allowed, imbalance=0))
    await world.run(1)
    world.add_relay("r1")
    await world.run(10)
    assert world.asked == []

    if not allowed:
        with pytest.raises(PlanRequestError, match=r"RelaySet default/voice has rebalance\.mode Disabled"):
            world.planner.rebalance(SET)
        return
    world.planner.rebalance(SET)
    await world.run(5)

    assert world.loads() == [20, 20]


async def test_a_rebalance_ends_when_the_mode_forbids_it_and_one_that_was_asked_for_does_not() -> None:
    world = World(400, rebalance=RebalancePolicy(imbalance=0, rate=20))
    await world.run(1)
    world.add_relay("r1")
    await world.run(5)
    manual = RebalancePolicy(on_scale_out=False, imbalance=0, rate=20)
    world.planner.apply(InventorySnapshot(relay_sets=(RelaySetPolicy(key=SET, rebalance=manual),)))
    await world.run(1)

    asked = len(world.asked)
    assert 0 < asked < 200
    assert world.events == [
        ("RebalanceDone", f"Rebalance ended early: {asked} of 200 calls moved; rebalance.mode was changed")
    ]
    await world.run(10)
    assert len(world.asked) == asked

    world.planner.rebalance(SET)
    await world.run(15)
    assert world.loads() == [200, 200]


async def test_names() -> None:
    world = World(1)
    for relay_set in ("", "voice", SET):
        shown = await world.planner.show(PlanKind.LOSS, relay="relay-r0", relay_set=relay_set)
        assert len(shown.unplaced) == 1
    with pytest.raises(PlanRequestError, match="there is no relay 'relay-r0'"):
        await world.planner.show(PlanKind.LOSS, relay="relay-r0", relay_set="video")
    with pytest.raises(PlanRequestError, match=r"there is no RelaySet 'video': default/voice"):
        world.planner.rebalance("video")
    with pytest.raises(PlanRequestError, match=r"there is no relay 'nobody': relay-r0"):
        await world.planner.show(PlanKind.LOSS, relay="nobody")


async def test_a_loss_during_a_rebalance() -> None:
    world = World(200, 200, 0, rebalance=EXACT)
    await world.run(1)
    world.planner.rebalance(SET)
    await world.run(1)

    world.lose("r0")
    await world.run(80)

    first, second, third = world.loads()
    assert first == 0
    assert abs(second - third) <= 1
    assert max(world.times_asked().values()) <= 2
    assert not any(at > 101 and world.relays[target].state == "Down" for at, _, target, _ in world.asked)


async def test_a_drain_during_a_rebalance_goes_first() -> None:
    world = World(200, 200, 0, rebalance=EXACT)
    await world.run(1)
    world.planner.rebalance(SET)
    await world.run(1)

    world.change("r2", intent="Drain")
    await world.run(30)

    assert world.loads() == [200, 200, 0]
    after = [reason for at, _, _, reason in world.asked if at > 102.01]
    assert set(after) == {"Drain"}


async def test_scale_out_during_a_drain_moves_no_call_twice() -> None:
    world = World(300, 300, 300, rebalance=EXACT, failover=FailoverPolicy(rate=800, rate_per_peer=400))
    await world.run(1)
    world.change("r0", intent="Drain")
    await world.run(1)

    world.add_relay("r3")
    await world.run(60)

    assert world.loads() == [0, 300, 300, 300]
    assert max(call.anchors for call in world.calls.values()) == 1


async def test_load_is_evened_out_after_a_rollout_and_not_during_it_unless_somebody_asks() -> None:
    world = World(30, 30, rebalance=EXACT)
    await world.run(5)
    world.change("r0", outgoing=True)
    world.change("r1", outgoing=True)
    world.add_relay("r2")
    await world.run(10)
    assert world.loads() == [30, 30, 0]

    world.change("r0", intent="Drain")
    await world.run(10)
    assert world.loads() == [0, 30, 30], "to a relay that stays"

    world.planner.rebalance(SET)
    await world.run(10)
    assert world.moves() == 30, "even already"
    world.change("r1", intent="Drain")
    world.add_relay("r3")
    await world.run(10)
    for gone in ("r0", "r1"):
        del world.relays[gone]
    await world.run(10)
    assert world.loads() == [30, 30]
    assert world.moves() == 60


async def test_calls_that_will_not_move_are_left_in_peace_by_a_rebalance() -> None:
    world = World(4, 0, rebalance=EXACT)
    world.refusing = set(world.calls)
    await world.run(1)
    world.planner.rebalance(SET)
    await world.run(60)

    assert set(world.times_asked().values()) == {1}
    done = world.progress()
    assert (done.done, done.calls, done.moved, done.failed) == (True, 4, 0, 4)


async def test_hang_ups_and_new_calls_during_a_rebalance() -> None:
    world = World(300, 0, rebalance=EXACT)
    await world.run(1)
    world.planner.rebalance(SET)
    for _ in range(40):
        await world.run(0.25)
        world.add_calls("r0", 2)
        world.end(world.on("r0")[0])
    await world.run(10)

    assert abs(world.loads()[0] - world.loads()[1]) <= 1
    assert max(call.anchors for call in world.calls.values()) == 1


async def test_zones_are_told_only_where_they_are_preferred() -> None:
    for zones, expected in ((True, {"r1"}), (False, {"r1", "r2"})):
        world = World(0, placement=PlacementPolicy(zones=zones))
        world.add_calls("r0", 20, zone="a")
        world.add_relay("r1", zone="a")
        world.add_relay("r2", zone="b")
        world.change("r0", intent="Drain")
        await world.run(3)
        assert {target for _, _, target, _ in world.asked} == expected


async def test_a_place_that_is_reserved_for_a_call_counts_once() -> None:
    world = World(4, 0)
    steering = Steering(SET)
    task = Task(PlanKind.DRAIN, SET, None, 0.0, 0.0)
    for call in ("c00000", "c00001", "c00002"):
        steering.ask(task, Move(call, "r0", "r1"), 0.0)
    # Two have their places already, and so has a call that is being set up elsewhere; no record shows any of them.
    relays = [world.relays["r0"], replace(world.relays["r1"], sessions=4)]

    assert steering.projected(relays, list(world.calls.values())) == {"r0": 1, "r1": 4}
