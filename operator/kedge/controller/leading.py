"""Work that is done only while this process leads: asks an ``Elector`` what to do, and does it.

Two things run beside each other, so that neither waits for the other: requests about the Lease, and a guard that ends
the work when the lead has run out, whatever a request is waiting for. The work is begun anew with each lead: nothing
that it knew of the world is worth keeping. The Lease is released only after the work has come to its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from kedge.controller.leadership import Elector, Read, Wait, Write
from kedge.ports.kube import KubeError
from kedge.ports.lease import LeaseStore

_RELEASE_SECONDS: Final = 3.0
"""How long the end may take for the sake of the next leader."""
_log = logging.getLogger(__name__)


def monotonic() -> float:
    """Return seconds that never go back and that count while the machine sleeps, which ``time.monotonic`` does not."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Leadership:
    """One candidate for the lead. ``store`` is used on the loop of ``run`` alone, and closed at its end."""

    def __init__(
        self,
        elector: Elector,
        store: LeaseStore,
        *,
        clock: Callable[[], float] = monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._elector = elector
        self._store = store
        self._clock = clock
        self._wall = wall
        self._news = asyncio.Event()
        self._told = ""

    @property
    def leads(self) -> bool:
        """Whether it may act now; from any thread. To be asked before each act."""
        return self._elector.leads(self._clock())

    @property
    def holder(self) -> str:
        """Who leads, by the last that was seen; empty: nobody, or not known."""
        return self._elector.holder

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do ``work()`` whenever this process leads, until cancelled, or until the work ends or fails by itself."""
        asking = asyncio.create_task(self._ask_always(), name="lease")
        try:
            while True:
                await self._until_leading(asking)
                _log.info("leading as %s", self._elector.identity)
                if await self._lead(asking, asyncio.ensure_future(work())):
                    return
                _log.warning("no longer leading: the Lease could not be renewed, or is held by another")
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            await self._leave()
            await self._store.close()

    async def _until_leading(self, asking: asyncio.Task[None]) -> None:
        while not self.leads:
            await self._news_or(asking, None)

    async def _lead(self, asking: asyncio.Task[None], work: asyncio.Future[None]) -> bool:
        """Let the work go on while the lead lasts; return whether it has ended by itself."""
        try:
            while self.leads and not work.done():
                await self._news_or(asking, self._elector.leads_until - self._clock(), work)
            if work.done():
                work.result()
                return True
            return False
        finally:
            await _end(work)

    async def _news_or(self, asking: asyncio.Task[None], seconds: float | None, *others: asyncio.Future[None]) -> None:
        """Wait for news of the Lease or the end of anything, so many seconds at most."""
        news = asyncio.create_task(self._news.wait())
        try:
            ends: list[asyncio.Future[Any]] = [news, asking, *others]
            await asyncio.wait(ends, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            news.cancel()
        self._news.clear()
        if asking.done():
            asking.result()  # it has failed: so does all

    async def _ask_always(self) -> None:
        while True:
            action = self._elector.next_action(self._clock(), self._wall())
            if isinstance(action, Wait):
                await asyncio.sleep(max(0.0, action.until - self._clock()))
            elif isinstance(action, Read | Write):
                await self._ask(action)
                self._news.set()

    async def _ask(self, action: Read | Write) -> bool:
        """Make one request; return whether it was answered."""
        try:
            async with asyncio.timeout(self._elector.times.request_timeout):
                if isinstance(action, Read):
                    seen = await self._store.read()
                else:
                    seen = await self._store.write(action.record, action.version)
        except (KubeError, TimeoutError) as error:
            self._elector.on_error(self._clock())
            self._tell(str(error) or "no answer in time")
            return False
        self._elector.on_lease(seen, self._clock())
        self._tell("")
        return True

    def _tell(self, trouble: str) -> None:
        """Log trouble with the Lease once, however long it lasts."""
        if trouble and not self._told:
            _log.warning("trouble with the Lease: %s", trouble)
        elif self._told and not trouble:
            _log.info("the Lease can be used again")
        self._told = trouble

    async def _leave(self) -> None:
        """Release the Lease if it is held; the next leader need not wait then."""
        self._elector.leave(self._clock())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_RELEASE_SECONDS):
                while isinstance(action := self._elector.next_action(self._clock(), self._wall()), Read | Write):
                    if not await self._ask(action):
                        return


async def _end(work: asyncio.Future[None]) -> None:
    """Cancel the work and wait until it has ended, come what may: the Lease must not be free before."""
    work.cancel()
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait((work,))
        except asyncio.CancelledError as error:
            cancelled = error
    if not work.cancelled() and work.exception() is not None:
        _log.warning("the work failed: %s", work.exception())
    if cancelled is not None:
        raise cancelled
