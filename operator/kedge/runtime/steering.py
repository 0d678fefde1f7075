"""What the planner knows of one RelaySet: drains and rebalances under way, calls that were asked to move, and the pace.

Nothing here decides; it only keeps count. A call counts as moved when its record says so, never because it was asked.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from kedge.ports.records import CallRecord, CallState, ProgressRecord, RelayRecord
from kedge.relay.plan import Left, Move, PlanKind
from kedge.runtime.planning import serves

if TYPE_CHECKING:
    from collections.abc import Callable

_ASK_AGAIN: Final = 2.0
"""Seconds after which a move that has not come about counts as refused; twice as many with each further try."""
_MOST_PATIENCE: Final = 64.0
"""Seconds between two tries of one call at most."""
_NAME_AFTER: Final = 5.0
"""Seconds after which an Event names the calls that cannot leave a drained relay."""
_NAMED: Final = 20
"""Calls of one drain that Events name at most."""
_BURST: Final = 0.1
"""Seconds of the pace that may be made up for at once when a look came late."""


class Bucket:
    """Paces moves: so many a second, spread evenly."""

    __slots__ = ("_at", "_tokens")

    def __init__(self) -> None:
        self._tokens = 0.0
        self._at = -1.0

    def take(self, rate: float, wanted: int, now: float) -> int:
        """Return how many of ``wanted`` moves may begin now, at ``rate`` a second."""
        most = max(1.0, rate * _BURST)
        gained = (now - self._at) * rate if self._at >= 0 else 1.0
        self._tokens = min(self._tokens + gained, most)
        self._at = now
        allowed = min(wanted, int(self._tokens + 1e-6))
        self._tokens -= allowed
        return allowed


class Task:
    """A drain or a rebalance under way, and what becomes of it."""

    __slots__ = (
        "begun", "calls", "closing", "done", "failed", "key", "kind", "message", "moved", "refused", "relay", "started",
        "to_go", "told", "why",
    )  # fmt: skip

    def __init__(self, kind: PlanKind, key: str, relay: RelayRecord | None, now: float, wall: float) -> None:
        self.kind = kind
        self.key = key
        self.relay = relay
        self.begun = now
        """Monotonic seconds."""
        self.started = wall
        self.calls = 0
        self.moved = 0
        self.failed = 0
        self.to_go = 0.0
        """Seconds."""
        self.message = ""
        self.refused: set[str] = set()
        """Calls of a rebalance that have not moved when asked: they are left in peace."""
        self.told: set[str] = set()
        """Calls of a drain that an Event has named, as they could not leave."""
        self.closing = -1.0
        """Monotonic seconds since when it only waits for the records of its last moves; negative: it goes on."""
        self.why = ""
        """Why it ended before its time; empty if it did not."""
        self.done = False

    def record(self) -> ProgressRecord:
        """Return what others may know of it."""
        return ProgressRecord(
            relay_set=self.key, kind=self.kind.value, relay=self.relay.name if self.relay is not None else "",
            started=self.started, calls=self.calls, moved=self.moved, failed=self.failed, seconds_left=self.to_go,
            done=self.done, message=self.message,
        )  # fmt: skip

    def summary(self) -> str:
        """Return in a sentence how it has ended."""
        if self.why:
            return f"{self.kind.value} ended early: {self.moved} of {self.calls} calls moved; {self.why}"
        where = f"relay {self.relay.name} is" if self.relay is not None else "calls are"
        done = "drained" if self.kind is PlanKind.DRAIN else "spread"
        return f"{where} {done}: {self.moved} of {self.calls} calls moved, {self.failed} failed"

    def to_name(self, left: Sequence[Left], now: float) -> list[Left]:
        """Return the calls among those that cannot leave which an Event is to name now; each one once."""
        if now - self.begun < _NAME_AFTER:
            return []
        news = [one for one in left if one.call not in self.told][: _NAMED - len(self.told)]
        self.told.update(one.call for one in news)
        return news


class Ask:
    """A call that was asked to move, and is not there yet."""

    __slots__ = ("due", "source", "target", "task", "tries")

    def __init__(self, task: Task, move: Move, tries: int, now: float) -> None:
        self.task = task
        self.source = move.source
        self.target = move.target
        self.tries = tries
        self.due = now + min(_ASK_AGAIN * 2.0 ** (tries - 1), _MOST_PATIENCE)


class Steering:
    """One RelaySet, as the planner steers it."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.shape: frozenset[str] | None = None
        """The relays that served at the last look."""
        self.changed_at = 0.0
        self.uneven_at: float | None = None
        """When load is to be looked at (monotonic seconds): a relay has joined, or somebody asks; None: not at all."""
        self.is_asked = False
        """Whether somebody asks for it."""
        self.drains: dict[str, Task] = {}
        """By relay uid."""
        self.rebalance: Task | None = None
        self.finished: Task | None = None
        self.queue: deque[Move] = deque()
        """Planned moves that have not been asked for."""
        self.queue_kind = PlanKind.DRAIN
        self.asked: dict[str, Ask] = {}
        self.left: tuple[Left, ...] = ()
        """Calls that the last plan of a drain could not move."""
        self.tries: dict[str, int] = {}
        """How often calls that still have to leave were asked in vain."""
        self.planned: frozenset[tuple[str, bool, str]] = frozenset()
        """The picture of the relays that the queue was planned for."""
        self.plan_again = 0.0
        """When a plan that could do nothing more is made anew although the relays are the same."""
        self.bucket = Bucket()

    @property
    def busy(self) -> bool:
        """Whether anything is under way."""
        return bool(self.drains or self.rebalance is not None or self.queue or self.asked)

    def tasks(self) -> list[Task]:
        """Return those under way and the last finished one; from any thread."""
        ends = [task for task in (self.rebalance, self.finished) if task is not None]
        return [*self.drains.values(), *ends]

    def note_shape(self, relays: Sequence[RelayRecord], now: float) -> bool:
        """Note which relays serve; return whether one has joined since the last look.

        One that is in doubt has neither gone nor, when it is not any more, joined.
        """
        known = self.shape
        doubted = {one.uid for one in relays if one.state == "Suspect" and one.intent == "Serve"}
        shape = frozenset({one.uid for one in relays if serves(one)} | (doubted & known if known else set()))
        if known == shape:
            return False
        self.shape, self.changed_at = shape, now
        return known is not None and bool(shape - known)

    def evening(self) -> int:
        """Count the calls that were asked to move to even out load, and are not there yet."""
        return sum(ask.task is self.rebalance for ask in self.asked.values())

    def count_rebalance(self, pace: float) -> None:
        """Count what there is to do of a rebalance, at ``pace`` calls a second."""
        task = self.rebalance
        if task is None:
            return
        to_go = len(self.queue) + self.evening()
        task.failed = len(task.refused)
        task.calls = task.moved + task.failed + to_go
        task.to_go = to_go / pace

    def plan_no_more(self) -> None:
        """Ask for no further moves to even out load."""
        self.uneven_at = None
        if self.queue_kind is PlanKind.REBALANCE:
            self.queue.clear()

    def leave_uneven(self) -> Task | None:
        """Give up evening out load; return the rebalance that was under way."""
        self.plan_no_more()
        self.is_asked = False
        task, self.rebalance = self.rebalance, None
        return task

    def ask(self, task: Task, move: Move, now: float) -> None:
        """Note that a move was asked for."""
        self.asked[move.call] = Ask(task, move, self.tries.get(move.call, 0) + 1, now)

    def settle(self, record_of: Callable[[str], CallRecord | None], now: float) -> None:
        """Look what became of the calls that were asked to move."""
        for call_id, ask in list(self.asked.items()):
            record = record_of(call_id)
            if record is None:
                self._settled(call_id)  # it has ended: neither moved nor failed
            elif record.relay_uid != ask.source:
                self._settled(call_id)
                ask.task.moved += record.relay_uid == ask.target or ask.task.kind is PlanKind.DRAIN
            elif now >= ask.due and record.state is not CallState.MOVING:
                del self.asked[call_id]
                if ask.task.kind is PlanKind.DRAIN:
                    self.tries[call_id] = ask.tries
                else:
                    ask.task.refused.add(call_id)

    def _settled(self, call_id: str) -> None:
        del self.asked[call_id]
        self.tries.pop(call_id, None)

    def forget(self, task: Task) -> None:
        """Drop what was asked in the name of a task that has ended."""
        for call_id in [call_id for call_id, ask in self.asked.items() if ask.task is task]:
            self._settled(call_id)

    def outstanding(self, task: Task) -> list[str]:
        """Return the calls that were asked to move in its name and are not there yet."""
        return [call_id for call_id, ask in self.asked.items() if ask.task is task]

    def stuck(self, source: str) -> int:
        """Count the calls of a relay that were asked in vain already."""
        return sum(ask.source == source and ask.tries > 1 for ask in self.asked.values())

    def refusing(self, source: str) -> list[tuple[str, str]]:
        """Return the calls of a relay that were asked in vain already, and why they are still there."""
        return [
            (call, f"{ask.tries - 1} tries have failed")
            for call, ask in self.asked.items()
            if ask.source == source and ask.tries > 1
        ]

    def projected(self, relays: Sequence[RelayRecord], calls: Iterable[CallRecord]) -> dict[str, int]:
        """Return the sessions of each relay when all that was asked for has come about.

        A relay counts a call from its reservation on, which records show a little later: what is asked for counts once.
        """
        listed = Counter(call.relay_uid for call in calls)
        coming = Counter(ask.target for ask in self.asked.values())
        going = Counter(ask.source for ask in self.asked.values())
        return {
            one.uid: listed[one.uid] - going[one.uid] + coming[one.uid]
            + max(0, one.sessions - listed[one.uid] - coming[one.uid])
            for one in relays
        }  # fmt: skip
