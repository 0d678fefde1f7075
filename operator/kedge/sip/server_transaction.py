"""Server transactions: RFC 3261 section 17.2 with RFC 6026's Accepted state, over UDP.

    INVITE:  TRYING -1xx-> PROCEEDING -2xx-> ACCEPTED (Timer L)
                                      -3xx-6xx-> COMPLETED (Timers G, H) -ACK-> CONFIRMED (Timer I)
    others:  TRYING -1xx-> PROCEEDING -final-> COMPLETED (Timer J)

The 2xx of an INVITE is sent again here too, T1 doubling to T2 (section 13.3.1.4 has the user do it), until
``stop_2xx``. One timer at a time, as in the client transactions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kedge.base.timers import Timer, TimerTarget
from kedge.sip.message import Request, Response, make_response
from kedge.sip.transaction_base import (
    ACCEPTED,
    COMPLETED,
    CONFIRMED,
    PROCEEDING,
    TERMINATED,
    TRYING,
    TransactionCore,
)

if TYPE_CHECKING:
    from kedge.base.address import Address

_RESEND: Final = 1
_END: Final = 2
_SEND_100: Final = 3

_SPENT: Final = Request("", "")


class ServerTransaction(TimerTarget):
    """One request of a peer's. Made by the layer only.

    Attributes:
        request: The request; an empty one after the final response, so that it does not stay in memory for 64*T1.
        source: Where it came from.
        response_to: Where responses go (RFC 3261 section 18.2.2, RFC 3581).
        method: The request's method.
        branch: The branch of its top Via.
        state: One of the states of ``transaction_base``.
        data: The user's, untouched here until the transaction is gone.
        to_tag: The tag of our responses as far as known here: of the last response, or one made for a CANCEL's 200.
        cancelled: Whether a CANCEL came.
        size: Size of the request's datagram, in bytes.
    """

    __slots__ = (
        "_core",
        "_end_at",
        "_interval",
        "_last",
        "_timer",
        "branch",
        "cancelled",
        "data",
        "key",
        "method",
        "request",
        "response_to",
        "size",
        "source",
        "state",
        "to_tag",
    )

    def __init__(
        self, core: TransactionCore, key: str, request: Request, source: Address, response_to: Address, size: int
    ) -> None:
        self._core = core
        self.key = key
        self.request = request
        self.source = source
        self.response_to = response_to
        self.method = request.method
        self.branch = request.branch
        self.state = TRYING
        self.data: object | None = None
        self.to_tag = request.to_tag
        self.cancelled = False
        self.size = size
        self._last = b""
        self._timer: Timer | None = None
        self._interval = 0.0
        self._end_at = 0.0

    def start(self, now: float) -> None:
        """Enter the layer's table; start the wait for a 100, or for any answer at all."""
        core = self._core
        core.servers[self.key] = self
        if self.method == "INVITE":
            self._timer = core.timers.schedule(now + core.settings.trying_after, self, _SEND_100)
        else:
            self._set_end(now + core.settings.lifetime)  # by then the peer has given up (Timer F)

    def repeat(self) -> None:
        """The request came again: the last response is sent again, if there is one."""
        self._core.counters.retransmissions_received += 1
        if self._last and self.state <= COMPLETED:  # RFC 6026 section 7.1: Accepted absorbs it
            self._core.resend(self._last, self.response_to)

    def acknowledge(self, now: float) -> bool:
        """Take an ACK with the INVITE's branch; return whether it was for a 3xx-6xx, and ends here."""
        if self.state == COMPLETED:
            self.state = CONFIRMED
            self._last = b""
            self._set_end(now + self._core.settings.t4)  # Timer I
            return True
        return self.state != ACCEPTED

    def respond(self, response: Response, now: float) -> None:
        """Send a response, and again as its state demands."""
        if response.to_tag:
            self.to_tag = response.to_tag
        self.respond_bytes(response.status, response.to_bytes(), now)

    def respond_bytes(self, status: int, data: bytes, now: float) -> None:
        """Send a response that is written already."""
        core = self._core
        if self.state > PROCEEDING:
            core.counters.unanswered += 1
            return
        core.counters.responses_sent += 1
        core.send(data, self.response_to)
        self._last = data
        if status < 200:
            if self.method == "INVITE" and self.state == TRYING:
                core.timers.cancel(self._timer)
            self.state = PROCEEDING
            return
        self.request = _SPENT
        if self.method != "INVITE":
            self.state = COMPLETED
            self._set_end(now + core.settings.lifetime)  # Timer J
            return
        self.state = ACCEPTED if status < 300 else COMPLETED
        core.timers.cancel(self._timer)
        self._interval = core.settings.t1
        self._end_at = now + core.settings.lifetime  # Timer L or H
        self._schedule_resend(now)

    def stop_2xx(self) -> None:
        """The 2xx has its ACK: it is not sent again; the transaction stays until Timer L to absorb the INVITE."""
        if self.state == ACCEPTED and self._last:
            self._last = b""
            self._set_end(self._end_at)

    def release(self) -> None:
        """Leave the layer at once."""
        self.state = TERMINATED
        self._core.timers.cancel(self._timer)
        self._timer = None
        self._core.servers.pop(self.key, None)
        self._last = b""
        self.request = _SPENT
        self.data = None

    def on_timer(self, kind: int, now: float) -> None:
        """Send again, send a 100, or end the state."""
        if kind == _RESEND:
            self._core.resend(self._last, self.response_to)
            self._interval = min(self._interval * 2, self._core.settings.t2)
            self._schedule_resend(now)
        elif kind == _SEND_100:
            self.respond(make_response(self.request, 100), now)
        elif self._last and self.method == "INVITE":
            self._lack_ack(now)
        else:
            if self.state <= PROCEEDING:
                self._core.counters.unanswered += 1
            self.release()

    def _lack_ack(self, now: float) -> None:
        self.state = TERMINATED
        self._core.counters.acks_missing += 1
        self._core.servers.pop(self.key, None)
        self._core.user.on_no_ack(self, now)
        self.release()

    def _schedule_resend(self, now: float) -> None:
        at = now + self._interval
        if at < self._end_at:
            self._timer = self._core.timers.schedule(at, self, _RESEND)
        else:
            self._timer = self._core.timers.schedule(self._end_at, self, _END)

    def _set_end(self, at: float) -> None:
        timers = self._core.timers
        timers.cancel(self._timer)
        self._end_at = at
        self._timer = timers.schedule(at, self, _END)
