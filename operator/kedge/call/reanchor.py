"""Re-anchoring one call: from relay A to relay B, with a re-INVITE to both parties at once.

    PREPARING   the in-force descriptions are replayed on B, which is ready to relay from then on; its output is checked
    OFFERING    both legs are re-INVITEd; each 200 is ACKed at once
    SETTLING    answers that mean something else than before are told to B; a leg whose description is not what B would
                now give it gets another offer, one leg at a time
    ROLLING     a party refused while A lives: the other is taken back to A with a further version (RFC 6141)
    OVER        one ``MoveResult``

A leg gets another RTP profile (RTP to SRTP, or back) in the same way: from one session to another, on A if it lives.

Formats only shrink from offer to offer, so settling ends; at ``max_offers`` it ends in any case. A leg knows by
``leg.session`` which session its description is from, so that an exchange that a party began meanwhile, and that was
served on B, needs no further one of ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kedge.call.call import CALLEE_TAG, CALLER_TAG, Call, LastAnchor, Then
from kedge.call.endings import Linger
from kedge.call.leg_move import ANSWERED, FAILED, WAITING, LegMove
from kedge.relay.backend import RelayReply
from kedge.relay.model import RelayState
from kedge.relay.ng_client import RELAY_DOWN, TIMEOUT
from kedge.sip.offer_answer import (
    UnfitDescriptionError,
    check_relay_output,
    keep_common_suites,
    keep_suites,
    same_addresses,
    same_but_origin,
    same_meaning,
)
from kedge.sip.sdp import SdpError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from kedge.call.b2bua import B2bua
    from kedge.call.leg import Leg
    from kedge.call.want import Want
    from kedge.relay.fleet import Relay

    _Replayed: TypeAlias = Callable[[str, tuple[bytes, bytes] | None, str, float], None]
    """Session, the descriptions for caller and callee (None if it failed), the relay's error, and now."""

PREPARING: Final = 0
OFFERING: Final = 1
SETTLING: Final = 2
ROLLING: Final = 3
OVER: Final = 4

MOVED: Final = "Moved"
DIVERGE: Final = "AnswersDiverge"
ROLLED_BACK: Final = "RolledBack"
FAILED_RESULT: Final = "Failed"
ENDED_RESULT: Final = "Ended"
NO_RELAY: Final = "NoRelay"
AGAIN: Final = "TargetLost"

DIALOG_IS_OVER: Final = frozenset({404, 408, 410, 416, 481, 482, 483, 484, 485, 502, 604})
"""Responses that end a dialog (RFC 5057 section 5.1, and RFC 3261 section 12.2.1.2 for 408)."""
_RELAY_TRIES: Final = 4


class Move:
    """One re-anchoring of one call."""

    __slots__ = (
        "_b2bua",
        "_callee",
        "_caller",
        "_converted",
        "_old_session",
        "_profile",
        "_refusal",
        "_reoffered",
        "_reserved",
        "_session",
        "_source_instance",
        "_tries",
        "accepted_before",
        "asking",
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
        if self.source is not None:
            b2bua.fleet.hold(self.source)
        self.source_lost = call.is_lost
        """Whether there is nothing to go back to, as far as known when it began."""
        self.gap_since = want.last_seen if self.source_lost else 0.0
        self.target = target
        self.retries = b2bua.failover.policy_of(call).retries
        self.started = now
        self.state = PREPARING
        self.asking = False
        """Whether a relay is being told of the call: a party's own exchange waits for it."""
        self.outputs: tuple[bytes, bytes] = (b"", b"")
        """What the target gave for the caller's and the callee's leg."""
        self.accepted_before = {CALLER_TAG: call.caller.local, CALLEE_TAG: call.callee.local}
        self._old_session = call.session
        self._session = call.session
        """The session that the legs are brought to."""
        self._source_instance = call.relay_instance
        self._reserved = False
        # A call whose relay is lost has no time for that, and could not go back to how it was.
        self._converted = None if self.source_lost else want.converted
        self._profile = want.profile if self._converted is not None else ""
        """The RTP profile that one leg is brought to, if that is what the move is for."""
        self._refusal = ""
        """Which party refused, and how: it goes back for that."""
        self._reoffered = False
        """Whether a leg was given another offer: the other one may need one as well."""
        self._tries = 0
        self._caller = LegMove(b2bua, self, call.caller)
        self._callee = LegMove(b2bua, self, call.callee)

    @property
    def overtaken(self) -> bool:
        """Whether what it has to offer is of no use any more.

        The target was lost, or a party's own exchange has brought the call to yet another relay.
        """
        return self.call.session != self._session or self.call.is_lost

    def profile_for(self, leg: Leg) -> str:
        """Return the RTP profile that a leg is brought to; empty where it keeps its own."""
        return self._profile if leg is self._converted else ""

    # --- PREPARING --------------------------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Take a place on the target, unless the call is there already, and replay the call there."""
        self.call.move = self
        self._tries += 1
        session = self.call.session
        if self.target is not self.call.relay or self.source_lost or self._converted is not None:
            self._b2bua.fleet.reserve(self.target)
            self._reserved = True
            session = self.call.new_session()
        self._replay(self.target, session, self._prepared, now)

    def _replay(self, relay: Relay, session: str, done: _Replayed, now: float) -> None:
        """Give the in-force descriptions to a relay: ``offer`` and ``answer`` back to back.

        A relay can be asked for another profile in an offer alone: the leg that shall have it is the one that answers.
        """
        first, second = self.call.caller, self.call.callee
        if self._converted is first:
            first, second = second, first
        for_second = b""
        self.asking = True

        def offered(reply: RelayReply, now: float) -> None:
            nonlocal for_second
            if self.state != OVER and reply.sdp is not None:
                for_second = reply.sdp
                relay.client.answer(session, first.tag, second.tag, second.pruned, Then(answered), 0, now)
            else:
                ended(reply, now)

        def answered(reply: RelayReply, now: float) -> None:
            ended(reply, now)

        def ended(reply: RelayReply, now: float) -> None:
            if reply.error in (RELAY_DOWN, TIMEOUT):
                self._b2bua.doubt(relay, session)
            if self.state == OVER:
                self._b2bua.delete_session(relay, session, now)  # the call has ended
                return
            self.asking = False
            if reply.sdp is None:
                done(session, None, reply.error, now)
                return
            try:
                outputs = keep_suites(reply.sdp, first.pruned), keep_suites(for_second, second.pruned)
                if self._converted is not None:
                    outputs = outputs[0], keep_common_suites(outputs[1])
            except SdpError as error:
                done(session, None, f"relay {relay.name}: {error}", now)
            else:
                done(session, outputs if first is self.call.caller else (outputs[1], outputs[0]), "", now)

        profile = self._profile or second.conversion
        relay.client.offer(session, first.tag, "", first.pruned, Then(offered), 0, now, profile)

    def _prepared(self, session: str, outputs: tuple[bytes, bytes] | None, error: str, now: float) -> None:
        b2bua, call = self._b2bua, self.call
        b2bua.failover.prepared(now)
        problem = error if outputs is None else self._check(outputs)
        if problem or outputs is None:
            self._other_target(session, problem, FAILED_RESULT if outputs is not None else NO_RELAY, now)
            return
        self.outputs = outputs
        self._session = session
        if self._reserved:
            b2bua.attach(call, self.target, session)
            self._reserved = False
        self.state = OFFERING
        if call.bridge is not None:
            call.bridge.resume(now)  # it has waited for the relay's answer, and brings both legs there
        self._offer_both(now)

    def _check(self, outputs: tuple[bytes, bytes]) -> str:
        """Return what is wrong with what a relay gave for the two legs, or an empty string."""
        try:
            for leg, sdp in zip((self.call.caller, self.call.callee), outputs, strict=True):
                check_relay_output(sdp, leg.local, leg.remote, self.profile_for(leg))
        except (UnfitDescriptionError, SdpError) as error:
            return f"relay {self.target.name}: {error}"
        return ""

    def _give_back_target(self) -> None:
        if self._reserved:
            self._b2bua.fleet.release(self.target)
            self._reserved = False

    def _other_target(self, session: str, error: str, result: str, now: float) -> None:
        b2bua = self._b2bua
        if session != self.call.session:
            b2bua.delete_session(self.target, session, now)
        self._give_back_target()
        call, other = self.call, None
        if self._tries < _RELAY_TRIES:
            other = b2bua.fleet.pick(call.relay_set, avoid=self.target, zone=call.zone)
        if other is None or (other is self.call.relay and not self.source_lost):
            self._finish(result, error, now)
            return
        self.target = other
        b2bua.failover.preparing_again()
        self.start(now)

    # --- OFFERING ---------------------------------------------------------------------------------------------------

    def _offer_both(self, now: float) -> None:
        parts = ((self._caller, self.outputs[0]), (self._callee, self.outputs[1]))
        for part, sdp in parts:  # all states are set before anything can end
            known = same_but_origin(sdp, part.leg.local)
            part.leg.session = self.call.session if known else ""
            part.state = ANSWERED if known else WAITING
        for part, sdp in parts:
            if part.state == WAITING:
                part.offer(sdp, now)
        self.leg_done(now)

    def leg_done(self, now: float) -> None:
        """A leg was answered, or failed for good; go on when nothing more can come."""
        if self.state == OVER:
            return
        for part in (self._caller, self._callee):
            if part.state == FAILED and part.status in DIALOG_IS_OVER and not self._held_back(part):
                self._dialog_over(part, now)
                return
        if self._caller.pending or self._callee.pending:
            return
        failed = [part for part in (self._caller, self._callee) if part.state == FAILED]
        if self.overtaken and (failed or self.call.is_stranded):
            self._finish(AGAIN, "the target was lost meanwhile", now)
        elif failed:
            self._some_failed(failed, now)
        else:
            self._settle(now)

    def _held_back(self, part: LegMove) -> bool:
        """Whether so many calls of this peer time out that the peer, not the call, must be in trouble."""
        limit = self._b2bua.settings.breaker_count
        return part.status == 408 and self._b2bua.failover.breaker.is_open(part.leg.peer, limit)

    def _dialog_over(self, part: LegMove, now: float) -> None:
        call, leg = self.call, part.leg
        silent = part.status == 408
        text = f"The other party's dialog is gone ({part.status})"
        self._finish(ENDED_RESULT, f"{leg.peer.name} answered {part.status}", now, policy=False)
        self._b2bua.end(
            call, now, to_caller=silent or leg is call.callee, to_callee=silent or leg is call.caller,
            lines=f'Reason: SIP;cause={part.status};text="{text}"\r\n{self._b2bua.settings.own_lines}',
        )  # fmt: skip

    # --- SETTLING ---------------------------------------------------------------------------------------------------

    def _settle(self, now: float) -> None:
        """Bring answers that differ together."""
        relay = self.call.relay
        if relay is None or not (self._caller.changed or self._callee.changed or self._reoffered):
            self._finish_settled(now)
            return
        self._caller.changed = self._callee.changed = self._reoffered = False
        self.state = SETTLING
        self.target, self._session = relay, self.call.session
        self._replay(relay, self.call.session, self._told, now)

    def _told(self, session: str, outputs: tuple[bytes, bytes] | None, error: str, now: float) -> None:
        if self.call.bridge is not None:
            self.call.bridge.resume(now)
        if outputs is None:
            result = AGAIN if self.overtaken else ROLLED_BACK if self._refusal else MOVED
            self._finish(result, f"the relay was not told of a changed answer: {error}", now)
            return
        for part, sdp in ((self._caller, outputs[0]), (self._callee, outputs[1])):
            leg = part.leg
            if same_meaning(sdp, leg.local) and same_addresses(sdp, leg.local):
                continue
            if part.offers >= self._b2bua.settings.max_offers:
                self._finish(DIVERGE, f"after {part.offers} offers", now)
            elif problem := self._check(outputs):
                self._finish(DIVERGE, problem, now)
            else:
                leg.session = ""  # its description is not what the relay would give it now
                self._reoffered = True
                part.offer(sdp, now)
            return
        self._finish_settled(now)

    def _finish_settled(self, now: float) -> None:
        self._finish(ROLLED_BACK if self._refusal else MOVED, self._refusal, now)

    # --- failures ---------------------------------------------------------------------------------------------------

    def _can_go_back(self) -> bool:
        """Whether the old session is still there to go back to."""
        source = self.source
        if self.source_lost or source is None or self.call.session == self._old_session:
            return False
        return source.state is not RelayState.DOWN and source.instance == self._source_instance

    def _some_failed(self, failed: list[LegMove], now: float) -> None:
        self._refusal = failed[0].refusal
        self.want.credentials_missing = any(part.status in (401, 407) for part in failed)
        if self._can_go_back() and self.source is not None:
            self._roll_back(self.source, now)
        else:
            self._finish(FAILED_RESULT, self._refusal, now)

    def _roll_back(self, source: Relay, now: float) -> None:
        call, b2bua = self.call, self._b2bua
        self.state = ROLLING
        self._converted, self._profile = None, ""
        b2bua.fleet.reserve(source)
        b2bua.delete_session(call.relay, call.session, now)
        b2bua.attach(call, source, self._old_session)
        self.target, self._session = source, self._old_session
        parts = (self._caller, self._callee)
        for part in parts:
            if part.state == FAILED and not part.leg.session:
                part.leg.session = self._old_session  # it never left
            part.state = WAITING if part.leg.session != self._old_session else ANSWERED
        for part in parts:
            if part.state == WAITING:
                part.offer(self.accepted_before[part.leg.tag], now)
        self.leg_done(now)

    # --- OVER -------------------------------------------------------------------------------------------------------

    def resume(self, now: float) -> None:
        """A party's own exchange has ended, or the target was lost: go on with what waited."""
        self._caller.resume(now)
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
        self._caller.let_go()
        self._callee.let_go()
        call.move = None
        call.last_move_at = now
        if result in (DIVERGE, ROLLED_BACK, FAILED_RESULT):
            call.rest_until = now + b2bua.settings.rest
        if result in (MOVED, DIVERGE):
            call.anchors += 1
            self.want.count_gap(self.gap_since, now)
        gap = max(0.0, now - self.gap_since) if self.gap_since else 0.0
        call.last_anchor = LastAnchor(
            source=self.source.name if self.source is not None else "", target=self.target.name,
            reason=self.want.reason, result=result, at=now, duration=now - self.started, gap=gap,
        )  # fmt: skip
        if result == DIVERGE or call.is_stranded:
            call.anchored_reason = result
        else:
            call.anchored_reason = "Settled"  # also where it stays on a relay that it was to leave
        call.anchored_message = message
        self._leave_source(result, now)
        b2bua.observer.move_ended(call, self.want.reason, result, now - self.started, gap)
        b2bua.failover.finished(self, result, message, now, policy=policy)

    def _leave_source(self, result: str, now: float) -> None:
        """Delete the session that is of no use any more; at a relay that lives, once the last packets are through."""
        b2bua, source = self._b2bua, self.source
        if source is None:
            return
        if self._old_session != self.call.session and result in (MOVED, DIVERGE) and not self.source_lost:
            b2bua.timers.schedule(now + b2bua.settings.linger, Linger(b2bua, source, self._old_session))
            return  # the relay is held until then
        if self._old_session != self.call.session:
            b2bua.delete_session(source, self._old_session, now)
        b2bua.fleet.unhold(source)
