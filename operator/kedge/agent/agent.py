"""The agent's tasks and its HTTP routes. What is decided stands in ``hold`` and ``media_watch``."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from ipaddress import ip_address
from typing import Final, Protocol

from aiohttp import web

from kedge.agent.hold import Hold, HoldTimes, Release
from kedge.agent.media_watch import MediaReport, MediaWatch, Picture
from kedge.agent.netlink import NetlinkFailedError, pictures
from kedge.agent.relay_sessions import RelayGoneError, RelaySilentError
from kedge.base.backoff import Backoff

_LOOK: Final = 1.0
"""Seconds between two looks at links and addresses when nothing seems to change."""
_log = logging.getLogger(__name__)


class Sessions(Protocol):
    """Knows what the relay holds: ``RelaySessions``."""

    async def count(self) -> int:
        """Return how many sessions of calls it holds; raises RelayGoneError or RelaySilentError."""


class Holder:
    """Holds the end of the pod: one hold, however often it is asked for."""

    def __init__(self, sessions: Sessions, times: HoldTimes, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._sessions = sessions
        self._times = times
        self._clock = clock
        self._hold: Hold | None = None
        self._task: asyncio.Task[Release] | None = None

    @property
    def holding(self) -> bool:
        """Whether somebody waits for the relay to be empty."""
        return self._task is not None and not self._task.done()

    def routes(self) -> Sequence[web.RouteDef]:
        """Return ``/v1/hold`` for ``preStop.httpGet``."""
        return [web.get("/v1/hold", self._answer)]

    async def held(self) -> None:
        """Wait until the hold that is under way, if any, is over."""
        if self._task is not None:
            await asyncio.wait((self._task,))

    async def close(self) -> None:
        """Give up."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _answer(self, _: web.Request) -> web.Response:
        """Answer when the pod may end: with the reason, sessions left, and seconds held."""
        if self._task is None or self._hold is None:
            self._hold = Hold(self._times, self._clock())
            self._task = asyncio.create_task(self._run(self._hold))
        hold = self._hold
        reason = await asyncio.shield(self._task)
        held = round(self._clock() - hold.began, 3)
        return web.json_response({"reason": reason.value, "sessions": hold.sessions, "seconds": held})

    async def _run(self, hold: Hold) -> Release:
        _log.info("the pod is to end: it is held until the relay is empty, %g s at most", self._times.deadline)
        while True:
            try:
                hold.answered(await self._sessions.count(), self._clock())
            except RelayGoneError:
                hold.refused(self._clock())
            except RelaySilentError as error:
                hold.silent()
                _log.warning("%s", error)
            now = self._clock()
            released = hold.release(now)
            if released is not None:
                _log.info("the pod may end: %s, after %.1f s", released.value, now - hold.began)
                return released
            await asyncio.sleep(min(self._times.interval, max(0.0, hold.deadline - now)))


class MediaWatcher:
    """Watches the address that media comes to, and tells what becomes of it."""

    def __init__(
        self,
        address: str,
        tell: Callable[[MediaReport], None],
        *,
        look: Callable[[str, float], AsyncIterator[Picture]] = pictures,
        clock: Callable[[], float] = time.monotonic,
        backoff: Backoff | None = None,
    ) -> None:
        self._address = str(ip_address(address))  # as the kernel's are written
        self._watch = MediaWatch(self._address)
        self._tell = tell
        self._look = look
        self._clock = clock
        self._backoff = backoff or Backoff(first=0.2, most=10.0)

    @property
    def state(self) -> str:
        """What was seen last; ``Unknown`` where nothing can be told."""
        state = self._watch.state
        return state.value if state is not None else "Unknown"

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            try:
                async for picture in self._look(self._address, _LOOK):
                    self._backoff.reset()
                    self._observe(picture)
            except NetlinkFailedError as error:
                self._watch.blind()
                _log.warning("nothing is told of the media interface: %s", error)
            await asyncio.sleep(self._backoff.next())

    def _observe(self, picture: Picture) -> None:
        before = self.state
        report = self._watch.observe(picture, self._clock())
        if report is not None:
            self._tell(report)
        if self.state != before:
            _log.info("media address %s: %s, was %s", self._address, self.state, before)


def health_routes(holder: Holder, watcher: MediaWatcher | None) -> Sequence[web.RouteDef]:
    """Return ``/healthz``: the agent answers, and says what it sees. A restart would not make it see better."""

    async def healthz(_: web.Request) -> web.Response:
        state = watcher.state if watcher is not None else "NotWatched"
        return web.json_response({"holding": holder.holding, "media": state})

    return [web.get("/healthz", healthz), web.get("/readyz", healthz)]
