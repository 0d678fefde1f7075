"""The back-to-back user agent: takes what the transactions give, and knows which call it belongs to.

Out of dialog it admits, routes and refuses; in dialog it hands over to ``Bridge``. It is the user of the transaction
layer and the listener of the fleet, and owns the registers of calls. It does no I/O and has no clock.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from kedge.base.address import Address
from kedge.base.ids import Ids
from kedge.base.timers import TimerHeap
from kedge.call.admission import admit
from kedge.call.bridge import Bridge
from kedge.call.call import ACTIVE, CALLER_TAG, ENDED, Call, Then, checked
from kedge.call.endings import Farewell, Unattended
from kedge.call.failover import Failover
from kedge.call.leg import ALLOW, Leg
from kedge.call.observer import Observer
from kedge.call.passing import hops_left, passed_lines, unsupported
from kedge.call.reports import REQUESTED
from kedge.call.routing import Peer, Routing
from kedge.call.settings import CallSettings
from kedge.call.setup import Setup
from kedge.relay.backend import RelayReply
from kedge.relay.fleet import Fleet, Relay
from kedge.relay.model import RelayState
from kedge.relay.ng_client import RELAY_DOWN, TIMEOUT
from kedge.sip.dialog import Dialog
from kedge.sip.message import Request, Response, make_response
from kedge.sip.transaction import ServerTransaction, ServerUser, TransactionLayer

_KNOWN: Final = frozenset({"REGISTER", "SUBSCRIBE", "PUBLISH", "MESSAGE", "INFO", "REFER", "NOTIFY", "PRACK"})
"""Methods that are refused with 405, where they are not served; what is not known at all gets a 501."""
_NO_REPLY: Final = (RELAY_DOWN, TIMEOUT)
_IN_DIALOG_ONLY: Final = frozenset({"BYE", "UPDATE", "PRACK"})
_BRIDGED: Final = frozenset({"INVITE", "UPDATE", "INFO", "MESSAGE", "NOTIFY", "REFER", "OPTIONS"})


class B2bua(ServerUser):
    """All calls of one signaling process."""

    __slots__ = (
        "_orphans", "_unattended", "calls", "dialogs", "draining", "failover", "farewells", "fleet", "ids", "mark",
        "observer", "on_relay", "rng", "routing", "settings", "setups", "sip", "timers",
    )  # fmt: skip

    sip: TransactionLayer
    fleet: Fleet

    def __init__(
        self, settings: CallSettings, routing: Routing, timers: TimerHeap, ids: Ids, rng: random.Random,
        observer: Observer,
    ) -> None:  # fmt: skip
        self.settings = settings
        self.routing = routing
        self.timers = timers
        self.ids = ids
        self.rng = rng
        self.observer = observer
        self.calls: dict[str, Call] = {}
        self.dialogs: dict[str, Leg] = {}
        """Legs by our own tag: unique and unguessable, so that one look-up finds the dialog."""
        self.setups: dict[tuple[str, str, int], Setup] = {}
        """Set-ups by (Call-ID, From tag, CSeq), to know a merged request (RFC 3261 section 8.2.2.2)."""
        self.on_relay: dict[str, dict[str, Call]] = {}
        """Calls by their relay's uid."""
        self.farewells: dict[str, Farewell] = {}
        """Calls that ended before the caller's ACK, by our tag."""
        self.draining = False
        """Whether new calls are refused, as this process is to end."""
        self.mark = ids.token()
        """What the names of our sessions at relays begin with: those of another process, or of another run, differ."""
        self.failover = Failover(self)
        self._unattended = Unattended()
        self._orphans: dict[tuple[str, str], list[str]] = {}
        """Sessions to be deleted at relays that are Down, by uid and instance (none for whichever returns)."""

    def reload(self, settings: CallSettings, routing: Routing) -> None:
        """Take other settings, in one step. Calls that are there go on with the peers and the route they began with."""
        routing.take_over(self.routing)
        self.settings, self.routing = settings, routing

    def admits(self, request: Request, source: Address) -> bool:
        """Whether a request is worth memory: strangers get a refusal without state, or silence."""
        return not self.settings.drop_strangers or self._is_known(request, source)

    def _is_known(self, request: Request, source: Address) -> bool:
        """Whether a source is a peer's, or was when the call began that the request is for."""
        leg = self.dialogs.get(request.to_tag)
        return self.routing.peer_of(source) is not None or (leg is not None and leg.peer.admits(source))

    # --- requests -------------------------------------------------------------------------------------------------

    def on_request(self, tx: ServerTransaction, request: Request, now: float) -> None:
        """Take a new request that is neither ACK nor CANCEL."""
        peer = self.routing.peer_of(tx.source)
        if request.to_tag and (peer is not None or self._is_known(request, tx.source)):
            self._in_dialog(tx, request, now)
        elif peer is not None:
            self._out_of_dialog(tx, request, peer, now)
        else:
            self.observer.request_rejected(request.method, 403)
            self.sip.refuse(tx, 403)

    def _in_dialog(self, tx: ServerTransaction, request: Request, now: float) -> None:
        leg = self.dialogs.get(request.to_tag)
        if leg is None or not self._belongs(leg, request):
            self.reject(tx, request, 481, now)
        elif not leg.in_order(request):
            self.reject(tx, request, 500, now)
        elif request.method == "BYE":
            self._bye(leg, tx, request, now)
        elif request.method not in _BRIDGED:
            self.reject(tx, request, 405 if request.method in _KNOWN else 501, now, Allow=ALLOW)
        elif unknown := unsupported(request):
            self.reject(tx, request, 420, now, Unsupported=", ".join(unknown))
        else:
            Bridge.open(self, leg, tx, request, now)

    def _belongs(self, leg: Leg, message: Request) -> bool:
        return leg.dialog.call_id == message.call_id and leg.dialog.remote_tag == message.from_tag and leg.call.alive

    def _out_of_dialog(self, tx: ServerTransaction, request: Request, peer: Peer, now: float) -> None:
        method = request.method
        if method != "OPTIONS" and hops_left(request, self.settings.max_forwards) < 0:
            self.reject(tx, request, 483, now)
        elif unknown := unsupported(request):
            self.reject(tx, request, 420, now, Unsupported=", ".join(unknown))
        elif method == "INVITE":
            self._invite(tx, request, peer, now)
        elif method == "OPTIONS":
            self._options(tx, request, now)
        elif method in _IN_DIALOG_ONLY:
            self.reject(tx, request, 481, now)
        else:
            self.reject(tx, request, 405 if method in _KNOWN else 501, now, Allow=ALLOW)

    def _invite(self, tx: ServerTransaction, request: Request, peer: Peer, now: float) -> None:
        if (request.call_id, request.from_tag, request.cseq) in self.setups:
            self.reject(tx, request, 482, now)
        elif self.draining or len(self.calls) >= self.settings.max_calls or not peer.admits_call(now):
            self.reject(tx, request, 503, now, **{"Retry-After": str(round(self.settings.refuse_for))})
        else:
            admit(self, tx, request, peer, now)

    def _options(self, tx: ServerTransaction, request: Request, now: float) -> None:
        response = self.own_response(request, 503 if self.draining else 200)
        response.add("Allow", ALLOW)
        response.add("Accept", "application/sdp")
        self.sip.respond(tx, response, now)

    def reject(self, tx: ServerTransaction, request: Request, status: int, now: float, **headers: str) -> None:
        """Answer a request with a status of our own; ``headers`` are added to the response."""
        self.observer.request_rejected(request.method, status)
        response = self.own_response(request, status)
        for name, value in headers.items():
            response.add(name, value)
        self.sip.respond(tx, response, now)

    def own_response(self, request: Request, status: int) -> Response:
        """Return a final response that is no party's, and says so (RFC 3261 section 20.35)."""
        response = make_response(request, status, to_tag=self.ids.token())
        if self.settings.user_agent:
            response.add("Server", self.settings.user_agent)
        return response

    def on_ack(self, request: Request, source: Address, now: float) -> None:
        """Take the ACK to a 2xx of ours."""
        leg = self.dialogs.get(request.to_tag)
        if leg is None or not self._belongs(leg, request):
            farewell = self.farewells.get(request.to_tag)
            if farewell is not None and farewell.dialog.call_id == request.call_id:
                farewell.say(now)
            return  # a repeated ACK of a dialog that is gone: nothing to answer (an ACK never is)
        setup = leg.call.setup
        if setup is not None and leg is leg.call.caller:
            setup.acked(request, now)
        elif leg.awaiting_ack is not None:
            leg.awaiting_ack.acked(request, now)

    def on_cancel(self, tx: ServerTransaction, request: Request, now: float) -> None:
        """Take a CANCEL that matched an INVITE; the transaction layer has answered it."""
        owner = tx.data
        if isinstance(owner, (Setup, Bridge)):
            owner.cancelled(now)

    def on_no_ack(self, tx: ServerTransaction, now: float) -> None:
        """A final response was never ACKed. After a 2xx the dialog is of no use (RFC 3261 section 13.3.1.4): BYE."""
        owner = tx.data
        if isinstance(owner, (Setup, Bridge)):
            owner.no_ack(now)
        elif isinstance(owner, Farewell):
            owner.say(now)

    def on_stray_response(self, response: Response, source: Address, now: float) -> None:
        """Take a response that matched no transaction: the layer has counted it, and there is nothing else to do."""

    # --- the life of calls ------------------------------------------------------------------------------------------

    def register(self, call: Call) -> None:
        """Make a call known."""
        self.calls[call.id] = call

    def attach(self, call: Call, relay: Relay, session: str) -> None:
        """Put a call on a relay, where a place was reserved for it; the place on the old one is given up."""
        self.detach(call)
        call.relay, call.session, call.relay_instance = relay, session, relay.instance
        self.on_relay.setdefault(relay.uid, {})[call.id] = call

    def detach(self, call: Call) -> None:
        """Give up a call's place on its relay. The session there is not touched."""
        relay = call.relay
        if relay is None:
            return
        calls = self.on_relay.get(relay.uid, {})
        if calls.pop(call.id, None) is not None:
            self.fleet.release(relay)
            if not calls:
                del self.on_relay[relay.uid]
        call.relay = None

    def place(self, call: Call, relay: Relay, now: float) -> None:
        """Give a call a place and a session on another relay; the session that it has is deleted, wherever it is."""
        self.fleet.reserve(relay)
        self.delete_session(call.relay, call.session, now)
        self.attach(call, relay, call.new_session())
        if call.state == ACTIVE:
            self.observer.call_changed(call, now)

    def offer(
        self, call: Call, from_tag: str, to_tag: str, sdp: bytes, step: Callable[[RelayReply, float], None], now: float
    ) -> None:
        """Give an offer to a call's relay, and go on with ``step`` if the call still lives then.

        An offer that is sent again may overtake the deletion and make the session anew: then it is deleted again.
        """
        relay, session = call.relay, call.session
        if relay is None:
            return

        def offered(reply: RelayReply, now: float) -> None:
            if reply.error in _NO_REPLY:
                self.doubt(relay, session)
            if call.alive:
                step(checked(reply, sdp), now)
            elif reply.error not in _NO_REPLY:
                self.delete_session(relay, session, now)

        profile = ""
        if call.state == ACTIVE:  # before that nothing is in force
            profile = (call.callee if from_tag == CALLER_TAG else call.caller).conversion
        relay.client.offer(session, from_tag, to_tag, sdp, Then(offered), 0, now, profile)

    def answer(
        self, call: Call, from_tag: str, to_tag: str, sdp: bytes, step: Callable[[RelayReply, float], None], now: float
    ) -> None:
        """Give an answer to a call's relay, and go on with ``step`` if the call still lives then."""

        def answered(reply: RelayReply, now: float) -> None:
            if call.alive:
                step(checked(reply, sdp), now)

        if call.relay is not None:
            call.relay.client.answer(call.session, from_tag, to_tag, sdp, Then(answered), 0, now)

    def doubt(self, relay: Relay, session: str) -> None:
        """An offer ended without reply: whichever run of the relay answers next may have made the session."""
        self._orphans.setdefault((relay.uid, ""), []).append(session)

    def delete_session(self, relay: Relay | None, session: str, now: float) -> None:
        """Delete a session at a relay. One that does not hear it is told when it returns, if it is the same run."""
        if relay is None or not session:
            return
        if relay.state is RelayState.DOWN:
            self._remember_orphan(relay, session)
        else:
            self._delete(relay, session, now)

    def _delete(self, relay: Relay, session: str, now: float, *, again: bool = True) -> None:
        instance = relay.instance

        def deleted(reply: RelayReply, now: float) -> None:
            if reply.error not in _NO_REPLY or relay.instance != instance:
                return
            if again and relay.state not in (RelayState.DOWN, RelayState.SUSPECT):
                self._delete(relay, session, now, again=False)  # it has come back meanwhile
            else:
                self._remember_orphan(relay, session)

        # Without a tag: of a session that was only offered, the relay knows the offerer's, which may be either party.
        relay.client.delete(session, "", Then(deleted), 0, now)

    def _remember_orphan(self, relay: Relay, session: str) -> None:
        self._orphans.setdefault((relay.uid, relay.instance), []).append(session)

    def relay_ready(self, relay: Relay, now: float) -> None:
        """A relay has come back: the sessions that its calls left there meanwhile go; another instance has none."""
        for key in [key for key in self._orphans if key[0] == relay.uid]:
            orphans = self._orphans.pop(key)
            for session in orphans if key[1] in ("", relay.instance) else ():
                call = self.calls.get(session.split(".")[1])
                if call is None or call.session != session or call.relay is not relay:
                    self._delete(relay, session, now)
        self.failover.reports.drain_over(relay)
        self.failover.relays_changed(now)

    def relay_gone(self, relay: Relay) -> None:
        """A relay will not come back."""
        self.failover.reports.drain_over(relay)
        for key in [key for key in self._orphans if key[0] == relay.uid]:
            del self._orphans[key]

    def established(self, call: Call, now: float) -> None:
        """The caller has ACKed: both dialogs are confirmed."""
        call.setup = None
        call.state = ACTIVE
        self.observer.call_changed(call, now)
        self.failover.established(call, now)

    def _bye(self, leg: Leg, tx: ServerTransaction, request: Request, now: float) -> None:
        self.sip.respond(tx, self.own_response(request, 200), now)
        call = leg.call
        if call.setup is not None and not call.answered:
            call.setup.cancelled(now)
        else:
            self.end(call, now, to_caller=leg is call.callee, to_callee=leg is call.caller, lines=passed_lines(request))

    def hang_up(self, call: Call, now: float, *, reason: str, cause: int = 503) -> None:
        """End a call from our side: BYE to both with a plain reason (RFC 3326)."""
        if not call.alive:
            return
        if call.setup is not None and not call.answered:
            call.setup.give_up(cause if cause >= 400 else 480, now)
            return
        text = reason.replace('"', "'").replace("\\", "/")
        lines = f'Reason: SIP;cause={cause};text="{text}"\r\n{self.settings.own_lines}'
        self.end(call, now, to_caller=True, to_callee=True, lines=lines)

    def end(self, call: Call, now: float, *, to_caller: bool, to_callee: bool, lines: str = "") -> None:
        """End a call that was answered: BYE where asked, sessions deleted, all that is pending let go."""
        if not call.alive:
            return
        call.state = ENDED
        call.ended = now
        unacked: ServerTransaction | None = None
        if call.setup is not None:
            unacked = call.setup.unacked
            call.setup.call_ended()
        if call.bridge is not None:
            call.bridge.call_ended(now)
        if call.move is not None:
            call.move.call_ended(now)
        if to_callee:
            self.send_bye(call.callee.dialog, lines, now)
        if unacked is None:
            if to_caller:
                self.send_bye(call.caller.dialog, lines, now)
        elif to_caller:
            Farewell(self, call.caller.dialog, unacked, lines)
        else:
            self.sip.stop_2xx(unacked, now)
        self.forget(call, now)
        self.observer.call_ended(call, now)

    def send_bye(self, dialog: Dialog, lines: str, now: float) -> None:
        """Send a BYE, whose outcome changes nothing; without ``lines`` of a party's, it is our own."""
        branch = self.ids.branch()
        data = dialog.request("BYE", branch, lines or self.settings.own_lines)
        self.sip.send_request("BYE", branch, data, dialog.destination, self._unattended, now)

    def forget(self, call: Call, now: float) -> None:
        """Take a call out of every register; its session at the relay is deleted."""
        call.state = ENDED
        self.delete_session(call.relay, call.session, now)
        self.detach(call)
        self.calls.pop(call.id, None)
        for name in ("caller", "callee"):
            leg: Leg | None = getattr(call, name, None)
            if leg is not None:
                self.dialogs.pop(leg.dialog.local_tag, None)
                leg.peer.count.calls -= 1
        self.failover.forget(call, now)
        self.observer.call_changed(call, now)
        call.release()

    # --- wishes -----------------------------------------------------------------------------------------------------

    def move_to(self, call: Call, relay: Relay, now: float, *, reason: str = REQUESTED) -> str:
        """Ask for a call to be moved to a relay. Return an empty string, or why it cannot be."""
        if not call.alive:
            return "the call has ended"
        if call.relay is relay and call.move is None:
            return ""
        if relay.relay_set != call.relay_set:
            return f"relay {relay.name} is not of RelaySet {call.relay_set}"
        self.failover.want(call, reason, now, target=relay)
        return ""
