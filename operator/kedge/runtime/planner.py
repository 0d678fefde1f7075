"""Diagnose, plan, act: drains and rebalances, beside SIP and never in its way.

Each look takes what is: the records of relays and calls. When they differ from what the last plan was made for, a plan
is made anew, on a thread of its own, in which calls that were already asked to move count as moved. So nothing has to
be repaired when a relay is lost during a drain, a second wish contradicts the first, or a relay returns half-way, and
no call is moved twice. Planned moves wait here, and are asked for at an even pace; a wish that is taken back ends
them at once. What ``show`` returns without acting is what would be done.

The loss of a relay does not wait for this: ``call.failover`` places its calls at once, by two random choices.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from kedge.ports.records import CallRecord, CallState, ProgressRecord, RelayRecord
from kedge.relay.model import InventorySnapshot, RelaySetPolicy
from kedge.relay.plan import Move, Plan, PlanKind
from kedge.relay.plan_model import RESTING, Left
from kedge.runtime.planning import (
    PlanRequestError,
    is_news,
    pace_of,
    picture_of,
    plan_relay,
    planned,
    relay_named,
    set_named,
    why_ended,
)
from kedge.runtime.steering import Steering, Task

if TYPE_CHECKING:
    from kedge.runtime.bookkeeper import Bookkeeper
    from kedge.runtime.signaling import Signaling

_IDLE: Final = 1.0
"""Seconds between two looks while nothing is to be done."""
_BUSY: Final = 0.25
"""Seconds between two looks while calls are being moved."""
_STEP: Final = 0.02
"""Seconds between two portions of moves."""
_SETTLE: Final = 2.0
"""Seconds that the relays of a set must have been as they are before load is evened out: more may be on their way."""
_PLAN_AGAIN: Final = 1.0
"""Seconds after which a drain that is stuck is planned anew although no relay has changed."""
_STALE: Final = 10.0
"""Seconds after which a rebalance is planned anew: calls have come and gone."""
_REST_AGAIN: Final = 5.0
"""Seconds until load that cannot be evened out, as calls are resting, is looked at again."""
_CLOSING: Final = 5.0
"""Seconds to wait at most for the records of the last moves."""
_NOT_ESTABLISHED: Final = "NotEstablished"


class Planner:
    """Runs on the loop beside SIP. The policies that it is given are this process's share of those of RelaySets.

    ``clock`` is monotonic, ``wall`` Unix time; both in seconds.
    """

    def __init__(
        self,
        signaling: Signaling,
        books: Bookkeeper,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._signaling = signaling
        self._books = books
        self._clock = clock
        self._wall = wall
        self._policies: dict[str, RelaySetPolicy] = {}
        self._started = wall()
        self._wishes: dict[str, str] = {}
        """The last wish for a rebalance of each set that was seen (``RelaySetPolicy.rebalance_at``)."""
        self._sets: dict[str, Steering] = {}
        self._look_at = 0.0
        self._wake = asyncio.Event()

    # --- what others ask --------------------------------------------------------------------------------------------

    def apply(self, snapshot: InventorySnapshot) -> None:
        """Take the policies of a new inventory; on the planner's loop."""
        self._policies = {policy.key: policy for policy in snapshot.relay_sets}
        for policy in snapshot.relay_sets:
            self._note_wish(policy)
        self.wake()

    def _note_wish(self, policy: RelaySetPolicy) -> None:
        """Even out the load of a set once for each new value of its annotation."""
        at, before = policy.rebalance_at, self._wishes.get(policy.key)
        self._wishes[policy.key] = at
        if not at or at == before or (before is None and not is_news(at, self._started)):
            return
        try:
            self.rebalance(policy.key)
        except PlanRequestError as error:
            self._books.event(
                warning=True, reason="RebalanceRefused", relay_set=policy.key, relay="", call="", message=str(error)
            )

    def wake(self) -> None:
        """Look at once; on the planner's loop."""
        self._look_at = 0.0
        self._wake.set()

    def progress(self) -> tuple[ProgressRecord, ...]:
        """Return how far everything is; from any thread."""
        return tuple(task.record() for steering in list(self._sets.values()) for task in steering.tasks())

    async def show(self, kind: PlanKind, *, relay_set: str = "", relay: str = "") -> Plan:
        """Return the plan that would be carried out now. It is only shown.

        Raises:
            PlanRequestError: the set or relay is not known.
        """
        snapshot, found = self._books.snapshot(), None
        if relay or kind is not PlanKind.REBALANCE:
            found = relay_named(snapshot.relays, relay_set, relay)
        key = found.relay_set if found is not None else set_named(self._policies, relay_set)
        relays = [plan_relay(one, one.sessions) for one in snapshot.relays if one.relay_set == key]
        leaving = [found.uid] if found is not None else []
        return await asyncio.to_thread(planned, self._policy(key), kind, leaving, relays, snapshot.calls, self._wall())

    def rebalance(self, relay_set: str) -> str:
        """Even out the load of a set now; return its key.

        Raises:
            PlanRequestError: there is no such set, or ``rebalance.mode`` is Disabled.
        """
        key = set_named(self._policies, relay_set)
        if not self._policies[key].rebalance.allowed:
            raise PlanRequestError(f"RelaySet {key} has rebalance.mode Disabled")
        steering = self._steering(key)
        steering.changed_at = self._clock() - _SETTLE
        steering.uneven_at, steering.is_asked = self._clock(), True
        if steering.rebalance is None:
            steering.rebalance = Task(PlanKind.REBALANCE, key, None, self._clock(), self._wall())
        self.wake()
        return key

    def _steering(self, key: str) -> Steering:
        if key not in self._sets:
            self._sets[key] = Steering(key)
        return self._sets[key]

    def _policy(self, key: str) -> RelaySetPolicy:
        """Return the policy of a set; the default one if the set is gone, and its relays have yet to be emptied."""
        return self._policies.get(key) or RelaySetPolicy(key=key)

    def _pace(self, steering: Steering, kind: PlanKind) -> float:
        """Return how many calls may begin to move in a second."""
        return pace_of(self._policy(steering.key), kind).calls

    # --- look -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Look, plan and act until cancelled."""
        while True:
            delay = await self.step()
            try:
                async with asyncio.timeout(delay):
                    await self._wake.wait()
            except TimeoutError:
                pass  # time for another look
            self._wake.clear()

    async def step(self) -> float:
        """Look, if it is time, and ask for the moves that the pace allows; return seconds until the next step."""
        if self._clock() >= self._look_at:
            await self._look()
            busy = any(one.busy or one.uneven_at is not None for one in self._sets.values())
            self._look_at = self._clock() + (_BUSY if busy else _IDLE)
        for steering in self._sets.values():
            if steering.queue:
                self._ask(steering)
        if any(steering.queue for steering in self._sets.values()):
            return _STEP
        return max(0.0, self._look_at - self._clock())

    async def _look(self) -> None:
        relays = self._books.snapshot(calls=False).relays
        for key in [*self._policies, *{one.relay_set for one in relays}.difference(self._policies)]:
            steering = self._steering(key)
            await self._look_at_set(steering, [one for one in relays if one.relay_set == key])
        for key in [key for key, one in self._sets.items() if key not in self._policies and not one.busy]:
            del self._sets[key]

    async def _look_at_set(self, steering: Steering, relays: Sequence[RelayRecord]) -> None:
        now = self._clock()
        if steering.note_shape(relays, now) and self._policy(steering.key).rebalance.on_scale_out:
            steering.uneven_at = now
        steering.settle(self._books.record, now)
        self._check_mode(steering)
        leaving = {one.uid: one for one in relays if one.intent == "Drain" and one.state != "Down"}
        if steering.planned != picture_of(relays):
            steering.queue.clear()  # what it was planned for is no more
        self._open_drains(steering, leaving, now)
        await self._plan_drain(steering, relays, leaving)
        self._close_drains(steering, {one.uid: one for one in relays}, now)
        if steering.queue and steering.queue_kind is PlanKind.DRAIN:
            return
        due = steering.uneven_at is not None and now >= max(steering.uneven_at, steering.changed_at + _SETTLE)
        if steering.rebalance is None and any(one.outgoing for one in relays):
            due = False  # a rollout moves all calls anyway; nobody has asked for more
        if due and not any(ask.task.kind is PlanKind.DRAIN and ask.tries == 1 for ask in steering.asked.values()):
            await self._plan_rebalance(steering, relays)

    # --- drain ------------------------------------------------------------------------------------------------------

    def _open_drains(self, steering: Steering, leaving: dict[str, RelayRecord], now: float) -> None:
        for uid, relay in leaving.items():
            task = steering.drains.get(uid)
            if task is None and relay.sessions:
                steering.drains[uid] = Task(PlanKind.DRAIN, steering.key, relay, now, self._wall())
            elif task is not None and relay.sessions:
                task.closing, task.why = -1.0, ""  # it is wished again

    async def _plan_drain(
        self, steering: Steering, relays: Sequence[RelayRecord], leaving: dict[str, RelayRecord]
    ) -> None:
        if not steering.drains:
            return
        calls = [one for one in self._books.snapshot().calls if one.relay_set == steering.key]
        here = [one for one in calls if one.relay_uid in leaving]
        picture, now = picture_of(relays), self._clock()
        if steering.queue_kind is not PlanKind.DRAIN:
            steering.queue.clear()  # what has to leave goes first
        queued = {move.call for move in steering.queue}
        fresh = [one for one in here if one.id not in steering.asked and one.id not in queued]
        if fresh and (steering.planned != picture or now >= steering.plan_again):
            sessions = steering.projected(relays, calls)
            for move in steering.queue:
                sessions[move.target] = sessions.get(move.target, 0) + 1
            shown = [plan_relay(one, sessions[one.uid]) for one in relays]
            plan = await asyncio.to_thread(
                planned, self._policy(steering.key), PlanKind.DRAIN, sorted(leaving), shown, fresh, self._wall()
            )
            steering.queue.extend(plan.moves)
            steering.queue_kind, steering.planned = PlanKind.DRAIN, picture
            steering.left = (*plan.unplaced, *plan.unmovable)
            steering.plan_again = now + (_BUSY if plan.moves else _PLAN_AGAIN)
        elif not fresh:
            steering.left = ()
        self._count_drains(steering, here, leaving)

    def _count_drains(self, steering: Steering, here: Sequence[CallRecord], leaving: dict[str, RelayRecord]) -> None:
        pace = self._pace(steering, PlanKind.DRAIN)
        for uid, task in steering.drains.items():
            if uid not in leaving:
                continue
            left = [one for one in steering.left if one.relay == uid]
            failed = [one for one in left if one.reason != _NOT_ESTABLISHED]
            task.failed = len(failed) + steering.stuck(uid)
            task.calls = task.moved + sum(one.relay_uid == uid for one in here)
            task.to_go = (task.calls - task.moved - len(left)) / pace
            task.message = f"{len(left)} calls cannot leave yet: {left[0].reason}" if left else ""
            self._name_left(task, leaving[uid], failed)
            self._overdue(task, [*((one.call, one.reason) for one in left), *steering.refusing(uid)])

    def _name_left(self, task: Task, relay: RelayRecord, left: Sequence[Left]) -> None:
        """Tell which calls cannot leave, while there is time to help them; most need but a moment."""
        for one in task.to_name(left, self._clock()):
            self._books.event(
                warning=True, reason="CallNotMoved", relay_set=task.key, relay=relay.name, call=one.call,
                message=f"call {one.call} cannot leave relay {relay.name} yet: {one.reason}",
            )  # fmt: skip

    def _overdue(self, task: Task, stuck: Sequence[tuple[str, str]]) -> None:
        """Once the deadline has passed, calls that cannot be moved get what the set's policy says."""
        policy = self._policy(task.key).drain
        if stuck and policy.hang_up_unmovable and self._clock() - task.begun >= policy.deadline:
            self._signaling.post(lambda now: self._hang_up(stuck, now))

    def _hang_up(self, stuck: Sequence[tuple[str, str]], now: float) -> None:
        b2bua = self._signaling.b2bua
        for call_id, why in stuck:
            call = b2bua.calls.get(call_id)
            if call is not None:
                b2bua.hang_up(call, now, reason=f"Its relay is drained and it could not be moved: {why}")

    def _close_drains(self, steering: Steering, relays: dict[str, RelayRecord], now: float) -> None:
        for uid, task in list(steering.drains.items()):
            relay = relays.get(uid)
            if relay is not None and relay.intent == "Drain" and relay.state != "Down" and relay.sessions:
                continue
            if task.closing < 0:
                task.closing = now
                task.why = why_ended(relay)
                steering.queue = deque(move for move in steering.queue if move.source != uid)
                steering.plan_again = now
            if not self._still_moving(steering, task) or now - task.closing >= _CLOSING:
                del steering.drains[uid]
                self._finish(steering, task)

    def _still_moving(self, steering: Steering, task: Task) -> bool:
        """Whether the records do not show yet what became of the last moves."""
        waiting = [self._books.record(call) for call in steering.outstanding(task)]
        if not task.why:
            return any(waiting)
        return any(one is not None and one.state is CallState.MOVING for one in waiting)

    # --- rebalance --------------------------------------------------------------------------------------------------

    def _check_mode(self, steering: Steering) -> None:
        """Give up a rebalance that the set's mode does not allow any more."""
        policy = self._policy(steering.key).rebalance
        if policy.allowed if steering.is_asked else policy.on_scale_out:
            return
        steering.plan_no_more()
        if steering.evening():
            return  # what became of the last moves is still to be told
        task = steering.leave_uneven()
        if task is not None:
            task.why = "rebalance.mode was changed"
            self._finish(steering, task)

    async def _plan_rebalance(self, steering: Steering, relays: Sequence[RelayRecord]) -> None:
        now = self._clock()
        task = steering.rebalance
        picture = picture_of(relays)
        under_way = steering.queue or steering.evening()
        if under_way and steering.planned == picture and now < steering.plan_again:
            steering.count_rebalance(self._pace(steering, PlanKind.REBALANCE))
            return
        snapshot = self._books.snapshot()
        calls = [one for one in snapshot.calls if one.relay_set == steering.key]
        sessions = steering.projected(relays, calls)
        shown = [plan_relay(one, sessions[one.uid]) for one in relays]
        refused = task.refused if task is not None else set()
        asked = {call: ask.target for call, ask in steering.asked.items()}
        plan = await asyncio.to_thread(
            planned, self._policy(steering.key), PlanKind.REBALANCE, [], shown, calls, self._wall(), asked=asked,
            refused=refused,
        )  # fmt: skip
        leaving = {one.uid for one in relays if one.intent == "Drain"}
        steering.queue = deque(move for move in plan.moves if move.source not in leaving)
        steering.queue_kind, steering.planned = PlanKind.REBALANCE, picture
        steering.plan_again = now + _STALE
        if steering.queue and task is None:
            steering.rebalance = Task(PlanKind.REBALANCE, steering.key, None, now, self._wall())
        steering.count_rebalance(self._pace(steering, PlanKind.REBALANCE))
        if not steering.queue and not steering.evening():
            self._end_rebalance(steering, plan, now)

    def _end_rebalance(self, steering: Steering, plan: Plan, now: float) -> None:
        resting = sum(left.reason == RESTING for left in plan.unmovable)
        waits = not plan.balanced and resting > 0
        asked, task = steering.is_asked, steering.leave_uneven()
        if waits:
            steering.uneven_at, steering.is_asked = now + _REST_AGAIN, asked
        if task is not None:
            if not plan.balanced:
                task.why = f"{resting} calls were moved a short while ago and rest" if waits else "no room, or no leave"
            self._finish(steering, task)

    # --- act --------------------------------------------------------------------------------------------------------

    def _ask(self, steering: Steering) -> None:
        """Ask for as many planned moves as the pace allows. What has changed since is left out."""
        now = self._clock()
        kind = steering.queue_kind
        relays = {one.uid: one for one in self._books.snapshot(calls=False).relays}
        allowed = steering.bucket.take(self._pace(steering, kind), len(steering.queue), now)
        batch: list[tuple[str, str]] = []
        while steering.queue and len(batch) < allowed:
            move = steering.queue.popleft()
            task = steering.rebalance if kind is PlanKind.REBALANCE else steering.drains.get(move.source)
            if task is None or not self._holds(move, kind, relays):
                continue
            steering.ask(task, move, now)
            batch.append((move.call, move.target))
        if batch:
            self._signaling.post(lambda now: self._signaling.b2bua.failover.carry_out(batch, kind.value, now))

    def _holds(self, move: Move, kind: PlanKind, relays: dict[str, RelayRecord]) -> bool:
        """Whether a planned move still makes sense."""
        record, source, target = self._books.record(move.call), relays.get(move.source), relays.get(move.target)
        if record is None or source is None or target is None or record.relay_uid != move.source:
            return False
        wanted = source.intent == "Drain" if kind is PlanKind.DRAIN else source.state != "Down"
        return wanted and target.state == "Ready"

    def _finish(self, steering: Steering, task: Task) -> None:
        steering.forget(task)
        task.to_go, task.done, task.message = 0.0, True, task.why
        if not task.why:
            task.calls = task.moved + task.failed
        steering.finished = task
        self._books.event(
            warning=bool(task.failed), reason=f"{task.kind.value}Done", relay_set=task.key, call="",
            relay=task.relay.name if task.relay is not None else "", message=task.summary(),
        )  # fmt: skip
