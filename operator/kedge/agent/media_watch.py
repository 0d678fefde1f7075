"""From what the kernel has of links and addresses to what signaling is told of a relay's media. Without I/O.

A message of the kernel only says that it is time to look: the verdict comes from a whole picture, so a lost or repeated
message does no harm. What is told is a state, not an event. It is told at once when it changes, and again every
``repeat`` seconds while there is trouble, so that a signaling process that has just started learns of it too.

Nothing is told that cannot be trusted: no trouble before the address was once seen well (a pod may start before its
node's network is complete), and nothing at all while the kernel could not be read. Whoever takes a report lets it lapse
unless it is repeated, so an agent that dies or goes blind takes its word back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

IFF_UP: Final = 0x1
"""The interface was switched on (``linux/if.h``)."""
IFF_LOWER_UP: Final = 0x10000
"""There is a carrier: a cable with a living other side."""


class MediaState(StrEnum):
    """What is told."""

    WELL = "Well"
    LINK_DOWN = "LinkDown"
    ADDRESS_REMOVED = "AddressRemoved"


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A network interface."""

    name: str
    flags: int

    @property
    def carries(self) -> bool:
        """Whether packets can pass."""
        return self.flags & IFF_UP != 0 and self.flags & IFF_LOWER_UP != 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Addresses (as text, in the shortest form) with the index of their link, and links by it."""

    links: Mapping[int, Link]
    addresses: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaReport:
    """What signaling is to be told."""

    state: MediaState
    interface: str
    """The one that has the address, or had it last."""
    since: float
    """When the state was first seen (seconds, monotonic)."""


class MediaWatch:
    """Watches one address; ``now`` in seconds of a monotonic clock."""

    def __init__(self, address: str, *, repeat: float = 1.0) -> None:
        self._address = address
        self._repeat = repeat
        self._report: MediaReport | None = None
        self._told_at = 0.0
        self._interface = ""

    @property
    def state(self) -> MediaState | None:
        """What was seen last; None: it cannot be trusted yet, or not any more."""
        return self._report.state if self._report is not None else None

    def observe(self, picture: Picture, now: float) -> MediaReport | None:
        """Take what the kernel has; return what is to be told now, if anything."""
        state = self._judge(picture)
        if self._report is None and state is not MediaState.WELL:
            return None
        if self._report is None:
            self._report = MediaReport(state=state, interface=self._interface, since=now)
            self._told_at = now
            return None  # nobody thinks otherwise
        if state is not self._report.state:
            self._report = MediaReport(state=state, interface=self._interface, since=now)
        elif state is MediaState.WELL or now - self._told_at < self._repeat:
            return None
        self._told_at = now
        return self._report

    def blind(self) -> None:
        """Take that the kernel could not be read: what was seen before says nothing of now."""
        self._report = None

    def _judge(self, picture: Picture) -> MediaState:
        index = picture.addresses.get(self._address)
        link = picture.links.get(index) if index is not None else None
        if link is None:
            return MediaState.ADDRESS_REMOVED
        self._interface = link.name
        return MediaState.WELL if link.carries else MediaState.LINK_DOWN
