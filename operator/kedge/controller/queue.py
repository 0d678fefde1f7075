"""The level-triggered queue between what happens and what is done about it.

It holds keys, not events: however often a RelaySet changes, it stands here once, and whoever takes it looks at the
world as it is then. Failures come again, with a delay that grows; the queue never gives up on a key.
"""

from __future__ import annotations

from collections.abc import Callable

from kedge.base.backoff import Backoff


class WorkQueue:
    """Keys with the time (monotonic, seconds) from which they are due. Not thread-safe."""

    def __init__(self, backoff: Callable[[], Backoff] = lambda: Backoff(first=0.5, most=30.0)) -> None:
        self._due: dict[str, float] = {}
        self._failing: dict[str, Backoff] = {}
        self._new_backoff = backoff

    def __len__(self) -> int:
        return len(self._due)

    def add(self, key: str, at: float) -> None:
        """Have ``key`` looked at, at the latest at ``at``; an earlier time stands.

        A key that keeps failing is not hurried by news: what it waits for is the API server.
        """
        if key in self._failing and key in self._due:
            return
        self._due[key] = min(at, self._due.get(key, at))

    def take(self, now: float) -> str | None:
        """Take the key that has been due for longest, or None."""
        key = min(self._due, key=self._due.__getitem__, default=None)
        if key is None or self._due[key] > now:
            return None
        del self._due[key]
        return key

    def succeeded(self, key: str) -> None:
        """Forget the failures of a key."""
        self._failing.pop(key, None)

    def failed(self, key: str, now: float) -> float:
        """Have a key again, later; return the delay in seconds."""
        if key not in self._failing:
            self._failing[key] = self._new_backoff()
        delay = self._failing[key].next()
        self._due[key] = now + delay
        return delay

    def next_deadline(self) -> float | None:
        """Return when the next key is due, or None."""
        return min(self._due.values(), default=None)
