"""Relays are drained, taken back, lost meanwhile, joined by others: under live calls, each of which stays audible."""

import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.harness import System
from tests.e2e.test_failover import assert_audible
from tests.kit.rtpengine import Rtpengine

from kedge.ports.records import ProgressRecord

CALLS = 50
NO_REBALANCE = {"mode": "Manual"}
SLOW = {"failover": {"rate": 160, "ratePerPeer": 80}, "rebalance": NO_REBALANCE}
"""Drains at 20 calls a second, a quarter of the pace of failovers."""
GAP = 1.0
"""Seconds of silence that would be a lost relay's, and never those of a move on a busy machine."""


@pytest.fixture
async def three(tmp_path: Path) -> AsyncIterator[System]:
    """Three relays that share the calls, and a fourth that is not in the RelaySet."""
    async with System(tmp_path, relays=4, joined=3, relay_set={"rebalance": NO_REBALANCE}) as system:
        await place(system)
        yield system


@pytest.fixture
async def slow(tmp_path: Path) -> AsyncIterator[System]:
    """All calls on the first of three relays; they leave it slowly."""
    async with System(tmp_path, joined=1, relay_set=SLOW) as system:
        await place(system)
        await system.join(*system.relays[1:])
        yield system


async def place(system: System) -> None:
    await system.phones.place_calls(CALLS, rate=200)
    await system.until(lambda: _known(system), "the records have all calls")


async def _known(system: System) -> bool:
    calls = await system.calls()
    return len(calls) == CALLS and all(call.state.value == "Active" for call in calls)


async def loads(system: System) -> dict[str, int]:
    """Return how many calls each relay has, by their records."""
    counted = Counter(call.relay for call in await system.calls())
    return {relay.name: counted[relay.name] for relay in (await system.snapshot()).relays}


async def intend(system: System, intent: str, *relays: Rtpengine) -> None:
    for relay in relays:
        status, said = await system.post(f"/v1/relays/{system.name_of(relay)}/intent", {"intent": intent})
        assert status == 202, said


async def ended(system: System, kind: str, relay: str = "", *, within: float = 20.0) -> ProgressRecord:
    """Wait until a drain or rebalance is over; return what Kedge says of it."""
    found: list[ProgressRecord] = []

    async def done() -> bool:
        progress = (await system.snapshot()).progress
        found[:] = [one for one in progress if (one.kind, one.relay) == (kind, relay) and one.done]
        return bool(found)

    await system.until(done, f"{kind} {relay} is done", within=within)
    return found[0]


async def moved(system: System, count: int) -> None:
    """Wait until so many calls were moved."""

    async def there() -> bool:
        return sum(call.anchors for call in await system.calls()) >= count

    await system.until(there, f"{count} calls were moved")


async def assert_no_gap(system: System, since: float) -> None:
    report = await system.phones.report(since)
    assert max(report.gaps()) < GAP
    assert not report.refused


def table(plan: dict[str, Any]) -> dict[tuple[str, str], int]:
    return {(row["source"], row["target"]): row["calls"] for row in plan["table"]}


def moves_of(calls: Sequence[Any]) -> dict[tuple[str, str], int]:
    """Return how many calls went from where to where, by their records."""
    return Counter((call.last_anchor.source, call.last_anchor.target) for call in calls if call.last_anchor is not None)


async def finish(system: System, since: float) -> None:
    """All calls live and are heard, and all ends well."""
    await assert_audible(system, CALLS)
    await assert_no_gap(system, since)
    await system.end_in_peace()


async def test_a_drain_is_what_its_plan_said(three: System) -> None:
    first = three.relays[0]
    plan = await three.get("/v1/plan?kind=drain&relay=relay-1")
    since = time.monotonic()

    await intend(three, "Drain", first)

    progress = await ended(three, "Drain", "relay-1")
    calls = await three.calls()
    assert moves_of(calls) == table(plan)
    assert await loads(three) == {relay["name"]: relay["after"] for relay in plan["relays"]}
    assert (progress.calls, progress.moved, progress.failed) == (plan["moves"], plan["moves"], 0)
    assert {call.anchors for call in calls} == {0, 1}
    await three.until(lambda: _empty(first), "no session is left on the drained relay")
    assert sum(three.sessions()) == CALLS
    await finish(three, since)


async def _empty(relay: Rtpengine) -> bool:
    return relay.sessions() == 0


async def test_a_relay_that_is_taken_out_of_the_file_is_drained_and_gone(three: System) -> None:
    since = time.monotonic()

    three.write_relay_set(three.relays[1:3])

    progress = await ended(three, "Drain", "relay-1")
    assert (progress.moved, progress.failed, progress.message) == (progress.calls, 0, "")

    async def gone() -> bool:
        return "relay-1" not in await loads(three)

    await three.until(gone, "the relay is forgotten")
    assert (await loads(three)).keys() == {"relay-2", "relay-3"}
    assert three.relays[0].sessions() == 0
    await finish(three, since)


async def test_a_drain_that_is_taken_back(slow: System) -> None:
    first, since = slow.relays[0], time.monotonic()
    await intend(slow, "Drain", first)
    await moved(slow, 10)

    await intend(slow, "Serve", first)

    progress = await ended(slow, "Drain", "relay-1")
    assert progress.message == "it was taken back"
    left = await loads(slow)
    assert 10 <= progress.moved == CALLS - left["relay-1"] < CALLS
    await assert_audible(slow, CALLS)
    assert await loads(slow) == left, "nothing moves any more"
    await finish(slow, since)


async def test_the_target_is_killed_during_a_drain(slow: System) -> None:
    first, second, _ = slow.relays
    await intend(slow, "Drain", first)
    await moved(slow, 10)

    second.kill()

    progress = await ended(slow, "Drain", "relay-1")
    assert progress.failed == 0

    async def only_third() -> bool:
        return await loads(slow) == {"relay-1": 0, "relay-2": 0, "relay-3": CALLS}

    await slow.until(only_third, "the third relay has all calls", within=20)
    assert max(call.anchors for call in await slow.calls()) <= 2
    await assert_audible(slow, CALLS)
    await slow.end_in_peace()


async def test_two_drains_at_once(three: System) -> None:
    since = time.monotonic()

    await intend(three, "Drain", *three.relays[:2])

    await ended(three, "Drain", "relay-2")
    assert await loads(three) == {"relay-1": 0, "relay-2": 0, "relay-3": CALLS}
    await finish(three, since)


async def test_a_relay_returns_during_a_drain(slow: System) -> None:
    first, second, third = slow.relays
    third.kill()
    await slow.wait_state(third, "Down")
    since = time.monotonic()
    await intend(slow, "Drain", first)
    await moved(slow, 10)

    third.restart()
    await slow.wait_ready(third)

    progress = await ended(slow, "Drain", "relay-1")
    assert (progress.calls, progress.moved) == (CALLS, CALLS)
    left = await loads(slow)
    assert (left["relay-1"], left["relay-2"] + left["relay-3"]) == (0, CALLS)
    assert left["relay-3"] > 0
    assert max(call.anchors for call in await slow.calls()) == 1
    assert second.sessions() == left["relay-2"]
    await finish(slow, since)


async def test_scale_out_is_what_the_plan_says(tmp_path: Path) -> None:
    relay_set = {"rebalance": {"imbalancePercent": 0, "rate": 20}, "health": {"canary": {"mode": "Enabled"}}}
    async with System(tmp_path, relays=4, joined=3, relay_set=relay_set) as system:
        await place(system)
        since = time.monotonic()
        await system.join(system.relays[3])
        plan = await system.get("/v1/plan?kind=rebalance")

        progress = await ended(system, "Rebalance")

        assert await loads(system) == {relay["name"]: relay["after"] for relay in plan["relays"]}
        calls = await system.calls()
        assert moves_of(calls) == table(plan)
        assert {call.anchors for call in calls} == {0, 1}
        assert (progress.calls, progress.moved, progress.failed) == (plan["moves"], plan["moves"], 0)
        await assert_audible(system, CALLS)
        await assert_no_gap(system, since)
        await intend(system, "Drain", system.relays[0])
        await ended(system, "Drain", "relay-1")
        await system.until(lambda: _empty(system.relays[0]), "neither a call nor a canary is left")
        assert (await system.phones.report()).talking() == CALLS
        assert await system.internal_errors() == 0


async def test_scale_out_during_a_failover(tmp_path: Path) -> None:
    relay_set = {"failover": {"rate": 40, "ratePerPeer": 20}, "rebalance": {"imbalancePercent": 0}}
    async with System(tmp_path, relays=3, joined=1, relay_set=relay_set) as system:
        await place(system)
        await system.join(system.relays[1])
        killed = system.relays[0].kill()

        await system.join(system.relays[2])

        failover = await system.failover()
        assert (failover.calls, failover.moved, failover.failed) == (CALLS, CALLS, 0)
        assert await system.phones.wait_reanchored(killed, within=15)
        await assert_audible(system, CALLS)
        report = await system.phones.report(killed)
        assert len(report.reinvites()) == 2 * CALLS, "each call has moved once; those that rest are left in peace"
        left = await loads(system)
        assert left["relay-2"] > 0
        assert left["relay-3"] > 0
        await system.end_in_peace()


async def test_the_relay_that_has_just_joined_is_drained(tmp_path: Path) -> None:
    """Two wishes that contradict each other: the later one holds, and what it makes needless is not done."""
    relay_set = {"rebalance": {"imbalancePercent": 0, "rate": 5}}
    async with System(tmp_path, relays=3, joined=2, relay_set=relay_set) as system:
        await place(system)
        since = time.monotonic()
        await system.join(system.relays[2])
        await moved(system, 5)

        await intend(system, "Drain", system.relays[2])

        await ended(system, "Drain", "relay-3")
        left = await loads(system)
        assert (left["relay-3"], left["relay-1"] + left["relay-2"]) == (0, CALLS)
        reasons = Counter(call.last_anchor.reason for call in await system.calls() if call.last_anchor is not None)
        assert reasons.keys() == {"Drain"}, "what had come has left"
        assert max(call.anchors for call in await system.calls()) == 2
        await finish(system, since)


async def test_a_rebalance_on_demand(three: System) -> None:
    await three.join(three.relays[3])
    since = time.monotonic()

    assert (await three.post("/v1/rebalance", {}))[0] == 202

    progress = await ended(three, "Rebalance")
    assert progress.moved == progress.calls > 0
    assert (await loads(three))["relay-4"] == progress.moved
    await finish(three, since)
