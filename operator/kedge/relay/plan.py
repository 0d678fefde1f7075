"""Which call of a lost relay goes where, and in what order. Pure: a plan can be shown without being run."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

NO_CAPACITY: Final = "NoCapacity"
"""No relay of the set has room for the call."""


class LostCall:
    """A call that has to move."""

    __slots__ = ("call", "emergency", "silent_since")

    def __init__(self, call: str, *, emergency: bool = False, silent_since: float = 0.0) -> None:
        self.call = call
        self.emergency = emergency
        self.silent_since = silent_since
        """Since when (seconds) nobody has heard anything: the longest silent moves first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A relay that may take calls."""

    uid: str
    sessions: int
    free: int
    """How many more it may take."""
    weight: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LossPlan:
    """Where each call goes."""

    moves: tuple[tuple[str, str], ...] = ()
    """Call and uid of the target, in the order in which they are to move."""
    unplaced: tuple[tuple[str, str], ...] = ()
    """Call and reason."""


def plan_loss(calls: Iterable[LostCall], targets: Sequence[Target]) -> LossPlan:
    """Spread the calls of a lost relay over ``targets``.

    Emergency calls come first, then the longest silent; each goes to the target that is the least loaded for its
    weight by then, and never over its capacity. The order of equals is that of the arguments.
    """
    order = sorted(calls, key=lambda call: (not call.emergency, call.silent_since))
    heap = [
        ((target.sessions + 1) / target.weight, rank, target.sessions, target.free, target)
        for rank, target in enumerate(targets)
        if target.free > 0 and target.weight > 0
    ]
    heapq.heapify(heap)
    moves = []
    placed = 0
    while heap and placed < len(order):
        _, rank, sessions, free, target = heap[0]
        moves.append((order[placed].call, target.uid))
        placed += 1
        sessions, free = sessions + 1, free - 1
        if free > 0:
            heapq.heapreplace(heap, ((sessions + 1) / target.weight, rank, sessions, free, target))
        else:
            heapq.heappop(heap)
    return LossPlan(moves=tuple(moves), unplaced=tuple((call.call, NO_CAPACITY) for call in order[placed:]))
