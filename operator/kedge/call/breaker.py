"""Whether a peer or the network to it is in trouble, as too many re-INVITEs in a row had no answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kedge.call.routing import Peer


class Breaker:
    """Counts the timed-out re-INVITEs of each peer since one was answered."""

    __slots__ = ("_timeouts",)

    def __init__(self) -> None:
        self._timeouts: dict[str, int] = {}

    def answered(self, peer: Peer) -> None:
        """A peer has answered a re-INVITE: it is well."""
        self._timeouts.pop(peer.name, None)

    def timed_out(self, peer: Peer) -> None:
        """A re-INVITE to a peer timed out."""
        self._timeouts[peer.name] = self._timeouts.get(peer.name, 0) + 1

    def is_open(self, peer: Peer, limit: int) -> bool:
        """Whether so many re-INVITEs in a row timed out that the peer or the network is in trouble, not the calls."""
        return self._timeouts.get(peer.name, 0) >= limit
