"""Client transactions: RFC 3261 section 17.1 with RFC 6026's Accepted state, over UDP.

    INVITE:  TRYING -1xx-> PROCEEDING -2xx-> ACCEPTED (Timer M), or -3xx-6xx, ACK-> COMPLETED (Timer D)
    others:  TRYING -1xx-> PROCEEDING -final-> COMPLETED (Timer K)

One timer at a time: the next retransmission (A, E), or the end of the state if that is nearer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kedge.base.timers import Timer, TimerTarget
from kedge.sip.transaction_base import (
    ACCEPTED,
    COMPLETED,
    PROCEEDING,
    TERMINATED,
    TRYING,
    ClientOwner,
    TransactionCore,
)

if TYPE_CHECKING:
    from kedge.base.address import Address
    from kedge.sip.message import Response

_RESEND: Final = 1
_END: Final = 2

_NOT_CANCELLED: Final = 0
_CANCEL_WANTED: Final = 1
_CANCEL_SENT: Final = 2


class Indifferent(ClientOwner):
    """Owns what nobody waits for: CANCELs, and transactions whose owner has been told all."""

    __slots__ = ()

    def on_response(self, tx: ClientTransaction, response: Response, now: float) -> None:
        """Ignore it."""

    def on_timeout(self, tx: ClientTransaction, now: float) -> None:
        """Ignore it."""


_NOBODY: Final = Indifferent()


class ClientTransaction(TimerTarget):
    """One request of ours. Made by ``TransactionLayer.send_request`` only.

    ``owner`` and ``data`` are let go as soon as there is nothing more to report, so no cycle outlives the transaction.

    Attributes:
        method: The request's method.
        branch: The branch of its Via.
        destination: Where it was sent.
        owner: Who is told.
        state: One of the states of ``transaction_base``.
        data: The owner's, untouched here.
        packet: What is sent again: the request, then the ACK of a 3xx-6xx; empty when neither is needed.
    """

    __slots__ = (
        "_cancel_state",
        "_core",
        "_end_at",
        "_interval",
        "_timer",
        "branch",
        "data",
        "destination",
        "key",
        "method",
        "owner",
        "packet",
        "state",
    )

    def __init__(
        self, core: TransactionCore, method: str, branch: str, packet: bytes, destination: Address, owner: ClientOwner
    ) -> None:
        self._core = core
        self.method = method
        self.branch = branch
        self.key = client_key(branch, method)
        self.packet = packet
        self.destination = destination
        self.owner = owner
        self.data: object | None = None
        self.state = TRYING
        self._cancel_state = _NOT_CANCELLED
        self._timer: Timer | None = None
        self._interval = 0.0
        self._end_at = 0.0

    def start(self, now: float) -> None:
        """Send the request and start Timers A and B, or E and F."""
        core = self._core
        core.clients[self.key] = self
        core.counters.requests_sent += 1
        core.send(self.packet, self.destination)
        self._interval = core.settings.t1
        self._end_at = now + core.settings.lifetime
        self._schedule_resend(now)

    def receive(self, response: Response, source: Address, now: float) -> None:
        """Handle a response that bears this transaction's branch and method."""
        if self.method == "INVITE":
            self._receive_invite(response, source, now)
        elif self.state >= COMPLETED:
            self._core.counters.retransmissions_received += 1  # absorbed until Timer K
        elif response.status < 200:
            self._core.counters.responses_received += 1
            self.state = PROCEEDING
            self._interval = self._core.settings.t2  # from the next firing of Timer E on
            self.owner.on_response(self, response, now)
        else:
            self._finish(COMPLETED, now, self._core.settings.t4)
            self.packet = b""
            self._report_last(response, now)

    def _receive_invite(self, response: Response, source: Address, now: float) -> None:
        core = self._core
        if self.state == ACCEPTED:
            if response.is_success:
                core.counters.retransmissions_received += 1
                self.owner.on_response(self, response, now)
        elif self.state >= COMPLETED:
            if response.status >= 300:
                core.counters.retransmissions_received += 1
                core.resend(self.packet, self.destination)
            elif response.is_success:  # of a fork whose sibling refused before: its ACK and BYE are the user's
                core.counters.stray_responses += 1
                core.user.on_stray_response(response, source, now)
        elif response.status < 200:
            self._receive_provisional(response, now)
        elif response.status < 300:
            self._finish(ACCEPTED, now, core.settings.lifetime)
            self.packet = b""
            self.owner.on_response(self, response, now)
        else:
            self._finish(COMPLETED, now, core.settings.timer_d)
            self.packet = derived_request(self.packet, "ACK", response.get("To"))
            core.send(self.packet, self.destination)
            self._report_last(response, now)

    def _receive_provisional(self, response: Response, now: float) -> None:
        core = self._core
        core.counters.responses_received += 1
        if self.state == TRYING or (response.status != 100 and self._cancel_state == _NOT_CANCELLED):
            self.state = PROCEEDING
            self._set_end(now + core.settings.invite_proceeding)
        if self._cancel_state == _CANCEL_WANTED:
            self._send_cancel(now)
        self.owner.on_response(self, response, now)

    def cancel(self, now: float) -> None:
        """Cancel the INVITE (RFC 3261 section 9.1): now, or at the first provisional response."""
        if self.method != "INVITE" or self._cancel_state != _NOT_CANCELLED:
            return
        if self.state == PROCEEDING:
            self._send_cancel(now)
        elif self.state == TRYING:
            self._cancel_state = _CANCEL_WANTED

    def release(self) -> None:
        """Leave the layer at once; what comes later is stray."""
        self.state = TERMINATED
        self._core.timers.cancel(self._timer)
        self._timer = None
        self._core.clients.pop(self.key, None)
        self.packet = b""
        self.owner = _NOBODY
        self.data = None

    def on_timer(self, kind: int, now: float) -> None:
        """Send again, or end the state."""
        if kind == _RESEND:
            self._core.resend(self.packet, self.destination)
            self._interval *= 2
            if self.method != "INVITE":
                self._interval = min(self._interval, self._core.settings.t2)
            self._schedule_resend(now)
        elif self.state >= COMPLETED:
            self.release()
        elif self.method == "INVITE" and self.state == PROCEEDING and self._cancel_state == _NOT_CANCELLED:
            self._send_cancel(now)  # RFC 3261 section 16.8: Timer C
        else:
            self._time_out(now)

    def _time_out(self, now: float) -> None:
        self.state = TERMINATED
        if self.method != "CANCEL":
            self._core.counters.timeouts += 1
        self._core.clients.pop(self.key, None)
        self.owner.on_timeout(self, now)
        self.release()

    def _send_cancel(self, now: float) -> None:
        core = self._core
        self._cancel_state = _CANCEL_SENT
        packet = derived_request(self.packet, "CANCEL", None)
        ClientTransaction(core, "CANCEL", self.branch, packet, self.destination, _NOBODY).start(now)
        self._set_end(now + core.settings.lifetime)

    def _report_last(self, response: Response, now: float) -> None:
        owner = self.owner
        owner.on_response(self, response, now)
        self.owner = _NOBODY
        self.data = None

    def _finish(self, state: int, now: float, lasting: float) -> None:
        self._core.counters.responses_received += 1
        self.state = state
        self._set_end(now + lasting)

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


def client_key(branch: str, method: str) -> str:
    """RFC 3261 section 17.1.3: a CANCEL shares its INVITE's branch and is told from it by the method."""
    return branch if method != "CANCEL" else branch + " CANCEL"


_KEPT: Final = ("Via:", "From:", "To:", "Call-ID:", "Route:", "Max-Forwards:")


def derived_request(packet: bytes, method: str, to: str | None) -> bytes:
    """Return the CANCEL, or the ACK for a 3xx-6xx, of the INVITE in ``packet``.

    RFC 3261 sections 9.1 and 17.1.1.3: the same Request-URI, top Via, Call-ID, From, CSeq number and Route; To is
    the INVITE's, or the response's in an ACK. ``packet`` is our own writing: canonical names, nothing folded.
    """
    head = packet[: packet.find(b"\r\n\r\n")].decode("utf-8", "surrogateescape")
    lines = head.split("\r\n")
    kept = [f"{method} {lines[0].split(' ')[1]} SIP/2.0"]
    has_via = False
    for line in lines[1:]:
        if line.startswith(_KEPT):
            if line.startswith("Via:"):
                if has_via:
                    continue
                has_via = True
            elif line.startswith("To:") and to is not None:
                line = f"To: {to}"
            kept.append(line)
        elif line.startswith("CSeq:"):
            kept.append(f"{line.rpartition(' ')[0]} {method}")
    kept.append("Content-Length: 0\r\n\r\n")
    return "\r\n".join(kept).encode("utf-8", "surrogateescape")
