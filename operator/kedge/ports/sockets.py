"""UDP sockets as the signaling loop sees them: whole batches in, whole batches out.

A call per batch and not per packet, so that a Protocol costs nothing that counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from kedge.base.address import Address

Batch: TypeAlias = list[tuple[bytes, Address]]


class SipSocket(Protocol):
    """The socket for SIP."""

    @property
    def address(self) -> Address:
        """Where it is bound, with the port that was given for port 0."""

    def send_all(self, batch: Batch) -> None:
        """Send what can be sent. What the kernel refuses is counted, not raised: SIP retransmits."""

    def close(self) -> None:
        """Stop reading and close."""


class RelaySocket(Protocol):
    """The connected socket to one relay's control port."""

    def send_all(self, batch: list[bytes]) -> None:
        """Send what can be sent; a refusal that the kernel remembers is told like one that is read."""

    def close(self) -> None:
        """Stop reading and close."""


class RtpSockets(Protocol):
    """The sockets for RTP of our own, opened as they are needed."""

    def addresses(self, peer: Address) -> tuple[Address, Address]:
        """Return two addresses, open by now, that ``peer`` can send to; the same ones for peers that see us alike.

        Raises:
            OSError: there is no way to ``peer``, or no socket to be had.
        """

    def send(self, data: bytes, source: Address, destination: Address) -> bool:
        """Send from ``source``, one of ``addresses``; return whether our own system has let it leave."""

    def close(self) -> None:
        """Stop reading and close."""


class SocketFactory(Protocol):
    """Opens sockets on the loop that it is called on."""

    def open_sip(self, address: Address, receive: Callable[[Batch], None]) -> SipSocket:
        """Bind a socket; ``receive`` gets all that was there at once.

        Raises:
            OSError: the address cannot be bound.
        """

    def open_relay(
        self, address: Address, receive: Callable[[list[bytes]], None], refused: Callable[[], None]
    ) -> RelaySocket:
        """Connect a socket; ``refused`` is called for each ICMP error that the kernel reports for it."""

    def open_rtp(self, receive: Callable[[Batch], None]) -> RtpSockets:
        """Make ready for RTP; ``receive`` gets what arrives, each datagram with the address of ours that it came to."""
