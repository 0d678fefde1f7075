"""The set-up of one call: from the caller's INVITE to its ACK.

    INVITE -> offer at a relay -> INVITE to the next hop -> 18x, answers at the relay -> 200 to the caller -> ACK

A late offer goes the other way round (``late_setup``). A relay that fails before the callee was asked is replaced
without anyone noticing; one that is lost later makes the call move as soon as the caller has ACKed, as the description
that the callee holds cannot be changed before (RFC 6337 section 3.1).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from kedge.base.address import Address
from kedge.base.timers import Timer, TimerTarget
from kedge.call import late_setup
from kedge.call.call import CALLEE_TAG, CALLER_TAG, Call
from kedge.call.endings import Acker, Leftover
from kedge.call.leg import ALLOW, Leg
from kedge.call.legs import confirm_callee, invitation, next_callee
from kedge.call.passing import response_to_caller
from kedge.call.replacement import Replacement
from kedge.call.routing import Peer, Route
from kedge.relay.backend import RelayReply
from kedge.sip.body import Body, sdp_in
from kedge.sip.message import Request, Response, make_response
from kedge.sip.offer_answer import drop_unasked_keys
from kedge.sip.sdp import SdpError
from kedge.sip.transaction import ClientOwner, ClientTransaction, ServerTransaction
from kedge.sip.uri import SipUri

if TYPE_CHECKING:
    from collections.abc import Callable

    from kedge.call.b2bua import B2bua

_NO_ANSWER: Final = 1
_NO_RESPONSE: Final = 2


class Setup(ClientOwner, TimerTarget):
    """Drives one call until it is established or refused."""

    __slots__ = (
        "_acked", "_client", "_early", "_early_sent", "_hops", "_key", "_leftover", "_offer", "_relay_busy", "_request",
        "_route", "_routing", "_sent", "_target", "_timer", "_tx", "_waiting", "acker", "b2bua", "call", "replacement",
    )  # fmt: skip

    _leftover: Leftover

    def __init__(
        self, b2bua: B2bua, call: Call, tx: ServerTransaction, request: Request, route: Route, uri: SipUri, offer: Body
    ) -> None:
        self.b2bua = b2bua
        self.call = call
        self._tx = tx
        self._request = request
        self._route = route
        self._routing = b2bua.routing
        """Peers as they were when the call began: its next hops are of these."""
        self._target = uri
        self._offer = offer
        self._hops = iter(route.hops(b2bua.rng))
        self._key = (request.call_id, request.from_tag, request.cseq)
        self.replacement = Replacement(b2bua, call)
        self._sent = b""
        """What the relay made of the offer."""
        self._client: ClientTransaction | None = None
        self.acker: Acker | None = None
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

    def start(self, now: float) -> None:
        """Make the call known, and ask a relay or the callee."""
        b2bua, request = self.b2bua, self._request
        self.call.caller.peer.count.calls += 1
        b2bua.register(self.call)
        b2bua.dialogs[self.call.caller.dialog.local_tag] = self.call.caller
        b2bua.setups[self._key] = self
        b2bua.sip.respond(self._tx, make_response(request, 100), now)
        self._timer = b2bua.timers.schedule(now + b2bua.settings.ring_timeout, self, _NO_ANSWER)
        if self._offer.sdp:
            self._offer_at_relay(now)
        elif not self._next_hop(now):
            self._refuse(503, now)

    # --- the relay, before the callee is asked ----------------------------------------------------------------------

    def take_relay(self, now: float) -> bool:
        """Put the call on another relay than before, if there is one; False where none has room, or tries are over."""
        return self.replacement.take(now, same_again=self.call.relay is not None)

    def _offer_at_relay(self, now: float) -> None:
        if not self.take_relay(now):
            self._refuse(503, now)
            return
        self.b2bua.offer(self.call, CALLER_TAG, "", self._offer.sdp, self._offered, now)

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
        for destination in self._hops:
            peer = self._routing.peer_of(destination)
            if peer is not None and not peer.full:
                self._send_invite(self._new_callee(peer, destination), now)
                return True
        return False

    def _new_callee(self, peer: Peer, destination: Address) -> Leg:
        leg = next_callee(self.b2bua, self.call, self._request, peer, destination, self._target)
        self._leftover = Leftover(self.b2bua, leg)
        self._early = self._early_sent = b""  # another party's
        return leg

    def _send_invite(self, leg: Leg, now: float) -> None:
        b2bua = self.b2bua
        leg.session = self.call.session
        branch, data = invitation(b2bua, leg, self._request, self._offer, self._sent)
        self._client = leg.client = b2bua.sip.send_request("INVITE", branch, data, leg.dialog.destination, self, now)
        self._wait_until(now + self._route.response_timeout, _NO_RESPONSE)

    def _wait_until(self, at: float, kind: int) -> None:
        self.b2bua.timers.cancel(self._timer)
        self._timer = self.b2bua.timers.schedule(at, self, kind)

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
            self.b2bua.sip.cancel(client, now)

    # --- responses --------------------------------------------------------------------------------------------------

    def on_response(self, tx: ClientTransaction, response: Response, now: float) -> None:
        """Take a response of the callee; one at a time, as the relay may have to be asked about each."""
        if self.acker is not None:
            self.acker.on_response(tx, response, now)
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
            self._wait_until(max(now, self.call.started + self.b2bua.settings.ring_timeout), _NO_ANSWER)
        if response.status == 100:
            return
        if "100rel" in (response.get("Require") or ""):
            return  # we never offered it: such a response cannot be acknowledged (RFC 3262 section 4)
        answer = drop_unasked_keys(sdp_in(response), self.call.callee.local)
        if not answer or not self._offer.sdp:
            self._pass_provisional(response, b"", now)
        elif answer == self._early:
            self._pass_provisional(response, self._early_sent, now)
        else:
            self._answer_at_relay(answer, response, now)

    def _pass_provisional(self, response: Response, sdp: bytes, now: float) -> None:
        passed = response_to_caller(self.call, self._request, response.status, response)
        if sdp:
            passed.body = sdp
            passed.set("Content-Type", "application/sdp")
        self.b2bua.sip.respond(self._tx, passed, now)

    def _accepted(self, response: Response, now: float) -> None:
        acker = self.acker = confirm_callee(self.b2bua, self.call.callee, response)
        self.b2bua.timers.cancel(self._timer)
        self.replacement.tries = 0
        answer = drop_unasked_keys(sdp_in(response), self.call.callee.local) or self._early
        if not answer:
            self._fail_answered(488, now)
        elif self._offer.sdp:
            acker.ack()
            self._complete(answer, response, now)
        else:
            late_setup.pass_on(self, answer, response, now)

    # --- the relay, after the callee has answered -------------------------------------------------------------------

    def _complete(self, answer: bytes, response: Response, now: float) -> None:
        """The callee has answered: tell the relay, and then the caller."""
        lost = self.call.is_lost
        if self._early_sent and (lost or answer == self._early):
            self._answer_caller(answer, self._early_sent, self.call.callee.session, response, now)
        elif lost:
            self._answer_elsewhere(answer, response, now)
        else:
            self._answer_at_relay(answer, response, now)

    def _answer_at_relay(self, answer: bytes, response: Response, now: float) -> None:
        self._relay_busy = True

        def answered(reply: RelayReply, now: float) -> None:
            self._answered(answer, response, reply, now)

        self.b2bua.answer(self.call, CALLER_TAG, CALLEE_TAG, answer, answered, now)

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

        def done(sdp: bytes | None, now: float) -> None:
            if sdp is None:
                self.no_relay(now)
            else:
                self._answer_caller(answer, self.call.caller.origin.stamp(sdp), self.call.session, response, now)

        self.replay(CALLER_TAG, self._offer.sdp, CALLEE_TAG, answer, done, now)

    def replay(
        self, offerer: str, offer: bytes, answerer: str, answer: bytes, done: Callable[[bytes | None, float], None],
        now: float,
    ) -> None:  # fmt: skip
        """Give both descriptions to another relay; ``done`` gets what it has for the offerer, None if there is none."""
        self._relay_busy = True
        self.replacement.replay(
            (offerer, "", offer), (answerer, answer), self.take_relay, lambda: self.call.alive, done, now
        )

    def _answer_caller(self, answer: bytes, local: bytes, session: str, response: Response, now: float) -> None:
        caller, callee = self.call.caller, self.call.callee
        try:
            callee.set_in_force(local=callee.local, remote=answer, session=callee.session)
            caller.set_in_force(local=local, remote=self._offer.sdp, session=session)
        except SdpError:
            self._fail_answered(488, now)
            return
        self.send_ok(local, response, now)

    def send_ok(self, sdp: bytes, response: Response, now: float) -> None:
        """Give the caller its 200."""
        b2bua, call = self.b2bua, self.call
        passed = response_to_caller(self.call, self._request, response.status, response)
        passed.body = sdp
        passed.set("Content-Type", "application/sdp")
        passed.add("Allow", response.get("Allow") or ALLOW)
        call.caller.learn_session_timer(passed, we_are_uac=False)
        call.answered = now
        self._relay_busy = False
        self._waiting.clear()
        self.b2bua.setups.pop(self._key, None)
        b2bua.sip.respond(self._tx, passed, now)
        b2bua.observer.setup_ended(call, response.status, now - call.started)
        b2bua.observer.call_changed(call, now)

    def no_relay(self, now: float) -> None:
        """No relay takes a call that the callee has answered."""
        if self.call.answered:
            self.b2bua.hang_up(self.call, now, reason="No media relay has room")
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
        self.b2bua.sip.stop_2xx(self._tx, now)
        if self._offer.sdp:
            self.established(now)
            return
        answer = drop_unasked_keys(sdp_in(request), self.call.caller.local)
        if answer:
            late_setup.take_answer(self, answer, now)
        else:
            self.b2bua.hang_up(self.call, now, reason="The ACK to an offer in a 200 held no usable answer", cause=488)

    def established(self, now: float) -> None:
        """Both dialogs are confirmed, and both descriptions in force."""
        self._let_go()
        self.b2bua.established(self.call, now)

    # --- the end ----------------------------------------------------------------------------------------------------

    def cancelled(self, now: float) -> None:
        """The caller has sent CANCEL, or ended the early dialog with BYE: 487 (RFC 3261 sections 9.2 and 15.1.2)."""
        if self.call.alive and not self.call.answered:
            self.give_up(487, now)

    def give_up(self, status: int, now: float) -> None:
        """End it before the caller was answered: ``status`` to it, CANCEL or BYE to the callee."""
        if self.acker is not None:
            self._fail_answered(status, now)
        else:
            self._cancel_client(now)
            self._refuse(status, now)

    def no_ack(self, now: float) -> None:
        """The caller never ACKed."""
        self._acked = True  # as far as that goes: the BYE need not wait for it any longer
        self.b2bua.hang_up(self.call, now, reason="No ACK for the 200", cause=408)

    def call_ended(self) -> None:
        """A party hung up before all ACKs were there: the callee's 200 still needs one, and its BYE comes after."""
        self.b2bua.timers.cancel(self._timer)
        if self.acker is not None and not self.acker.sent:
            self.acker.ack()
        self._let_go()

    def _let_go(self) -> None:
        if self._client is not None and self.acker is not None:
            self._client.owner = self.acker
        self._client = None
        self._tx.data = None

    def _fail_answered(self, status: int, now: float) -> None:
        """The callee has answered, but the call cannot be: BYE to it, ``status`` to the caller."""
        self.call_ended()
        self.b2bua.send_bye(self.call.callee.dialog, "", now)
        self._refuse(status, now)

    def _refuse(self, status: int, now: float, response: Response | None = None) -> None:
        b2bua, call = self.b2bua, self.call
        b2bua.timers.cancel(self._timer)
        self.b2bua.setups.pop(self._key, None)
        self._tx.data = None
        refusal = response_to_caller(self.call, self._request, status, response)
        if response is None:
            b2bua.observer.request_rejected("INVITE", status)
            if b2bua.settings.user_agent:
                refusal.add("Server", b2bua.settings.user_agent)
            if status == 503:
                refusal.add("Retry-After", str(round(b2bua.settings.refuse_for)))
        b2bua.sip.respond(self._tx, refusal, now)
        b2bua.observer.setup_ended(call, status, now - call.started)
        b2bua.forget(call, now)
