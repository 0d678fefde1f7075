"""Counters and histograms that the signaling loop writes and a scrape reads, without a lock.

Integers and lists of integers: an increment on the loop's thread, a copy on the reader's. A scrape may see a histogram
between its bucket and its sum; Prometheus does not mind.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

from kedge.relay.link_health import ReportResult

SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 30.0)
FAST_SECONDS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0)

APPLIED: Final = "Applied"
RESTART_NEEDED: Final = "RestartNeeded"
REFUSED: Final = "Refused"


class Histogram:
    """Observations in seconds, by bucket."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """Observations at most each bound; the last one is for those beyond."""
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Reloads:
    """What became of settings files that were read while the process ran."""

    def __init__(self) -> None:
        self.results = dict.fromkeys((APPLIED, RESTART_NEEDED, REFUSED), 0)
        self.current = True
        """Whether all that the newest file says is in force."""

    def count(self, result: str, *, current: bool) -> None:
        """Count a file that was read."""
        self.results[result] += 1
        self.current = current


class Stats:
    """Everything that is counted in one signaling process. Keys of the dictionaries are closed sets."""

    def __init__(self) -> None:
        self.setups: dict[tuple[str, str], int] = {}
        """Set-ups by (relay set, class of the final status: answered, cancelled, busy, rejected, failed)."""
        self.setup_seconds = Histogram(SECONDS)
        self.reanchors: dict[tuple[str, str, str], int] = {}
        """Moves by (relay set, reason, result)."""
        self.reanchor_seconds: dict[str, Histogram] = {}
        """From the decision to the last ACK, by reason."""
        self.media_gap_seconds: dict[str, Histogram] = {}
        """From the last sign of life of the old relay to the last ACK, by relay set."""
        self.rejected: dict[tuple[str, int], int] = {}
        """Requests refused by Kedge itself, by (method, status)."""
        self.orphans_deleted: dict[tuple[str, str], int] = {}
        """Sessions without a call that were deleted, by (relay set, relay)."""
        self.probes: dict[tuple[str, str, str], int] = {}
        """Probes by (relay set, relay, outcome)."""
        self.probe_seconds: dict[tuple[str, str], Histogram] = {}
        self.link_reports: dict[tuple[str], int] = dict.fromkeys(((one.value,) for one in ReportResult), 0)
        """Agents' reports of links, by what became of them."""
        self.admin_refused: dict[tuple[str], int] = {("missing",): 0, ("wrong",): 0, ("scope",): 0}
        """Requests to the admin API without the token they need, by what is wrong; written on the thread of HTTP."""
        self.calls_ended = 0
        self.internal_errors = 0
        """Errors of Kedge itself, caught where one packet or timer ends. Anything but 0 is a bug."""
        self.reloads = Reloads()
        self.loop_lag_seconds = Histogram(FAST_SECONDS)
        self.loop_lag_max = 0.0
        """Seconds; the longest since the last reading took it back to 0."""
