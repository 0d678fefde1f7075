"""The play: calls are set up, a relay is killed and comes back, another one freezes; then the phones are asked."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Final

import aiohttp
from tests.kit.phones import PhonesError

from demo.figures import Incident, Result, incident_of, result_of
from demo.stage import Stage
from demo.view import View
from kedge.base.errors import KedgeError

_BEFORE: Final = 5.0
"""Seconds of undisturbed talk at the beginning."""
_AFTER: Final = 4.0
"""Seconds from an incident to its figures."""
_LOOK: Final = 0.25
"""Seconds between two looks for the view."""
_HEARD: Final = 0.5
"""Seconds, at the end, in which each phone must have heard the other."""
_LOG_TAIL: Final = 4000
"""Characters of Kedge's log that are shown when it does not work at all."""
_CALLS_PER_SECOND: Final = 100.0


class SetupError(KedgeError):
    """The calls could not be set up: nothing has been shown."""


async def play(stage: Stage, view: View, calls: int) -> Result:
    """Play it all on a stage that is set; return what came out.

    Raises:
        SetupError: not all calls were answered.
    """
    async with _watched(stage, view):
        await asyncio.sleep(_LOOK)  # what Kedge tells of its start comes first
        await _set_up(stage, view, calls)
        await asyncio.sleep(_BEFORE)
        killed = await _fullest(stage)
        first = await _incident(stage, view, "killed (SIGKILL)", killed, stage.relays[killed].kill)
        view.act(f"{killed} is started again")
        await asyncio.to_thread(stage.relays[killed].start)
        await asyncio.sleep(_AFTER / 2)
        frozen = await _fullest(stage)
        second = await _incident(stage, view, "frozen (SIGSTOP)", frozen, stage.relays[frozen].freeze)
        result = await _judge(stage, calls, (first, second))
        stage.relays[frozen].thaw()
        view.act(f"{frozen} is thawed, and all hang up")
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


async def _incident(stage: Stage, view: View, name: str, relay: str, strike: Callable[[], float]) -> Incident:
    numbers = await stage.calls_on(relay)
    view.act(f"{relay} is {name} under {len(numbers)} calls")
    at = strike()
    await asyncio.sleep(_AFTER)
    incident = incident_of(name, relay, numbers, await stage.phones.report(since=at))
    view.incident(incident)
    return incident


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
            view.state(await stage.relay_records(), await stage.phones.summary())
        await asyncio.sleep(_LOOK)
