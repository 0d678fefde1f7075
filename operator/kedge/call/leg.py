"""One leg: a dialog with one party, and the media description in force in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kedge.base.address import Address
from kedge.call.endings import aim
from kedge.sip.dialog import Dialog
from kedge.sip.errors import ParseError
from kedge.sip.headers import parse_params
from kedge.sip.message import Message, Request
from kedge.sip.offer_answer import agree, is_encrypted, profile_of
from kedge.sip.sdp import Origin

if TYPE_CHECKING:
    from kedge.call.bridge import Bridge
    from kedge.call.call import Call
    from kedge.call.routing import Peer
    from kedge.sip.transaction import ClientTransaction, ServerTransaction

ALLOW: Final = "INVITE, ACK, CANCEL, BYE, OPTIONS, UPDATE, INFO, MESSAGE, NOTIFY, REFER"
SUPPORTED: Final = frozenset({"timer", "histinfo", "resource-priority"})
"""Option tags that may pass: those that ask nothing of a B2BUA but to pass their headers on."""


class SessionTimer:
    """A session timer in force on one leg (RFC 4028)."""

    __slots__ = ("interval", "remote_refreshes")

    def __init__(self, interval: int, *, remote_refreshes: bool) -> None:
        self.interval = interval
        """Seconds."""
        self.remote_refreshes = remote_refreshes


class Leg:
    """A dialog with one party of a call. ``tag`` is the party's name at the relay."""

    __slots__ = (
        "awaiting_ack",
        "call",
        "client",
        "dialog",
        "local",
        "origin",
        "peer",
        "pruned",
        "quiet_until",
        "remote",
        "server",
        "session",
        "session_timer",
        "source",
        "tag",
    )

    def __init__(self, call: Call, tag: str, peer: Peer, dialog: Dialog, origin: Origin, source: Address) -> None:
        self.call = call
        self.tag = tag
        self.peer = peer
        self.dialog = dialog
        self.origin = origin
        self.source = source
        """Where the party's datagrams come from: the fallback when its Contact cannot be trusted or read."""
        self.local = b""
        """L: the description in force that we sent (with our o= line), without media and keys that were not taken."""
        self.remote = b""
        """R: the description in force that we received."""
        self.pruned = b""
        """R without what L lacks: what is replayed on another relay."""
        self.session = ""
        """The relay session whose description L is: other than the call's, and the leg has yet to be told."""
        self.client: ClientTransaction | None = None
        """Our own INVITE or UPDATE under way in this dialog."""
        self.server: ServerTransaction | None = None
        """The party's INVITE or UPDATE under way."""
        self.awaiting_ack: Bridge | None = None
        """The bridge whose 2xx to this party has not been ACKed yet."""
        self.session_timer: SessionTimer | None = None
        self.quiet_until = 0.0
        """Seconds: no re-INVITE of ours before, as the party asked with 491 or Retry-After."""

    @property
    def other(self) -> Leg:
        """The other party's leg."""
        call = self.call
        return call.callee if call.caller is self else call.caller

    @property
    def busy(self) -> bool:
        """Whether an INVITE or UPDATE is under way in this dialog (RFC 3261 section 14.1: no second one then)."""
        return self.client is not None or self.server is not None or self.awaiting_ack is not None

    @property
    def conversion(self) -> str:
        """The RTP profile that a relay is to be asked for in an offer towards this leg.

        Empty where the other leg's is as good: it is needed where one of the two is encrypted and the other is not.
        """
        theirs = self.other.local
        if not self.local or not theirs or is_encrypted(self.local) == is_encrypted(theirs):
            return ""
        return profile_of(self.local)

    def set_in_force(self, *, local: bytes, remote: bytes, session: str) -> None:
        """An offer/answer exchange on this leg is complete; L came from ``session`` at the relay."""
        self.session = session
        self.local, self.pruned = agree(local, remote)
        self.remote = remote

    def aim(self) -> None:
        """Choose where in-dialog requests go."""
        aim(self.dialog, self.peer, self.source)

    def refresh_target(self, message: Message) -> None:
        """A target refresh request or response: take its Contact and aim anew."""
        before = self.dialog.remote_target
        self.dialog.refresh_target(message)
        if self.dialog.remote_target != before:
            self.aim()

    def learn_session_timer(self, response: Message, *, we_are_uac: bool) -> None:
        """Take Session-Expires from a 2xx that we received (we are UAC) or send."""
        value = response.get("Session-Expires")
        if value is None:
            return
        seconds, _, rest = value.partition(";")
        try:
            refresher = parse_params(rest).get("refresher") or ("uac" if we_are_uac else "uas")
            interval = int(seconds)
        except (ParseError, ValueError):
            return
        self.session_timer = SessionTimer(interval, remote_refreshes=(refresher == "uas") == we_are_uac)

    def session_headers(self) -> str:
        """Return the header lines of a re-INVITE of our own: session timer with the roles kept, Allow, Supported."""
        lines = f"Allow: {ALLOW}\r\nSupported: timer\r\n"
        timer = self.session_timer
        if timer is not None:
            lines += f"Session-Expires: {timer.interval};refresher={'uas' if timer.remote_refreshes else 'uac'}\r\n"
        return lines

    def in_order(self, request: Request) -> bool:
        """Take the CSeq of an in-dialog request; False where it is too low."""
        return self.dialog.accepts_cseq(request)
