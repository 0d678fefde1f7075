"""Requests within a call: what one party asks is carried over to the other, and the answer back.

An offer (re-INVITE or UPDATE with a description) passes through the relay on its way, the answer on its way back; only
when both have gone through are they in force. While one is under way no other may begin (RFC 3264 section 4), and a
re-anchoring waits for it. INFO, MESSAGE, NOTIFY, REFER and OPTIONS pass beside all that.

A relay that is lost meanwhile is replaced by another one on the spot. Where a party could not be told of it within its
own exchange, its leg's ``session`` says so, and the re-anchoring that follows brings it up to date.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kedge.base.timers import Timer, TimerTarget
from kedge.call import late_reinvite
from kedge.call.endings import Acker
from kedge.call.passing import pass_headers, passed_lines
from kedge.call.replacement import Replacement
from kedge.relay.backend import RelayReply
from kedge.sip.body import Body, sdp_in, sdp_of
from kedge.sip.message import Request, Response, make_response
from kedge.sip.offer_answer import drop_unasked_keys
from kedge.sip.sdp import SdpError, parse_sdp
from kedge.sip.transaction import ClientOwner, ClientTransaction, ServerTransaction

if TYPE_CHECKING:
    from collections.abc import Callable

    from kedge.call.b2bua import B2bua
    from kedge.call.leg import Leg

_QUEUED_TOO_LONG: Final = 1
_TARGET_REFRESH: Final = frozenset({"INVITE", "UPDATE"})


class Bridge(ClientOwner, TimerTarget):
    """One request of one party, on its way to the other."""

    __slots__ = (
        "_acker",
        "_cancelled",
        "_client",
        "_cseq",
        "_exchange",
        "_offer",
        "_request",
        "_timer",
        "_tx",
        "b2bua",
        "call",
        "far",
        "late_offer",
        "near",
        "replacement",
        "sent",
    )

    def __init__(self, b2bua: B2bua, near: Leg, tx: ServerTransaction, request: Request, offer: Body) -> None:
        self.b2bua = b2bua
        self.near = near
        self.far = near.other
        self.call = near.call
        self._tx = tx
        self._request = request
        self._offer = offer
        self._exchange = request.method == "INVITE" or bool(offer.sdp)
        """Whether it is an offer/answer exchange: then it is the call's only one while it lasts."""
        self.sent = b""
        """What the far party was offered, or the near one in a 200 to an INVITE without a description."""
        self.late_offer = b""
        """What the far party offered in its 200 to an INVITE without a description, until the answer has come."""
        self._client: ClientTransaction | None = None
        self._cseq = 0
        self._acker: Acker | None = None
        """Set once the far party has sent a 2xx to an INVITE."""
        self._timer: Timer | None = None
        self.replacement = Replacement(b2bua, near.call)
        self._cancelled = False

    # --- the way there ----------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, b2bua: B2bua, near: Leg, tx: ServerTransaction, request: Request, now: float) -> None:
        """Carry a request over, or answer it with why not."""
        try:
            offer = sdp_of(request)
            if offer.sdp:
                parse_sdp(offer.sdp)
        except SdpError as error:
            b2bua.reject(tx, request, error.status, now)
            return
        if near.call.setup is not None:
            # Nothing but the set-up's own exchange before both dialogs are confirmed.
            b2bua.reject(tx, request, 491 if offer.sdp or request.method == "INVITE" else 480, now)
            return
        bridge = cls(b2bua, near, tx, request, offer)
        if bridge._exchange:
            bridge._open_exchange(now)
        else:
            bridge._forward(offer.with_sdp(b""), now)

    def _open_exchange(self, now: float) -> None:
        """Begin an offer/answer exchange, or wait for one of ours on the other leg."""
        b2bua, near, call = self.b2bua, self.near, self.call
        if near.server is not None:
            # Its own last one is not answered yet (RFC 3261 section 14.2, RFC 3311 section 5.2).
            b2bua.reject(self._tx, self._request, 500, now, **{"Retry-After": str(b2bua.rng.randint(0, 10))})
            return
        if near.busy or call.bridge is not None:
            b2bua.reject(self._tx, self._request, 491, now)  # ours, or the other party's, is under way
            return
        near.server = self._tx
        self._tx.data = self
        call.bridge = self
        if self._must_wait():
            self._timer = b2bua.timers.schedule(now + b2bua.settings.busy_timeout, self, _QUEUED_TOO_LONG)
        else:
            self._begin(now)

    def _must_wait(self) -> bool:
        """Whether an exchange of ours with the other party is under way, or a relay is being told of the call."""
        move = self.call.move
        return self.far.busy or (move is not None and move.asking)

    def resume(self, now: float) -> None:
        """Go on if it was waiting: the re-anchoring in its way has ended or the other leg is free."""
        if self._timer is not None and not self._must_wait():
            self.b2bua.timers.cancel(self._timer)
            self._timer = None
            self._begin(now)

    def on_timer(self, kind: int, now: float) -> None:
        """Our own exchange took too long: the party may try again later (RFC 3261 section 14.2)."""
        self._timer = None
        self.fail(491, now)

    def _begin(self, now: float) -> None:
        call, near = self.call, self.near
        if self._cancelled:
            self.fail(487, now)
        elif call.is_lost and not self.other_relay(now):
            self.fail(503, now)
        elif not self._offer.sdp or call.relay is None:
            self._forward(self._offer.with_sdp(b""), now)
        else:
            self.b2bua.offer(call, near.tag, self.far.tag, self._offer.sdp, self._offered, now)

    def other_relay(self, now: float) -> bool:
        """The relay is lost: the party's own exchange brings the call to another one. False where none has room."""
        call = self.call
        same_again = call.relay is not None and call.is_lost
        return self.replacement.take(now, same_again=same_again)

    def _offered(self, reply: RelayReply, now: float) -> None:
        if self.call.bridge is not self:
            return
        if reply.sdp is None:
            if self.call.is_lost:
                self._begin(now)
            else:
                self.fail(503, now)
        elif self._cancelled:
            self._restore(now)
            self.fail(487, now)
        else:
            self.sent = self.far.origin.stamp(reply.sdp)
            self._forward(self._offer.with_sdp(self.sent), now)

    def _forward(self, body: tuple[bytes, str], now: float) -> None:
        b2bua, request, far = self.b2bua, self._request, self.far
        branch = b2bua.ids.branch()
        lines = passed_lines(request, trusted=self.near.peer.trusted and far.peer.trusted)
        data = far.dialog.request(request.method, branch, lines, body[0], body[1])
        self._cseq = far.dialog.local_cseq
        self._client = b2bua.sip.send_request(request.method, branch, data, far.dialog.destination, self, now)
        if self._exchange:
            far.client = self._client
        if request.method == "INVITE":
            b2bua.sip.respond(self._tx, make_response(request, 100), now)

    # --- the way back -----------------------------------------------------------------------------------------------

    def on_response(self, tx: ClientTransaction, response: Response, now: float) -> None:
        """Take the far party's response."""
        if response.is_provisional or tx is not self._client:
            return
        self._client = None
        invited = response.is_success and tx.method == "INVITE"
        if invited:
            tx.owner = self._acker = Acker(self.b2bua, self.far, self._cseq)
        elif self.far.client is tx:
            self.far.client = None
        if not self.call.alive:
            if invited:
                self.ack(self.far.local if not self._offer.sdp else b"")
        elif response.is_success:
            self._succeeded(response, now)
        else:
            if self._exchange:
                self._restore(now)
            self.respond(response.status, response, now)

    def _succeeded(self, response: Response, now: float) -> None:
        if self._request.method in _TARGET_REFRESH:
            self.far.refresh_target(response)
            self.far.learn_session_timer(response, we_are_uac=True)
        if not self._exchange:
            self.respond(response.status, response, now)
            return
        if self._offer.sdp:
            if self._acker is not None:
                self.ack()
            self._take_answer(drop_unasked_keys(sdp_in(response), self.sent), response, now)
        else:
            late_reinvite.pass_on(self, sdp_in(response), response, now)

    def ack(self, sdp: bytes = b"") -> None:
        """ACK the far party's 2xx: its leg is free again."""
        if self._acker is not None:
            self._acker.ack(sdp)
        self.far.client = None

    def _take_answer(self, answer: bytes, response: Response, now: float) -> None:
        call = self.call
        if not answer or call.relay is None:
            self.far.session = ""  # nobody knows what it holds to be in force
            self._restore(now)
            self.fail(488, now)
            return

        def answered(reply: RelayReply, now: float) -> None:
            if call.bridge is not self:
                return
            if reply.sdp is None:
                self._answer_elsewhere(answer, response, now)
            else:
                self._agreed(answer, self.near.origin.stamp(reply.sdp), call.session, response, now)

        self.b2bua.answer(call, self.near.tag, self.far.tag, answer, answered, now)

    def _agreed(self, answer: bytes, local: bytes, far_session: str, response: Response, now: float) -> None:
        """Both descriptions are in force; the far party was told those of ``far_session``."""
        near = self.near
        try:
            self.far.set_in_force(local=self.sent, remote=answer, session=far_session)
            near.set_in_force(local=local, remote=self._offer.sdp, session=self.call.session)
        except SdpError:
            self.far.session = ""
            self.fail(488, now)
            return
        self.respond(response.status, response, now, local)

    def _answer_elsewhere(self, answer: bytes, response: Response, now: float) -> None:
        """The relay was lost between offer and answer: the near one's answer carries another, the far is told after."""

        def done(sdp: bytes | None, now: float) -> None:
            if sdp is not None:
                self._agreed(answer, self.near.origin.stamp(sdp), "", response, now)
                return
            self.far.session = ""
            self.fail(503, now)

        self.replay(self.near, self._offer.sdp, answer, done, now)

    def replay(
        self, offerer: Leg, offer: bytes, answer: bytes, done: Callable[[bytes | None, float], None], now: float
    ) -> None:
        """Give both descriptions to another relay; ``done`` gets what it has for the offerer, None if there is none."""
        call, other = self.call, offerer.other.tag
        self.replacement.replay(
            (offerer.tag, other, offer), (other, answer), self.other_relay, lambda: call.bridge is self, done, now
        )

    def acked(self, request: Request, now: float) -> None:
        """The party has ACKed our 2xx."""
        self.b2bua.sip.stop_2xx(self._tx, now)
        if self.near.awaiting_ack is not self:
            return
        if self._offer.sdp:
            self.close(now)
        elif self.late_offer:
            late_reinvite.take_answer(self, drop_unasked_keys(sdp_in(request), self.sent), now)

    # --- the end ----------------------------------------------------------------------------------------------------

    def _restore(self, now: float) -> None:
        """Give the relay the descriptions in force again: the refused offer has changed them there."""
        call, near, far = self.call, self.near, self.far
        if not self._offer.sdp or call.relay is None or not near.pruned or not far.pruned:
            return
        session = call.session

        def offered(reply: RelayReply, now: float) -> None:
            if reply.sdp is not None and call.session == session:
                self.b2bua.answer(call, near.tag, far.tag, far.pruned, _done, now)

        self.b2bua.offer(call, near.tag, far.tag, near.pruned, offered, now)

    def on_timeout(self, tx: ClientTransaction, now: float) -> None:
        """The far party did not answer: RFC 3261 section 14.1 counts that as a failed re-INVITE, not a dead call."""
        if tx is not self._client:
            return
        self._client = None
        if self.far.client is tx:
            self.far.client = None
        if self.call.alive:
            if self._exchange:
                self._restore(now)
            self.fail(408, now)

    def fail(self, status: int, now: float) -> None:
        """Refuse what was asked, and let others begin."""
        self.b2bua.reject(self._tx, self._request, status, now)
        self.close(now)

    def respond(self, status: int, source: Response, now: float, sdp: bytes = b"") -> None:
        """Pass a final response to the party that asked; after a 2xx to INVITE the ACK ends the exchange."""
        near = self.near
        response = make_response(self._request, status, source.reason)
        pass_headers(source, response, trusted=near.peer.trusted and self.far.peer.trusted)
        if sdp:
            response.body = sdp
            response.set("Content-Type", "application/sdp")
        elif source.body and not self._exchange:
            response.body = source.body
            response.set("Content-Type", source.get("Content-Type") or "application/octet-stream")
        if status < 300 and self._request.method in _TARGET_REFRESH:
            near.refresh_target(self._request)
            near.learn_session_timer(response, we_are_uac=False)
            response.add("Contact", near.dialog.contact)
        self.b2bua.sip.respond(self._tx, response, now)
        if status < 300 and self._request.method == "INVITE":
            near.awaiting_ack = self
            near.server = None
        elif self._exchange:
            self.close(now)

    def close(self, now: float) -> None:
        """Let others begin."""
        b2bua, call, near = self.b2bua, self.call, self.near
        b2bua.timers.cancel(self._timer)
        self._timer = None
        self._tx.data = None
        if call.bridge is not self:
            return
        call.bridge = None
        near.server = near.awaiting_ack = None
        if call.alive:
            b2bua.failover.settled(call, now)

    def cancelled(self, now: float) -> None:
        """The party has cancelled its re-INVITE: so is ours, whose final response ends both."""
        self._cancelled = True
        if self._client is not None:
            self.b2bua.sip.cancel(self._client, now)
        elif self._timer is not None:
            self.fail(487, now)

    def no_ack(self, now: float) -> None:
        """The party never ACKed our 2xx (RFC 3261 section 14.2: BYE)."""
        if self.call.alive:
            self.b2bua.hang_up(self.call, now, reason="No ACK for the 200 to a re-INVITE", cause=408)

    def call_ended(self, now: float) -> None:
        """The call is over: answer what is still open (RFC 3261 section 15.1.2: 487)."""
        b2bua, near = self.b2bua, self.near
        b2bua.timers.cancel(self._timer)
        self._timer = None
        if self._acker is not None and not self._acker.sent:
            self.ack(self.far.local)
        if near.server is not None:
            b2bua.sip.respond(self._tx, b2bua.own_response(self._request, 487), now)
        else:
            b2bua.sip.stop_2xx(self._tx, now)
        near.server = near.awaiting_ack = None
        self.call.bridge = None
        self._tx.data = None


def _done(reply: RelayReply, now: float) -> None:
    """The relay has the old descriptions again; if not, the next exchange puts them right."""
