"""A whole standalone Kedge for a test: relays, ``kedge run`` and phones, each a process of its own, started and ended.

All of one system live on loopback addresses that are drawn for it (``127.A.B.x``), so that several can run on one
machine. The RelaySet file can be rewritten while Kedge runs: ``join`` adds relays, as its users do.
"""

import asyncio
import http.client
import json
import os
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.kit.kedge import KedgeProcess, RouteRule
from tests.kit.phones import PhoneProcess
from tests.kit.ports import free_port
from tests.kit.rtpengine import Rtpengine

from kedge.ports.codec import from_json
from kedge.ports.records import CallRecord, EventRecord, FailoverRecord, SignalingSnapshot

PREFIX = "49"
_LOG_TAIL = 6000


class System:
    """Relays, Kedge and phones. An asynchronous context manager; on a failure the logs stay in ``folder``."""

    def __init__(
        self,
        folder: Path,
        *,
        relays: int | Sequence[Rtpengine] = 3,
        joined: int | None = None,
        media_ports: int = 400,
        relay_set: Mapping[str, object] | None = None,
        settings: Mapping[str, object] | None = None,
        sip_settings: Mapping[str, object] | None = None,
        forget_after: float | None = None,
        phones: bool = True,
    ) -> None:
        """Choose addresses; nothing runs yet.

        Args:
            folder: for settings, RelaySet and logs.
            relays: how many rtpengines are started; or those of another system, that runs them.
            joined: how many of them are in the RelaySet at first; None: all.
            media_ports: of each relay; a call takes four.
            relay_set: more of the RelaySet's spec.
            settings: more top-level settings.
            sip_settings: more of the section ``sip``.
            forget_after: seconds after which phones forget a call that has ended; None: never.
            phones: start them too; else ``caller_ip`` and ``callee`` are for peers of another kind.
        """
        rng = random.Random(os.urandom(8))
        network = f"127.{rng.randrange(1, 255)}.{rng.randrange(1, 255)}"
        self.folder = folder
        self._own_relays = [
            Rtpengine(f"{network}.{11 + i}", media_ports=media_ports, first_media_port=16384)
            for i in range(relays if isinstance(relays, int) else 0)
        ]
        self.relays = self._own_relays if isinstance(relays, int) else list(relays)
        self.caller_ip, callee_ip = f"{network}.2", f"{network}.3"
        self.callee = (callee_ip, free_port(callee_ip))
        self._with_phones = phones
        self.kedge = KedgeProcess(
            folder=folder,
            relays=self.relays[:joined],
            routes=[RouteRule(prefix=PREFIX, next_hops=[self.callee])],
            peers={"callers": [f"{self.caller_ip}/32"], "callees": [f"{callee_ip}/32"]},
            ip=f"{network}.1",
            relay_set=relay_set or {},
            settings=settings or {},
            sip_settings=sip_settings or {},
        )
        self.phones = PhoneProcess(
            proxy=self.kedge.address,
            caller=(self.caller_ip, 0),
            callee=self.callee,
            prefix=PREFIX,
            forget_after=forget_after,
        )

    async def __aenter__(self) -> Self:
        """Start everything, and wait until each relay of the RelaySet is Ready."""
        try:
            for relay in self._own_relays:
                relay.start()
            if self._with_phones:
                await self.phones.start()
            self.kedge.start()
            await self.wait_ready(*self.relays[: len(self.kedge.relays)])
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop everything; a failure takes the end of Kedge's log along."""
        if error is not None:
            for relay in self.relays:
                (self.folder / f"{self.name_of(relay)}.log").write_text(relay.log)
            error.add_note(f"Logs are in {self.folder}. Kedge's ends with:\n{self.kedge.log[-_LOG_TAIL:]}")
        await self._stop()

    async def _stop(self) -> None:
        await self.phones.stop()
        self.kedge.stop()
        for relay in self._own_relays:
            relay.stop()

    # --- relays -----------------------------------------------------------------------------------------------------

    def name_of(self, relay: Rtpengine) -> str:
        """Return a relay's name in the RelaySet."""
        return f"relay-{self.relays.index(relay) + 1}"

    def edit(self, name: str, change: Callable[[dict[str, Any]], object]) -> None:
        """Change ``settings.yaml`` or ``relayset.yaml`` as an editor does: in one step."""
        file = self.folder / name
        content = json.loads(file.read_text())
        change(content)
        new = file.with_suffix(".new")
        new.write_text(json.dumps(content, indent=1))
        new.rename(file)

    def write_relay_set(self, relays: Sequence[Rtpengine]) -> None:
        """Rewrite the RelaySet file with these relays."""
        endpoints = [{"name": self.name_of(relay), "address": relay.ip, "port": relay.ng[1]} for relay in relays]
        self.edit("relayset.yaml", lambda resource: resource["spec"].update(endpoints=endpoints))

    async def join(self, *relays: Rtpengine) -> None:
        """Have the RelaySet name these relays besides those it has, and wait until they are Ready."""
        known = {relay.name for relay in (await self.snapshot()).relays}
        self.write_relay_set([relay for relay in self.relays if relay in relays or self.name_of(relay) in known])
        await self.wait_ready(*relays)

    async def wait_ready(self, *relays: Rtpengine, within: float = 10.0) -> None:
        """Wait until Kedge holds these relays to be Ready."""
        wanted = {self.name_of(relay) for relay in relays}

        async def ready() -> bool:
            return wanted <= {relay.name for relay in (await self.snapshot()).relays if relay.state == "Ready"}

        await self.until(ready, f"{sorted(wanted)} are Ready", within=within)

    async def wait_state(self, relay: Rtpengine, *states: str, within: float = 10.0) -> None:
        """Wait until Kedge holds a relay to be in one of these states."""
        name = self.name_of(relay)

        async def there() -> bool:
            return any(one.name == name and one.state in states for one in (await self.snapshot()).relays)

        await self.until(there, f"{name} is {' or '.join(states)}", within=within)

    def sessions(self) -> list[int]:
        """Return how many sessions each living relay holds, by its own word."""
        return [relay.sessions() for relay in self.relays if relay.pid]

    # --- what Kedge says --------------------------------------------------------------------------------------------

    async def get(self, path: str) -> Any:
        """Read from the admin API."""
        status, data = await self._ask("GET", path)
        assert status == 200, f"{path}: {status} {data}"
        return data

    async def post(self, path: str, body: object) -> tuple[int, Any]:
        """Write to the admin API; return status and answer."""
        return await self._ask("POST", path, body)

    async def snapshot(self) -> SignalingSnapshot:
        """Return what Kedge knows now."""
        return from_json(SignalingSnapshot, await self.get("/v1/snapshot"))

    async def calls(self) -> tuple[CallRecord, ...]:
        """Return the calls that Kedge has."""
        return (await self.snapshot()).calls

    async def events(self, reason: str) -> list[EventRecord]:
        """Return the events of one kind, oldest first."""
        return [event for event in (await self.snapshot()).events if event.reason == reason]

    async def failover(self) -> FailoverRecord:
        """Return the record of the last loss of a relay, once none of its calls is pending."""
        found: list[FailoverRecord] = []

        async def done() -> bool:
            found[:] = (await self.snapshot()).failovers
            return bool(found) and found[0].pending == 0

        await self.until(done, "the failover is over", within=20)
        return found[0]

    async def internal_errors(self) -> int:
        """Return how often Kedge has caught an error of its own."""
        return (await self.snapshot()).counters["internal_errors"]

    async def _ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        def ask() -> tuple[int, Any]:
            connection = http.client.HTTPConnection(*self.kedge.admin, timeout=5)
            try:
                data = None if body is None else json.dumps(body)
                connection.request(method, path, data, {"Content-Type": "application/json"} if data else {})
                response = connection.getresponse()
                return response.status, json.loads(response.read() or b"null")
            finally:
                connection.close()

        return await asyncio.to_thread(ask)

    async def until(self, holds: Callable[[], Awaitable[bool]], what: str, *, within: float = 10.0) -> None:
        """Wait until ``holds``.

        Raises:
            AssertionError: it did not, ``within`` seconds.
        """
        deadline = time.monotonic() + within
        while not await holds():
            assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
            await asyncio.sleep(0.02)

    # --- the end ----------------------------------------------------------------------------------------------------

    async def end_in_peace(self) -> None:
        """Hang up what still talks; then nothing may be left anywhere, and Kedge must not have erred."""
        assert await self.phones.hang_up(within=15), "BYEs are unanswered"
        await self.assert_clean()

    async def assert_clean(self) -> None:
        """Assert that no call and no session is left, and that Kedge caught no error of its own."""

        async def clean() -> bool:
            return not (await self.snapshot()).counters["calls"] and not any(self.sessions())

        await self.until(clean, "no call is left in Kedge and no session on a living relay")
        assert await self.internal_errors() == 0
        assert "Traceback" not in self.kedge.log
