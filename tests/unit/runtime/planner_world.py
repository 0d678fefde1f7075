"""A world for the planner: relays and calls as records, a B2BUA that moves what it is asked to, time as a number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from types import SimpleNamespace
from typing import Any, cast

from kedge.ports.records import AnchorRecord, CallRecord, CallState, ProgressRecord, RelayRecord, SignalingSnapshot
from kedge.relay.model import InventorySnapshot, RelaySetPolicy
from kedge.runtime.planner import Planner

SET = "default/voice"
WALL = 1_800_000_000.0


class World:
    """A set of relays with calls, the planner, and a B2BUA that moves what it is asked to, unless told otherwise."""

    def __init__(self, *loads: int, **policies: Any) -> None:
        self.now = 100.0
        self.relays: dict[str, RelayRecord] = {}
        self.calls: dict[str, CallRecord] = {}
        self.events: list[tuple[str, str]] = []
        self.asked: list[tuple[float, str, str, str]] = []
        """Time, call, target and reason."""
        self.hung_up: list[str] = []
        self.refusing: set[str] = set()
        self._numbers = count()
        self.round_trip = 0.1
        """Seconds from asking for a move until a record shows it."""
        self._arriving: list[tuple[float, str, str, str]] = []
        for number, load in enumerate(loads):
            self.add_relay(f"r{number}")
            self.add_calls(f"r{number}", load)
        failover = SimpleNamespace(carry_out=self._carry_out)
        self.b2bua = SimpleNamespace(calls=self.calls, failover=failover, hang_up=self._hang_up)
        self.planner = Planner(cast(Any, self), cast(Any, self), clock=lambda: self.now, wall=self.wall)
        self.planner.apply(InventorySnapshot(relay_sets=(RelaySetPolicy(key=SET, **policies),)))

    def wall(self) -> float:
        return WALL + self.now

    # --- the ports

    def post(self, function: Callable[[float], object]) -> None:
        function(self.now)

    def snapshot(self, *, calls: bool = True) -> SignalingSnapshot:
        listed = tuple(self.calls.values()) if calls else ()
        return SignalingSnapshot(replica="one", at=self.wall(), relays=tuple(self.relays.values()), calls=listed)

    def record(self, call: str) -> CallRecord | None:
        return self.calls.get(call)

    def event(self, *, reason: str, message: str, **_: object) -> None:
        self.events.append((reason, message))

    def _carry_out(self, moves: Sequence[tuple[str, str]], reason: str, now: float) -> None:
        for call, target in moves:
            self.asked.append((now, call, target, reason))
            if call not in self.refusing:
                self.calls[call] = replace(self.calls[call], state=CallState.MOVING)
                self._arriving.append((now + self.round_trip, call, target, reason))

    def _hang_up(self, call: CallRecord, now: float, *, reason: str) -> None:
        self.hung_up.append(call.id)
        self.end(call.id)

    # --- what happens

    def add_relay(self, uid: str, **fields: Any) -> None:
        values = {
            "name": f"relay-{uid}", "relay_set": SET, "address": "", "state": "Ready", "reason": "", "message": "",
            "since": 0.0, "sessions": 0, "instance": "", "capacity": 4000, **fields,
        }  # fmt: skip
        self.relays[uid] = RelayRecord(uid=uid, **values)
        self.wake()

    def change(self, uid: str, **fields: Any) -> None:
        self.relays[uid] = replace(self.relays[uid], **fields)
        self.wake()

    def wake(self) -> None:
        if hasattr(self, "planner"):
            self.planner.wake()

    def add_calls(self, uid: str, number: int, **fields: Any) -> list[str]:
        made = [f"c{next(self._numbers):05d}" for _ in range(number)]
        for call in made:
            values = {
                "relay_set": SET, "relay": uid, "relay_uid": uid, "state": CallState.ACTIVE, "caller": "", "callee": "",
                "caller_peer": "a", "callee_peer": "b", "call_id": call, "started": WALL, "answered": WALL,
                "anchors": 0, **fields,
            }  # fmt: skip
            self.calls[call] = CallRecord(id=call, **values)
        self._count()
        return made

    def end(self, call: str) -> None:
        del self.calls[call]
        self._count()

    def place(self, call: str, uid: str, reason: str) -> None:
        """Have a record say that a call is on another relay now."""
        old = self.calls[call]
        anchor = AnchorRecord(
            source=old.relay, target=uid, reason=reason, result="Moved", at=self.wall(), duration=0, gap=0
        )
        self.calls[call] = replace(
            old, relay=uid, relay_uid=uid, state=CallState.ACTIVE, anchors=old.anchors + 1, last_anchor=anchor
        )

    def lose(self, uid: str) -> None:
        """A relay is Down, and its calls are placed elsewhere at once, as ``call.failover`` does."""
        self.change(uid, state="Down")
        others = [one.uid for one in self.relays.values() if one.state == "Ready" and one.intent == "Serve"]
        for _, call, target, _ in self._arriving:
            if target == uid and call in self.calls:
                self.calls[call] = replace(self.calls[call], state=CallState.ACTIVE)
        self._arriving = [one for one in self._arriving if one[2] != uid]
        for number, call in enumerate(self.on(uid)):
            self.place(call, others[number % len(others)], "RelayDown")
        self._count()

    def on(self, uid: str) -> list[str]:
        return [call.id for call in self.calls.values() if call.relay_uid == uid]

    def loads(self) -> list[int]:
        return [len(self.on(uid)) for uid in self.relays]

    def _count(self) -> None:
        counted = Counter(call.relay_uid for call in self.calls.values())
        for uid, relay in self.relays.items():
            self.relays[uid] = replace(relay, sessions=counted[uid])

    async def run(self, seconds: float) -> None:
        """Let time pass."""
        until = self.now + seconds
        while True:
            self._arrive()
            delay = await self.planner.step()
            coming = min((at for at, *_ in self._arriving), default=until) - self.now
            if self.now >= until:
                return
            self.now = min(until, self.now + max(0.001, min(delay, coming)))

    def _arrive(self) -> None:
        due = [one for one in self._arriving if one[0] <= self.now]
        self._arriving = [one for one in self._arriving if one[0] > self.now]
        for _, call, target, reason in due:
            if call in self.calls and self.relays[target].state == "Ready":
                self.place(call, target, reason)
            elif call in self.calls:
                self.calls[call] = replace(self.calls[call], state=CallState.ACTIVE)
        self._count()

    # --- what is to be seen

    def progress(self) -> ProgressRecord:
        (one,) = self.planner.progress()
        return one

    def times_asked(self) -> Counter[str]:
        return Counter(call for _, call, _, _ in self.asked)

    def moves(self) -> int:
        return sum(call.anchors for call in self.calls.values())

    def busiest_second(self) -> int:
        times = [at for at, *_ in self.asked]
        return max((sum(start <= at < start + 1 for at in times) for start in times), default=0)
