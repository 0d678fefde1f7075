"""Which Call objects to write next: the bookkeeping of ``kube_calls``, without I/O.

Of each call only the newest record is kept, so a slow API server sees fewer writes, not a longer queue. Each RelaySet
has a budget: writes a second (a create costs two: the object and its status) and objects. Ended calls are deleted
first, since that makes room; then what exists is brought up to date; then new objects are made.

``spec.relay`` follows the call, so that a value that we did not write is a wish. While a wish for a relay is open it
stands there and does not follow; signaling tells by ``CallRecord.wish`` which wish it has seen, and whether it is open.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, unique
from typing import Final

from kedge.ports.ports import NO_WISH, CallWish, LegWish
from kedge.ports.records import CallRecord
from kedge.relay.model import RecordPolicy

_BEHIND: Final = 10.0
"""Seconds that a write may wait before the budget counts as too small."""
_BURST: Final = 0.2
"""Seconds' worth of writes that may leave at once."""


@unique
class Verb(Enum):
    """What to do with a Call object; in the order of urgency."""

    DELETE = "delete"
    UPDATE = "update"
    CREATE = "create"


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One thing to do in the API server."""

    verb: Verb
    relay_set: str
    """Key of the RelaySet, ``namespace/name``."""
    call: str
    record: CallRecord | None
    """What to write; None for DELETE."""
    relocate: bool = False
    """UPDATE: the label that names the relay has changed too, or the spec."""
    follow: bool = True
    """UPDATE that relocates: whether ``spec.relay`` is to follow, as nobody wishes otherwise."""
    uid: str = ""
    """DELETE: only this object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenCall:
    """What matters of a Call object in the API server."""

    relay_set: str
    relay: str
    """``spec.relay``."""
    terminate: bool
    uid: str
    caller: LegWish = NO_WISH
    callee: LegWish = NO_WISH
    generation: int = 0
    """``metadata.generation``: raised by each change of the spec."""


class _Entry:
    """One call: its newest record, and what the API server has."""

    __slots__ = (
        "busy",
        "ended",
        "exists",
        "generation",
        "own_generation",
        "own_relay",
        "queued",
        "record",
        "recreate_at",
        "spec_relay",
        "told",
        "writing_relay",
        "written",
        "young",
    )

    def __init__(self, record: CallRecord) -> None:
        self.record = record
        self.written: CallRecord | None = None
        self.own_relay = ""  # spec.relay as we wrote it last
        self.own_generation = 0  # of the spec as we wrote it last
        self.writing_relay = ""  # spec.relay as we are about to write it: seeing that is no wish
        self.spec_relay = ""  # spec.relay as it is now, as far as we know
        self.generation = 0  # of the spec as we know it: an older one that is seen is no news
        self.told = _nothing(record.id)
        self.young = False
        self.exists = False
        self.busy = False
        self.ended = False
        self.queued: Verb | None = None
        self.recreate_at = 0.0

    @property
    def wish_is_open(self) -> bool:
        """Whether somebody wants the call on a relay, and signaling has not told yet that this is over."""
        if not self.told.relay:
            return False
        seen = self.record.wish
        return seen is None or seen.generation < self.told.generation or bool(seen.relay)

    def _is_own(self, seen: SeenCall) -> bool:
        """Whether ``spec.relay`` is of our own hand. The value alone tells, unless it may be the way back."""
        relay = seen.relay
        if relay == self.told.relay or relay not in (self.own_relay, self.writing_relay):
            return False
        if not self.wish_is_open:
            return True
        return seen.generation <= self.own_generation or (self.busy and relay == self.writing_relay)

    def wish_in(self, seen: SeenCall) -> CallWish:
        """Return what a person wishes by a spec."""
        relay = "" if self._is_own(seen) else seen.relay
        wish = CallWish(
            call=self.record.id, relay=relay, terminate=seen.terminate, caller=seen.caller, callee=seen.callee
        )
        return wish if wish == _nothing(self.record.id) else replace(wish, generation=seen.generation)


class _Budget:
    """Tokens, objects and queues of one RelaySet."""

    __slots__ = ("at", "objects", "queues", "tokens")

    def __init__(self, now: float) -> None:
        self.at = now
        self.tokens = 2.0
        self.objects = 0
        self.queues: dict[Verb, deque[tuple[float, str]]] = {verb: deque() for verb in Verb}

    def refill(self, policy: RecordPolicy, now: float) -> None:
        most = max(4.0, policy.writes_per_second * _BURST)  # two creates: a cap of one would lose what comes between
        self.tokens = min(most, self.tokens + max(0.0, now - self.at) * policy.writes_per_second)
        self.at = now


class CallBook:
    """Takes records and sightings, gives writes. All times are unix seconds, passed in."""

    def __init__(self, policies: Callable[[str], RecordPolicy | None]) -> None:
        self._policies = policies
        self._entries: dict[str, _Entry] = {}
        self._budgets: dict[str, _Budget] = {}
        self._young: list[tuple[float, str]] = []
        self._stale: dict[str, SeenCall] = {}

    def put(self, record: CallRecord, now: float) -> None:
        """Take the newest record of a call."""
        entry = self._entries.get(record.id)
        if entry is None:
            entry = self._entries[record.id] = _Entry(record)
        entry.record = record
        self._consider(entry, now)

    def remove(self, call: str, now: float) -> None:
        """Let the record of an ended call go."""
        entry = self._entries.get(call)
        if entry is None:
            return
        entry.ended = True
        if entry.exists:
            self._queue(entry, Verb.DELETE, now)
        elif not entry.busy:
            del self._entries[call]

    def saw(self, call: str, seen: SeenCall | None, now: float) -> CallWish | None:
        """Take what the API server has of a call; return the wish in it, if it is another than before."""
        entry = self._entries.get(call)
        if seen is None:
            return self._vanished(call, entry, now)
        if entry is None:
            if call not in self._stale:  # of an earlier run under our name
                self._budget(seen.relay_set, now).queues[Verb.DELETE].append((now, call))
            self._stale[call] = seen
            return None
        if not entry.exists or seen.generation < entry.generation:
            return None
        entry.generation, entry.spec_relay = seen.generation, seen.relay
        wish = entry.wish_in(seen)
        if wish == entry.told:
            return None
        entry.told = wish
        return wish

    def next_writes(self, now: float) -> list[Write]:
        """Take from the queues what the budgets allow; each write must be answered by ``done`` or ``failed``."""
        while self._young and self._young[0][0] <= now:
            entry = self._entries.get(heapq.heappop(self._young)[1])
            if entry is not None:
                entry.young = False
                self._consider(entry, now)
        writes: list[Write] = []
        for key, budget in self._budgets.items():
            policy = self._policies(key) or RecordPolicy()
            budget.refill(policy, now)
            for verb in Verb:
                self._take(key, budget, verb, policy, writes)
        return writes

    def next_look(self, now: float) -> float | None:
        """Return when ``next_writes`` may have something, or None for not before something changes."""
        waits = []
        for key, budget in self._budgets.items():
            if any(budget.queues.values()):
                rate = (self._policies(key) or RecordPolicy()).writes_per_second
                waits.append(now + max(0.02, (2.0 - budget.tokens) / rate))
        if self._young:
            waits.append(self._young[0][0])
        return min(waits, default=None)

    def done(self, write: Write, now: float, *, generation: int = 0) -> None:
        """Note that a write has come through; ``generation`` is the object's after a CREATE or relocation."""
        entry = self._entries.get(write.call)
        budget = self._budget(write.relay_set, now)
        if write.verb is Verb.DELETE:
            if write.uid:
                self._stale.pop(write.call, None)
            elif entry is not None:
                budget.objects -= entry.exists
                del self._entries[write.call]
            return
        if entry is None or write.record is None:
            return
        entry.busy = False
        budget.objects += not entry.exists
        entry.exists = True
        entry.written = write.record
        if write.verb is Verb.CREATE or (write.relocate and write.follow):
            entry.own_relay, entry.own_generation = write.record.relay, generation
            if generation >= entry.generation:  # else somebody has written since, and that was seen
                entry.spec_relay, entry.generation = write.record.relay, generation
        self._consider(entry, now)

    def failed(
        self, write: Write, now: float, *, missing: bool = False, exists: bool = False, hopeless: bool = False
    ) -> None:
        """Note that a write has not come through; it is tried again, unless ``hopeless``.

        ``missing`` says that there was no such object, ``exists`` that there was one already.
        """
        entry = self._entries.get(write.call)
        if entry is None:
            if write.uid and not hopeless:
                self._budget(write.relay_set, now).queues[Verb.DELETE].appendleft((now, write.call))
            return
        entry.busy = False
        budget = self._budget(write.relay_set, now)
        if missing and entry.exists:
            entry.exists = False
            budget.objects -= 1
        elif exists and not entry.exists:
            entry.exists = True
            budget.objects += 1
        if hopeless:
            entry.written = entry.record  # not again before it changes
            if entry.ended:
                budget.objects -= entry.exists
                del self._entries[write.call]
            return
        if write.verb is Verb.DELETE:
            self._queue(entry, Verb.DELETE, now)
        else:
            self._consider(entry, now)

    def limited(self, now: float) -> str:
        """Return in a few words what the budget holds back, or an empty string."""
        for key, budget in self._budgets.items():
            policy = self._policies(key) or RecordPolicy()
            waiting = len(budget.queues[Verb.CREATE])
            if waiting and budget.objects >= policy.max_objects:
                return f"{key}: {waiting} calls have no object, {policy.max_objects} is the most"
            oldest = min((queue[0][0] for queue in budget.queues.values() if queue), default=now)
            if now - oldest > _BEHIND:
                return (
                    f"{key}: objects are {now - oldest:.0f} s behind, {policy.writes_per_second:g} writes/s is the most"
                )
        return ""

    def _consider(self, entry: _Entry, now: float) -> None:
        """Queue what an entry needs, if it needs anything."""
        if entry.busy:
            return
        if entry.ended:
            if entry.exists:
                self._queue(entry, Verb.DELETE, now)
            else:
                self._entries.pop(entry.record.id, None)
            return
        record = entry.record
        if record == entry.written and entry.exists:
            return
        if entry.exists:
            self._queue(entry, Verb.UPDATE, now)
            return
        policy = self._policies(record.relay_set)
        wanted = policy is not None and (policy.all_calls or (policy.moved_calls and record.anchors > 0))
        if policy is None or not wanted or not record.relay or record == entry.written:
            return
        due = max(record.started + policy.after, entry.recreate_at)
        if due > now:
            if not entry.young:
                entry.young = True
                heapq.heappush(self._young, (due, record.id))
            return
        self._queue(entry, Verb.CREATE, now)

    def _queue(self, entry: _Entry, verb: Verb, now: float) -> None:
        if entry.busy or entry.queued is verb:
            return
        entry.queued = verb
        self._budget(entry.record.relay_set, now).queues[verb].append((now, entry.record.id))

    def _vanished(self, call: str, entry: _Entry | None, now: float) -> CallWish | None:
        """An object is gone, and what was wished in it; return that, if anything was."""
        self._stale.pop(call, None)
        if entry is None or not entry.exists or entry.busy:
            return None
        entry.exists = False
        entry.generation = 0
        told, entry.told = entry.told, _nothing(call)
        entry.written = None
        entry.queued = None
        self._budget(entry.record.relay_set, now).objects -= 1
        policy = self._policies(entry.record.relay_set) or RecordPolicy()
        entry.recreate_at = now + max(policy.after, 1.0)  # whoever deletes all calls shall see them gone first
        self._consider(entry, now)
        return None if told == entry.told else entry.told

    def _take(self, key: str, budget: _Budget, verb: Verb, policy: RecordPolicy, writes: list[Write]) -> None:
        queue = budget.queues[verb]
        while queue:
            if verb is Verb.CREATE and budget.objects + _creating(writes, key) >= policy.max_objects:
                return
            write = self._write(verb, key, queue[0][1])
            if write is not None:
                cost = 2.0 if verb is Verb.CREATE or write.relocate else 1.0
                if budget.tokens < cost:
                    return
                budget.tokens -= cost
                writes.append(write)
                if (entry := self._entries.get(write.call)) is not None and not write.uid:
                    entry.busy, entry.queued = True, None
                    if verb is Verb.CREATE or (write.relocate and write.follow):
                        entry.writing_relay = entry.record.relay
            queue.popleft()

    def _write(self, verb: Verb, key: str, call: str) -> Write | None:
        """Return the write for the head of a queue, or None where it is needed no more."""
        stale = self._stale.get(call)
        if verb is Verb.DELETE and stale is not None:
            return Write(verb=verb, relay_set=key, call=call, record=None, uid=stale.uid)
        entry = self._entries.get(call)
        if entry is None or entry.busy or entry.queued is not verb:
            return None
        if verb is Verb.DELETE:
            return Write(verb=verb, relay_set=key, call=call, record=None) if entry.exists else None
        written, record = entry.written, entry.record
        follow = not entry.wish_is_open
        relocate = verb is Verb.UPDATE and (
            written is None or written.relay != record.relay or (follow and entry.spec_relay != record.relay)
        )
        return Write(verb=verb, relay_set=key, call=call, record=record, relocate=relocate, follow=follow)

    def _budget(self, key: str, now: float) -> _Budget:
        budget = self._budgets.get(key)
        if budget is None:
            budget = self._budgets[key] = _Budget(now)
        return budget


def _nothing(call: str) -> CallWish:
    return CallWish(call=call)


def _creating(writes: list[Write], key: str) -> int:
    return sum(1 for one in writes if one.verb is Verb.CREATE and one.relay_set == key)
