"""One heap of deadlines for everything that waits.

No task and no event-loop handle per transaction, call or probe: a deadline costs a heap push, cancelling it a flag.
The runtime asks ``next_deadline`` when to wake, and calls ``run_due``.
"""

from __future__ import annotations

import heapq
from typing import Final

_COMPACT_AT: Final = 4096
"""Cancelled entries that are tolerated before the heap is rebuilt, if they are also the majority."""


class TimerTarget:
    """What a timer calls: a native base class, as this is in the way of every packet."""

    __slots__ = ()

    def on_timer(self, kind: int, now: float) -> None:
        """Handle the deadline ``kind`` (an int of the target's own) that fell due at or before ``now``, in seconds."""
        raise NotImplementedError


class Timer:
    """A deadline that can be cancelled. Made by ``TimerHeap.schedule`` only."""

    __slots__ = ("at", "kind", "target")

    def __init__(self, at: float, target: TimerTarget | None, kind: int) -> None:
        self.at = at
        self.target = target
        self.kind = kind

    @property
    def active(self) -> bool:
        """Whether it is still to fire."""
        return self.target is not None


class TimerHeap:
    """Deadlines in seconds of a monotonic clock, in the order in which they fall due."""

    __slots__ = ("_cancelled", "_count", "_heap")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._count = 0
        self._cancelled = 0

    def __len__(self) -> int:
        return len(self._heap) - self._cancelled

    def schedule(self, at: float, target: TimerTarget, kind: int = 0) -> Timer:
        """Call ``target.on_timer(kind, now)`` at ``at`` (seconds); return the handle to cancel it with."""
        timer = Timer(at, target, kind)
        self._count += 1
        heapq.heappush(self._heap, (at, self._count, timer))
        return timer

    def cancel(self, timer: Timer | None) -> None:
        """Take a timer back; one that has fired, was cancelled or is None is left as it is."""
        if timer is None or timer.target is None:
            return
        timer.target = None  # lets go of the target at once; the entry goes when it surfaces
        self._cancelled += 1
        if self._cancelled > _COMPACT_AT and self._cancelled * 2 > len(self._heap):
            self._compact()

    def next_deadline(self) -> float | None:
        """Return when the earliest live timer falls due, in seconds, or None."""
        heap = self._heap
        while heap:
            if heap[0][2].target is not None:
                return heap[0][0]
            heapq.heappop(heap)
            self._cancelled -= 1
        return None

    def run_due(self, now: float) -> int:
        """Fire everything due at ``now``, in order; return how many fired.

        What a fired timer schedules for ``now`` or earlier fires in the next call, so that a mistake cannot loop here.
        """
        heap, last, fired = self._heap, self._count, 0
        postponed: list[tuple[float, int, Timer]] = []
        try:
            while heap and heap[0][0] <= now:
                entry = heapq.heappop(heap)
                target = entry[2].target
                if target is None:
                    self._cancelled -= 1
                elif entry[1] > last:
                    postponed.append(entry)
                else:
                    entry[2].target = None
                    fired += 1
                    target.on_timer(entry[2].kind, now)
        finally:  # also when a target raises: the others' deadlines stand
            for entry in postponed:
                heapq.heappush(heap, entry)
        return fired

    def _compact(self) -> None:
        before = len(self._heap)
        self._heap[:] = [entry for entry in self._heap if entry[2].target is not None]  # in place: run_due holds it
        heapq.heapify(self._heap)
        self._cancelled -= before - len(self._heap)  # run_due may hold back a cancelled one, still to be counted
