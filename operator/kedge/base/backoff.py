"""How long to wait before the next try of something that must never give up.

Unbounded in tries, bounded in delay, with jitter: after an outage of the API server all clients come back, and they
should not come back in step.
"""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Exponential delays with jitter: each between half and the whole of the doubling bound."""

    __slots__ = ("_first", "_most", "_random", "_tries")

    def __init__(self, *, first: float = 0.2, most: float = 30.0, rand: Callable[[], float] = random.random) -> None:
        self._first = first
        self._most = most
        self._random = rand
        self._tries = 0

    def next(self) -> float:
        """Return the seconds to wait before the next try."""
        bound = min(self._most, self._first * 2.0 ** min(self._tries, 32))
        self._tries += 1
        return bound * (0.5 + 0.5 * self._random())

    def reset(self) -> None:
        """Start again from the first delay: a try went well."""
        self._tries = 0
