"""What is wanted of one call: to be moved, or to have one leg's media in another RTP profile."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kedge.call.call import Call
    from kedge.call.leg import Leg
    from kedge.call.reports import FailoverReport
    from kedge.relay.fleet import Relay


class Want:
    """A wish to move one call."""

    __slots__ = (
        "call", "converted", "credentials_missing", "last_seen", "profile", "queued", "reason", "report", "since",
        "target", "tries",
    )  # fmt: skip

    def __init__(
        self, call: Call, reason: str, now: float, target: Relay | None, report: FailoverReport | None
    ) -> None:
        self.call = call
        self.reason = reason
        self.since = now
        self.target = target
        """The relay that somebody asked for, or None for any."""
        self.converted: Leg | None = None
        """The leg whose media shall have another profile, for which the call goes to a new session."""
        self.profile = ""
        """That profile (``RTP/SAVP``...)."""
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
