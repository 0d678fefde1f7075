"""Who is told what happens to calls: metrics, records, events. A native base class that does nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kedge.call.call import Call
    from kedge.call.reports import FailoverReport
    from kedge.relay.fleet import Relay


class Observer:
    """All calls come from the signaling loop and must return at once."""

    __slots__ = ()

    def call_changed(self, call: Call, now: float) -> None:
        """A call's record is not what it was."""

    def setup_ended(self, call: Call, status: int, seconds: float) -> None:
        """An INVITE got its final ``status`` after ``seconds``."""

    def call_ended(self, call: Call, now: float) -> None:
        """A call that had been answered is over."""

    def leg_moved(self, call: Call, relay: Relay, seconds: float) -> None:
        """One leg was ACKed with a new description, ``seconds`` after the decision."""

    def move_ended(self, call: Call, reason: str, result: str, seconds: float, gap: float) -> None:
        """A re-anchoring ended; ``gap`` is 0 where the old relay lived."""

    def failover_changed(self, report: FailoverReport, now: float) -> None:
        """A failover began, went on or ended."""

    def request_rejected(self, method: str, status: int) -> None:
        """A request was refused by Kedge itself."""

    def orphans_deleted(self, relay: Relay, count: int) -> None:
        """So many sessions of ours, that no call had, were found at a relay and deleted."""

    def event(self, *, warning: bool, reason: str, message: str, relay_set: str, relay: str, call: str) -> None:
        """Something that a person may want to read."""
