"""What Kedge asks of a media relay, whatever its protocol.

These are native base classes and not Protocols, as they are in the way of every call; ``relay.ng_client`` implements
them for rtpengine. A client does no I/O: it appends datagrams to ``out`` and is given what arrives.
"""

from __future__ import annotations

from typing import Any


class RelayReply:
    """What a relay answered to one command."""

    __slots__ = ("error", "fields", "sdp")

    def __init__(self, sdp: bytes | None, error: str, fields: dict[bytes, Any] | None = None) -> None:
        self.sdp = sdp
        """The rewritten session description (offer and answer)."""
        self.error = error
        """Why it failed, in the relay's words; empty when it did not. ``timeout`` and ``relay down`` are ours."""
        self.fields = fields
        """The whole reply, decoded, for commands other than offer, answer and delete."""


class RelayUser:
    """Whoever gives commands to a relay, and is told what came of them."""

    __slots__ = ()

    def on_relay_reply(self, token: int, reply: RelayReply, now: float) -> None:
        """Take the reply to the command that was submitted with ``token``; ``now`` in seconds."""
        raise NotImplementedError


class RelayClient:
    """Commands to one relay. Every command ends in exactly one ``on_relay_reply``, at the latest after its timeout.

    ``session`` is Kedge's name for the media session at the relay (its ng ``call-id``), unique over processes.
    ``from_tag`` is always the first offerer's side for ``answer`` (reference: ng protocol).
    """

    __slots__ = ("out",)

    def __init__(self) -> None:
        self.out: list[bytes] = []
        """Datagrams to send on the connected control socket; whoever sends them clears the list."""

    def offer(
        self, session: str, from_tag: str, to_tag: str, sdp: bytes, user: RelayUser, token: int, now: float,
        profile: str = "",
    ) -> None:  # fmt: skip
        """Ask for the description to send on to the other side. An empty ``to_tag`` is left out.

        ``profile`` is the RTP profile that the other side shall have (``RTP/SAVP``...), where it is another one than
        the offerer's: the relay encrypts and decrypts between them, with keys of its own. Empty: as it was offered, or
        as it is in this session.
        """
        raise NotImplementedError

    def answer(
        self, session: str, from_tag: str, to_tag: str, sdp: bytes, user: RelayUser, token: int, now: float
    ) -> None:
        """Complete an offer; the reply holds the description for the offerer."""
        raise NotImplementedError

    def delete(self, session: str, from_tag: str, user: RelayUser | None, token: int, now: float) -> None:
        """End a session; one that the relay does not know is no error."""
        raise NotImplementedError

    def on_datagram(self, data: bytes, now: float) -> None:
        """Take a datagram from the control socket."""
        raise NotImplementedError

    def on_refused(self, now: float) -> None:
        """Take an ICMP port unreachable that the control socket reported (ECONNREFUSED, by ``recv`` or ``send``).

        Host or network unreachable are not told here: our own kernel may have made them up, and they are silence.
        """
        raise NotImplementedError

    def close(self, now: float) -> None:
        """Give up: every command under way ends with the error ``relay down``."""
        raise NotImplementedError
