"""The durations of RFC 3261 section 17 (table 4) and RFC 6026, over UDP."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TimerSettings:
    """Durations in seconds, for transactions that begin from now on; the defaults are the RFC's."""

    t1: float = 0.5
    """Estimate of the round-trip time; first interval of retransmissions."""

    t2: float = 4.0
    """Longest interval between retransmissions of a non-INVITE request or an INVITE's final response."""

    t4: float = 5.0
    """How long a message may stay in the network."""

    timer_d: float = 32.0
    """How long a client INVITE transaction answers retransmitted 3xx-6xx with its ACK."""

    trying_after: float = 0.2
    """When an INVITE is answered with 100 by the layer, if its user has sent nothing (section 17.2.1)."""

    invite_proceeding: float = 180.0
    """How long a provisional response keeps an INVITE alive before it is cancelled, like Timer C."""

    @property
    def lifetime(self) -> float:
        """64*T1: Timers B, F, H, J, L and M, and the wait for a final response after CANCEL."""
        return 64 * self.t1

    @property
    def timer_b(self) -> float:
        """How long an INVITE waits for any response."""
        return 64 * self.t1

    @property
    def timer_f(self) -> float:
        """How long another request waits for its final response."""
        return 64 * self.t1
