"""What the demo plays with, all of it real: rtpengine, ``kedge run`` and phones, each a process of its own."""

from __future__ import annotations

import asyncio
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

from kedge.cli.plan_view import PlanRecord
from kedge.ports.codec import from_json
from kedge.ports.records import CallRecord, EventRecord, RelayRecord, SignalingSnapshot

PREFIX: Final = "49"
_REST: Final = "1s"
"""For how long a moved call is left in peace: short, as one thing follows another here."""
_SPREADING: Final = 4
"""Seconds that it would take to move all calls: slow enough to be seen."""
_HEALTH: Final = {"interval": "100ms", "timeout": "100ms", "threshold": 3}
_PORTS_PER_CALL: Final = 4


class Stage:
    """Started by ``async with``; whatever was started is ended with it, by its pid."""

    def __init__(self, *, calls: int, relays: int) -> None:
        ports = max(200, calls * _PORTS_PER_CALL + 40)
        self.relays = {
            f"relay-{number}": Rtpengine(f"127.0.0.{10 + number}", media_ports=ports) for number in range(1, relays + 1)
        }
        number = relays + 1
        self.newcomer = f"relay-{number}"
        """The relay that joins later: started when it does."""
        self._late = Rtpengine(f"127.0.0.{10 + number}", media_ports=ports)
        self._folder = tempfile.TemporaryDirectory(prefix="kedge-demo-")
        callee = ("127.0.0.1", free_port())
        self.kedge = KedgeProcess(
            folder=Path(self._folder.name),
            relays=list(self.relays.values()),
            routes=[RouteRule(prefix=PREFIX, next_hops=[callee])],
            peers={"phones": ["127.0.0.1/32"]},
            health=_HEALTH,
            relay_set={"rebalance": {"rate": max(5, calls // _SPREADING), "rest": _REST}},
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
            stack.callback(self._late.stop)
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

    async def restart(self, relay: str) -> None:
        """Start a relay that was killed."""
        await asyncio.to_thread(self.relays[relay].start)

    async def join(self, relay: str) -> None:
        """Start one more relay, and write it into the RelaySet file, which Kedge reads again."""
        self.relays[relay] = self._late
        await self.restart(relay)
        file = Path(self._folder.name) / "relayset.yaml"
        resource = json.loads(file.read_text())
        address, port = self._late.ng
        resource["spec"]["endpoints"].append({"name": relay, "address": address, "port": port, "weight": 100})
        new = file.with_suffix(".new")
        new.write_text(json.dumps(resource))
        new.rename(file)  # in one step: Kedge never sees half a file

    async def drain(self, relay: str) -> None:
        """Ask Kedge to move all calls off a relay."""
        async with self._http.post(f"/v1/relays/{relay}/intent", json={"intent": "Drain"}) as response:
            response.raise_for_status()

    async def plan(self, kind: str, relay: str = "") -> PlanRecord:
        """Return what Kedge would do."""
        return from_json(PlanRecord, await self._get(f"/v1/plan?kind={kind}&relay={relay}"))

    async def snapshot(self) -> SignalingSnapshot:
        """Return what Kedge knows, but for the calls."""
        return from_json(SignalingSnapshot, await self._get("/v1/snapshot?calls=false"))

    async def relay_of_each(self) -> dict[int, str]:
        """Return the relay of each call, by the call's number."""
        calls = [from_json(CallRecord, one) for one in await self._get("/v1/calls")]
        return {_number(one): one.relay for one in calls}

    async def relay_records(self) -> list[RelayRecord]:
        """Return the relays as Kedge sees them."""
        return [from_json(RelayRecord, one) for one in await self._get("/v1/relays")]

    async def calls_on(self, relay: str) -> list[int]:
        """Return the numbers of the calls that a relay carries."""
        found = [from_json(CallRecord, one) for one in await self._get(f"/v1/calls?relay={relay}")]
        return [_number(one) for one in found]

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


def _number(call: CallRecord) -> int:
    return int(call.callee.partition("@")[0].rpartition(":")[2][-8:])
