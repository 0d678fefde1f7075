"""What outlives its call for a while: ACKs for repeated 200s, answers that come too late, and a BYE that must wait.

These hold no call, so that a call's memory is free when it ends, whatever its last transactions still linger for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kedge.base.timers import TimerTarget
from kedge.sip.dialog import Dialog
from kedge.sip.message import Response
from kedge.sip.transaction import ClientOwner, ClientTransaction, ServerTransaction

if TYPE_CHECKING:
    from kedge.base.address import Address
    from kedge.call.b2bua import B2bua
    from kedge.call.leg import Leg
    from kedge.call.routing import Peer
    from kedge.relay.fleet import Relay


class Unattended(ClientOwner):
    """Owns transactions whose outcome changes nothing: BYE, and requests towards calls that have ended."""

    __slots__ = ()

    def on_response(self, tx: ClientTransaction, response: Response, now: float) -> None:
        """Let it be."""

    def on_timeout(self, tx: ClientTransaction, now: float) -> None:
        """Let it be: the call is over on our side (RFC 3261 section 15.1.1)."""


class Leftover(ClientOwner):
    """Owns an INVITE that nobody waits for any more: a 200 that comes all the same is ACKed and ended with BYE."""

    __slots__ = ("_b2bua", "_dialog", "_peer", "_source")

    def __init__(self, b2bua: B2bua, leg: Leg) -> None:
        self._b2bua = b2bua
        self._dialog = leg.dialog
        self._peer = leg.peer
        self._source = leg.source

    def on_response(self, tx: ClientTransaction, response: Response, now: float) -> None:
        """End the dialog that a late 200 has made."""
        if response.is_success:
            self.end(response, now)

    def end(self, response: Response, now: float) -> None:
        """ACK and BYE a dialog that is not wanted (RFC 3261 section 13.2.2.4)."""
        b2bua, old = self._b2bua, self._dialog
        dialog = Dialog(
            call_id=old.call_id, local=old.local, local_tag=old.local_tag, remote=old.remote,
            remote_tag=response.to_tag, via=b2bua.settings.address,
        )  # fmt: skip
        dialog.local_cseq = response.cseq
        dialog.learn_routes(response)
        dialog.refresh_target(response)
        aim(dialog, self._peer, self._source)
        b2bua.sip.send(dialog.ack(response.cseq, b2bua.ids.branch()), dialog.destination)
        b2bua.send_bye(dialog, "", now)

    def on_timeout(self, tx: ClientTransaction, now: float) -> None:
        """Nothing waits for it."""


class Acker(ClientOwner):
    """Owns an INVITE of ours that got its 2xx: sends the ACK, again for a repeated 2xx, and ends other forks."""

    __slots__ = ("_b2bua", "_body", "_cseq", "_dialog", "_forks", "sent")

    def __init__(self, b2bua: B2bua, leg: Leg, cseq: int) -> None:
        self._b2bua = b2bua
        self._dialog = leg.dialog
        self._cseq = cseq
        self._body = b""
        self._forks = Leftover(b2bua, leg)
        self.sent = False
        """Whether the ACK was sent. The one to a late offer has to wait for the answer that goes with it."""

    def ack(self, body: bytes = b"") -> None:
        """Send the ACK (RFC 3261 section 13.2.2.4)."""
        self._body = body
        self.sent = True
        data = self._dialog.ack(self._cseq, self._b2bua.ids.branch(), self._body)
        self._b2bua.sip.send(data, self._dialog.destination)

    def on_response(self, tx: ClientTransaction, response: Response, now: float) -> None:
        """Take a further 2xx."""
        if not response.is_success:
            return
        if response.to_tag != self._dialog.remote_tag:
            self._forks.end(response, now)
        elif self.sent:
            self.ack(self._body)

    def on_timeout(self, tx: ClientTransaction, now: float) -> None:
        """Not after a final response."""


class Farewell:
    """A call that ended before the caller had ACKed our 200: the BYE may not leave before (RFC 3261 section 15)."""

    __slots__ = ("_b2bua", "_lines", "_tx", "dialog")

    def __init__(self, b2bua: B2bua, dialog: Dialog, tx: ServerTransaction, lines: str) -> None:
        self._b2bua = b2bua
        self.dialog = dialog
        self._tx = tx
        self._lines = lines
        tx.data = self
        b2bua.farewells[dialog.local_tag] = self

    def say(self, now: float) -> None:
        """The ACK has come, or will never come: send the BYE."""
        self._b2bua.farewells.pop(self.dialog.local_tag, None)
        self._b2bua.sip.stop_2xx(self._tx, now)
        self._tx.data = None
        self._b2bua.send_bye(self.dialog, self._lines, now)


def aim(dialog: Dialog, peer: Peer, source: Address) -> None:
    """Choose where in-dialog requests go: as RFC 3261 section 12.2.1.1 says if that is the peer's, else its source.

    A Contact that points elsewhere is a NAT's private address or an attempt to make Kedge send to strangers.
    """
    hop = dialog.next_hop()
    dialog.destination = hop if hop is not None and peer.covers(hop[0]) >= 0 else source


class Linger(TimerTarget):
    """Deletes the session that a moved call has left at a living relay, and lets the relay go that was held for it."""

    __slots__ = ("_b2bua", "_relay", "_session")

    def __init__(self, b2bua: B2bua, relay: Relay, session: str) -> None:
        self._b2bua = b2bua
        self._relay = relay
        self._session = session

    def on_timer(self, kind: int, now: float) -> None:
        """Delete it."""
        self._b2bua.delete_session(self._relay, self._session, now)
        self._b2bua.fleet.unhold(self._relay)
