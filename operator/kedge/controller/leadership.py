"""Which operator acts: an elector over one Lease, without I/O. Time is an argument.

The theory. The API server keeps one record and refuses a write to a version that is no longer the newest, so whoever
writes knows that nobody wrote in between. The rest is about time, and no two machines agree about that: no clock is
ever compared with what another machine has written. Each elector measures by its own monotonic clock how long ago
something happened *here*:

- who leads does so until ``renew_deadline`` after it *sent* its last write that was accepted;
- who wants to lead takes a held Lease once it has seen it unchanged for the Lease's whole duration, counted from when
  the *reply* that first showed it came.

Sent is before written, and written before seen; so with a deadline shorter than the duration the first has stopped
before the second begins, however slow the API server is, whichever replies are lost and wherever clocks jump to. What
the two differ by is left for clocks that run at different speeds and for what is still on the wire: a request that is
given up ends its connection, but Linux may hold a packet for 3 s while it asks for a link address.

    state        a Lease is seen that is             then
    FOLLOWER     not there, or held by nobody        write it at once
                 held by another                     wait until it was seen unchanged for its duration, then write it
                 held by this one                    write it: a reply to such a write was lost. It does not lead yet
    LEADER       held by this one                    write it again ``retry`` seconds after the last write was sent
                 held by another                     FOLLOWER at once: it was robbed, by hand for instance
                 not there, or held by nobody        write it at once
    LEAVING      held by this one                    write "nobody", so that the next need not wait
                 anything else                       nothing to do: it has left

A write of which no reply came may have been done or not: the Lease is read before the next one. A read never prolongs
a lead, since nothing says when what it shows was sent. One case cannot be ruled out with a Lease at all: somebody
deletes it, or empties its holder, while a leader is cut off. Who saw it held waits as if it were there.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from kedge.ports.lease import NOBODY, LeaseRecord, SeenLease

_RELEASED_SECONDS: Final = 1
"""The API server wants a duration above 0, also of a Lease that nobody holds."""
_JITTER: Final = 0.2
"""Share of ``retry`` by which waits are prolonged at random, so that electors do not ask in step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTimes:
    """How long things may take, in seconds. The order ``retry`` < ``renew_deadline`` < ``duration`` is a must."""

    duration: float = 15.0
    """A Lease that was not renewed for so long may be taken by another."""
    renew_deadline: float = 10.0
    """A leader that could not renew for so long stops acting."""
    retry: float = 2.0
    """Time between two tries, and between two renewals."""

    def __post_init__(self) -> None:
        if not 0 < self.retry < self.renew_deadline < self.duration:
            raise ValueError(f"not 0 < retry < renew_deadline < duration: {self}")

    @property
    def request_timeout(self) -> float:
        """How long a request may take: two of them fit in the deadline."""
        return self.renew_deadline / 2


@dataclass(frozen=True, slots=True)
class Read:
    """Read the Lease; then ``on_lease`` or ``on_error``."""


@dataclass(frozen=True, slots=True)
class Write:
    """Write the Lease: create it where ``version`` is None, else replace just that version.

    Then ``on_lease`` with what the API server made of it, or ``on_error`` for whatever else came, a conflict too.
    """

    record: LeaseRecord
    version: str | None


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing is to be done before ``until``."""

    until: float


@dataclass(frozen=True, slots=True)
class Left:
    """It has left: nothing more is to be done."""


Action = Read | Write | Wait | Left


class State(Enum):
    """See the table above."""

    FOLLOWER = "follower"
    LEADER = "leader"
    LEAVING = "leaving"


class Elector:
    """One candidate. ``identity`` must be its own: never used by another, nor by an earlier run of the same process.

    ``now`` is seconds of a clock that does not go back and counts while the machine sleeps; ``wall`` unix seconds.
    """

    def __init__(self, identity: str, times: LeaseTimes, rand: Callable[[], float] = random.random) -> None:
        if not identity:
            raise ValueError("an identity must not be empty: that is how a Lease says nobody")
        self.identity = identity
        self.times = times
        self._random = rand
        self._state = State.FOLLOWER
        self._leads_until = -math.inf
        self._seen: SeenLease | None = None
        """What the last reply showed; None: no Lease, or not asked yet."""
        self._seen_since = -math.inf
        """When the record was first seen as it is."""
        self._holders_time = 0.0
        """Seconds that the holder, or the last one of a Lease that was deleted, was promised."""
        self._known = False
        """Whether ``_seen`` may be written against: no request since has ended without saying what became of it."""
        self._sent: tuple[Action, float] | None = None
        """The request under way, and when it was sent."""
        self._next = -math.inf

    @property
    def holder(self) -> str:
        """Who holds the Lease, by the last that was seen; empty: nobody, or not known."""
        return self._seen.record.holder if self._seen is not None else NOBODY

    @property
    def leads_until(self) -> float:
        """When it stops leading unless it renews in time; a time that has passed when it does not lead."""
        return self._leads_until if self._state is State.LEADER else -math.inf

    def leads(self, now: float) -> bool:
        """Return whether it may act. To be asked before each act."""
        return now < self.leads_until

    def leave(self, now: float) -> None:
        """Give up for good. All acting must have ended before; ``next_action`` tells how to release the Lease."""
        self._drop_request()
        self._state, self._next = State.LEAVING, now

    def next_action(self, now: float, wall: float) -> Action:
        """Return what is to be done now. A request under way when it is called counts as failed."""
        self._drop_request()
        if self._state is State.LEADER and not self.leads(now):
            self._state = State.FOLLOWER  # too late for a renewal to count for the time in between
        action = self._leaving(wall) if self._state is State.LEAVING else self._wanted(now, wall)
        if isinstance(action, Read | Write):
            self._sent = action, now
        return action

    def on_lease(self, seen: SeenLease | None, now: float) -> None:
        """Take the answer to the request under way: the Lease as it is, or None where there is none."""
        if self._sent is None:
            return  # its request was given up
        (action, sent_at), self._sent = self._sent, None
        self._look(seen, now)
        self._known = True
        if isinstance(action, Write):
            self._written(sent_at)
        elif self._state is State.LEADER and self.holder not in (self.identity, NOBODY):
            self._state = State.FOLLOWER
        if isinstance(action, Read):
            self._next = now if self._may_write(now) else self._next_look(now)

    def on_error(self, now: float) -> None:
        """Take that the request under way failed, or may have: no reply, a conflict, a refusal."""
        self._drop_request()
        self._next = now + self._jittered(self.times.retry)

    def _wanted(self, now: float, wall: float) -> Action:
        if now < self._next:
            return Wait(self._next)
        if self._known and self._may_write(now):
            return self._claim(wall)
        return Read()

    def _leaving(self, wall: float) -> Action:
        if not self._known:
            return Read()
        if self.holder != self.identity or self._seen is None:
            return Left()
        record = self._seen.record
        released = LeaseRecord(
            holder=NOBODY,
            duration=_RELEASED_SECONDS,
            acquired=record.acquired,
            renewed=self._stamp(wall),
            transitions=record.transitions,
        )
        return Write(released, self._seen.version)

    def _claim(self, wall: float) -> Write:
        before, stamp = self._seen, self._stamp(wall)
        mine = before is not None and before.record.holder == self.identity
        transitions = before.record.transitions if before is not None else -1
        record = LeaseRecord(
            holder=self.identity,
            duration=math.ceil(self.times.duration),
            acquired=before.record.acquired if mine and before is not None else stamp,
            renewed=stamp,
            transitions=transitions if mine else transitions + 1,
        )
        return Write(record, before.version if before is not None else None)

    def _stamp(self, wall: float) -> int:
        """Return a time that differs from that of the record before: a write that changes nothing is not seen."""
        before = self._seen.record.renewed if self._seen is not None else -1
        return max(round(wall * 1e6), before + 1)

    def _may_write(self, now: float) -> bool:
        holder = self.holder
        if holder == self.identity:
            return True
        if holder == NOBODY and self._seen is not None:
            return True
        return now >= self._free_at()

    def _free_at(self) -> float:
        """When the Lease, or the one that was there before it was deleted, has been silent for its duration."""
        return self._seen_since + self._holders_time

    def _look(self, seen: SeenLease | None, now: float) -> None:
        if seen is None:
            self._seen = None  # a held one that is gone is waited for as if it were there
            return
        if self._seen is None or self._seen.record != seen.record:
            self._seen_since = now
        held = seen.record.holder not in (NOBODY, self.identity)
        self._holders_time = float(seen.record.duration or math.ceil(self.times.duration)) if held else 0.0
        self._seen = seen

    def _written(self, sent_at: float) -> None:
        if self._state is State.LEAVING:
            return
        if self.holder == self.identity:
            self._state, self._leads_until = State.LEADER, sent_at + self.times.renew_deadline
        self._next = sent_at + self._jittered(self.times.retry)

    def _next_look(self, now: float) -> float:
        """Return when to read again: after ``retry``, but not later than the Lease can be taken."""
        later = self._jittered(self.times.retry)
        free_in = self._free_at() - now + later - self.times.retry
        return now + min(later, free_in)

    def _drop_request(self) -> None:
        if self._sent is not None:
            self._known = self._known and isinstance(self._sent[0], Read)
            self._sent = None

    def _jittered(self, seconds: float) -> float:
        return seconds + self._random() * _JITTER * self.times.retry
