"""How fast moves may begin: budgets of re-INVITEs, of all calls and of each peer's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from kedge.call.call import Call
    from kedge.relay.model import FailoverPolicy

_BURST: Final = 0.05
"""Seconds of budget that may be spent at once after a pause."""
_ROUNDING: Final = 1e-6
"""Tokens that may be missing: what a wait of exactly the right length leaves."""


class Budget:
    """A token bucket of re-INVITEs."""

    __slots__ = ("_at", "_tokens")

    def __init__(self) -> None:
        self._tokens = 1.0
        self._at = -1.0

    def wait(self, rate: float, cost: float, now: float) -> float:
        """Return the seconds until ``cost`` may be spent, 0 for now. ``rate`` is per second."""
        most = max(rate * _BURST, 2.0)
        self._tokens = most if self._at < 0 else min(self._tokens + (now - self._at) * rate, most)
        self._at = now
        return 0.0 if self._tokens >= cost - _ROUNDING else (cost - self._tokens) / rate

    def spend(self, cost: float) -> None:
        """Take what ``wait`` has allowed."""
        self._tokens -= cost


class Pace:
    """The budgets of one signaling process."""

    __slots__ = ("_all", "_peers")

    def __init__(self) -> None:
        self._all = Budget()
        self._peers: dict[str, Budget] = {}

    def spend(self, call: Call, policy: FailoverPolicy, now: float) -> tuple[float, str]:
        """Spend two re-INVITEs; or return the seconds to wait, and the peer whose budget it is ('' for all of them)."""
        caller, callee = call.caller.peer.name, call.callee.peer.name
        cost = 2.0 if caller == callee else 1.0
        peers = self._peers
        for name in (caller, callee):
            if name not in peers:
                peers[name] = Budget()
            delay = peers[name].wait(policy.rate_per_peer, cost, now)
            if delay > 0:
                return delay, name
        delay = self._all.wait(policy.rate, 2.0, now)
        if delay > 0:
            return delay, ""
        self._all.spend(2.0)
        peers[caller].spend(cost)
        if callee != caller:
            peers[callee].spend(cost)
        return 0.0, ""
