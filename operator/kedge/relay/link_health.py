"""What an agent beside a relay says of the link that its media comes by. A pure state machine; ``health`` weighs it.

The theory: the agent reads the kernel of the relay's own node, and so knows of a dead link in milliseconds, before any
probe can be lost. But it is one witness, and may look at the wrong link or be made to lie; so its word alone takes no
call away. It tells again each second while there is trouble, and its word is void when it does not: an agent that dies,
goes blind or is cut off takes it back.

    report                                   becomes
    of a relay that is not known             nothing; ``UNKNOWN``
    seen ``LAPSE`` seconds ago or longer     nothing; ``TOO_OLD``
    with a sequence not above the last one   nothing; ``OVERTAKEN``: what the agent said later has come before
    LinkDown or AddressRemoved               the word stands until ``LAPSE`` seconds after it was seen
    Well                                     the word is taken back

Sequences are kept over lapses: a report that was long on its way does not speak again.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

LAPSE: Final = 3.0
"""Seconds after which a report that is not repeated is void: three that are lost in a row, of one each second."""


class LinkState(StrEnum):
    """What an agent tells of the address that media comes to."""

    WELL = "Well"
    LINK_DOWN = "LinkDown"
    ADDRESS_REMOVED = "AddressRemoved"


class ReportResult(StrEnum):
    """What became of a report; also values of a metric's label."""

    TAKEN = "taken"
    OVERTAKEN = "overtaken"
    TOO_OLD = "too_old"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkReport:
    """One report."""

    relay: str
    """Uid of the relay."""
    state: LinkState
    interface: str
    """The one that has the address, or had it last."""
    age: float
    """Seconds since the agent saw it so."""
    sequence: int
    """Of two reports of one relay the higher one counts."""


class LinkHealth:
    """What is held of one relay's link. Times are in seconds of a monotonic clock."""

    __slots__ = ("_interface", "_sequence", "state", "until")

    def __init__(self) -> None:
        self.state = LinkState.WELL
        self.until = 0.0
        """When the word of trouble is void unless it is repeated."""
        self._interface = ""
        self._sequence = -1

    @property
    def in_trouble(self) -> bool:
        """Whether a word stands that speaks against the relay."""
        return self.state is not LinkState.WELL

    @property
    def message(self) -> str:
        """What is said, in a sentence."""
        where = f" {self._interface}" if self._interface else ""
        if self.state is LinkState.LINK_DOWN:
            return f"its agent says that link{where} is down"
        return f"its agent says that its address has gone from{where or ' its interface'}"

    def take(self, report: LinkReport, now: float) -> ReportResult:
        """Take a report that came at ``now``."""
        if report.age >= LAPSE:
            return ReportResult.TOO_OLD
        if report.sequence <= self._sequence:
            return ReportResult.OVERTAKEN
        self._sequence, self._interface = report.sequence, report.interface
        self.state, self.until = report.state, now + LAPSE - report.age
        return ReportResult.TAKEN

    def lapse(self, now: float) -> None:
        """Drop a word that was not repeated in time."""
        if now >= self.until:
            self.state = LinkState.WELL
