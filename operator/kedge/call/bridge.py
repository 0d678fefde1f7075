"""Requests within a call: what one party asks is carried over to the other, and the answer back.

An offer (re-INVITE or UPDATE with a description) passes through the relay on its way, the answer on its way back; only
when both have gone through are they in force. While one is under way no other may begin (RFC 3264 section 4), and a
re-anchoring waits for it. INFO, MESSAGE, NOTIFY, REFER and OPTIONS pass beside all that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kedge.base.timers import Timer, TimerTarget
from kedge.call.call import Then
from kedge.call.passing import pass_headers, passed_lines
from kedge.relay.backend import RelayReply
from kedge.sip.body import Body, sdp_of
from kedge.sip.message import Request, Response, make_response
from kedge.sip.sdp import SdpError, parse_sdp
from kedge.sip.transaction import ClientOwner, ClientTransaction, ServerTransaction

if TYPE_CHECKING:
    from kedge.call.b2bua import B2bua
    from kedge.call.leg import Leg

_QUEUED_TOO_LONG: Final = 1
_TARGET_REFRESH: Final = frozenset({"INVITE", "UPDATE"})


class Bridge(ClientOwner, TimerTarget):
    """One request of one party, on its way to the other."""

    __slots__ = (
        "_b2bua",
        "_client",
        "_cseq",
        "_late_offer",
        "_near",
        "_offer",
        "_request",
        "_sent",
        "_timer",
        "_tx",
        "call",
        "far",
    )

    def __init__(self, b2bua: B2bua, near: Leg, tx: ServerTransaction, request: Request, offer: Body) -> None:
        self._b2bua = b2bua
        self._near = near
        self.far = near.other
        self.call = near.call
        self._tx = tx
        self._request = request
        self._offer = offer
        self._sent = b""
        """What the far party was offered."""
        self._late_offer = b""
        """What the far party offered in its 200 to an INVITE without a description."""
        self._client: ClientTransaction | None = None
        self._cseq = 0
        self._timer: Timer | None = None

    # --- the way there ----------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, b2bua: B2bua, near: Leg, tx: ServerTransaction, request: Request, now: float) -> None:
        """Carry a request over, or answer it with why not."""
        call = near.call
        try:
            offer = sdp_of(request)
            if offer.sdp:
                parse_sdp(offer.sdp)
        except SdpError as error:
            b2bua.reject(tx, request, error.status, now)
            return
        if call.setup is not None:
            # Nothing but the set-up's own exchange before both dialogs are confirmed.
            b2bua.reject(tx, request, 491 if offer.sdp or request.method == "INVITE" else 480, now)
            return
        bridge = cls(b2bua, near, tx, request, offer)
        if request.method in _TARGET_REFRESH:
            near.refresh_target(request)
        if request.method == "INVITE" or offer.sdp:
            bridge._open_exchange(now)
        else:
            bridge._forward(offer.with_sdp(b""), now)

    def _open_exchange(self, now: float) -> None:
        """Begin an offer/answer exchange, or wait for one of ours on the other leg."""
        b2bua, near, call = self._b2bua, self._near, self.call
        if near.client is not None or call.bridge is not None or near.busy:
            # Ours or the other party's is under way (RFC 3261 section 14.2).
            b2bua.reject(self._tx, self._request, 491, now)
            return
        near.server = self._tx
        self._tx.data = self
        call.bridge = self
        if self.far.busy or (call.move is not None and call.move.preparing):
            self._timer = b2bua.timers.schedule(now + b2bua.settings.busy_timeout, self, _QUEUED_TOO_LONG)
            return
        self._begin(now)

    def resume(self, now: float) -> None:
        """Go on if it was waiting: the re-anchoring in its way has ended or the other leg is free."""
        if self._timer is not None and not self.far.busy:
            self._b2bua.timers.cancel(self._timer)
            self._timer = None
            self._begin(now)

    @property
    def waiting(self) -> bool:
        """Whether it has not begun, as our own re-INVITEs are in its way."""
        return self._timer is not None

    def on_timer(self, kind: int, now: float) -> None:
        """Our own exchange took too long: the party may try again later (RFC 3261 section 14.2)."""
        self._timer = None
        self._fail(491, now)

    def _begin(self, now: float) -> None:
        call, near = self.call, self._near
        if self._b2bua.failover.is_lost(call) and not self._other_relay():
            self._fail(503, now)
            return
        if not self._offer.sdp or call.relay is None:
            self._forward(self._offer.with_sdp(b""), now)
            return
        call.relay.client.offer(call.session, near.tag, self.far.tag, self._offer.sdp, Then(self._offered), 0, now)

    def _other_relay(self) -> bool:
        """The relay is lost: the party's own exchange brings the call to another one. False where none has room."""
        b2bua, call = self._b2bua, self.call
        relay = b2bua.fleet.pick(call.relay_set)
        if relay is None:
            return False
        b2bua.fleet.reserve(relay)
        b2bua.attach(call, relay, call.new_session())
        return True

    def _offered(self, reply: RelayReply, now: float) -> None:
        if self.call.bridge is not self:
            return
        if reply.sdp is None:
            self._fail(503, now)
            return
        self._sent = self.far.origin.stamp(reply.sdp)
        self._forward(self._offer.with_sdp(self._sent), now)

    def _forward(self, body: tuple[bytes, str], now: float) -> None:
        b2bua, request, far = self._b2bua, self._request, self.far
        branch = b2bua.ids.branch()
        lines = passed_lines(request, trusted=self._near.peer.trusted and far.peer.trusted)
        data = far.dialog.request(request.method, branch, lines, body[0], body[1])
        self._cseq = far.dialog.local_cseq
        self._client = b2bua.sip.send_request(request.method, branch, data, far.dialog.destination, self, now)
        if self.call.bridge is self:
            far.client = self._client
        if request.method == "INVITE":
            b2bua.sip.respond(self._tx, make_response(request, 100), now)

    # --- the way back -----------------------------------------------------------------------------------------------

    def on_response(self, tx: ClientTransaction, response: Response, now: float) -> None:
        """Take the far party's response."""
        if response.is_provisional:
            return
        if tx is not self._client:
            if response.is_success and tx.method == "INVITE":
                self._ack(now)  # a repeated 200
            return
        if not self.call.alive:
            self._client = None
            if response.is_success and tx.method == "INVITE":
                self._ack(now)
            return
        if response.is_success:
            self._succeeded(response, now)
        else:
            self._client = None
            self._refused(response, now)

    def _succeeded(self, response: Response, now: float) -> None:
        self._client = None
        if self._request.method in _TARGET_REFRESH:
            self.far.refresh_target(response)
            self.far.learn_session_timer(response, we_are_uac=True)
        if self.call.bridge is not self:
            self._respond(response.status, response, now)
            return
        try:
            sdp = sdp_of(response).sdp
        except SdpError:
            sdp = b""
        if self._offer.sdp:
            if self._request.method == "INVITE":
                self._ack(now)
            self._answer(sdp, response, now)
        else:
            self._pass_late_offer(sdp, response, now)

    def _ack(self, now: float, sdp: bytes = b"") -> None:
        dialog = self.far.dialog
        self._b2bua.sip.send(dialog.ack(self._cseq, self._b2bua.ids.branch(), sdp), dialog.destination)
        self.far.client = None

    def _answer(self, answer: bytes, response: Response, now: float) -> None:
        call = self.call
        self.far.client = None
        if not answer or call.relay is None:
            self._restore(now)
            self._fail(488 if not answer else 503, now)
            return

        def answered(reply: RelayReply, now: float) -> None:
            if call.bridge is self:
                self._answered(answer, response, reply, now)

        call.relay.client.answer(call.session, self._near.tag, self.far.tag, answer, Then(answered), 0, now)

    def _answered(self, answer: bytes, response: Response, reply: RelayReply, now: float) -> None:
        if reply.sdp is None:
            self._lost_relay(answer, response, now)
            return
        near = self._near
        local = near.origin.stamp(reply.sdp)
        try:
            session = self.call.session
            self.far.set_in_force(local=self._sent, remote=answer, session=session)
            near.set_in_force(local=local, remote=self._offer.sdp, session=session)
        except SdpError:
            self._fail(488, now)
            return
        self._respond(response.status, response, now, local)

    def _lost_relay(self, answer: bytes, response: Response, now: float) -> None:
        """The relay died between offer and answer. The party gets the description that it had: the move that follows
        brings both up to date (the far party's answer counts as in force there)."""  # noqa: D205, D209
        far, near = self.far, self._near
        try:
            far.set_in_force(local=self._sent, remote=answer, session="")
        except SdpError:
            self._fail(488, now)
            return
        near.remote = near.pruned = self._offer.sdp
        near.session = ""
        self._respond(response.status, response, now, near.local)

    def _pass_late_offer(self, offer: bytes, response: Response, now: float) -> None:
        call, near = self.call, self._near
        if not offer or call.relay is None:
            self._ack(now)
            self._fail(503, now)
            return
        self._late_offer = offer

        def offered(reply: RelayReply, now: float) -> None:
            if call.bridge is not self:
                return
            if reply.sdp is None:
                # The far party's offer must be answered all the same: with what is in force.
                self._ack(now, self.far.local)
                self._fail(503, now)
                return
            self._sent = near.origin.stamp(reply.sdp)
            self._respond(response.status, response, now, self._sent)

        call.relay.client.offer(call.session, self.far.tag, near.tag, offer, Then(offered), 0, now)

    # --- the end ----------------------------------------------------------------------------------------------------

    def _refused(self, response: Response, now: float) -> None:
        if self.call.bridge is self:
            self.far.client = None
            self._restore(now)
            self._close(now)
        self._respond_final(response.status, response, now)

    def _restore(self, now: float) -> None:
        """Give the relay the descriptions in force again: the refused offer has changed them there."""
        call, near, far = self.call, self._near, self.far
        if not self._offer.sdp or call.relay is None or not near.pruned or not far.pruned:
            return
        relay, session = call.relay, call.session

        def offered(reply: RelayReply, now: float) -> None:
            if reply.sdp is not None and call.alive:
                relay.client.answer(session, near.tag, far.tag, far.pruned, Then(_done), 0, now)

        relay.client.offer(session, near.tag, far.tag, near.pruned, Then(offered), 0, now)

    def on_timeout(self, tx: ClientTransaction, now: float) -> None:
        """The far party did not answer: RFC 3261 section 14.1 counts that as a failed re-INVITE, not a dead call."""
        if tx is self._client:
            self._client = None
            self.far.client = None
            if self.call.alive:
                self._restore(now)
                self._fail(408, now)

    def _fail(self, status: int, now: float) -> None:
        if self.call.bridge is self:
            self._close(now)
        self._b2bua.reject(self._tx, self._request, status, now)

    def _respond(self, status: int, source: Response, now: float, sdp: bytes = b"") -> None:
        """Pass a 2xx to the party that asked; with INVITE its ACK ends the exchange."""
        near = self._near
        if self.call.bridge is self and self._request.method == "INVITE":
            near.awaiting_ack = self
            near.server = None
        elif self.call.bridge is self:
            self._close(now)
        self._respond_final(status, source, now, sdp)

    def _respond_final(self, status: int, source: Response, now: float, sdp: bytes = b"") -> None:
        near = self._near
        response = make_response(self._request, status, source.reason)
        if self._request.method in _TARGET_REFRESH and status < 300:
            response.add("Contact", near.dialog.contact)
        pass_headers(source, response, trusted=near.peer.trusted and self.far.peer.trusted)
        if sdp:
            response.body = sdp
            response.set("Content-Type", "application/sdp")
        elif source.body and self.call.bridge is not self and not self._offer.sdp:
            response.body = source.body
            response.set("Content-Type", source.get("Content-Type") or "application/octet-stream")
        if status < 300:
            near.learn_session_timer(response, we_are_uac=False)
        self._b2bua.sip.respond(self._tx, response, now)

    def acked(self, request: Request, now: float) -> None:
        """The party has ACKed our 2xx."""
        self._b2bua.sip.stop_2xx(self._tx, now)
        if not self._late_offer:
            self._finish(now)
            return
        try:
            answer = sdp_of(request).sdp
        except SdpError:
            answer = b""
        self._take_late_answer(answer, now)

    def _take_late_answer(self, answer: bytes, now: float) -> None:
        call, near, far = self.call, self._near, self.far
        offer, self._late_offer = self._late_offer, b""
        if not answer or call.relay is None:
            self._ack(now, far.local)
            self._finish(now)
            return

        def answered(reply: RelayReply, now: float) -> None:
            if not call.alive:
                return
            local = far.origin.stamp(reply.sdp) if reply.sdp is not None else far.local
            self._ack(now, local)
            try:
                far.set_in_force(local=local, remote=offer, session=call.session)
                near.set_in_force(local=self._sent, remote=answer, session=call.session)
            except SdpError as error:
                self._b2bua.hang_up(call, now, reason=str(error), cause=488)
                return
            self._finish(now)

        call.relay.client.answer(call.session, far.tag, near.tag, answer, Then(answered), 0, now)

    def _finish(self, now: float) -> None:
        self._near.awaiting_ack = None
        self._close(now)

    def _close(self, now: float) -> None:
        """Let others begin."""
        b2bua, call = self._b2bua, self.call
        b2bua.timers.cancel(self._timer)
        self._timer = None
        self._near.server = None
        if call.bridge is self:
            call.bridge = None
            self.far.client = None
        self._tx.data = None
        if call.alive:
            b2bua.failover.settled(call, now)

    def cancelled(self, request: Request, now: float) -> None:
        """The party has cancelled its re-INVITE: so is ours; its final response ends both."""
        if self._client is not None:
            self._b2bua.sip.cancel(self._client, now)
        elif self.waiting:
            self._fail(487, now)

    def no_ack(self, now: float) -> None:
        """The party never ACKed our 2xx (RFC 3261 section 14.2: BYE)."""
        if self.call.alive:
            self._b2bua.hang_up(self.call, now, reason="No ACK for the 200 to a re-INVITE", cause=408)

    def call_ended(self, now: float) -> None:
        """The call is over: answer what is still open (RFC 3261 section 15.1.2: 487)."""
        b2bua = self._b2bua
        b2bua.timers.cancel(self._timer)
        self._timer = None
        if self._near.server is not None and self._near.awaiting_ack is None:
            b2bua.sip.respond(self._tx, make_response(self._request, 487), now)
        elif self._near.awaiting_ack is not None:
            b2bua.sip.stop_2xx(self._tx, now)
        self._near.server = self._near.awaiting_ack = None
        self.call.bridge = None
        self._tx.data = None


def _done(reply: RelayReply, now: float) -> None:
    """The relay has the old descriptions again; if not, the next exchange puts them right."""
