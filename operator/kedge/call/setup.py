"""The set-up of one call: from the caller's INVITE to its ACK.

    INVITE -> offer at a relay -> INVITE to the next hop -> 18x, answers at the relay -> 200 to the caller -> ACK

A late offer (INVITE without a description) goes the other way round: the callee's 200 holds the offer, and the
caller's ACK the answer. A relay that fails before the callee was asked is replaced without anyone noticing; one that
is lost later makes the call move as soon as the caller has ACKed, as the description that the callee holds cannot be
changed before (RFC 6337 section 3.1).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from kedge.base.address import Address, host_for_uri
from kedge.base.timers import Timer, TimerTarget
from kedge.call.call import CALLEE_TAG, CALLER_TAG, Call, Then
from kedge.call.leg import Leg
from kedge.call.passing import pass_headers, passed_lines
from kedge.call.routing import Peer, Route
from kedge.relay.backend import RelayReply
from kedge.sip.body import Body, sdp_of
from kedge.sip.dialog import Dialog
from kedge.sip.errors import ParseError
from kedge.sip.headers import parse_name_addr
from kedge.sip.message import Request, Response, make_response
from kedge.sip.sdp import Origin, SdpError, parse_sdp
from kedge.sip.transaction import ClientOwner, ClientTransaction, ServerTransaction
from kedge.sip.uri import SipUri, parse_uri

if TYPE_CHECKING:
    from kedge.call.b2bua import B2bua
    from kedge.relay.fleet import Relay

_RELAY_TRIES: Final = 3
_NO_ANSWER: Final = 1
_NO_RESPONSE: Final = 2


class LateAcker(ClientOwner):
    """Owns the callee's INVITE transaction once the call is up: repeats the ACK for a repeated 200.

    It holds the dialog alone, so that the rest of the set-up can be let go while the transaction lingers.
    """

    __slots__ = ("_b2bua", "_cseq", "_dialog", "body")

    def __init__(self, b2bua: B2bua, dialog: Dialog, cseq: int, body: bytes = b"") -> None:
        self._b2bua = b2bua
        self._dialog = dialog
        self._cseq = cseq
        self.body = body

    def ack(self) -> None:
        """Send the ACK (RFC 3261 section 13.2.2.4)."""
        data = self._dialog.ack(self._cseq, self._b2bua.ids.branch(), self.body)
        self._b2bua.sip.send(data, self._dialog.destination)

    def on_response(self, tx: ClientTransaction, response: Response, now: float) -> None:
        """Repeat the ACK for the same dialog's 200; another fork's 200 was dealt with before."""
        if response.is_success and response.to_tag == self._dialog.remote_tag:
            self.ack()

    def on_timeout(self, tx: ClientTransaction, now: float) -> None:
        """Not after a final response."""


class Setup(ClientOwner, TimerTarget):
    """Drives one call until it is established or refused."""

    __slots__ = (
        "_b2bua",
        "_cancelled",
        "_client",
        "_early",
        "_early_sent",
        "_hop",
        "_offer",
        "_relay_busy",
        "_request",
        "_route",
        "_sent",
        "_target",
        "_tries",
        "_tx",
        "_waiting",
        "acker",
        "call",
        "timer",
    )

    def __init__(
        self, b2bua: B2bua, call: Call, tx: ServerTransaction, request: Request, route: Route, uri: SipUri, offer: Body
    ) -> None:
        self._b2bua = b2bua
        self.call = call
        self._tx = tx
        self._request = request
        self._route = route
        self._target = uri
        self._offer = offer
        self._hop = -1
        self._tries = 0
        self._sent = b""
        """What the relay made of the offer."""
        self._client: ClientTransaction | None = None
        self._early = b""
        """The answer in a 183 that the relay has been given, as the callee wrote it."""
        self._early_sent = b""
        """What the caller was given for it: a 200 repeats it (RFC 6337 section 3.1)."""
        self._relay_busy = False
        self._waiting: deque[Response] = deque()
        """Responses that came while the relay worked on one before."""
        self._cancelled = False
        self.timer: Timer | None = None
        self.acker: LateAcker | None = None

    # --- admission --------------------------------------------------------------------------------------------------

    @classmethod
    def begin(cls, b2bua: B2bua, tx: ServerTransaction, request: Request, peer: Peer, now: float) -> None:
        """Route an INVITE and start its set-up, or refuse it."""
        try:
            uri = parse_uri(request.uri)
            offer = sdp_of(request)
            if offer.sdp:
                parse_sdp(offer.sdp)
            caller = parse_name_addr(request.get("From") or "")
            parse_name_addr(request.get("To") or "")
            parse_name_addr(request.get("Contact") or "")
        except ParseError:
            b2bua.reject(tx, request, 400, now)
            return
        except SdpError as error:
            b2bua.reject(tx, request, error.status, now)
            return
        route = b2bua.routing.route_for(peer, uri)
        if route is None:
            b2bua.reject(tx, request, 404, now)
            return
        call = Call(f"call-{b2bua.ids.token()}", route.relay_set, now)
        call.emergency = "urn:service:sos" in request.uri or bool(request.get("Resource-Priority"))
        call.caller = _caller_leg(b2bua, call, tx, request, peer, caller.uri)
        setup = cls(b2bua, call, tx, request, route, uri, offer)
        call.setup = setup
        tx.data = setup
        setup._start(now)

    def _start(self, now: float) -> None:
        b2bua, request = self._b2bua, self._request
        self.call.caller.peer.calls += 1
        b2bua.register(self.call)
        b2bua.dialogs[self.call.caller.dialog.local_tag] = self.call.caller
        b2bua.setups[(request.call_id, request.from_tag, request.cseq)] = self
        b2bua.sip.respond(self._tx, make_response(request, 100), now)
        self.timer = b2bua.timers.schedule(now + b2bua.settings.ring_timeout, self, _NO_ANSWER)
        if self._offer.sdp:
            self._offer_at_relay(now)
        elif not self._next_hop(now):
            self._refuse(503, now)

    # --- the relay, first part ------------------------------------------------------------------------------------

    def _take_relay(self) -> Relay | None:
        """Reserve a place on a relay and make a session's name; None where none has room."""
        b2bua, call = self._b2bua, self.call
        relay = b2bua.fleet.pick(call.relay_set, avoid=call.relay)
        if relay is None and call.relay is not None:
            relay = b2bua.fleet.pick(call.relay_set)
        if relay is None:
            return None
        b2bua.fleet.reserve(relay)
        b2bua.attach(call, relay, call.new_session())
        self._tries += 1
        return relay

    def _offer_at_relay(self, now: float) -> None:
        relay = self._take_relay()
        if relay is None:
            self._refuse(503, now)
            return
        call = self.call
        relay.client.offer(call.session, CALLER_TAG, "", self._offer.sdp, Then(self._offered), 0, now)

    def _offered(self, reply: RelayReply, now: float) -> None:
        if self._over():
            return
        if reply.sdp is not None:
            self._sent = reply.sdp
            if not self._next_hop(now):
                self._refuse(503, now)
        elif self._tries < _RELAY_TRIES:
            self._b2bua.delete_session(self.call.relay, self.call.session, now)
            self._offer_at_relay(now)
        else:
            self._refuse(503, now)

    def _over(self) -> bool:
        return self._cancelled or not self.call.alive

    # --- the callee -------------------------------------------------------------------------------------------------

    def _next_hop(self, now: float) -> bool:
        """Send the INVITE to the next hop that may have it; False where there is none left."""
        while self._hop + 1 < len(self._route.next_hops):
            self._hop += 1
            destination = self._route.next_hops[self._hop]
            peer = self._b2bua.routing.peer_of(destination)
            if peer is not None and not peer.full:
                self._send_invite(self._new_callee(peer, destination), now)
                return True
        return False

    def _new_callee(self, peer: Peer, destination: Address) -> Leg:
        b2bua, call = self._b2bua, self.call
        previous: Leg | None = getattr(call, "callee", None)
        if previous is not None:
            b2bua.dialogs.pop(previous.dialog.local_tag, None)
            previous.peer.calls -= 1
        leg = call.callee = _callee_leg(b2bua, call, self._request, peer, destination, self._target)
        peer.calls += 1
        b2bua.dialogs[leg.dialog.local_tag] = leg
        return leg

    def _send_invite(self, leg: Leg, now: float) -> None:
        b2bua = self._b2bua
        branch = b2bua.ids.branch()
        lines = passed_lines(self._request, trusted=self.call.caller.peer.trusted and leg.peer.trusted)
        sdp = leg.origin.stamp(self._sent) if self._sent else b""
        leg.local, leg.session = sdp, self.call.session
        body, content_type = self._offer.with_sdp(sdp)
        data = leg.dialog.request("INVITE", branch, lines, body, content_type)
        self._client = b2bua.sip.send_request("INVITE", branch, data, leg.dialog.destination, self, now)
        leg.client = self._client
        b2bua.timers.cancel(self.timer)
        self.timer = b2bua.timers.schedule(now + self._route.response_timeout, self, _NO_RESPONSE)

    def on_timer(self, kind: int, now: float) -> None:
        """No response in time: the next hop. No answer in time: give up."""
        self.timer = None
        if self._over():
            return
        if kind == _NO_RESPONSE:
            self._hop_failed(408, None, now)
        else:
            self._cancel_client(now)
            self._refuse(408, now)

    def on_timeout(self, tx: ClientTransaction, now: float) -> None:
        """The transaction gave up (Timer B, or no final after CANCEL)."""
        if tx is self._client and not self._over():
            self._hop_failed(408, None, now)

    def _hop_failed(self, status: int, response: Response | None, now: float) -> None:
        self._cancel_client(now)
        self.call.callee.client = None
        if status in self._route.failover_on and self._next_hop(now):
            return
        self._refuse(status, now, response)

    def _cancel_client(self, now: float) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.owner = Leftover(self._b2bua, self.call.callee)
            self._b2bua.sip.cancel(client, now)

    # --- responses --------------------------------------------------------------------------------------------------

    def on_response(self, tx: ClientTransaction, response: Response, now: float) -> None:
        """Take a response of the callee; one at a time, as the relay may have to be asked about each."""
        if tx is not self._client or self._over():
            if response.is_success:
                Leftover(self._b2bua, self.call.callee).on_response(tx, response, now)
            return
        if self._relay_busy:
            self._waiting.append(response)
        elif response.is_provisional:
            self._provisional(response, now)
        elif response.is_success:
            self._accepted(response, now)
        else:
            self._client = None
            self._hop_failed_final(response, now)

    def _hop_failed_final(self, response: Response, now: float) -> None:
        self.call.callee.client = None
        if response.status in self._route.failover_on and self._next_hop(now):
            return
        self._refuse(response.status, now, response)

    def _relay_done(self, now: float) -> None:
        self._relay_busy = False
        while self._waiting and not self._relay_busy and self._client is not None and not self._over():
            self.on_response(self._client, self._waiting.popleft(), now)

    def _provisional(self, response: Response, now: float) -> None:
        if self.timer is not None and self.timer.kind == _NO_RESPONSE:
            b2bua = self._b2bua
            b2bua.timers.cancel(self.timer)
            self.timer = b2bua.timers.schedule(self.call.started + b2bua.settings.ring_timeout, self, _NO_ANSWER)
        if response.status == 100:
            return
        if response.get("Require") and "100rel" in (response.get("Require") or ""):
            return  # we never offered it: such a response cannot be acknowledged (RFC 3262 section 4)
        answer = self._read_sdp(response)
        if not answer or not self._offer.sdp:
            self._pass_provisional(response, b"", now)
        elif answer == self._early:
            self._pass_provisional(response, self._early_sent, now)
        else:
            self._answer_at_relay(answer, response, now)

    def _pass_provisional(self, response: Response, sdp: bytes, now: float) -> None:
        passed = self._response(response.status, response)
        if sdp:
            passed.body = sdp
            passed.set("Content-Type", "application/sdp")
        self._b2bua.sip.respond(self._tx, passed, now)

    def _read_sdp(self, message: Response) -> bytes:
        try:
            return sdp_of(message).sdp
        except SdpError:
            return b""  # an early description that cannot be read is none; in a 200 it fails the call below

    def _accepted(self, response: Response, now: float) -> None:
        leg = self.call.callee
        if self.acker is not None:
            if response.to_tag != leg.dialog.remote_tag:
                Leftover(self._b2bua, leg).on_response_of_fork(response, now)
            elif self._offer.sdp:
                self.acker.ack()  # a repeated 200; one that awaits the answer of a late offer is ACKed with it
            return
        self.acker = acker = self._confirm_callee(leg, response)
        answer = self._read_sdp(response) or self._early
        if not answer:
            self._fail_answered(488, now)
        elif self._offer.sdp:
            acker.ack()
            self._complete(answer, response, now)
        else:
            self._late_offer(answer, response, now)

    def _confirm_callee(self, leg: Leg, response: Response) -> LateAcker:
        dialog = leg.dialog
        dialog.max_forwards = 70
        dialog.set_remote_tag(response.to_tag)
        dialog.learn_routes(response)
        leg.refresh_target(response)
        leg.aim()
        leg.learn_session_timer(response, we_are_uac=True)
        leg.client = None
        return LateAcker(self._b2bua, dialog, dialog.local_cseq)

    # --- the relay, second part -----------------------------------------------------------------------------------

    def _complete(self, answer: bytes, response: Response, now: float) -> None:
        """The callee has answered: tell the relay, and then the caller."""
        if answer == self._early or self._b2bua.failover.is_lost(self.call):
            if self._early_sent:
                self._answer_caller(answer, self._early_sent, self.call.callee.session, response, now)
                return
            self._replay(answer, response, now)
            return
        self._answer_at_relay(answer, response, now)

    def _answer_at_relay(self, answer: bytes, response: Response, now: float) -> None:
        relay, call = self.call.relay, self.call
        if relay is None:
            self._fail_answered(503, now)
            return
        self._relay_busy = True

        def answered(reply: RelayReply, now: float) -> None:
            if not self._over():
                self._answered(answer, response, reply, now)

        relay.client.answer(call.session, CALLER_TAG, CALLEE_TAG, answer, Then(answered), 0, now)

    def _answered(self, answer: bytes, response: Response, reply: RelayReply, now: float) -> None:
        if reply.sdp is None:
            self._relay_busy = False
            if response.is_provisional:
                self._relay_done(now)  # early media is lost with the relay; the 200 will be served
            else:
                self._replay(answer, response, now)
            return
        if response.is_provisional:
            self._early = answer
            self._early_sent = self.call.caller.origin.stamp(reply.sdp)
            self._pass_provisional(response, self._early_sent, now)
        else:
            self._answer_caller(answer, self.call.caller.origin.stamp(reply.sdp), self.call.session, response, now)
        self._relay_done(now)

    def _replay(self, answer: bytes, response: Response, now: float) -> None:
        """The relay failed after the callee was asked: both descriptions go to another one, and the caller's 200
        carries it. The callee still holds the old one's address: it is re-INVITEd after the ACK."""  # noqa: D205, D209
        call = self.call
        relay = self._take_relay() if self._tries < _RELAY_TRIES else None
        if relay is None:
            self._fail_answered(503, now)
            return
        self._relay_busy = True

        def offered(reply: RelayReply, now: float) -> None:
            if self._over():
                return
            if reply.sdp is None:
                self._relay_busy = False
                self._replay(answer, response, now)
                return
            relay.client.answer(call.session, CALLER_TAG, CALLEE_TAG, answer, Then(answered), 0, now)

        def answered(reply: RelayReply, now: float) -> None:
            if self._over():
                return
            self._answered(answer, response, reply, now)

        relay.client.offer(call.session, CALLER_TAG, "", self._offer.sdp, Then(offered), 0, now)

    def _late_offer(self, offer: bytes, response: Response, now: float) -> None:
        """The callee's 200 holds the offer: it passes the relay to the caller's 200 (RFC 3261 section 13.2.1)."""
        relay = self._take_relay()
        if relay is None:
            self._fail_answered(503, now)
            return
        self._relay_busy = True

        def offered(reply: RelayReply, now: float) -> None:
            if self._over():
                return
            self._relay_busy = False
            if reply.sdp is None:
                self._late_offer(offer, response, now) if self._tries < _RELAY_TRIES else self._fail_answered(503, now)
                return
            self.call.callee.remote = offer
            caller = self.call.caller
            caller.local = caller.origin.stamp(reply.sdp)
            self._send_ok(caller.local, response, now)

        relay.client.offer(self.call.session, CALLEE_TAG, "", offer, Then(offered), 0, now)

    def _answer_caller(self, answer: bytes, local: bytes, session: str, response: Response, now: float) -> None:
        caller, callee = self.call.caller, self.call.callee
        try:
            callee.set_in_force(local=callee.local, remote=answer, session=callee.session)
            caller.set_in_force(local=local, remote=self._offer.sdp, session=session)
        except SdpError:
            self._fail_answered(488, now)
            return
        self._send_ok(local, response, now)

    def _send_ok(self, sdp: bytes, response: Response, now: float) -> None:
        b2bua, call = self._b2bua, self.call
        passed = self._response(response.status, response)
        passed.body = sdp
        passed.set("Content-Type", "application/sdp")
        passed.add("Allow", response.get("Allow") or "INVITE, ACK, CANCEL, BYE, OPTIONS, INFO")
        call.caller.learn_session_timer(passed, we_are_uac=False)
        call.answered = now
        b2bua.timers.cancel(self.timer)
        self._unregister()
        b2bua.sip.respond(self._tx, passed, now)
        b2bua.observer.setup_ended(call, response.status, now - call.started)
        b2bua.observer.call_changed(call, now)

    # --- the end ----------------------------------------------------------------------------------------------------

    def acked(self, request: Request, now: float) -> None:
        """The caller has ACKed our 200."""
        b2bua, call = self._b2bua, self.call
        b2bua.sip.stop_2xx(self._tx, now)
        if self._offer.sdp or not call.alive:
            self._established(now)
            return
        try:
            answer = sdp_of(request).sdp
        except SdpError:
            answer = b""
        if not answer or call.relay is None:
            b2bua.hang_up(call, now, reason="The ACK to an offer in a 200 held no usable answer", cause=488)
            return
        if self._relay_busy:
            return  # a repeated ACK

        self._relay_busy = True

        def answered(reply: RelayReply, now: float) -> None:
            if call.alive:
                self._late_answered(answer, reply, now)

        call.relay.client.answer(call.session, CALLEE_TAG, CALLER_TAG, answer, Then(answered), 0, now)

    def _late_answered(self, answer: bytes, reply: RelayReply, now: float) -> None:
        b2bua, call = self._b2bua, self.call
        if reply.sdp is None or self.acker is None:
            b2bua.hang_up(call, now, reason=f"The relay did not take the answer: {reply.error}")
            return
        callee, caller = call.callee, call.caller
        local = callee.origin.stamp(reply.sdp)
        try:
            callee.set_in_force(local=local, remote=callee.remote, session=call.session)
            caller.set_in_force(local=caller.local, remote=answer, session=call.session)
        except SdpError as error:
            b2bua.hang_up(call, now, reason=str(error), cause=488)
            return
        self.acker.body = local
        self.acker.ack()
        self._established(now)

    def _established(self, now: float) -> None:
        if self._client is not None and self.acker is not None:
            self._client.owner = self.acker
        self._tx.data = None
        self._b2bua.established(self.call, now)

    def cancelled(self, request: Request, now: float) -> None:
        """The caller has sent CANCEL, or ended the early dialog: 487 to it, CANCEL to the callee (section 9)."""
        if self._over() or self.call.answered:
            return
        self._cancelled = True
        self._cancel_client(now)
        self._refuse(487, now)

    def no_ack(self, now: float) -> None:
        """The caller never ACKed."""
        if self.call.answered:
            self._b2bua.hang_up(self.call, now, reason="No ACK for the 200", cause=408)

    def _fail_answered(self, status: int, now: float) -> None:
        """The callee has answered, but the call cannot be: BYE to it, ``status`` to the caller."""
        b2bua = self._b2bua
        if self.acker is not None:
            self.acker.ack()
            if self._client is not None:
                self._client.owner = self.acker
        b2bua._send_bye(self.call.callee, "", now)
        self._refuse(status, now)

    def _refuse(self, status: int, now: float, response: Response | None = None) -> None:
        b2bua, call = self._b2bua, self.call
        b2bua.timers.cancel(self.timer)
        self._unregister()
        self._tx.data = None
        b2bua.sip.respond(self._tx, self._response(status, response), now)
        b2bua.observer.setup_ended(call, status, now - call.started)
        if response is None:
            b2bua.observer.request_rejected("INVITE", status)
        b2bua.forget(call, now)

    def _unregister(self) -> None:
        request = self._request
        self._b2bua.setups.pop((request.call_id, request.from_tag, request.cseq), None)

    def _response(self, status: int, source: Response | None) -> Response:
        """Return a response to the caller, with what passes of the callee's."""
        caller = self.call.caller
        reason = source.reason if source is not None else ""
        response = make_response(self._request, status, reason, to_tag=caller.dialog.local_tag)
        for value in self._request.get_all("Record-Route"):
            response.add("Record-Route", value)
        if status < 300:
            response.add("Contact", caller.dialog.contact)
        if source is not None:
            pass_headers(source, response, trusted=caller.peer.trusted and self.call.callee.peer.trusted)
        return response


class Leftover(ClientOwner):
    """Owns an INVITE that nobody waits for any more: a 200 that comes all the same is ACKed and ended with BYE."""

    __slots__ = ("_b2bua", "_leg")

    def __init__(self, b2bua: B2bua, leg: Leg) -> None:
        self._b2bua = b2bua
        self._leg = leg

    def on_response(self, tx: ClientTransaction, response: Response, now: float) -> None:
        """End the dialog that a late 200 has made."""
        if response.is_success:
            self.on_response_of_fork(response, now)

    def on_response_of_fork(self, response: Response, now: float) -> None:
        """ACK and BYE a dialog that is not wanted (RFC 3261 section 13.2.2.4)."""
        b2bua, old = self._b2bua, self._leg.dialog
        dialog = Dialog(
            call_id=old.call_id, local=old.local, local_tag=old.local_tag, remote=old.remote,
            remote_tag=response.to_tag, via=b2bua.settings.address,
        )  # fmt: skip
        dialog.local_cseq = response.cseq
        dialog.learn_routes(response)
        dialog.refresh_target(response)
        fork = Leg(self._leg.call, CALLEE_TAG, self._leg.peer, dialog, self._leg.origin, self._leg.source)
        fork.aim()
        b2bua.sip.send(dialog.ack(response.cseq, b2bua.ids.branch()), dialog.destination)
        b2bua._send_bye(fork, "", now)

    def on_timeout(self, tx: ClientTransaction, now: float) -> None:
        """Nothing waits for it."""


def _caller_leg(b2bua: B2bua, call: Call, tx: ServerTransaction, request: Request, peer: Peer, uri: str) -> Leg:
    dialog = Dialog(
        call_id=request.call_id, local=request.get("To") or "", local_tag=b2bua.ids.token(),
        remote=_without_tag(request.get("From") or ""), remote_tag=request.from_tag, via=b2bua.settings.address,
    )  # fmt: skip
    dialog.remote_cseq = request.cseq
    dialog.learn_routes(request)
    dialog.refresh_target(request)
    leg = Leg(call, CALLER_TAG, peer, dialog, _origin(b2bua), tx.source)
    leg.aim()
    return leg


def _callee_leg(b2bua: B2bua, call: Call, request: Request, peer: Peer, destination: Address, uri: SipUri) -> Leg:
    dialog = Dialog(
        call_id=b2bua.ids.token(), local=_without_tag(request.get("From") or ""), local_tag=b2bua.ids.token(),
        remote=_without_tag(request.get("To") or ""), remote_tag="", via=b2bua.settings.address,
    )  # fmt: skip
    dialog.max_forwards = _max_forwards(request) - 1
    user = f"{uri.user}@" if uri.user else ""
    dialog.remote_target = f"sip:{user}{host_for_uri(destination[0])}:{destination[1]}"
    dialog.destination = destination
    return Leg(call, CALLEE_TAG, peer, dialog, _origin(b2bua), destination)


def _origin(b2bua: B2bua) -> Origin:
    return Origin(b2bua.rng.getrandbits(62), b2bua.settings.address[0])


def _max_forwards(request: Request) -> int:
    value = request.get("Max-Forwards") or "70"
    return min(int(value), 255) if value.isdecimal() else 70


def _without_tag(value: str) -> str:
    """Return a From or To value without its tag and other parameters: they are the dialog's own."""
    address = parse_name_addr(value)
    return f"{address.display} <{address.uri}>".strip() if address.display else f"<{address.uri}>"
