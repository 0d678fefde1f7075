"""The play: a relay is killed and returns, another freezes, a new one joins, one is drained; then phones are asked."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import aiohttp
from tests.kit.phones import PhonesError

from demo.figures import Incident, Result, incident_of, plan_text, result_of
from demo.stage import Stage
from demo.view import View
from kedge.base.errors import KedgeError
from kedge.ports.records import RelayRecord

_BEFORE: Final = 5.0
"""Seconds of undisturbed talk at the beginning."""
_AFTER: Final = 4.0
"""Seconds from the loss of a relay to its figures."""
_SETTLED: Final = 1.0
"""Seconds from the last move of a plan to its figures."""
_LOOK: Final = 0.25
"""Seconds between two looks for the view."""
_PATIENCE: Final = 30.0
"""Seconds that Kedge may take for what is asked of it; with 1000 calls it takes about 20."""
_HEARD: Final = 0.5
"""Seconds, at the end, in which each phone must have heard the other."""
_LOG_TAIL: Final = 4000
"""Characters of Kedge's log that are shown when it does not work at all."""
_CALLS_PER_SECOND: Final = 100.0


class SetupError(KedgeError):
    """The calls could not be set up: nothing has been shown."""


class StalledError(KedgeError):
    """Kedge has not done what was asked of it: the play cannot go on."""


async def play(stage: Stage, view: View, calls: int) -> Result:
    """Play it all on a stage that is set; return what came out.

    Raises:
        SetupError: not all calls were answered.
        StalledError: Kedge does not spread calls, or empty a relay.
    """
    async with _watched(stage, view):
        await asyncio.sleep(_LOOK)  # what Kedge tells of its start comes first
        await _set_up(stage, view, calls)
        await asyncio.sleep(_BEFORE)
        killed = await _fullest(stage)
        first = await _loss(stage, view, "killed (SIGKILL)", killed, stage.relays[killed].kill)
        second = await _arrival(stage, view, "returned", killed, stage.restart)
        frozen = await _fullest(stage)
        third = await _loss(stage, view, "frozen (SIGSTOP)", frozen, stage.relays[frozen].freeze)
        fourth = await _arrival(stage, view, "joined", stage.newcomer, stage.join)
        fifth = await _drain(stage, view)
        result = await _judge(stage, calls, (first, second, third, fourth, fifth))
        view.act(f"{frozen} is thawed, and all hang up")
        await _look(stage, view)  # the last picture is of calls that talk
    stage.relays[frozen].thaw()
    await stage.phones.hang_up()
    return result


async def _set_up(stage: Stage, view: View, calls: int) -> None:
    view.act(f"{calls} calls are placed, with G.711 both ways")
    await stage.phones.place_calls(calls, rate=_CALLS_PER_SECOND)
    began = time.monotonic()
    if not await stage.phones.wait_talking(calls) or not await stage.phones.wait_audio(began):
        report = await stage.phones.report()
        told = f"only {report.talking()} of {calls} calls were set up; refused: {report.refused or 'none'}"
        raise SetupError(f"{told}\n{stage.kedge.log[-_LOG_TAIL:]}")
    view.act(f"{calls} calls talk")


async def _fullest(stage: Stage) -> str:
    """Return the relay that carries most calls."""
    return max(await stage.relay_records(), key=lambda one: one.sessions).name


async def _loss(stage: Stage, view: View, name: str, relay: str, strike: Callable[[], float]) -> Incident:
    """Strike a relay; Kedge notices, and moves its calls."""
    numbers = await stage.calls_on(relay)
    view.act(f"{relay} is {name} under {len(numbers)} calls")
    at = strike()
    await asyncio.sleep(_AFTER)
    return await _told(stage, view, f"{name} under", relay, numbers, at)


async def _arrival(stage: Stage, view: View, name: str, relay: str, come: Callable[[str], Awaitable[None]]) -> Incident:
    """Let a relay come; Kedge gives it its share of calls, by a plan of its own."""
    view.act(f"{relay} {name}: calls are to be spread")
    before, wall = await stage.relay_of_each(), time.time()
    await come(relay)
    await _until(stage, f"{relay} is Ready", lambda: _is(stage, relay, lambda one: one.state == "Ready"))
    at = time.monotonic()
    plan = await stage.plan("rebalance")
    view.plan(plan_text(plan))
    if plan.moves:
        await _until(stage, "calls are spread", lambda: _has_spread(stage, wall))
    await asyncio.sleep(_SETTLED)
    after = await stage.relay_of_each()
    moved = [number for number, where in after.items() if where != before.get(number)]
    return await _told(stage, view, f"{name} and got", relay, moved, at)


async def _drain(stage: Stage, view: View) -> Incident:
    """Have the fullest relay drained. It lives meanwhile, so nobody should hear anything."""
    relay = await _fullest(stage)
    numbers = await stage.calls_on(relay)
    view.act(f"{relay} is to be drained of {len(numbers)} calls")
    view.plan(plan_text(await stage.plan("drain", relay)))
    await asyncio.sleep(_SETTLED)  # that the plan can be read; and the last report has held up the phones themselves
    at = time.monotonic()
    await stage.drain(relay)
    await _until(stage, f"{relay} is empty", lambda: _is(stage, relay, lambda one: one.sessions == 0))
    await asyncio.sleep(_SETTLED)
    return await _told(stage, view, "drained of", relay, numbers, at)


async def _told(stage: Stage, view: View, name: str, relay: str, numbers: list[int], at: float) -> Incident:
    incident = incident_of(name, relay, numbers, await stage.phones.report(since=at))
    view.incident(incident)
    return incident


async def _is(stage: Stage, relay: str, so: Callable[[RelayRecord], bool]) -> bool:
    return any(one.name == relay and so(one) for one in await stage.relay_records())


async def _has_spread(stage: Stage, since: float) -> bool:
    progress = (await stage.snapshot()).progress
    return any(one.kind == "Rebalance" and one.done and one.started >= since for one in progress)


async def _until(stage: Stage, what: str, holds: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not await holds():
        if time.monotonic() > deadline:
            raise StalledError(f"not within {_PATIENCE:g} s: {what}\n{stage.kedge.log[-_LOG_TAIL:]}")
        await asyncio.sleep(_LOOK)


async def _judge(stage: Stage, calls: int, incidents: tuple[Incident, ...]) -> Result:
    report = await stage.phones.report()
    moved = int(stage.kedge.metric("kedge_reanchors_total", result="Moved"))
    return result_of(calls, incidents, moved, report, report.at - _HEARD)


@contextlib.asynccontextmanager
async def _watched(stage: Stage, view: View) -> AsyncIterator[None]:
    """Keep the view up to date meanwhile."""
    watchers = [asyncio.create_task(one) for one in (_watch_events(stage, view), _watch_state(stage, view))]
    try:
        yield
    finally:
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)


async def _watch_events(stage: Stage, view: View) -> None:
    async for event in stage.events():
        view.event(event)


async def _watch_state(stage: Stage, view: View) -> None:
    while True:
        with contextlib.suppress(aiohttp.ClientError, PhonesError):
            await _look(stage, view)
        await asyncio.sleep(_LOOK)


async def _look(stage: Stage, view: View) -> None:
    snapshot = await stage.snapshot()
    view.state(snapshot.relays, await stage.phones.summary(), snapshot.progress)
