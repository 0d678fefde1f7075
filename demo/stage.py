"""What the demo plays with, all of it real: rtpengine, ``kedge run`` and phones, each a process of its own."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
from tests.kit.kedge import KedgeProcess, RouteRule
from tests.kit.phones import PhoneProcess
from tests.kit.ports import free_port
from tests.kit.rtpengine import Rtpengine

from kedge.ports.codec import from_json
from kedge.ports.records import CallRecord, EventRecord, RelayRecord

PREFIX: Final = "49"
_HEALTH: Final = {"interval": "100ms", "timeout": "100ms", "threshold": 3}
_PORTS_PER_CALL: Final = 4


class Stage:
    """Started by ``async with``; whatever was started is ended with it, by its pid."""

    def __init__(self, *, calls: int, relays: int) -> None:
        ports = max(200, calls * _PORTS_PER_CALL + 40)
        self.relays = {
            f"relay-{number}": Rtpengine(f"127.0.0.{10 + number}", media_ports=ports) for number in range(1, relays + 1)
        }
        self._folder = tempfile.TemporaryDirectory(prefix="kedge-demo-")
        callee = ("127.0.0.1", free_port())
        self.kedge = KedgeProcess(
            folder=Path(self._folder.name),
            relays=list(self.relays.values()),
            routes=[RouteRule(prefix=PREFIX, next_hops=[callee])],
            peers={"phones": ["127.0.0.1/32"]},
            health=_HEALTH,
        )
        self.phones = PhoneProcess(proxy=self.kedge.address, callee=callee, prefix=PREFIX)
        self._stack = AsyncExitStack()
        self._http: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        """Start relays, Kedge and phones, in this order.

        Raises:
            FileNotFoundError, RtpengineError, KedgeError, PhonesError: something does not start; the text says why.
        """
        async with AsyncExitStack() as stack:
            stack.callback(self._folder.cleanup)
            for relay in self.relays.values():
                stack.callback(relay.stop)
                relay.start()
            stack.callback(self.kedge.stop)
            self.kedge.start()
            await stack.enter_async_context(self.phones)
            self._http = await stack.enter_async_context(
                aiohttp.ClientSession(f"http://{self.kedge.admin[0]}:{self.kedge.admin[1]}")
            )
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all of it."""
        await self._stack.aclose()

    async def relay_records(self) -> list[RelayRecord]:
        """Return the relays as Kedge sees them."""
        return [from_json(RelayRecord, one) for one in await self._get("/v1/relays")]

    async def calls_on(self, relay: str) -> list[int]:
        """Return the numbers of the calls that a relay carries."""
        found = [from_json(CallRecord, one) for one in await self._get(f"/v1/calls?relay={relay}")]
        return [int(one.callee.partition("@")[0].rpartition(":")[2][-8:]) for one in found]

    async def events(self) -> AsyncIterator[EventRecord]:
        """Yield Kedge's events as they come, beginning with those of its start."""
        timeout = aiohttp.ClientTimeout(total=None)
        with contextlib.suppress(aiohttp.ClientError):  # Kedge has ended
            async with self._http.get("/v1/events?follow=1", timeout=timeout) as response:
                async for line in response.content:
                    yield from_json(EventRecord, json.loads(line))

    async def _get(self, path: str) -> Any:
        async with self._http.get(path) as response:
            response.raise_for_status()
            return await response.json()
