"""Which calls are to be moved, in what order, at what pace, and what became of it.

A wish to move a call is kept until the call is where it should be, has ended, or its case is decided: level-triggered,
so that a second loss, a party's own re-INVITE or a refusal only mean that the call is looked at again. Emergency calls
go first, then those without audio, the longest silent first, then the rest. Moves begin only as fast as the budgets of
re-INVITEs allow, and as relays can take commands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kedge.base.timers import Timer, TimerTarget
from kedge.call.breaker import Breaker
from kedge.call.call import ACTIVE, Call
from kedge.call.move_queue import QUIET, SILENT, URGENT, MoveQueue
from kedge.call.pacing import Pace
from kedge.call.reanchor import AGAIN, DIVERGE, MOVED, NO_RELAY, Move
from kedge.call.reports import DRAIN, REQUESTED, FailoverReport, Reports
from kedge.call.want import Want
from kedge.relay.model import FailoverPolicy, Intent, RelayState
from kedge.sip.offer_answer import profile_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kedge.call.b2bua import B2bua
    from kedge.call.leg import Leg
    from kedge.relay.fleet import Relay

_PUMP: Final = 1
_LOOK_AGAIN: Final = 0.25
"""Seconds until calls without a relay that has room are looked at again."""


class Failover(TimerTarget):
    """The queue of moves of one signaling process."""

    __slots__ = (
        "_b2bua", "_pace", "_preparing", "_pumping", "_queue", "_timer", "breaker", "reports", "wants",
    )  # fmt: skip

    def __init__(self, b2bua: B2bua) -> None:
        self._b2bua = b2bua
        self.wants: dict[str, Want] = {}
        self.breaker = Breaker()
        self.reports = Reports(b2bua.observer)
        self._queue = MoveQueue(self._rank)
        self._pace = Pace()
        self._preparing = 0
        self._pumping = False
        self._timer: Timer | None = None

    # --- what is so -------------------------------------------------------------------------------------------------

    def policy_of(self, call: Call) -> FailoverPolicy:
        """Return the failover policy of a call's RelaySet."""
        policy = self._b2bua.fleet.sets.get(call.relay_set)
        return policy.failover if policy is not None else FailoverPolicy()

    def _is_needed(self, want: Want) -> bool:
        call = want.call
        if call.is_stranded:
            return True
        if want.reason == DRAIN and not self._drains(call):
            return False  # the drain was taken back, or the call has left
        if want.converted is not None:
            return profile_of(want.converted.local) != want.profile
        if want.target is not None:
            return call.relay is not want.target
        return self._drains(call)

    def _drains(self, call: Call) -> bool:
        return call.relay is not None and call.relay.intent is Intent.DRAIN

    # --- what is wanted ---------------------------------------------------------------------------------------------

    def relay_lost(self, relay: Relay, reason: str, now: float) -> None:
        """A relay is Down, or has lost its sessions: all its calls want to be elsewhere."""
        # Another run answers now: its signs of life say nothing of the sessions that the one before had.
        lost_by_restart = relay.state is not RelayState.DOWN
        self._move_all(relay, reason, relay.health.replaced_since if lost_by_restart else relay.health.last_seen, now)

    def relay_drains(self, relay: Relay, now: float) -> None:
        """A relay is to be emptied while it lives."""
        self._move_all(relay, DRAIN, 0.0, now)

    def _move_all(self, relay: Relay, reason: str, last_seen: float, now: float) -> None:
        calls = list(self._b2bua.on_relay.get(relay.uid, {}).values())
        if not relay.policy.failover.automatic:
            self._leave_to_persons(relay, calls, reason, now)
            return
        report = FailoverReport(relay, reason, last_seen, now)
        report.calls = len(calls)
        for call in calls:
            self._want(call, reason, now, None, report)
        self._b2bua.observer.failover_changed(report, now)
        self._pump(now)

    def _leave_to_persons(self, relay: Relay, calls: list[Call], reason: str, now: float) -> None:
        """``failover.mode: Manual``: say what is so, and move a call only when somebody asks."""
        observer = self._b2bua.observer
        for call in calls:
            if call.is_lost:
                call.anchored_reason = reason
                call.anchored_message = f"relay {relay.name} is lost, and failover.mode is Manual"
                observer.call_changed(call, now)
        if calls:
            observer.event(
                warning=True, reason="FailoverNotAutomatic", relay_set=relay.relay_set, relay=relay.name, call="",
                message=f"{len(calls)} calls stay on relay {relay.name} ({reason}), as failover.mode is Manual",
            )  # fmt: skip

    def established(self, call: Call, now: float) -> None:
        """A call is up: if its relay was lost or is drained since the INVITE, it is time to move it."""
        if call.id in self.wants or call.is_stranded or self._drains(call):
            self._look_at(call, now)

    def leg_free(self, call: Call, now: float) -> None:
        """A re-INVITE that a move had given up has ended: what waits for the leg may begin."""
        if call.id in self.wants and call.move is None:
            self._look_at(call, now)

    def settled(self, call: Call, now: float) -> None:
        """A party's own exchange has ended: go on with what waited for it, or was left undone by it."""
        if call.move is not None:
            call.move.resume(now)
        if call.move is not None or call.state != ACTIVE:
            return
        if call.id in self.wants or call.is_stranded:
            self._look_at(call, now)
        else:
            self._anchored(call, now)

    def _anchored(self, call: Call, now: float) -> None:
        """A party's own exchange has brought the call where it should be: what its record says of trouble is over."""
        if call.anchored_reason != DIVERGE and (call.anchored_reason, call.anchored_message) != ("Settled", ""):
            call.anchored_reason, call.anchored_message = "Settled", ""
            self._b2bua.observer.call_changed(call, now)

    def _look_at(self, call: Call, now: float) -> None:
        want = self.wants.get(call.id)
        if want is None and (self.policy_of(call).automatic or not (call.is_lost or self._drains(call))):
            reason = "RelayDown" if call.is_lost else DRAIN if self._drains(call) else "Unsettled"
            want = self.wants[call.id] = Want(call, reason, now, None, None)
        if want is not None:
            self._queue.put(want)
            self._pump(now)

    def want(self, call: Call, reason: str, now: float, *, target: Relay | None = None) -> None:
        """Ask for one call to be moved."""
        self._want(call, reason, now, target, None)
        self._pump(now)

    def convert(self, leg: Leg, profile: str, now: float) -> None:
        """Ask for one leg's media in another RTP profile. For a call of which nothing else is wanted."""
        want = self.wants[leg.call.id] = Want(leg.call, REQUESTED, now, None, None)
        want.converted, want.profile = leg, profile
        self._queue.put(want)
        self._pump(now)

    def take_back(self, call: Call, now: float) -> None:
        """Nobody asks any more for a relay of their own choice, or a profile; what else wants the call moved stands."""
        want = self.wants.get(call.id)
        if want is not None:
            want.target = want.converted = None
            self._queue.put(want)
            self._pump(now)

    def carry_out(self, moves: Sequence[tuple[str, str]], reason: str, now: float) -> None:
        """Ask for the moves of a plan: (call id, uid of its relay-to-be). What is gone or rests is left out."""
        b2bua = self._b2bua
        reports: dict[str, FailoverReport] = {}
        for call_id, uid in moves:
            call, target = b2bua.calls.get(call_id), b2bua.fleet.relays.get(uid)
            if call is None or target is None or call.relay is target or now < call.rest_until:
                continue
            report = None
            if reason == DRAIN and call.relay is not None:
                report = reports[call.relay.uid] = self.reports.of_drain(call.relay, now)
                report.calls += 1
            self._want(call, reason, now, target, report)
        for report in reports.values():
            b2bua.observer.failover_changed(report, now)
        self._pump(now)

    def _want(self, call: Call, reason: str, now: float, target: Relay | None, report: FailoverReport | None) -> None:
        old = self.wants.get(call.id)
        if old is not None and old.report is not None:
            if report is None:
                old.target = target
                self._queue.put(old)
                return
            self.reports.counts_elsewhere(old, now)  # a second loss: it counts there from now on
        want = self.wants[call.id] = Want(call, reason, now, target, report)
        if old is not None and old.report is not None:
            want.last_seen = min(want.last_seen, old.last_seen) or want.last_seen
        if report is not None:
            report.pending += 1
        self._queue.put(want)
        if call.move is not None and report is not None:
            call.move.resume(now)  # what waits there for a leg need not wait any longer: its target is lost

    def forget(self, call: Call, now: float) -> None:
        """A call has ended: what was wanted of it is moot."""
        want = self.wants.pop(call.id, None)
        if want is not None:
            self.reports.moot(want, now)

    def relays_changed(self, now: float) -> None:
        """A relay has come or has room again: calls that waited for one are looked at."""
        self._queue.release_waiting()
        self._pump(now)

    def _rank(self, want: Want) -> int:
        call = want.call
        if call.emergency and self.policy_of(call).emergency_first:
            return URGENT
        return SILENT if call.is_lost else QUIET

    # --- pace -------------------------------------------------------------------------------------------------------

    def _pump(self, now: float) -> None:
        """Begin as many moves as budgets and relays allow."""
        if self._pumping:
            return  # a move that ended at once: the loop below goes on
        self._pumping = True
        try:
            limit = self._b2bua.settings.preparing
            while self._preparing < limit and (want := self._queue.take()) is not None:
                delay = self._consider(want, now)
                if delay > 0:
                    self._queue.put_back(want)
                    self._wake_in(delay, now)
                    return
        finally:
            self._pumping = False

    def _consider(self, want: Want, now: float) -> float:
        """Begin a move if it is needed and can begin; return seconds to wait where only the budget forbids it."""
        call = want.call
        if self.wants.get(call.id) is not want or not call.alive:
            return 0.0
        if call.state != ACTIVE or not call.settled or call.move is not None:
            return 0.0  # ``settled``, ``established`` or the move's end brings it back
        if not self._is_needed(want):
            self._done(want, MOVED, now)
            return 0.0
        if want.target is not None and want.target.state is not RelayState.READY:
            self._lose_target(want, now)
            return 0.0
        target = self._target_of(want)
        if target is None:
            self._no_relay(want, now)
            return 0.0
        delay, peer = self._pace.spend(call, self.policy_of(call), now)
        if not peer:
            if delay <= 0:
                self._begin(want, target, now)
            return delay
        self._queue.hold(want, peer)
        self._wake_in(delay, now)
        return 0.0

    def _lose_target(self, want: Want, now: float) -> None:
        """The relay that somebody asked for cannot have the call: any other will do if it must move, else it stays."""
        if want.call.is_stranded:
            want.target = None
            self._queue.put(want)
        else:
            self._done(want, NO_RELAY, now)

    def _target_of(self, want: Want) -> Relay | None:
        call = want.call
        relay = call.relay
        if want.target is not None:
            return want.target if want.target.free else None
        lost = call.is_lost
        if relay is not None and not lost and not self._drains(call):
            return relay  # a leg only has to be told where the session is
        # A relay that has restarted gives its ports out again, to other calls than those whose phones still send
        # there: they would hear each other until they are told. So it is the last choice of those who leave it.
        target = self._b2bua.fleet.pick(call.relay_set, avoid=relay, zone=call.zone)
        if target is None and lost:
            target = self._b2bua.fleet.pick(call.relay_set, zone=call.zone)
        if target is None and call.is_stranded and not lost:
            target = relay  # it drains, but a leg knows nothing of it yet
        return target

    def _begin(self, want: Want, target: Relay, now: float) -> None:
        want.tries += 1
        self._preparing += 1
        Move(self._b2bua, want.call, want, target, now).start(now)
        self._b2bua.observer.call_changed(want.call, now)

    def _no_relay(self, want: Want, now: float) -> None:
        """No relay has room. The call waits; if its own is dead, only so long."""
        call = want.call
        if call.is_stranded:
            call.anchored_reason = NO_RELAY
        call.anchored_message = "no relay of the set has room"
        if call.is_lost and now - want.since > self._b2bua.settings.patience:
            self._unmovable(want, "no relay of the set has room", now)
        else:
            self._later(want, now)

    def _later(self, want: Want, now: float) -> None:
        self._queue.later(want)
        self._wake_in(_LOOK_AGAIN, now)

    def _wake_in(self, seconds: float, now: float) -> None:
        timers = self._b2bua.timers
        if self._timer is not None and self._timer.active and self._timer.at <= now + seconds:
            return
        timers.cancel(self._timer)
        self._timer = timers.schedule(now + seconds, self, _PUMP)

    def on_timer(self, kind: int, now: float) -> None:
        """Look again."""
        self._timer = None
        self._queue.release_paced()
        self.relays_changed(now)
        if self._queue.waits:
            self._wake_in(_LOOK_AGAIN, now)

    def prepared(self, now: float) -> None:
        """One move's relay commands are done: the next may begin."""
        self._preparing -= 1
        self._pump(now)

    def preparing_again(self) -> None:
        """A move tries another relay."""
        self._preparing += 1

    # --- what came of it --------------------------------------------------------------------------------------------

    def finished(self, move: Move, result: str, message: str, now: float, *, policy: bool) -> None:
        """A move has ended: the wish is fulfilled, tried again, or given up."""
        want, call = move.want, move.call
        self._b2bua.observer.call_changed(call, now)
        if not call.alive:
            return
        if policy and self.wants.get(call.id) is want:
            self._conclude(want, result, message, now)
        elif call.id in self.wants:
            self._queue.put(self.wants[call.id])
        if call.bridge is not None:
            call.bridge.resume(now)
        self._pump(now)

    def _conclude(self, want: Want, result: str, message: str, now: float) -> None:
        call = want.call
        if result in (MOVED, DIVERGE):
            if self._is_needed(want):
                self._retry(want, message, now)
            else:
                self._done(want, result, now)
        elif result in (AGAIN, NO_RELAY) or self._peer_in_trouble(call):
            self._retry(want, message, now)
        elif call.is_stranded:
            self._unmovable(want, message, now)
        else:
            self._give_up(want, message, now)

    def _peer_in_trouble(self, call: Call) -> bool:
        limit = self._b2bua.settings.breaker_count
        return self.breaker.is_open(call.caller.peer, limit) or self.breaker.is_open(call.callee.peer, limit)

    def _retry(self, want: Want, message: str, now: float) -> None:
        call = want.call
        if not call.is_stranded and want.tries > self.policy_of(call).retries + 1:
            self._give_up(want, message, now)
        elif now - want.since > self._b2bua.settings.patience:
            self._unmovable(want, message, now)
        elif want.tries > 1:
            self._later(want, now)
        else:
            self._queue.put(want)

    def _done(self, want: Want, result: str, now: float) -> None:
        self.wants.pop(want.call.id, None)
        if not want.call.is_stranded:
            self._anchored(want.call, now)
        self.reports.decided(want, now, moved=result in (MOVED, DIVERGE))

    def _give_up(self, want: Want, message: str, now: float) -> None:
        """The call stays where it is, with audio: its relay lives."""
        call = want.call
        self.wants.pop(call.id, None)
        self.reports.decided(want, now, moved=False)
        self._event(call, "CallNotMoved", f"stays on relay {call.relay.name if call.relay else ''}: {message}")

    def _unmovable(self, want: Want, message: str, now: float) -> None:
        """A party's media goes nowhere, and that cannot be helped: the policy decides, if the fault is the call's."""
        call, b2bua = want.call, self._b2bua
        self.wants.pop(call.id, None)
        self.reports.decided(want, now, moved=False)
        keep = not self.policy_of(call).hang_up_unmovable or self._peer_in_trouble(call) or want.credentials_missing
        self._event(call, "CallNotMoved", f"{'kept without media' if keep else 'hung up'}: {message}")
        if not keep:
            b2bua.hang_up(call, now, reason=f"Media relay lost and the call could not be moved: {message}")

    def _event(self, call: Call, reason: str, message: str) -> None:
        self._b2bua.observer.event(
            warning=True, reason=reason, message=f"call {call.id} {message}", relay_set=call.relay_set,
            relay=call.relay.name if call.relay is not None else "", call=call.id,
        )  # fmt: skip
