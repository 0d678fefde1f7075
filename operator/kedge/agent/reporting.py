"""Tells all signaling processes what the agent sees: ``POST /v1/evidence``, the newest report only.

    {"relay": "<pod UID>", "state": "LinkDown", "interface": "eth0", "age": 0.004, "sequence": 12}

``age`` is in seconds since the kernel was seen so: clocks of two machines do not agree. Of two reports of one relay the
one with the higher ``sequence`` counts; it goes up over restarts of the agent as well. A report that cannot be
delivered is dropped: while there is trouble it is told again, with the state as it is then. The token is for reports
alone; it is asked for anew with each report, and is in no log line.

Signaling is named by a host that may stand for many addresses (a headless Service). The addresses are looked up ahead:
when the link is down, the name service may be out of reach.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import aiohttp

from kedge.agent.media_watch import MediaReport
from kedge.base.address import Address, format_address

PATH: Final = "/v1/evidence"
_POST: Final = aiohttp.ClientTimeout(total=1.0)
_LOOKUP_SECONDS: Final = 5.0
_log = logging.getLogger(__name__)


class Reporter:
    """Reports for the relay ``relay`` (a pod's UID) to what ``signaling`` stands for. A context manager."""

    def __init__(
        self,
        relay: str,
        signaling: Address,
        *,
        authorization: Callable[[], Mapping[str, str]] = dict,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._relay = relay
        self._signaling = signaling
        self._authorization = authorization
        self._clock = clock
        self._targets: tuple[Address, ...] = ()
        self._posts: dict[Address, asyncio.Task[None]] = {}
        self._session: aiohttp.ClientSession | None = None
        self._lookup: asyncio.Task[None] | None = None
        self.delivered = 0
        """Reports that were taken."""
        self.dropped = 0
        """Reports that were not."""

    async def __aenter__(self) -> Reporter:
        """Look up who is to be told."""
        self._session = aiohttp.ClientSession(timeout=_POST, trust_env=False)
        await self._look_up()
        self._lookup = asyncio.create_task(self._look_up_always())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Give up what is under way."""
        tasks = [*self._posts.values(), *([self._lookup] if self._lookup is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    @property
    def posts(self) -> tuple[asyncio.Task[None], ...]:
        """What is under way, and the last that ended of each signaling process."""
        return tuple(self._posts.values())

    def tell(self, report: MediaReport) -> None:
        """Send a report to each signaling process; one that is still under way to it is overtaken."""
        body = {
            "relay": self._relay,
            "state": report.state.value,
            "interface": report.interface,
            "age": round(max(0.0, self._clock() - report.seen), 4),
            "sequence": time.time_ns() // 1000,
        }
        for target in self._targets:
            before = self._posts.get(target)
            if before is not None:
                before.cancel()
            self._posts[target] = asyncio.create_task(self._post(target, body))

    async def _post(self, target: Address, body: dict[str, Any]) -> None:
        assert self._session is not None
        url, headers = f"http://{format_address(target)}{PATH}", self._authorization()
        try:
            async with self._session.post(url, json=body, headers=headers) as response:
                trouble = f"it answers {response.status}" if response.status >= 400 else ""
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            trouble = type(error).__name__
        self.delivered += not trouble
        self.dropped += bool(trouble)
        if trouble:
            _log.warning("a report is not delivered to %s: %s", format_address(target), trouble)

    async def _look_up_always(self) -> None:
        while True:
            await asyncio.sleep(_LOOKUP_SECONDS)
            await self._look_up()

    async def _look_up(self) -> None:
        host, port = self._signaling
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            _log.warning("%s cannot be looked up: %s", host, error)
            return  # those that are known stay
        self._targets = tuple(sorted({(str(ipaddress.ip_address(one[4][0])), port) for one in found}))
