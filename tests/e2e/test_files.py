"""Wishes in the RelaySet file, which is read again when it has changed: drain, take back, take out, spread."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.harness import System

from kedge.ports.records import CallState

CALLS = 12


@pytest.fixture
async def talking(tmp_path: Path) -> AsyncIterator[System]:
    """Calls with RTP on three relays whose load is evened out on demand."""
    async with System(tmp_path, relay_set={"rebalance": {"mode": "Manual", "rest": "0s"}}) as system:
        await system.phones.place_calls(CALLS, rtp=True)

        async def told() -> bool:
            return len(await system.calls()) == CALLS

        await system.until(told, "all calls are told of")
        yield system


def edit(system: System, change: Callable[[dict[str, Any]], object]) -> None:
    system.edit("relayset.yaml", change)


def intend(system: System, index: int, intent: str) -> None:
    edit(system, lambda resource: resource["spec"]["endpoints"][index].update(intent=intent))


async def shares(system: System) -> dict[str, int]:
    """Return how many calls each relay has."""
    return {one.name: one.sessions for one in (await system.snapshot()).relays}


async def wait_shares(system: System, wanted: dict[str, int]) -> None:
    async def so() -> bool:
        return await shares(system) == wanted

    await system.until(so, f"{wanted}")


async def all_heard(system: System) -> None:
    """All calls live, and their phones hear each other now."""
    assert await system.phones.wait_audio(time.monotonic())
    assert (await system.phones.report()).talking() == CALLS


def after(plan: dict[str, Any]) -> dict[str, int]:
    return {one["name"]: one["after"] for one in plan["relays"]}


async def test_a_relay_is_drained_and_taken_back_by_its_intent_and_calls_spread_on_demand(talking: System) -> None:
    plan = await talking.get("/v1/plan?kind=drain&relay=relay-1")
    assert plan["moves"] > 0

    intend(talking, 0, "Drain")

    await wait_shares(talking, after(plan))
    await all_heard(talking)

    async def drained() -> bool:
        moved = Counter(one.last_anchor.reason for one in await talking.calls() if one.last_anchor is not None)
        return moved == {"Drain": plan["moves"]}

    await talking.until(drained, "that many calls have moved")

    intend(talking, 0, "Serve")
    await talking.wait_state(talking.relays[0], "Ready")
    spread = await talking.get("/v1/plan?kind=rebalance")
    edit(talking, lambda resource: resource["metadata"].update(annotations={"kedge.media/rebalance": "once"}))

    await wait_shares(talking, after(spread))

    async def counted() -> bool:
        calls = await talking.calls()
        anchors = sum(one.anchors for one in calls)
        return anchors == plan["moves"] + spread["moves"] and all(one.state is CallState.ACTIVE for one in calls)

    await talking.until(counted, "no call has moved in vain")
    await all_heard(talking)
    await talking.end_in_peace()


async def test_a_relay_that_is_taken_out_is_emptied_and_forgotten(talking: System) -> None:
    plan = await talking.get("/v1/plan?kind=drain&relay=relay-3")

    edit(talking, lambda resource: resource["spec"]["endpoints"].pop())

    await wait_shares(talking, {name: calls for name, calls in after(plan).items() if name != "relay-3"})

    async def done() -> bool:
        return len(await talking.events("DrainDone")) == 1

    await talking.until(done, "an event tells of the end")
    (event,) = await talking.events("DrainDone")
    assert not event.warning, event.message
    await all_heard(talking)
    await talking.end_in_peace()


async def test_a_cordoned_relay_keeps_its_calls_and_gets_none(talking: System) -> None:
    before = await shares(talking)
    intend(talking, 1, "Cordon")
    await talking.wait_state(talking.relays[1], "Cordoned")

    await talking.phones.place_calls(4, rtp=False)

    async def placed() -> bool:
        return sum((await shares(talking)).values()) == CALLS + 4

    await talking.until(placed, "the new calls are told of")
    assert (await shares(talking))["relay-2"] == before["relay-2"]
    assert not any(one.anchors for one in await talking.calls())
    await talking.end_in_peace()


async def test_each_of_two_signaling_processes_fills_half_of_a_relay(tmp_path: Path) -> None:
    settings = {"signaling": {"replicas": 2}}
    async with System(
        tmp_path, relays=1, relay_set={"placement": {"maxSessionsPerRelay": 4}}, settings=settings
    ) as system:
        await system.phones.place_calls(2, rtp=False)
        await system.wait_state(system.relays[0], "Full")

        await system.phones.place_calls(1, rtp=False)
        assert (await system.phones.report()).refused == {"503 INVITE": 1}
        assert [one.capacity for one in (await system.snapshot()).relays] == [2]
        await system.end_in_peace()


async def test_calls_prefer_relays_of_their_zone_and_leave_it_when_it_has_none(tmp_path: Path) -> None:
    async with System(tmp_path, settings={"signaling": {"zone": "b"}}) as system:
        edit(system, lambda resource: resource["spec"]["endpoints"][1].update(zone="b"))

        async def zoned() -> bool:
            return [one.zone for one in (await system.snapshot()).relays] == ["", "b", ""]

        await system.until(zoned, "the zone is known")
        await system.phones.place_calls(CALLS, rtp=True)

        async def counted() -> bool:
            return [(one.zone, one.calls) for one in (await system.snapshot()).zones] == [("b", CALLS)]

        await system.until(counted, "all calls are of the zone")
        assert await shares(system) == {"relay-1": 0, "relay-2": CALLS, "relay-3": 0}
        assert (await system.get("/v1/plan?kind=rebalance"))["moves"] == 0, "they belong there"

        system.relays[1].kill()

        async def moved() -> bool:
            return all(one.relay != "relay-2" and one.anchors == 1 for one in await system.calls())

        await system.until(moved, "all have left it")
        await all_heard(system)
        await system.end_in_peace()

        async def uncounted() -> bool:
            return not (await system.snapshot()).zones

        await system.until(uncounted, "and no zone has calls")
