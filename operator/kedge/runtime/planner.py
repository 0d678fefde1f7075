"""Diagnose, plan, act: drains and rebalances, beside SIP and never in its way.

Each round looks at what is (the records of relays and calls), makes the plan anew on a thread of its own, and posts
the moves that have not been asked for yet. So nothing has to be repaired when a relay is lost during a drain, a second
wish contradicts the first, or a relay returns half-way: the next plan is made from what is then. What ``show`` returns
without acting is what would be done.

The loss of a relay does not wait for this: ``call.failover`` places its calls at once, by two random choices.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import TYPE_CHECKING, Final

from kedge.base.errors import KedgeError
from kedge.ports.records import CallRecord, ProgressRecord, RelayRecord
from kedge.relay.model import InventorySnapshot, RelaySetPolicy
from kedge.relay.plan import Pace, Plan, PlanCall, PlanKind, PlanRelay, plan_drain, plan_loss, plan_rebalance

if TYPE_CHECKING:
    from kedge.runtime.bookkeeper import Bookkeeper
    from kedge.runtime.signaling import Signaling

_IDLE: Final = 1.0
"""Seconds between two looks while nothing is to be done."""
_BUSY: Final = 0.25
"""Seconds between two looks while calls are being moved."""
_SETTLE: Final = 2.0
"""Seconds that the relays of a set must have been as they are before load is evened out: more may be on their way."""
_ASK_AGAIN: Final = 5.0
"""Seconds after which a move that has not come about is asked for again."""
_MISSED: Final = 60.0
"""Seconds before the start of this process in which a wish may have been made that nobody has seen."""
_GONE: Final = ("Down",)


class PlanRequestError(KedgeError):
    """A plan was asked for that cannot be made: no such RelaySet or relay, or its mode forbids it."""


class _Task:
    """A drain or rebalance under way."""

    __slots__ = ("asked", "calls", "done_at", "failed", "key", "kind", "left", "message", "moved", "relay", "started")

    def __init__(self, kind: PlanKind, key: str, relay: RelayRecord | None) -> None:
        self.kind = kind
        self.key = key
        self.relay = relay
        self.started = time.time()
        self.asked: dict[str, tuple[str, float]] = {}
        """Target and time (monotonic) of each call that was asked to move and is not there yet."""
        self.calls = 0
        self.moved = 0
        self.failed = 0
        self.left = 0.0
        self.message = ""
        self.done_at = 0.0

    def record(self) -> ProgressRecord:
        """Return what others may know of it."""
        return ProgressRecord(
            relay_set=self.key, kind=self.kind.value, relay=self.relay.name if self.relay is not None else "",
            started=self.started, calls=self.calls, moved=self.moved, failed=self.failed, seconds_left=self.left,
            done=self.done_at > 0, message=self.message,
        )  # fmt: skip


class Planner:
    """Runs on the loop beside SIP. The policies that it is given are this process's share of those of RelaySets."""

    def __init__(self, signaling: Signaling, books: Bookkeeper, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._signaling = signaling
        self._books = books
        self._clock = clock
        self._policies: dict[str, RelaySetPolicy] = {}
        self._started = time.time()
        self._asked: dict[str, str] = {}
        """The last wish for a rebalance of each set that was seen (``RelaySetPolicy.rebalance_at``)."""
        self._shape: dict[str, frozenset[str]] = {}
        """The relays that served each set at the last look."""
        self._changed_at: dict[str, float] = {}
        self._uneven: set[str] = set()
        """Sets that a relay has joined, and whose load has not been looked at since."""
        self._drains: dict[str, _Task] = {}
        """By relay uid."""
        self._rebalances: dict[str, _Task] = {}
        """By set."""
        self._finished: dict[str, _Task] = {}
        """The last finished task of each set."""
        self._wake = asyncio.Event()

    # --- what others ask --------------------------------------------------------------------------------------------

    def apply(self, snapshot: InventorySnapshot) -> None:
        """Take the policies of a new inventory; on the planner's loop."""
        self._policies = {policy.key: policy for policy in snapshot.relay_sets}
        for policy in snapshot.relay_sets:
            self._note_wish(policy)
        self._wake.set()

    def _note_wish(self, policy: RelaySetPolicy) -> None:
        """Even out the load of a set once for each new value of its annotation."""
        at, before = policy.rebalance_at, self._asked.get(policy.key)
        self._asked[policy.key] = at
        if not at or at == before or (before is None and not self._is_news(at)):
            return
        try:
            self.rebalance(policy.key)
        except PlanRequestError as error:
            self._books.event(
                warning=True, reason="RebalanceRefused", relay_set=policy.key, relay="", call="", message=str(error)
            )

    def _is_news(self, at: str) -> bool:
        """Whether a wish that was there before this process was made while none was running, and not long ago."""
        try:
            asked = datetime.fromisoformat(at)
        except ValueError:
            return False
        return asked.tzinfo is not None and asked.timestamp() > self._started - _MISSED

    def wake(self) -> None:
        """Look at once; on the planner's loop."""
        self._wake.set()

    def progress(self) -> tuple[ProgressRecord, ...]:
        """Return how far everything is; from any thread."""
        tasks = [*self._drains.values(), *self._rebalances.values(), *self._finished.values()]
        return tuple(task.record() for task in tasks)

    async def show(self, kind: PlanKind, *, relay_set: str = "", relay: str = "") -> Plan:
        """Return the plan that would be carried out now. It is only shown.

        Raises:
            PlanRequestError: the set or relay is not known.
        """
        found = self._find(relay_set, relay) if relay or kind is not PlanKind.REBALANCE else None
        key = found.relay_set if found is not None else self._set_named(relay_set)
        return await self._plan(kind, key, [found.uid] if found is not None else [])

    def rebalance(self, relay_set: str) -> str:
        """Even out the load of a set now; return its key.

        Raises:
            PlanRequestError: there is no such set, or ``rebalance.mode`` is Disabled.
        """
        key = self._set_named(relay_set)
        if not self._policies[key].rebalance.allowed:
            raise PlanRequestError(f"RelaySet {key} has rebalance.mode Disabled")
        self._changed_at[key] = self._clock() - _SETTLE
        self._uneven.add(key)
        self._rebalances.setdefault(key, _Task(PlanKind.REBALANCE, key, None))
        self._wake.set()
        return key

    def _set_named(self, name: str) -> str:
        keys = [key for key in self._policies if name in (key, key.partition("/")[2]) or not name]
        if len(keys) != 1:
            known = ", ".join(sorted(self._policies)) or "none"
            raise PlanRequestError(f"{'several RelaySets match' if keys else 'there is no RelaySet'} {name!r}: {known}")
        return keys[0]

    def _find(self, relay_set: str, name: str) -> RelayRecord:
        relays = self._books.snapshot(calls=False).relays
        found = [one for one in relays if one.name == name and relay_set in ("", one.relay_set)]
        if len(found) != 1:
            known = ", ".join(sorted(one.name for one in relays)) or "none"
            raise PlanRequestError(f"{'several relays are called' if found else 'there is no relay'} {name!r}: {known}")
        return found[0]

    # --- diagnose ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Look, plan and act until cancelled."""
        while True:
            busy = await self._round()
            try:
                async with asyncio.timeout(_BUSY if busy else _IDLE):
                    await self._wake.wait()
            except TimeoutError:
                pass  # time for another look
            self._wake.clear()

    async def _round(self) -> bool:
        relays = self._books.snapshot(calls=False).relays
        for key in self._policies:
            await self._look_at(key, [one for one in relays if one.relay_set == key])
        return bool(self._drains or self._rebalances or self._uneven)

    async def _look_at(self, key: str, relays: Sequence[RelayRecord]) -> None:
        now = self._clock()
        serving = frozenset(one.uid for one in relays if one.state in ("Ready", "Full") and one.intent == "Serve")
        known = self._shape.get(key)
        if known != serving:
            self._shape[key] = serving
            self._changed_at[key] = now
            if known is not None and serving - known and self._policies[key].rebalance.on_scale_out:
                self._uneven.add(key)
        leaving = [one for one in relays if one.intent == "Drain" and one.state not in _GONE]
        await self._drain(key, leaving)
        emptied = not any(one.sessions for one in leaving)
        if key in self._uneven and emptied and now - self._changed_at[key] >= _SETTLE:
            await self._rebalance(key)

    # --- drain ------------------------------------------------------------------------------------------------------

    async def _drain(self, key: str, leaving: Sequence[RelayRecord]) -> None:
        uids = {one.uid for one in leaving}
        for uid, task in list(self._drains.items()):
            if task.key == key and uid not in uids:
                del self._drains[uid]  # taken back, dead, or gone
                self._finish(task, "" if not task.asked else "ended before all calls had moved")
        busy = [one for one in leaving if one.sessions]
        for relay in busy:
            if relay.uid not in self._drains:
                self._drains[relay.uid] = _Task(PlanKind.DRAIN, key, relay)
        for uid in [one.uid for one in leaving if not one.sessions and one.uid in self._drains]:
            self._finish(self._drains.pop(uid), "")
        if not busy:
            return
        plan = await self._plan(PlanKind.DRAIN, key, [one.uid for one in leaving])
        for relay in busy:
            self._act(self._drains[relay.uid], plan, relay.uid, limit=len(plan.moves))
            self._overdue(self._drains[relay.uid], plan)

    def _overdue(self, task: _Task, plan: Plan) -> None:
        """Once the deadline has passed, calls that are still there get what the set's policy says."""
        policy = self._policies[task.key].drain
        if not policy.hang_up_unmovable or time.time() - task.started < policy.deadline:
            return
        stuck = [(left.call, left.reason) for left in (*plan.unplaced, *plan.unmovable)]
        self._signaling.post(lambda now: self._hang_up(stuck, now))

    def _hang_up(self, stuck: Sequence[tuple[str, str]], now: float) -> None:
        b2bua = self._signaling.b2bua
        for call_id, why in stuck:
            call = b2bua.calls.get(call_id)
            if call is not None:
                b2bua.hang_up(call, now, reason=f"Its relay is drained and it could not be moved: {why}")

    # --- rebalance --------------------------------------------------------------------------------------------------

    async def _rebalance(self, key: str) -> None:
        policy = self._policies[key].rebalance
        plan = await self._plan(PlanKind.REBALANCE, key, [])
        task = self._rebalances.get(key)
        if not plan.moves and (task is None or not task.asked):
            self._uneven.discard(key)
            if task is not None:
                del self._rebalances[key]
                self._finish(task, "" if plan.balanced else "what is left is resting, or has no room")
            return
        if task is None:
            task = self._rebalances[key] = _Task(PlanKind.REBALANCE, key, None)
        at_once = max(1, round(policy.rate * _BUSY))
        self._act(task, plan, None, limit=at_once)

    # --- plan -------------------------------------------------------------------------------------------------------

    async def _plan(self, kind: PlanKind, key: str, leaving: Sequence[str]) -> Plan:
        snapshot = self._books.snapshot()
        return await asyncio.to_thread(self._planned, kind, key, leaving, snapshot.relays, snapshot.calls)

    def _planned(
        self, kind: PlanKind, key: str, leaving: Sequence[str], relays: Sequence[RelayRecord],
        calls: Sequence[CallRecord],
    ) -> Plan:  # fmt: skip
        policy = self._policies[key]
        plan_relays = [self._relay(one) for one in relays if one.relay_set == key]
        zones = policy.placement.zones
        plan_calls = [self._call(one, zones=zones) for one in calls if one.relay_set == key]
        pace = Pace(rate=policy.failover.rate, rate_per_peer=policy.failover.rate_per_peer)
        if kind is PlanKind.DRAIN:
            return plan_drain(plan_relays, plan_calls, list(leaving), pace=pace)
        if kind is PlanKind.LOSS:
            return plan_loss(plan_relays, plan_calls, list(leaving), pace=pace)
        pace = Pace(rate=pace.rate, rate_per_peer=pace.rate_per_peer, calls=policy.rebalance.rate)
        return plan_rebalance(
            plan_relays, plan_calls, imbalance=policy.rebalance.imbalance, rest=policy.rebalance.rest,
            now=time.time(), pace=pace,
        )  # fmt: skip

    def _relay(self, one: RelayRecord) -> PlanRelay:
        return PlanRelay(
            uid=one.uid, name=one.name, zone=one.zone, weight=one.weight, capacity=one.capacity,
            serving=one.state in ("Ready", "Full") and one.intent == "Serve",
            leaving=one.intent == "Drain" or one.state in _GONE, sessions=one.sessions,
        )  # fmt: skip

    def _call(self, one: CallRecord, *, zones: bool) -> PlanCall:
        anchor = one.last_anchor
        return PlanCall(
            id=one.id, relay=one.relay_uid, zone=one.zone if zones else "", emergency=one.emergency,
            last_move_at=anchor.at if anchor is not None else None, movable=one.movable.status,
            reason=one.movable.reason, peers=(one.caller_peer, one.callee_peer),
        )  # fmt: skip

    # --- act --------------------------------------------------------------------------------------------------------

    def _act(self, task: _Task, plan: Plan, source: str | None, *, limit: int) -> None:
        """Ask for the moves of a plan that have not been asked for, ``limit`` at most; keep the figures."""
        now = self._clock()
        moves = [move for move in plan.moves if source is None or move.source == source]
        self._count_arrived(task, {move.call for move in moves})
        batch: list[tuple[str, str]] = []
        for move in moves:
            target, at = task.asked.get(move.call, ("", 0.0))
            if (target == move.target and now - at < _ASK_AGAIN) or len(batch) >= limit:
                continue
            batch.append((move.call, move.target))
            task.asked[move.call] = (move.target, now)
        left = [one for one in (*plan.unplaced, *plan.unmovable) if source in (None, one.relay)]
        task.calls = task.moved + len(moves) + len(left)
        task.failed = len(left)
        task.left = plan.seconds
        task.message = f"{len(left)} calls cannot leave: {left[0].reason}" if left else ""
        if batch:
            reason = task.kind.value
            self._signaling.post(lambda now: self._signaling.b2bua.failover.carry_out(batch, reason, now))

    def _count_arrived(self, task: _Task, pending: AbstractSet[str]) -> None:
        """Take out of ``asked`` what no plan moves any more: calls that are where they should be, or have ended."""
        gone = [call for call in task.asked if call not in pending]
        for call in gone:
            target, _ = task.asked.pop(call)
            record = self._books.record(call)
            task.moved += record is not None and record.relay_uid == target

    def _finish(self, task: _Task, message: str) -> None:
        self._count_arrived(task, frozenset())
        task.left = 0.0
        task.done_at = time.time()
        task.message = message
        self._finished[task.key] = task
        where = f"relay {task.relay.name} is" if task.relay is not None else "calls are"
        done = "drained" if task.kind is PlanKind.DRAIN else "spread"
        text = f"{where} {done}: {task.moved} of {task.calls} calls moved, {task.failed} failed"
        self._books.event(
            warning=bool(message), reason=f"{task.kind.value}Done", relay_set=task.key, call="",
            relay=task.relay.name if task.relay is not None else "", message=f"{text}; {message}" if message else text,
        )  # fmt: skip
