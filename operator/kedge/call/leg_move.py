"""One leg's part of a re-anchoring: its re-INVITEs, and what becomes of each.

    IDLE -offer-> WAITING -leg free-> SENT -2xx-> ANSWERED
                     ^                 |---491, 5xx, 422---> WAITING, for as long as the party asked
                     |                 '---anything else---> FAILED

A leg that was brought to the new session by its party's own exchange meanwhile is ANSWERED too. When the move is over,
the transaction may still linger: a late 2xx is ACKed and noted, and whoever waits for the leg is told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kedge.base.timers import Timer, TimerTarget
from kedge.call.call import CALLEE_TAG
from kedge.sip.body import sdp_of
from kedge.sip.message import Response
from kedge.sip.offer_answer import (
    drop_unasked_keys,
    profile_of,
    same_addresses,
    same_but_origin,
    same_meaning,
    with_addresses_of,
)
from kedge.sip.sdp import SdpError
from kedge.sip.transaction import ClientOwner, ClientTransaction

if TYPE_CHECKING:
    from kedge.call.b2bua import B2bua
    from kedge.call.leg import Leg
    from kedge.call.reanchor import Move

IDLE: Final = 0
SENT: Final = 1
WAITING: Final = 2
ANSWERED: Final = 3
FAILED: Final = 4

_LATER: Final = frozenset({500, 503, 504})
_UNFIT: Final = frozenset({415, 488, 606})
_RETRY: Final = 1
_NO_RESPONSE: Final = 2
_BUSY_RETRY: Final = 0.5
"""Seconds until a leg that is busy with the party's own request is looked at again, if nothing says so before."""


class LegMove(ClientOwner, TimerTarget):
    """One leg's part of a move."""

    __slots__ = (
        "_b2bua",
        "_before",
        "_extra",
        "_ladder",
        "_move",
        "_retries",
        "_sdp",
        "_session",
        "_timer",
        "_tx",
        "changed",
        "leg",
        "offers",
        "state",
        "status",
    )

    def __init__(self, b2bua: B2bua, move: Move, leg: Leg) -> None:
        self._b2bua = b2bua
        self._move: Move | None = move
        """None once the move is over."""
        self.leg = leg
        self.state = IDLE
        self.offers = 0
        self.status = 0
        """The final response that made it fail."""
        self.changed = False
        """Whether the last answer means, or aims, elsewhere than the one before: the relay is to be told."""
        self._sdp = b""
        self._session = ""
        """The session whose description is offered."""
        self._before = leg.local
        """L before the last offer: what is in force again if it is refused."""
        self._tx: ClientTransaction | None = None
        self._timer: Timer | None = None
        self._retries = 0
        self._ladder = False
        self._extra = ""

    @property
    def pending(self) -> bool:
        """Whether something is still to come."""
        return self.state in (SENT, WAITING)

    @property
    def refusal(self) -> str:
        """Who did not take the offer, and how."""
        if self.leg.session and self.leg.session == self._session:
            return f"{self.leg.peer.name} answered without the media as it was offered"
        return f"{self.leg.peer.name} answered {self.status}"

    def offer(self, sdp: bytes, now: float) -> None:
        """Send a re-INVITE with this description, or wait until the leg is free and may be asked."""
        self._sdp = sdp
        self.state = WAITING
        self._try(now)

    def resume(self, now: float) -> None:
        """Look again, if it waits: a party's own exchange has ended, or the target was lost."""
        if self.state == WAITING:
            self._try(now)

    def _try(self, now: float) -> None:
        leg, move = self.leg, self._move
        if move is None:
            return
        self.stop()
        if leg.busy or leg.call.bridge is not None:
            self._timer = self._b2bua.timers.schedule(now + _BUSY_RETRY, self, _RETRY)
        elif leg.session == leg.call.session:
            self.state = ANSWERED  # the party's own exchange has brought it there meanwhile
            move.leg_done(now)
        elif move.overtaken:
            self.state = FAILED
            move.leg_done(now)
        elif leg.quiet_until > now:
            self._timer = self._b2bua.timers.schedule(leg.quiet_until, self, _RETRY)
        else:
            self._send(now)

    def _send(self, now: float) -> None:
        leg, b2bua = self.leg, self._b2bua
        self._session = leg.call.session
        self._before, leg.local = leg.local, leg.origin.stamp(self._sdp)
        branch = b2bua.ids.branch()
        lines = f"{leg.session_headers()}{b2bua.settings.own_lines}{self._extra}"
        data = leg.dialog.request("INVITE", branch, lines, leg.local)
        self.offers += 1
        self.state = SENT
        self._tx = leg.client = b2bua.sip.send_request("INVITE", branch, data, leg.dialog.destination, self, now)
        self._timer = b2bua.timers.schedule(now + b2bua.settings.answer_timeout, self, _NO_RESPONSE)

    def on_timer(self, kind: int, now: float) -> None:
        """Try again; or take silence for an answer."""
        self._timer = None
        if kind == _RETRY:
            self.resume(now)
        elif self.state == SENT:
            if self._tx is not None:
                self._b2bua.sip.cancel(self._tx, now)
            self._silent(now)

    # --- responses --------------------------------------------------------------------------------------------------

    def on_response(self, tx: ClientTransaction, response: Response, now: float) -> None:
        """Take the party's response; a 2xx is ACKed whatever has become of the call (RFC 3261 section 13.2.2.4)."""
        if response.is_provisional:
            if self.state == SENT and tx is self._tx:
                self.stop()
                at = now + self._b2bua.settings.final_timeout
                self._timer = self._b2bua.timers.schedule(at, self, _NO_RESPONSE)
            return
        if response.is_success:
            self._acknowledge(response)
        if tx is not self._tx:
            return
        waited_for = self._free()
        if response.is_success:
            self._accepted(response, waited_for, now)
        else:
            self._refused(response.status, response, waited_for, now)
        self._next(now)

    def _free(self) -> bool:
        """The transaction has ended; return whether the move still waits for it."""
        self._tx = None
        self.leg.client = None
        self.stop()
        return self._move is not None and self.state == SENT

    def _next(self, now: float) -> None:
        """The leg is free again: let others begin who waited for it."""
        call = self.leg.call
        if call.bridge is not None:
            call.bridge.resume(now)
        elif self._move is None and call.alive:
            self._b2bua.failover.leg_free(call, now)

    def _acknowledge(self, response: Response) -> None:
        dialog, b2bua = self.leg.dialog, self._b2bua
        self.leg.refresh_target(response)
        b2bua.sip.send(dialog.ack(response.cseq, b2bua.ids.branch()), dialog.destination)

    def _accepted(self, response: Response, waited_for: bool, now: float) -> None:
        leg, move = self.leg, self._move
        self._b2bua.failover.breaker.answered(leg.peer)
        leg.learn_session_timer(response, we_are_uac=True)
        usable = self._take_answer(response) and self._has_profile()
        if move is None or not waited_for:
            return
        self._b2bua.observer.leg_moved(leg.call, move.target, now - move.started)
        self.state = ANSWERED if usable else FAILED
        self.status = 0 if usable else 488
        move.leg_done(now)

    def _take_answer(self, response: Response) -> bool:
        """Note what is in force now; return whether it can be understood."""
        leg = self.leg
        before = leg.pruned
        try:
            answer = drop_unasked_keys(sdp_of(response).sdp, leg.local)
            if not answer or same_but_origin(answer, before):
                leg.session = self._session
                leg.remote = leg.pruned = answer or before  # the usual answer, and a 200 without one: all as it was
                return True
            leg.set_in_force(local=leg.local, remote=answer, session=self._session)
            self.changed |= not (same_meaning(leg.pruned, before) and same_addresses(leg.pruned, before))
        except SdpError:
            return False
        return True

    def _has_profile(self) -> bool:
        """Whether the answer has the RTP profile that was offered, if the offer was made for its sake."""
        profile = self._move.profile_for(self.leg) if self._move is not None else ""
        return not profile or profile_of(self.leg.remote) == profile

    def _refused(self, status: int, response: Response, waited_for: bool, now: float) -> None:
        self.leg.local = self._before  # a refused offer changes nothing (RFC 3261 section 14.1)
        move = self._move
        if status == 491:
            # RFC 3261 section 14.1: the owner of the Call-ID waits 2.1-4 s, the other 0-2 s, in steps of 10 ms.
            ours = self.leg.tag == CALLEE_TAG
            rng = self._b2bua.rng
            self.leg.quiet_until = now + (rng.randint(210, 400) if ours else rng.randint(0, 200)) / 100
        elif status in _LATER:
            self.leg.quiet_until = now + self._retry_after(response)
        if move is None or not waited_for:
            return
        self.status = status
        again = (
            status == 491
            or status in _LATER
            or (status == 422 and self._raise_interval(response))
            or (status in _UNFIT and not self._ladder and move.source_lost and self._exact_offer(move))
        )
        if again and self._retries < move.retries:
            self._retries += 1
            self.state = WAITING
            self._try(now)
        else:
            self.state = FAILED
            move.leg_done(now)

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

    def _exact_offer(self, move: Move) -> bool:
        """First rung after a refusal with nothing to go back to: the very description that was agreed, moved."""
        self._ladder = True
        try:
            exact = with_addresses_of(move.accepted_before[self.leg.tag], self._sdp)
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
        self.leg.local = self._before
        if self._free():
            self._silent(now)
        self._next(now)

    def _silent(self, now: float) -> None:
        """No answer counts as a 408 (RFC 3261 section 12.2.1.2). Should one come all the same, it is taken."""
        self._b2bua.failover.breaker.timed_out(self.leg.peer)
        self.status = 408
        self.state = FAILED
        if self._move is not None:
            self._move.leg_done(now)

    def stop(self) -> None:
        """Wait no longer. A re-INVITE that is out is still ACKed."""
        self._b2bua.timers.cancel(self._timer)
        self._timer = None

    def let_go(self) -> None:
        """The move is over."""
        self.stop()
        self._move = None
