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
from typing import Final

from kedge.relay.link_health import LinkState

IFF_UP: Final = 0x1
"""The interface was switched on (``linux/if.h``)."""
IFF_LOWER_UP: Final = 0x10000
"""There is a carrier: a cable with a living other side."""


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

    state: LinkState
    interface: str
    """The one that has the address, or had it last."""
    seen: float
    """When it was seen so (seconds, monotonic)."""


class MediaWatch:
    """Watches one address; ``now`` in seconds of a monotonic clock."""

    def __init__(self, address: str, *, repeat: float = 1.0) -> None:
        self._address = address
        self._repeat = repeat
        self._report: MediaReport | None = None
        """What was told last; before anything was, the first good sight."""
        self._interface = ""

    @property
    def state(self) -> LinkState | None:
        """What was seen last; None: it cannot be trusted yet, or not any more."""
        return self._report.state if self._report is not None else None

    def observe(self, picture: Picture, now: float) -> MediaReport | None:
        """Take what the kernel has; return what is to be told now, if anything."""
        state, before = self._judge(picture), self._report
        if before is None and state is not LinkState.WELL:
            return None
        if before is not None and before.state is state and not self._is_to_be_repeated(before, now):
            return None
        self._report = MediaReport(state=state, interface=self._interface, seen=now)
        return self._report if before is not None else None  # nobody thinks otherwise

    def blind(self) -> None:
        """Take that the kernel could not be read: what was seen before says nothing of now."""
        self._report = None

    def _is_to_be_repeated(self, report: MediaReport, now: float) -> bool:
        return report.state is not LinkState.WELL and now - report.seen >= self._repeat

    def _judge(self, picture: Picture) -> LinkState:
        index = picture.addresses.get(self._address)
        link = picture.links.get(index) if index is not None else None
        if link is None:
            return LinkState.ADDRESS_REMOVED
        self._interface = link.name
        return LinkState.WELL if link.carries else LinkState.LINK_DOWN
