"""A Kedge that can be steered, behind its real HTTP routes, on a thread. Calls move as snapshots are taken."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace
from types import TracebackType
from typing import Self, cast

from kedge.adapters.admin_http import AdminApi, EventFeed
from kedge.adapters.http_server import HttpServer
from kedge.adapters.steering_http import SteeringApi
from kedge.ports.ports import CallWish
from kedge.ports.records import ProgressRecord, RelayRecord, SignalingSnapshot
from kedge.relay.model import Intent
from kedge.relay.plan import Plan, PlanCall, PlanKind, PlanRelay, plan_drain, plan_loss, plan_rebalance
from kedge.runtime.planner import Planner
from kedge.runtime.planning import PlanRequestError

KEY = "default/voice"
AT_ONCE = 4
"""Calls that move between two snapshots."""


def relay(name: str, sessions: int = 0, *, relay_set: str = KEY) -> RelayRecord:
    return RelayRecord(
        uid=f"{relay_set}/{name}", name=name, relay_set=relay_set, address="127.0.0.1:2223", state="Ready",
        reason="Probed", message="it answers", since=0.0, sessions=sessions, instance="i",
    )  # fmt: skip


class World:
    """Relays and what was wished. ``stuck`` calls cannot leave their relay."""

    def __init__(self, *relays: RelayRecord) -> None:
        self.relays = {one.uid: one for one in relays}
        self.stuck = 0
        self.wishes: list[tuple[str, str, Intent]] = []
        self.progress: list[ProgressRecord] = []
        self.rebalance_message = ""
        self.written = ""
        """The intent that stands in the RelaySet."""

    # --- what the planner answers -----------------------------------------------------------------------------------

    async def show(self, kind: PlanKind, *, relay_set: str = "", relay: str = "") -> Plan:
        found = [one for one in self.relays.values() if one.name == relay and relay_set in ("", one.relay_set)]
        if kind is not PlanKind.REBALANCE and len(found) != 1:
            raise PlanRequestError(f"there is no relay {relay!r}")
        relays = [PlanRelay(uid=one.uid, name=one.name, sessions=one.sessions) for one in self.relays.values()]
        calls = [PlanCall(f"{one.name}-{n}", one.uid) for one in self.relays.values() for n in range(one.sessions)]
        if kind is PlanKind.REBALANCE:
            return plan_rebalance(relays, calls)
        return (plan_drain if kind is PlanKind.DRAIN else plan_loss)(relays, calls, found[0].uid)

    def rebalance(self, relay_set: str) -> str:
        if relay_set not in ("", "voice", KEY):
            raise PlanRequestError(f"there is no RelaySet {relay_set!r}")
        self._begin("Rebalance", "", 6)
        return KEY

    async def wish(self, name: str, relay_set: str, intent: Intent) -> str:
        found = [one for one in self.relays.values() if one.name == name and relay_set in ("", one.relay_set)]
        if len(found) != 1:
            return f"{len(found)} relays are called {name}" if found else f"there is no relay {name}"
        self.wishes.append((name, relay_set, intent))
        self.relays[found[0].uid] = replace(found[0], intent=self.written or intent.value)
        if intent is Intent.DRAIN and found[0].sessions:
            self._begin("Drain", name, found[0].sessions)
        return ""

    def _begin(self, kind: str, name: str, calls: int) -> None:
        self.progress.append(
            ProgressRecord(
                relay_set=KEY, kind=kind, relay=name, started=time.time(), calls=calls, moved=0, failed=0,
                seconds_left=1.0, done=False,
            )
        )  # fmt: skip

    # --- what becomes of it -----------------------------------------------------------------------------------------

    def snapshot(self, *, calls: bool = True) -> SignalingSnapshot:
        self.progress = [one if one.done else self._further(one) for one in self.progress]
        return SignalingSnapshot(
            replica="r", at=time.time(), relays=tuple(self.relays.values()), progress=tuple(self.progress)
        )

    def _further(self, one: ProgressRecord) -> ProgressRecord:
        stuck = self.stuck if one.kind == "Drain" else 0
        moved = min(one.calls - stuck, one.moved + AT_ONCE)
        done = moved == one.calls
        message = f"{stuck} calls cannot leave: Fax" if stuck else self.rebalance_message if done else ""
        for uid, relay in self.relays.items():
            if relay.name == one.relay:
                self.relays[uid] = replace(relay, sessions=one.calls - moved, state="Draining")
        return replace(one, moved=moved, failed=stuck, done=done, message=message)


class Steered:
    """Serves a world; a context manager."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.url = ""
        self._loop: asyncio.AbstractEventLoop
        self._end: asyncio.Event
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)

    async def _refuse(self, wish: CallWish) -> str:
        return "no calls here"

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        feed = EventFeed()
        steering = SteeringApi(cast(Planner, self._world), self._world.wish)
        routes = [*AdminApi(self._world, self._refuse, feed).routes(), *steering.routes()]
        server = HttpServer(("127.0.0.1", 0), routes)
        host, port = await server.start()
        self.url = f"http://{host}:{port}"
        self._ready.set()
        await self._end.wait()
        feed.close()
        await server.close()
