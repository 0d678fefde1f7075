"""The deadlines of everything that waits.

No task and no event-loop handle per transaction, call or probe. What is due soon lies in a heap; what is due later lies
unsorted in slots of a quarter of a second, and comes into the heap, if it was not cancelled by then, when its slot is
next. Most deadlines of SIP are cancelled, and 600 calls a second leave 100,000 of them: a heap of all would have to be
rebuilt at times, which stops everything else for tens of milliseconds. The runtime asks ``next_deadline`` when to
wake, and calls ``run_due``.
"""

from __future__ import annotations

import heapq
from typing import Final

_PER_SECOND: Final = 4
"""Slots in a second: a power of two, so that a slot's start is exact."""
_TOLERATED: Final = 32
"""Cancelled entries that a slot may hold before it is cleared of them, if they are also the majority."""


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

    __slots__ = ("_cancelled", "_count", "_heap", "_live", "_near", "_order", "_slots")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._slots: dict[int, list[tuple[float, int, Timer]]] = {}
        self._order: list[int] = []
        """A heap of the slots' numbers."""
        self._cancelled: dict[int, int] = {}
        """Cancelled entries by slot: never too few, as one in the heap may count for the slot that it came from."""
        self._near = 0
        """Slots below this one are now or past."""
        self._count = 0
        self._live = 0

    def __len__(self) -> int:
        return self._live

    def schedule(self, at: float, target: TimerTarget, kind: int = 0) -> Timer:
        """Call ``target.on_timer(kind, now)`` at ``at`` (seconds); return the handle to cancel it with."""
        timer = Timer(at, target, kind)
        self._count += 1
        self._live += 1
        number = int(at * _PER_SECOND)
        if number < self._near:
            heapq.heappush(self._heap, (at, self._count, timer))
            return timer
        slot = self._slots.get(number)
        if slot is None:
            slot = self._slots[number] = []
            heapq.heappush(self._order, number)
        slot.append((at, self._count, timer))
        return timer

    def cancel(self, timer: Timer | None) -> None:
        """Take a timer back; one that has fired, was cancelled or is None is left as it is."""
        if timer is None or timer.target is None:
            return
        timer.target = None  # lets go of the target at once; the entry goes with its slot, or when it surfaces
        self._live -= 1
        number = int(timer.at * _PER_SECOND)
        slot = self._slots.get(number)
        if slot is None:
            return
        cancelled = self._cancelled.get(number, 0) + 1
        if cancelled > _TOLERATED and cancelled * 2 > len(slot):
            slot[:] = [entry for entry in slot if entry[2].target is not None]
            cancelled = 0
        self._cancelled[number] = cancelled

    def next_deadline(self) -> float | None:
        """Return when the earliest live timer falls due, in seconds, or None."""
        heap = self._heap
        while True:
            while heap and heap[0][2].target is None:
                heapq.heappop(heap)
            if not self._order or (heap and heap[0][0] < self._order[0] / _PER_SECOND):
                return heap[0][0] if heap else None
            self._open_slot()

    def run_due(self, now: float) -> int:
        """Fire everything due at ``now``, in order; return how many fired.

        What a fired timer schedules for ``now`` or earlier fires in the next call, so that a mistake cannot loop here.
        """
        self._near = max(self._near, int(now * _PER_SECOND) + 1)
        while self._order and self._order[0] < self._near:
            self._open_slot()
        heap, last, fired = self._heap, self._count, 0
        postponed: list[tuple[float, int, Timer]] = []
        try:
            while heap and heap[0][0] <= now:
                entry = heapq.heappop(heap)
                target = entry[2].target
                if target is None:
                    continue
                if entry[1] > last:
                    postponed.append(entry)
                    continue
                entry[2].target = None
                self._live -= 1
                fired += 1
                target.on_timer(entry[2].kind, now)
        finally:  # also when a target raises: the others' deadlines stand
            for entry in postponed:
                heapq.heappush(heap, entry)
        return fired

    def _open_slot(self) -> None:
        """Bring the earliest slot's live entries into the heap."""
        number = heapq.heappop(self._order)
        self._cancelled.pop(number, None)
        for entry in self._slots.pop(number):
            if entry[2].target is not None:
                heapq.heappush(self._heap, entry)
