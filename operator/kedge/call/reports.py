"""What became of each loss or drain of a relay: how many of its calls were moved, were not, or are still to come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from kedge.call.observer import Observer
    from kedge.call.want import Want
    from kedge.relay.fleet import Relay

DRAIN: Final = "Drain"
"""The reason of moves off a relay that is to be emptied: they are moot once that is taken back."""
REQUESTED: Final = "Requested"
"""The reason of moves that a person asked for."""


class FailoverReport:
    """What became of one loss of a relay (or its drain)."""

    __slots__ = ("calls", "detected", "failed", "gaps", "last_seen", "moved", "pending", "reason", "relay", "started")

    def __init__(self, relay: Relay, reason: str, last_seen: float, now: float) -> None:
        self.relay = relay
        self.reason = reason
        self.last_seen = last_seen
        """Seconds: the last sign of life of the relay."""
        self.detected = now - last_seen if last_seen else 0.0
        """Seconds from the last sign of life to the verdict."""
        self.started = now
        self.calls = 0
        self.moved = 0
        self.failed = 0
        self.pending = 0
        self.gaps: list[float] = []
        """Seconds from the last sign of life to the last ACK, of each call moved: media stood still at most so long."""

    def gap(self, quantile: float) -> float:
        """Return a quantile (0 to 1) of the gaps, in seconds; 0 where there are none."""
        if not self.gaps:
            return 0.0
        ordered = sorted(self.gaps)
        return ordered[min(len(ordered) - 1, int(quantile * len(ordered)))]


class Reports:
    """Keeps the reports up to date, and tells the observer of each change."""

    __slots__ = ("_drains", "_observer")

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._drains: dict[str, FailoverReport] = {}
        """Of the relays that drain, by uid: their plans fill them in portions."""

    def of_drain(self, relay: Relay, now: float) -> FailoverReport:
        """Return the report of a relay's drain."""
        report = self._drains.get(relay.uid)
        if report is None:
            report = self._drains[relay.uid] = FailoverReport(relay, DRAIN, 0.0, now)
        return report

    def drain_over(self, relay: Relay) -> None:
        """A relay serves again, or is gone: its next drain is another one."""
        self._drains.pop(relay.uid, None)

    def counts_elsewhere(self, want: Want, now: float) -> None:
        """A second loss has come over a call: it counts there from now on."""
        if want.report is not None:
            want.report.calls -= 1
            self.moot(want, now)

    def moot(self, want: Want, now: float) -> None:
        """A call has ended before it was moved."""
        report, want.report = want.report, None
        if report is not None:
            report.pending -= 1
            self._observer.failover_changed(report, now)

    def decided(self, want: Want, now: float, *, moved: bool) -> None:
        """A call was moved, or cannot be."""
        report = want.report
        if report is not None:
            if moved:
                report.moved += 1
            else:
                report.failed += 1
            self.moot(want, now)
