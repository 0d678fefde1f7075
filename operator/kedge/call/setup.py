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

from kedge.base.address import Address
from kedge.base.timers import Timer, TimerTarget
from kedge.call.call import CALLEE_TAG, CALLER_TAG, Call
from kedge.call.endings import Acker, Leftover
from kedge.call.leg import ALLOW, Leg
from kedge.call.legs import callee_leg, caller_leg
from kedge.call.passing import pass_headers, passed_lines
from kedge.call.routing import Peer, Route
from kedge.relay.backend import RelayReply
from kedge.sip.body import Body, sdp_of
from kedge.sip.errors import ParseError
from kedge.sip.headers import parse_name_addr
from kedge.sip.message import Message, Request, Response, make_response
from kedge.sip.sdp import SdpError, parse_sdp
from kedge.sip.transaction import ClientOwner, ClientTransaction, ServerTransaction
from kedge.sip.uri import SipUri, parse_uri

if TYPE_CHECKING:
    from collections.abc import Callable

    from kedge.call.b2bua import B2bua
    from kedge.relay.fleet import Relay

_RELAY_TRIES: Final = 3
_NO_ANSWER: Final = 1
_NO_RESPONSE: Final = 2


class Setup(ClientOwner, TimerTarget):
    """Drives one call until it is established or refused."""

    __slots__ = (
        "_acked",
        "_acker",
        "_b2bua",
        "_client",
        "_early",
        "_early_sent",
        "_hop",
        "_hops",
        "_leftover",
        "_offer",
        "_relay_busy",
        "_request",
        "_route",
        "_routing",
        "_sent",
        "_target",
        "_timer",
        "_tries",
        "_tx",
        "_waiting",
        "call",
    )

    _leftover: Leftover

    def __init__(
        self, b2bua: B2bua, call: Call, tx: ServerTransaction, request: Request, route: Route, uri: SipUri, offer: Body
    ) -> None:
        self._b2bua = b2bua
        self.call = call
        self._tx = tx
        self._request = request
        self._route = route
        self._routing = b2bua.routing
        """Peers as they were when the call began: its next hops are of these."""
        self._target = uri
        self._offer = offer
        self._hops = route.hops(b2bua.rng)
        self._hop = -1
        self._tries = 0
        self._sent = b""
        """What the relay made of the offer."""
        self._client: ClientTransaction | None = None
        self._acker: Acker | None = None
        """Set once the callee has answered."""
        self._early = b""
        """The answer in a 183 that the relay has been given, as the callee wrote it."""
        self._early_sent = b""
        """What the caller was given for it: a 200 repeats it (RFC 6337 section 3.1)."""
        self._relay_busy = False
        self._waiting: deque[Response] = deque()
        """Responses that came while the relay worked on one before."""
        self._acked = False
        self._timer: Timer | None = None

    # --- admission --------------------------------------------------------------------------------------------------

    @classmethod
    def begin(cls, b2bua: B2bua, tx: ServerTransaction, request: Request, peer: Peer, now: float) -> None:
        """Route an INVITE and start its set-up, or refuse it."""
        try:
            uri, offer = _read(request)
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
        call = Call(f"call-{b2bua.ids.token()}", route.relay_set, b2bua.mark, now)
        call.emergency = "urn:service:sos" in request.uri or bool(request.get("Resource-Priority"))
        call.zone = _zone_of(b2bua, peer, route)
        call.caller = caller_leg(b2bua, call, tx.source, request, peer)
        tx.data = call.setup = setup = cls(b2bua, call, tx, request, route, uri, offer)
        setup._start(now)

    def _start(self, now: float) -> None:
        b2bua, request = self._b2bua, self._request
        self.call.caller.peer.count.calls += 1
        b2bua.register(self.call)
        b2bua.dialogs[self.call.caller.dialog.local_tag] = self.call.caller
        b2bua.setups[(request.call_id, request.from_tag, request.cseq)] = self
        b2bua.sip.respond(self._tx, make_response(request, 100), now)
        self._timer = b2bua.timers.schedule(now + b2bua.settings.ring_timeout, self, _NO_ANSWER)
        if self._offer.sdp:
            self._offer_at_relay(now)
        elif not self._next_hop(now):
            self._refuse(503, now)

    # --- the relay, before the callee is asked ----------------------------------------------------------------------

    def _take_relay(self, now: float) -> Relay | None:
        """Put the call on another relay than before, if there is one; None where none has room, or tries are over."""
        b2bua, call = self._b2bua, self.call
        if self._tries >= _RELAY_TRIES:
            return None
        self._tries += 1
        relay = b2bua.fleet.pick(call.relay_set, avoid=call.relay, zone=call.zone)
        if relay is None and call.relay is not None:
            relay = b2bua.fleet.pick(call.relay_set, zone=call.zone)
        if relay is not None:
            b2bua.place(call, relay, now)
        return relay

    def _offer_at_relay(self, now: float) -> None:
        if self._take_relay(now) is None:
            self._refuse(503, now)
            return
        self._b2bua.offer(self.call, CALLER_TAG, "", self._offer.sdp, self._offered, now)

    def _offered(self, reply: RelayReply, now: float) -> None:
        if reply.sdp is None:
            self._offer_at_relay(now)
            return
        self._sent = reply.sdp
        if not self._next_hop(now):
            self._refuse(503, now)

    # --- the callee -------------------------------------------------------------------------------------------------

    def _next_hop(self, now: float) -> bool:
        """Send the INVITE to the next hop that may have it; False where there is none left."""
        while self._hop + 1 < len(self._hops):
            self._hop += 1
            destination = self._hops[self._hop]
            peer = self._routing.peer_of(destination)
            if peer is not None and not peer.full:
                self._send_invite(self._new_callee(peer, destination), now)
                return True
        return False

    def _new_callee(self, peer: Peer, destination: Address) -> Leg:
        b2bua, call = self._b2bua, self.call
        previous: Leg | None = getattr(call, "callee", None)
        if previous is not None:
            b2bua.dialogs.pop(previous.dialog.local_tag, None)
            previous.peer.count.calls -= 1
        leg = call.callee = callee_leg(b2bua, call, self._request, peer, destination, self._target)
        peer.count.calls += 1
        b2bua.dialogs[leg.dialog.local_tag] = leg
        self._leftover = Leftover(b2bua, leg)
        self._early = self._early_sent = b""  # another party's
        return leg

    def _send_invite(self, leg: Leg, now: float) -> None:
        b2bua = self._b2bua
        branch = b2bua.ids.branch()
        lines = passed_lines(self._request, trusted=self.call.caller.peer.trusted and leg.peer.trusted)
        sdp = leg.origin.stamp(self._sent) if self._sent else b""
        leg.local, leg.session = sdp, self.call.session
        body, content_type = self._offer.with_sdp(sdp)
        data = leg.dialog.request("INVITE", branch, lines, body, content_type)
        self._client = leg.client = b2bua.sip.send_request("INVITE", branch, data, leg.dialog.destination, self, now)
        self._wait_until(now + self._route.response_timeout, _NO_RESPONSE)

    def _wait_until(self, at: float, kind: int) -> None:
        timers = self._b2bua.timers
        timers.cancel(self._timer)
        self._timer = timers.schedule(at, self, kind)

    def on_timer(self, kind: int, now: float) -> None:
        """No response in time: the next hop. No answer in time: give up."""
        self._timer = None
        if not self.call.alive:
            return
        if kind == _NO_RESPONSE:
            self._hop_failed(408, None, now)
        else:
            self.give_up(408, now)

    def on_timeout(self, tx: ClientTransaction, now: float) -> None:
        """The transaction gave up (Timer B, or no final after CANCEL)."""
        if tx is self._client and self.call.alive:
            self._hop_failed(408, None, now)

    def _hop_failed(self, status: int, response: Response | None, now: float) -> None:
        """A next hop refused, or did not answer: ask the next one, or pass the refusal on."""
        self._cancel_client(now)
        self.call.callee.client = None
        if status not in self._route.failover_on or not self._next_hop(now):
            self._refuse(status, now, response)

    def _cancel_client(self, now: float) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.owner = self._leftover
            self._b2bua.sip.cancel(client, now)

    # --- responses --------------------------------------------------------------------------------------------------

    def on_response(self, tx: ClientTransaction, response: Response, now: float) -> None:
        """Take a response of the callee; one at a time, as the relay may have to be asked about each."""
        if self._acker is not None:
            self._acker.on_response(tx, response, now)
        elif tx is not self._client or not self.call.alive:
            self._leftover.on_response(tx, response, now)
        elif self._relay_busy:
            self._waiting.append(response)
        elif response.is_provisional:
            self._provisional(response, now)
        elif response.is_success:
            self._accepted(response, now)
        else:
            self._client = None
            self._hop_failed(response.status, response, now)

    def _relay_done(self, now: float) -> None:
        self._relay_busy = False
        while self._waiting and not self._relay_busy and self._client is not None and self.call.alive:
            self.on_response(self._client, self._waiting.popleft(), now)

    def _provisional(self, response: Response, now: float) -> None:
        if self._timer is not None and self._timer.kind == _NO_RESPONSE:
            self._wait_until(max(now, self.call.started + self._b2bua.settings.ring_timeout), _NO_ANSWER)
        if response.status == 100:
            return
        if "100rel" in (response.get("Require") or ""):
            return  # we never offered it: such a response cannot be acknowledged (RFC 3262 section 4)
        answer = _sdp_in(response)
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

    def _accepted(self, response: Response, now: float) -> None:
        acker = self._acker = self._confirm_callee(response)
        self._b2bua.timers.cancel(self._timer)
        self._tries = 0
        answer = _sdp_in(response) or self._early
        if not answer:
            self._fail_answered(488, now)
        elif self._offer.sdp:
            acker.ack()
            self._complete(answer, response, now)
        else:
            self._late_offer(answer, response, now)

    def _confirm_callee(self, response: Response) -> Acker:
        leg = self.call.callee
        dialog = leg.dialog
        dialog.max_forwards = 70
        dialog.set_remote_tag(response.to_tag)
        dialog.learn_routes(response)
        leg.refresh_target(response)
        leg.aim()
        leg.learn_session_timer(response, we_are_uac=True)
        leg.client = None
        return Acker(self._b2bua, leg, dialog.local_cseq)

    # --- the relay, after the callee has answered -------------------------------------------------------------------

    def _complete(self, answer: bytes, response: Response, now: float) -> None:
        """The callee has answered: tell the relay, and then the caller."""
        lost = self._b2bua.failover.is_lost(self.call)
        if self._early_sent and (lost or answer == self._early):
            self._answer_caller(answer, self._early_sent, self.call.callee.session, response, now)
        elif lost:
            self._answer_elsewhere(answer, response, now)
        else:
            self._answer_at_relay(answer, response, now)

    def _answer_at_relay(self, answer: bytes, response: Response, now: float) -> None:
        call = self.call
        self._relay_busy = True

        def answered(reply: RelayReply, now: float) -> None:
            self._answered(answer, response, reply, now)

        self._b2bua.answer(call, CALLER_TAG, CALLEE_TAG, answer, answered, now)

    def _answered(self, answer: bytes, response: Response, reply: RelayReply, now: float) -> None:
        if reply.sdp is not None:
            sdp = self.call.caller.origin.stamp(reply.sdp)
            if not response.is_provisional:
                self._answer_caller(answer, sdp, self.call.session, response, now)
                return
            self._early, self._early_sent = answer, sdp
            self._pass_provisional(response, sdp, now)
        elif not response.is_provisional:
            self._answer_elsewhere(answer, response, now)
            return
        self._relay_done(now)  # where early media is lost with the relay, the 200 will be served all the same

    def _answer_elsewhere(self, answer: bytes, response: Response, now: float) -> None:
        """The relay failed after the callee was asked, and the caller knows nothing of it: its 200 carries another.

        The callee still holds the old one's address: it is re-INVITEd after the ACK.
        """

        def done(sdp: bytes, now: float) -> None:
            caller = self.call.caller
            self._answer_caller(answer, caller.origin.stamp(sdp), self.call.session, response, now)

        self._replay(CALLER_TAG, self._offer.sdp, CALLEE_TAG, answer, done, now)

    def _replay(
        self, offerer: str, offer: bytes, answerer: str, answer: bytes, done: Callable[[bytes, float], None], now: float
    ) -> None:
        """Give both descriptions to another relay; ``done`` gets what it has for the offerer."""
        call = self.call
        if self._take_relay(now) is None:
            self._no_relay(now)
            return
        self._relay_busy = True

        def offered(reply: RelayReply, now: float) -> None:
            if reply.sdp is None:
                self._replay(offerer, offer, answerer, answer, done, now)
            else:
                self._b2bua.answer(call, offerer, answerer, answer, answered, now)

        def answered(reply: RelayReply, now: float) -> None:
            if reply.sdp is None:
                self._replay(offerer, offer, answerer, answer, done, now)
            else:
                done(reply.sdp, now)

        self._b2bua.offer(call, offerer, "", offer, offered, now)

    def _late_offer(self, offer: bytes, response: Response, now: float) -> None:
        """The callee's 200 holds the offer: it passes the relay to the caller's 200 (RFC 3261 section 13.2.1)."""
        call = self.call
        if self._take_relay(now) is None:
            self._no_relay(now)
            return

        def offered(reply: RelayReply, now: float) -> None:
            if reply.sdp is None:
                self._late_offer(offer, response, now)
                return
            call.callee.remote = offer
            caller = call.caller
            caller.local, caller.session = caller.origin.stamp(reply.sdp), call.session
            self._send_ok(caller.local, response, now)

        self._b2bua.offer(call, CALLEE_TAG, "", offer, offered, now)

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
        passed.add("Allow", response.get("Allow") or ALLOW)
        call.caller.learn_session_timer(passed, we_are_uac=False)
        call.answered = now
        self._relay_busy = False
        self._waiting.clear()
        self._unregister()
        b2bua.sip.respond(self._tx, passed, now)
        b2bua.observer.setup_ended(call, response.status, now - call.started)
        b2bua.observer.call_changed(call, now)

    def _no_relay(self, now: float) -> None:
        """No relay takes a call that the callee has answered."""
        if self.call.answered:
            self._b2bua.hang_up(self.call, now, reason="No media relay has room")
        else:
            self._fail_answered(503, now)

    # --- the ACK ----------------------------------------------------------------------------------------------------

    @property
    def unacked(self) -> ServerTransaction | None:
        """The INVITE whose 200 still lacks its ACK: no BYE may be sent to the caller before (RFC 3261 section 15)."""
        return self._tx if self.call.answered and not self._acked else None

    def acked(self, request: Request, now: float) -> None:
        """The caller has ACKed our 200."""
        if self._acked:
            return  # a repeated ACK, while the relay works on the answer in the first one
        self._acked = True
        self._b2bua.sip.stop_2xx(self._tx, now)
        if self._offer.sdp:
            self._established(now)
            return
        answer = _sdp_in(request)
        if answer:
            self._take_late_answer(answer, now)
        else:
            self._b2bua.hang_up(self.call, now, reason="The ACK to an offer in a 200 held no usable answer", cause=488)

    def _take_late_answer(self, answer: bytes, now: float) -> None:
        call = self.call

        def answered(reply: RelayReply, now: float) -> None:
            if reply.sdp is None:
                self._late_answer_elsewhere(answer, now)
            else:
                self._late_answered(answer, call.session, reply.sdp, now)

        if self._b2bua.failover.is_lost(call):
            self._late_answer_elsewhere(answer, now)
        else:
            self._b2bua.answer(call, CALLEE_TAG, CALLER_TAG, answer, answered, now)

    def _late_answer_elsewhere(self, answer: bytes, now: float) -> None:
        """The relay was lost while the caller thought: the callee's ACK carries another, the caller is told after."""
        told, self._tries = self.call.caller.session, 0

        def done(sdp: bytes, now: float) -> None:
            self._late_answered(answer, told, sdp, now)

        self._replay(CALLEE_TAG, self.call.callee.remote, CALLER_TAG, answer, done, now)

    def _late_answered(self, answer: bytes, told: str, sdp: bytes, now: float) -> None:
        """Both descriptions are known; the caller's is of session ``told``."""
        b2bua, call = self._b2bua, self.call
        callee, caller = call.callee, call.caller
        local = callee.origin.stamp(sdp)
        try:
            callee.set_in_force(local=local, remote=callee.remote, session=call.session)
            caller.set_in_force(local=caller.local, remote=answer, session=told)
        except SdpError as error:
            b2bua.hang_up(call, now, reason=str(error), cause=488)
            return
        if self._acker is not None:
            self._acker.ack(local)
        self._established(now)

    def _established(self, now: float) -> None:
        self._let_go()
        self._b2bua.established(self.call, now)

    # --- the end ----------------------------------------------------------------------------------------------------

    def cancelled(self, now: float) -> None:
        """The caller has sent CANCEL, or ended the early dialog with BYE: 487 (RFC 3261 sections 9.2 and 15.1.2)."""
        if self.call.alive and not self.call.answered:
            self.give_up(487, now)

    def give_up(self, status: int, now: float) -> None:
        """End it before the caller was answered: ``status`` to it, CANCEL or BYE to the callee."""
        if self._acker is not None:
            self._fail_answered(status, now)
        else:
            self._cancel_client(now)
            self._refuse(status, now)

    def no_ack(self, now: float) -> None:
        """The caller never ACKed."""
        self._acked = True  # as far as that goes: the BYE need not wait for it any longer
        self._b2bua.hang_up(self.call, now, reason="No ACK for the 200", cause=408)

    def call_ended(self) -> None:
        """A party hung up before all ACKs were there: the callee's 200 still needs one, and its BYE comes after."""
        self._b2bua.timers.cancel(self._timer)
        if self._acker is not None and not self._acker.sent:
            self._acker.ack()
        self._let_go()

    def _let_go(self) -> None:
        if self._client is not None and self._acker is not None:
            self._client.owner = self._acker
        self._client = None
        self._tx.data = None

    def _fail_answered(self, status: int, now: float) -> None:
        """The callee has answered, but the call cannot be: BYE to it, ``status`` to the caller."""
        self.call_ended()
        self._b2bua.send_bye(self.call.callee.dialog, "", now)
        self._refuse(status, now)

    def _refuse(self, status: int, now: float, response: Response | None = None) -> None:
        b2bua, call = self._b2bua, self.call
        b2bua.timers.cancel(self._timer)
        self._unregister()
        self._tx.data = None
        refusal = self._response(status, response)
        if response is None:
            b2bua.observer.request_rejected("INVITE", status)
            if b2bua.settings.user_agent:
                refusal.add("Server", b2bua.settings.user_agent)
            if status == 503:
                refusal.add("Retry-After", str(round(b2bua.settings.refuse_for)))
        b2bua.sip.respond(self._tx, refusal, now)
        b2bua.observer.setup_ended(call, status, now - call.started)
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


def _zone_of(b2bua: B2bua, peer: Peer, route: Route) -> str:
    """Return the zone whose relays a call prefers: its caller's peer's, else its first next hop's, else ours."""
    if peer.zone:
        return peer.zone
    callee = b2bua.routing.peer_of(route.next_hops[0])
    return (callee.zone if callee is not None else "") or b2bua.settings.zone


def _read(request: Request) -> tuple[SipUri, Body]:
    """Return where an INVITE wants to go, and its body; what else will be needed of it is looked at too.

    Raises:
        ParseError: the Request-URI, From, To or Contact cannot be read.
        SdpError: the description cannot.
    """
    uri = parse_uri(request.uri)
    for name in ("From", "To", "Contact"):
        parse_name_addr(request.get(name) or "")
    offer = sdp_of(request)
    if offer.sdp:
        parse_sdp(offer.sdp)
    return uri, offer


def _sdp_in(message: Message) -> bytes:
    """Return the description; one that cannot be found is none (and in a 200 it fails the call)."""
    try:
        return sdp_of(message).sdp
    except SdpError:
        return b""
