"""Electors against one simulated API server, in virtual time: every delay, loss and clock is the test's to choose."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

from kedge.controller.leadership import Elector, LeaseTimes, Read, Wait, Write
from kedge.ports.lease import LeaseRecord, SeenLease

NEVER = math.inf


@dataclass(frozen=True)
class Passage:
    """What becomes of one request: seconds to the server and back; ``NEVER`` where it is lost on that way."""

    there: float = 0.01
    back: float = 0.01


@dataclass
class Clock:
    """One machine's clocks as functions of real time."""

    offset: float = 0.0
    rate: float = 1.0
    """Seconds that its monotonic clock counts in a real one."""
    wall: Callable[[float], float] = lambda real: real

    def local(self, real: float) -> float:
        return self.offset + real * self.rate

    def real(self, local: float) -> float:
        return (local - self.offset) / self.rate


class Server:
    """Keeps the Lease, and refuses writes to a version that is not the newest."""

    def __init__(self) -> None:
        self.lease: SeenLease | None = None
        self._versions = itertools.count(1)

    def write(self, record: LeaseRecord, version: str | None) -> SeenLease | None:
        """Return what was written, or None for a conflict."""
        if (self.lease.version if self.lease is not None else None) != version:
            return None
        if self.lease is None or self.lease.record != record:  # a write that changes nothing makes no version
            self.lease = SeenLease(record=record, version=str(next(self._versions)))
        return self.lease


@dataclass
class Candidate:
    elector: Elector
    clock: Clock = field(default_factory=Clock)
    paused_until: float = 0.0
    dead: bool = False
    request: int = 0


class Election:
    """Runs candidates; ``leaders`` tells who led when: each look at which that differed from the one before."""

    def __init__(self, candidates: Iterable[Candidate], weather: Callable[[str, float], Passage]) -> None:
        self.now = 0.0
        self.server = Server()
        self.candidates = list(candidates)
        self.leaders: list[tuple[float, tuple[str, ...]]] = [(0.0, ())]
        self._weather = weather
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        for one in self.candidates:
            self.at(0.0, partial(self.step, one))

    def at(self, when: float, what: Callable[[], None]) -> None:
        if when < NEVER:
            heapq.heappush(self._events, (when, next(self._order), what))

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, what = heapq.heappop(self._events)
            self._look()
            what()
            self._look()
        self.now = until
        self._look()

    def leading(self) -> tuple[str, ...]:
        """Who would act right now: a leader whose process is paused does not, but may at its next step."""
        return tuple(
            one.elector.identity
            for one in self.candidates
            if not one.dead and one.elector.leads(one.clock.local(self.now))
        )

    def kill(self, identity: str) -> None:
        self._of(identity).dead = True

    def leave(self, identity: str) -> None:
        one = self._of(identity)
        one.elector.leave(one.clock.local(self.now))
        one.request += 1
        self.step(one)

    def step(self, one: Candidate) -> None:
        if one.dead:
            return
        local = one.clock.local(self.now)
        action = one.elector.next_action(local, one.clock.wall(self.now))
        if isinstance(action, Wait):
            due = one.clock.real(action.until)
            request = one.request
            self.at(max(self.now + 1e-6, due), lambda: self.step(one) if one.request == request else None)
        elif isinstance(action, Read | Write):
            self._send(one, action)

    def _send(self, one: Candidate, action: Read | Write) -> None:
        one.request += 1
        request, passage = one.request, self._weather(one.elector.identity, self.now)

        def arrive() -> None:
            if isinstance(action, Read):
                found, refused = self.server.lease, False
            else:
                found = self.server.write(action.record, action.version)
                refused = found is None
            self.at(self.now + passage.back, lambda: end(found, refused))

        def end(found: SeenLease | None, refused: bool) -> None:
            if one.request != request or one.dead:
                return  # it was given up: the reply finds nobody
            one.request += 1
            local = one.clock.local(self.now)
            if refused:
                one.elector.on_error(local)
            else:
                one.elector.on_lease(found, local)
            self._look()
            self.step(one)

        self.at(self.now + passage.there, arrive)
        timeout = self.now + one.elector.times.request_timeout / one.clock.rate
        self.at(timeout, lambda: end(None, True))

    def _look(self) -> None:
        leading = self.leading()
        if leading != self.leaders[-1][1]:
            self.leaders.append((self.now, leading))

    def _of(self, identity: str) -> Candidate:
        return next(one for one in self.candidates if one.elector.identity == identity)

    def gaps(self, start: float) -> Iterator[float]:
        """Yield how long each time without a leader was, from ``start`` on."""
        spans = [*self.leaders, (self.now, ("end",))]
        for (begin, leading), (end, _) in itertools.pairwise(spans):
            if not leading and end > start:
                yield end - max(begin, start)


def candidates(number: int, times: LeaseTimes, clocks: Iterable[Clock] | None = None) -> list[Candidate]:
    clocks = clocks or (Clock(offset=1000.0 * index) for index in range(number))
    shares = (index / number for index in range(number))
    return [
        Candidate(Elector(name, times, rand=partial(float, share)), clock)
        for name, share, clock in zip("abc"[:number], shares, clocks, strict=True)
    ]
