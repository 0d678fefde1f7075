"""How long the end of a relay pod is held back. Without I/O; time is an argument (seconds, monotonic).

Kubernetes tells the pod to end, and asks the agent first (``preStop``): no answer, and the relay runs on. The same
moment signaling sees that the pod is to end, and begins to move its calls. So the hold is over when

- the relay has been without sessions for ``settle`` seconds, by at least two answers of its own: one look would also
  find it empty just before an offer arrives that left when nobody knew yet;
- or nobody answers at its port any more (refused, as often): there is nothing left to be held;
- or the deadline has passed, counted from the first question: whoever asks again gets no more time.

A relay that is silent may be busy or frozen. That is no reason to end it, as it holds its calls' ports; nor one to wait
beyond the deadline. Sessions of Kedge's own (canaries and probes) are not counted: they would never leave.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

_SURE: Final = 2
"""Answers that must agree."""


class Release(StrEnum):
    """Why a hold is over."""

    EMPTY = "Empty"
    RELAY_GONE = "RelayGone"
    DEADLINE = "Deadline"


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldTimes:
    """In seconds."""

    deadline: float = 120.0
    """How long the pod is held at most: the drain deadline of its RelaySet."""
    settle: float = 1.0
    """How long the relay must have been empty, so that what was under way to it has arrived."""
    interval: float = 0.25
    """Time between two looks."""


class Hold:
    """One hold, from the first question on; it is never begun again, since a pod ends once."""

    def __init__(self, times: HoldTimes, now: float) -> None:
        self._times = times
        self.began = now
        self.sessions: int | None = None
        """As the relay said last; None: it has not answered yet."""
        self._agreed = 0
        self._since = now
        self._sign: Release | None = None

    @property
    def deadline(self) -> float:
        """When the pod is let go, whatever it holds."""
        return self.began + self._times.deadline

    def answered(self, sessions: int, now: float) -> None:
        """Take how many sessions of calls the relay holds."""
        self.sessions = sessions
        self._note(Release.EMPTY if sessions == 0 else None, now)

    def refused(self, now: float) -> None:
        """Take that nobody listens at the relay's control port."""
        self._note(Release.RELAY_GONE, now)

    def silent(self) -> None:
        """Take that the relay did not answer: it was not seen empty without a break."""
        self._sign, self._agreed = None, 0

    def release(self, now: float) -> Release | None:
        """Return why the pod may end now, or None while it may not."""
        if self._sign is not None and self._agreed >= _SURE and now - self._since >= self._times.settle:
            return self._sign
        return Release.DEADLINE if now >= self.deadline else None

    def _note(self, sign: Release | None, now: float) -> None:
        if sign is not self._sign:
            self._sign, self._agreed, self._since = sign, 0, now
        self._agreed += 1
