"""Losses, returns, drains, scale-outs, calls and hang-ups in any order: in the end each call is where it may be."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.runtime.planner_world import World

from kedge.relay.model import FailoverPolicy, RebalancePolicy
from kedge.relay.plan import PlanKind

RATE = 40.0
ACTIONS = st.sampled_from(["lose", "return", "drain", "serve", "cordon", "join", "call", "hang up", "rebalance"])
STEPS = st.lists(st.tuples(ACTIONS, st.integers(0, 5), st.sampled_from([0.0, 0.07, 0.3, 1.0, 2.5])), max_size=12)


def make_world(loads: list[int]) -> World:
    return World(
        *loads,
        failover=FailoverPolicy(rate=320, rate_per_peer=160),
        rebalance=RebalancePolicy(imbalance=10, rate=RATE, rest=0),
    )


def act(world: World, action: str, number: int) -> bool:
    """Do one thing; return whether it is a reason to move calls."""
    uids = list(world.relays)
    uid = uids[number % len(uids)]
    relay = world.relays[uid]
    serving = {one.uid for one in world.relays.values() if one.state == "Ready" and one.intent == "Serve"}
    if action == "lose" and serving - {uid} and relay.state == "Ready":
        world.lose(uid)
    elif action == "return" and relay.state == "Down":
        world.change(uid, state="Ready")
    elif action in ("drain", "serve", "cordon"):
        world.change(uid, intent=action.capitalize())
    elif action == "join" and len(uids) < 6:
        world.add_relay(f"r{len(uids)}")
    elif action == "rebalance":
        world.planner.rebalance("")
    elif action == "call" and uid in serving:
        world.add_calls(uid, 3 * number)
        return False
    elif action == "hang up":
        for call in world.on(uid)[: 4 * number]:
            world.end(call)
        return False
    return True


async def live(loads: list[int], steps: list[tuple[str, int, float]]) -> None:
    world = make_world(loads)
    await world.run(1)
    reasons = 0
    for action, number, seconds in steps:
        reasons += act(world, action, number)
        await world.run(seconds)
    await world.run(5)  # what has to leave has left
    world.planner.rebalance("")
    await world.run(60)

    serving = [one for one in world.relays.values() if one.state == "Ready" and one.intent == "Serve"]
    for relay in world.relays.values():
        if relay.intent == "Drain" and relay.state == "Ready" and serving:
            assert world.on(relay.uid) == []
    plan = await world.planner.show(PlanKind.REBALANCE)
    assert not plan.moves
    assert plan.balanced or not serving
    for one in world.planner.progress():
        assert one.done or not serving
        assert one.moved + one.failed <= one.calls
    assert max(world.times_asked().values(), default=0) <= reasons + 1


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 40), min_size=2, max_size=4), STEPS)
def test_any_order_ends_with_every_call_where_it_may_be(loads: list[int], steps: list[tuple[str, int, float]]) -> None:
    asyncio.run(live(loads, steps))
