"""What is wanted of one call: to be moved."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kedge.call.call import Call
    from kedge.call.reports import FailoverReport
    from kedge.relay.fleet import Relay


class Want:
    """A wish to move one call."""

    __slots__ = ("call", "credentials_missing", "last_seen", "queued", "reason", "report", "since", "target", "tries")

    def __init__(
        self, call: Call, reason: str, now: float, target: Relay | None, report: FailoverReport | None
    ) -> None:
        self.call = call
        self.reason = reason
        self.since = now
        self.target = target
        """The relay that somebody asked for, or None for any."""
        self.report = report
        self.last_seen = report.last_seen if report is not None else now
        self.queued = False
        """Whether it stands in one of the queues."""
        self.credentials_missing = False
        """Whether a party asked for credentials (401, 407): that is no fault of the call, which is kept."""
        self.tries = 0

    def count_gap(self, since: float, now: float) -> None:
        """Note how long, at most, the moved call was without media; ``since`` is 0 where its relay lived."""
        if self.report is not None and since:
            self.report.gaps.append(now - since)
