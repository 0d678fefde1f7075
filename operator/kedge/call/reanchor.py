"""Re-anchoring one call: from relay A to relay B, with a re-INVITE to both parties at once.

    PREPARING   the in-force descriptions are replayed on B, which is ready to relay from then on; its output is checked
    OFFERING    both legs are re-INVITEd; each 200 is ACKed at once
    SETTLING    answers that mean something else than before are told to B; a leg whose description is not what B would
                now give it gets another offer, one leg at a time
    ROLLING     a party refused while A lives: the other is taken back to A with a further version (RFC 6141)
    OVER        one ``MoveResult``

Formats only shrink from offer to offer, so settling ends; at ``max_offers`` it ends in any case. A leg knows by
``leg.session`` which session its description is from, so that an exchange that a party began meanwhile, and that was
served on B, needs no further one of ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kedge.base.timers import Timer, TimerTarget
from kedge.call.call import CALLEE_TAG, CALLER_TAG, Call, LastAnchor, Then
from kedge.relay.backend import RelayReply
from kedge.sip.body import sdp_of
from kedge.sip.message import Response
from kedge.sip.offer_answer import (
    UnfitDescriptionError,
    check_relay_output,
    same_addresses,
    same_but_origin,
    same_meaning,
    with_addresses_of,
)
from kedge.sip.sdp import SdpError
from kedge.sip.transaction import ClientOwner, ClientTransaction

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from kedge.call.b2bua import B2bua
    from kedge.call.failover import Want
    from kedge.call.leg import Leg
    from kedge.relay.fleet import Relay

    _Replayed: TypeAlias = Callable[[str, tuple[bytes, bytes] | None, str, float], None]
    """Session, the descriptions for caller and callee (None if it failed), the relay's error, and now."""

PREPARING: Final = 0
OFFERING: Final = 1
SETTLING: Final = 2
ROLLING: Final = 3
OVER: Final = 4

IDLE: Final = 0
SENT: Final = 1
WAITING: Final = 2
ANSWERED: Final = 3
FAILED: Final = 4

MOVED: Final = "Moved"
DIVERGE: Final = "AnswersDiverge"
ROLLED_BACK: Final = "RolledBack"
FAILED_RESULT: Final = "Failed"
ENDED_RESULT: Final = "Ended"
NO_RELAY: Final = "NoRelay"
AGAIN: Final = "TargetLost"

DIALOG_IS_OVER: Final = frozenset({404, 408, 410, 416, 481, 482, 483, 484, 485, 502, 604})
"""Responses that end a dialog (RFC 5057 section 5.1, and RFC 3261 section 12.2.1.2 for 408)."""
_LATER: Final = frozenset({500, 503, 504})
_RELAY_TRIES: Final = 4
_RETRY: Final = 1
_NO_RESPONSE: Final = 2
_BUSY_RETRY: Final = 0.5
"""Seconds until a leg that is busy with the party's own request is looked at again, if nothing says so before."""


class LegMove(ClientOwner, TimerTarget):
    """One leg's part of a move."""

    __slots__ = (
        "_b2bua",
        "_extra",
        "_in_force",
        "_ladder",
        "_move",
        "_retries",
        "_sdp",
        "_timer",
        "_tx",
        "answer",
        "before",
        "leg",
        "offers",
        "state",
        "status",
    )

    def __init__(self, b2bua: B2bua, move: Move, leg: Leg) -> None:
        self._b2bua = b2bua
        self._move = move
        self.leg = leg
        self.state = IDLE
        self.offers = 0
        self.status = 0
        """The final response that made it fail."""
        self.answer = b""
        """The answer to the last offer, if it means or aims elsewhere than the one before."""
        self.before = b""
        """The pruned answer that was in force before."""
        self._sdp = b""
        self._tx: ClientTransaction | None = None
        self._timer: Timer | None = None
        self._retries = 0
        self._ladder = False
        self._extra = ""
        self._in_force = leg.local

    @property
    def pending(self) -> bool:
        """Whether something is still to come."""
        return self.state in (SENT, WAITING)

    def offer(self, sdp: bytes, now: float) -> None:
        """Send a re-INVITE with this description, or wait until the leg is free."""
        self._sdp = sdp
        leg = self.leg
        if leg.busy or leg.call.bridge is not None:
            self._wait(_BUSY_RETRY, now)
            return
        b2bua = self._b2bua
        self._in_force, leg.local = leg.local, leg.origin.stamp(sdp)
        branch = b2bua.ids.branch()
        data = leg.dialog.request("INVITE", branch, leg.session_headers() + self._extra, leg.local)
        self.offers += 1
        self.state = SENT
        self._tx = leg.client = b2bua.sip.send_request("INVITE", branch, data, leg.dialog.destination, self, now)
        self._timer = b2bua.timers.schedule(now + b2bua.settings.answer_timeout, self, _NO_RESPONSE)

    def _wait(self, seconds: float, now: float) -> None:
        self.state = WAITING
        b2bua = self._b2bua
        b2bua.timers.cancel(self._timer)
        self._timer = b2bua.timers.schedule(now + seconds, self, _RETRY)

    def on_timer(self, kind: int, now: float) -> None:
        """Try again; or take silence for an answer."""
        self._timer = None
        if kind == _RETRY:
            self.resume(now)
        elif self.state == SENT:
            self._silent(now)

    def resume(self, now: float) -> None:
        """Try again, unless the leg was brought to this session by the party's own request meanwhile."""
        if self.state != WAITING or self.leg.busy or self.leg.call.bridge is not None:
            if self.state == WAITING and self._timer is None:
                self._wait(_BUSY_RETRY, now)
            return
        self._b2bua.timers.cancel(self._timer)
        self._timer = None
        if self.leg.session == self.leg.call.session:
            self.state = ANSWERED
            self._move.leg_done(now)
        elif self._move.target_lost:
            self.state = FAILED
            self._move.leg_done(now)
        else:
            self.offer(self._sdp, now)

    # --- responses --------------------------------------------------------------------------------------------------

    def on_response(self, tx: ClientTransaction, response: Response, now: float) -> None:
        """Take the party's response; a 2xx is ACKed whatever has become of the call (RFC 3261 section 13.2.2.4)."""
        if response.is_provisional:
            if self.state == SENT:
                self.stop()
            return
        if response.is_success:
            self._acknowledge(response)
        if tx is not self._tx:
            return
        self._tx = None
        self.leg.client = None
        self.stop()
        if self._move.state == OVER or self.state != SENT:
            return
        if response.is_success:
            self._accepted(response, now)
        else:
            self._refused(response.status, response, now)
        bridge = self.leg.call.bridge
        if bridge is not None:
            bridge.resume(now)

    def _acknowledge(self, response: Response) -> None:
        dialog, b2bua = self.leg.dialog, self._b2bua
        self.leg.refresh_target(response)
        b2bua.sip.send(dialog.ack(response.cseq, b2bua.ids.branch()), dialog.destination)

    def _accepted(self, response: Response, now: float) -> None:
        leg, move = self.leg, self._move
        self._b2bua.failover.answered(leg.peer)
        self._b2bua.observer.leg_moved(leg.call, move.target, now - move.started)
        leg.learn_session_timer(response, we_are_uac=True)
        self.state = ANSWERED
        try:
            self._take_answer(sdp_of(response).sdp)
        except SdpError:
            self.status = 488
            self.state = FAILED
        move.leg_done(now)

    def _take_answer(self, answer: bytes) -> None:
        leg = self.leg
        leg.session = leg.call.session
        self.before = leg.pruned
        if not answer or same_but_origin(answer, leg.pruned):
            leg.remote = leg.pruned = answer or leg.pruned  # the usual answer, and a 200 without one: all as it was
            return
        leg.set_in_force(local=leg.local, remote=answer, session=leg.session)
        if not (same_meaning(leg.pruned, self.before) and same_addresses(leg.pruned, self.before)):
            self.answer = leg.pruned

    def _refused(self, status: int, response: Response, now: float) -> None:
        self.status = status
        self.leg.local = self._in_force  # a refused offer changes nothing (RFC 3261 section 14.1)
        b2bua = self._b2bua
        if status == 491:
            # RFC 3261 section 14.1: the owner of the Call-ID waits 2.1-4 s, the other 0-2 s, in steps of 10 ms.
            ours = self.leg is self.leg.call.callee
            steps = b2bua.rng.randint(210, 400) if ours else b2bua.rng.randint(0, 200)
            self._again(steps / 100, now)
        elif status in _LATER:
            self._again(self._retry_after(response), now)
        elif status == 422 and self._raise_interval(response):
            self._again(0.0, now)
        elif not self._ladder and self._move.source_lost and status in (415, 488, 606) and self._exact_offer():
            self._ladder = True
            self._again(0.0, now)
        else:
            self.state = FAILED
            self._move.leg_done(now)

    def _again(self, seconds: float, now: float) -> None:
        self._retries += 1
        if self._retries > self._move.retries:
            self.state = FAILED
            self._move.leg_done(now)
        else:
            self._wait(seconds, now)

    def _retry_after(self, response: Response) -> float:
        settings = self._b2bua.settings
        value = (response.get("Retry-After") or "").partition(";")[0].partition("(")[0].strip()
        seconds = float(value) if value.isdecimal() else settings.retry_after * 2.0**self._retries
        return min(seconds, settings.max_retry_after)

    def _raise_interval(self, response: Response) -> bool:
        """422 (RFC 4028 section 6): raise the session interval to what the party asks for."""
        value = (response.get("Min-SE") or "").partition(";")[0].strip()
        timer = self.leg.session_timer
        if timer is None or not value.isdecimal() or int(value) <= timer.interval:
            return False
        timer.interval = int(value)
        self._extra = f"Min-SE: {value}\r\n"
        return True

    def _exact_offer(self) -> bool:
        """First rung after a refusal with nothing to go back to: the very description that was agreed, moved."""
        accepted = self._move.accepted_before[self.leg.tag]
        try:
            exact = with_addresses_of(accepted, self._sdp)
        except (SdpError, IndexError):
            return False
        if same_but_origin(exact, self._sdp):
            return False
        self._sdp = exact
        return True

    def on_timeout(self, tx: ClientTransaction, now: float) -> None:
        """No final response, or none after a provisional one."""
        if tx is not self._tx:
            return
        self._tx = None
        self.leg.client = None
        if self._move.state != OVER and self.state == SENT:
            self._silent(now)

    def _silent(self, now: float) -> None:
        """No answer counts as a 408 (RFC 3261 section 12.2.1.2). Should one come all the same, it is only ACKed."""
        self._b2bua.failover.timed_out(self.leg.peer)
        self.status = 408
        self.state = FAILED
        self._move.leg_done(now)

    def stop(self) -> None:
        """Wait no longer. A re-INVITE that is out is still ACKed."""
        self._b2bua.timers.cancel(self._timer)
        self._timer = None


class Move:
    """One re-anchoring of one call."""

    __slots__ = (
        "_b2bua",
        "_callee",
        "_caller",
        "_old_session",
        "_tries",
        "accepted_before",
        "call",
        "gap_since",
        "outputs",
        "retries",
        "source",
        "source_lost",
        "started",
        "state",
        "target",
        "want",
    )

    def __init__(self, b2bua: B2bua, call: Call, want: Want, target: Relay, now: float) -> None:
        self._b2bua = b2bua
        self.call = call
        self.want = want
        self.source = call.relay
        self.source_lost = b2bua.failover.is_lost(call)
        self.gap_since = want.last_seen if self.source_lost else 0.0
        self.target = target
        self.retries = b2bua.failover.policy_of(call).retries
        self.started = now
        self.state = PREPARING
        self.outputs: tuple[bytes, bytes] = (b"", b"")
        """What the target gave for the caller's and the callee's leg."""
        self.accepted_before = {CALLER_TAG: call.caller.local, CALLEE_TAG: call.callee.local}
        self._old_session = call.session
        self._tries = 0
        self._caller = LegMove(b2bua, self, call.caller)
        self._callee = LegMove(b2bua, self, call.callee)

    @property
    def preparing(self) -> bool:
        """Whether the target does not have the call yet: nothing can be offered there."""
        return self.state == PREPARING

    @property
    def target_lost(self) -> bool:
        """Whether the relay that the call is now on was lost meanwhile."""
        return self._b2bua.failover.is_lost(self.call)

    # --- PREPARING --------------------------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Replay the call on the target. A place there must be reserved, unless the call is there already."""
        self.call.move = self
        self._tries += 1
        session = (
            self.call.session if self.target is self.call.relay and not self.source_lost else self.call.new_session()
        )
        self._replay(session, self._prepared, now)

    def _replay(self, session: str, done: _Replayed, now: float) -> None:
        """Give the in-force descriptions to the target: ``offer`` and ``answer`` back to back."""
        caller, callee, target = self.call.caller, self.call.callee, self.target
        for_callee = b""

        def offered(reply: RelayReply, now: float) -> None:
            nonlocal for_callee
            if self.state == OVER:
                self._b2bua.delete_session(target, session, now)
            elif reply.sdp is None:
                done(session, None, reply.error, now)
            else:
                for_callee = reply.sdp
                target.client.answer(session, CALLER_TAG, CALLEE_TAG, callee.pruned, Then(answered), 0, now)

        def answered(reply: RelayReply, now: float) -> None:
            if self.state == OVER:
                self._b2bua.delete_session(target, session, now)
            elif reply.sdp is None:
                done(session, None, reply.error, now)
            else:
                done(session, (reply.sdp, for_callee), "", now)

        target.client.offer(session, CALLER_TAG, "", caller.pruned, Then(offered), 0, now)

    def _prepared(self, session: str, outputs: tuple[bytes, bytes] | None, error: str, now: float) -> None:
        b2bua, call = self._b2bua, self.call
        b2bua.failover.prepared(now)
        if outputs is None:
            self._other_target(session, error, now)
            return
        try:
            check_relay_output(outputs[0], call.caller.local, call.caller.remote)
            check_relay_output(outputs[1], call.callee.local, call.callee.remote)
        except (UnfitDescriptionError, SdpError) as problem:
            b2bua.delete_session(self.target, session, now)
            self._give_back_target()
            self._finish(FAILED_RESULT, f"relay {self.target.name}: {problem}", now)
            return
        self.outputs = outputs
        if session != self._old_session:
            b2bua.attach(call, self.target, session)
        self.state = OFFERING
        self._offer_both(now)

    def _give_back_target(self) -> None:
        if self.target is not self.call.relay or self.source_lost:
            self._b2bua.fleet.release(self.target)

    def _other_target(self, session: str, error: str, now: float) -> None:
        b2bua = self._b2bua
        b2bua.delete_session(self.target, session, now)
        self._give_back_target()
        other = b2bua.fleet.pick(self.call.relay_set, avoid=self.target) if self._tries < _RELAY_TRIES else None
        if other is None:
            self._finish(NO_RELAY, error, now)
            return
        b2bua.fleet.reserve(other)
        self.target = other
        b2bua.failover.preparing_again()
        self.start(now)

    # --- OFFERING ---------------------------------------------------------------------------------------------------

    def _offer_both(self, now: float) -> None:
        for part, sdp in ((self._caller, self.outputs[0]), (self._callee, self.outputs[1])):
            if part.leg.origin.would_change(sdp):
                part.offer(sdp, now)
            else:
                part.leg.session = self.call.session
                part.state = ANSWERED
        if not (self._caller.pending or self._callee.pending):
            self.leg_done(now)

    def leg_done(self, now: float) -> None:
        """A leg was answered, or failed for good; go on when nothing more can come."""
        for part in (self._caller, self._callee):
            if part.state == FAILED and part.status in DIALOG_IS_OVER and not self._held_back(part):
                self._dialog_over(part, now)
                return
        if self._caller.pending or self._callee.pending or self.state == OVER:
            return
        failed = [part for part in (self._caller, self._callee) if part.state == FAILED]
        if self.target_lost:
            self._finish(AGAIN, "the target was lost meanwhile", now)
        elif failed:
            self._some_failed(failed, now)
        elif self.state == ROLLING:
            self._rolled_back(now)
        else:
            self._settle(now)

    def _held_back(self, part: LegMove) -> bool:
        """Whether so many calls of this peer time out that the peer, not the call, must be in trouble."""
        return part.status == 408 and self._b2bua.failover.breaker_open(part.leg.peer)

    def _dialog_over(self, part: LegMove, now: float) -> None:
        call, leg = self.call, part.leg
        text = f"The other party's dialog is gone ({part.status})"
        self._finish(ENDED_RESULT, f"{leg.peer.name} answered {part.status}", now, policy=False)
        self._b2bua.end(
            call, now, to_caller=leg is call.callee or part.status == 408, to_callee=leg is call.caller or part.status == 408,
            lines=f'Reason: SIP;cause={part.status};text="{text}"\r\n',
        )  # fmt: skip

    # --- SETTLING ---------------------------------------------------------------------------------------------------

    def _settle(self, now: float) -> None:
        """Bring answers that differ together."""
        if not (self._caller.answer or self._callee.answer):
            self._finish(MOVED, "", now)
            return
        self._caller.answer = self._callee.answer = b""
        self.state = SETTLING
        self._replay(self.call.session, self._told, now)

    def _told(self, session: str, outputs: tuple[bytes, bytes] | None, error: str, now: float) -> None:
        if outputs is None:
            self._finish(MOVED, f"the relay could not be told of a changed answer: {error}", now)
            return
        for part, sdp in ((self._caller, outputs[0]), (self._callee, outputs[1])):
            if same_meaning(sdp, part.leg.local) and same_addresses(sdp, part.leg.local):
                continue
            if part.offers >= self._b2bua.settings.max_offers:
                self._finish(DIVERGE, f"after {part.offers} offers", now)
            else:
                part.leg.session = ""  # its description is not what the relay would give it now
                part.offer(sdp, now)
            return
        self._finish(MOVED, "", now)

    # --- failures ---------------------------------------------------------------------------------------------------

    def _some_failed(self, failed: list[LegMove], now: float) -> None:
        source = self.source
        status = failed[0].status
        message = f"{failed[0].leg.peer.name} answered {status}"
        if self.state == ROLLING or self.source_lost or source is None or source is self.target:
            self._finish(FAILED_RESULT, message, now)
            return
        self.state = ROLLING
        self._b2bua.fleet.reserve(source)
        new_session, self.target = self.call.session, source
        old_target = self.call.relay
        self._b2bua.attach(self.call, source, self._old_session)
        self._b2bua.delete_session(old_target, new_session, now)
        for part in (self._caller, self._callee):
            before = self.accepted_before[part.leg.tag]
            if part.state == FAILED:
                part.leg.local, part.leg.session, part.state = before, self.call.session, ANSWERED
            else:
                part.offer(before, now)
        self.leg_done(now)

    def _rolled_back(self, now: float) -> None:
        self._finish(ROLLED_BACK, "a party refused the new relay", now)

    # --- OVER -------------------------------------------------------------------------------------------------------

    def resume(self, now: float) -> None:
        """A party's own exchange has ended: go on with what waited for it."""
        self._caller.resume(now)
        if self.state != OVER:
            self._callee.resume(now)

    def call_ended(self, now: float) -> None:
        """A party hung up: both sessions go, with the call."""
        if self.state == PREPARING:
            self._b2bua.failover.prepared(now)
            self._give_back_target()
        self._finish(ENDED_RESULT, "the call ended", now, policy=False)

    def _finish(self, result: str, message: str, now: float, *, policy: bool = True) -> None:
        if self.state == OVER:
            return
        self.state = OVER
        call, b2bua = self.call, self._b2bua
        self._caller.stop()
        self._callee.stop()
        call.move = None
        call.last_move_at = now
        if result in (MOVED, DIVERGE):
            call.anchors += 1
            b2bua.failover.count_gap(self, now)
        gap = max(0.0, now - self.gap_since) if self.gap_since else 0.0
        call.last_anchor = LastAnchor(
            source=self.source.name if self.source is not None else "", target=self.target.name, reason=self.want.reason,
            result=result, at=now, duration=now - self.started, gap=gap,
        )  # fmt: skip
        call.anchored_reason = "Settled" if result == MOVED else result
        call.anchored_message = message
        if self._old_session != call.session:
            b2bua.delete_session(self.source, self._old_session, now)
        b2bua.observer.move_ended(call, self.want.reason, result, now - self.started, gap)
        b2bua.failover.finished(self, result, message, now, policy=policy)
