"""The planned end of a signaling process: no new calls, time for those that there are, BYE for what is left of them.

    open --begin--> waiting --grace over, or hurry--> hanging up --all told--> over
                       `------------no call left------------------------------^

A dialog whose process is gone is worse than none: a party that hangs up is not heard by the other, which goes on
paying. So what is left at the end of the grace is ended on both sides, a few calls at a time, and the process stays
until parties and relays have answered, or some seconds have passed. A process that is killed does none of this: then
media goes on. Runs on the signaling loop, by its timers; it refuses to end anything itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from kedge.base.timers import TimerTarget
from kedge.call.b2bua import B2bua
from kedge.call.call import Call
from kedge.relay.model import RelayState
from kedge.sip.transaction import PROCEEDING

REASON: Final = "This server is shutting down"
"""What parties read in the BYE."""
_LOOK: Final = 0.05
"""Seconds between two looks."""
_PORTION: Final = 100
"""Calls hung up at one look: 2000 a second, which parties, relays and the socket's buffer can take."""
_FAREWELL: Final = 5.0
"""Seconds, at most, that the last BYEs and deletions are waited for."""


class Ending(TimerTarget):
    """Ends one process's calls; see the module. ``ended`` is called on the signaling loop, once."""

    __slots__ = ("_b2bua", "_ended", "_give_up_at", "_left", "_until", "hung_up", "over")

    def __init__(self, b2bua: B2bua, ended: Callable[[], object]) -> None:
        self._b2bua = b2bua
        self._ended = ended
        self._until = 0.0
        self._left: list[Call] | None = None
        """Calls still to be hung up; None while they may go on."""
        self._give_up_at = float("inf")
        self.hung_up = 0
        """Calls that did not end by themselves."""
        self.over = False
        """Whether the process may end. Set once; may be read from any thread."""

    def begin(self, grace: float, now: float) -> None:
        """Refuse new calls from now on, and let those that there are go on for ``grace`` seconds."""
        self._b2bua.draining = True
        self._until = now + grace
        self._b2bua.timers.schedule(now, self)

    def hurry(self, now: float) -> None:
        """Let no call go on any longer."""
        self._until = min(self._until, now)

    def on_timer(self, kind: int, now: float) -> None:
        """Look what is to be done; the next look is certain before anything can go wrong."""
        look = self._b2bua.timers.schedule(now + _LOOK, self)
        if self._left is None and now >= self._until:
            self._left = list(self._b2bua.calls.values())
        if self._left:
            self._hang_up(self._left, now)
        if self._is_over(now):
            self._b2bua.timers.cancel(look)
            self.over = True
            self._ended()

    def _hang_up(self, left: list[Call], now: float) -> None:
        for _ in range(min(_PORTION, len(left))):
            call = left.pop()
            if call.alive:
                self.hung_up += 1
                self._b2bua.hang_up(call, now, reason=REASON)

    def _is_over(self, now: float) -> bool:
        if self._left or (self._left is None and self._b2bua.calls):
            return False
        self._give_up_at = min(self._give_up_at, now + _FAREWELL)
        return now >= self._give_up_at or self._all_told()

    def _all_told(self) -> bool:
        """Whether parties have answered what they were asked, and relays have done what they were told."""
        b2bua = self._b2bua
        return (
            not b2bua.farewells
            and all(tx.state > PROCEEDING for tx in b2bua.sip.clients.values())
            and all(relay.client.idle or relay.state is RelayState.DOWN for relay in b2bua.fleet.relays.values())
        )
