"""Plans: which call goes where, in what order, and how long it takes. Pure: a plan is shown without being run.

Three plans, one for each cause: ``plan_drain`` (a relay is to be empty, and lives), ``plan_loss`` (it is dead, or what
if it were) and ``plan_rebalance`` (load has drifted, or a relay has joined). The same relays and calls in any order
give the same plan. No plan passes a relay's capacity, moves a call twice, or sends one to a relay that does not serve.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from kedge.relay.plan_even import plan_even
from kedge.relay.plan_leave import plan_leave
from kedge.relay.plan_model import Left, Move, Pace, Plan, PlanCall, PlanError, PlanKind, PlanRelay, UnknownRelayError

__all__ = [
    "Left",
    "Move",
    "Pace",
    "Plan",
    "PlanCall",
    "PlanError",
    "PlanKind",
    "PlanRelay",
    "UnknownRelayError",
    "headroom",
    "plan_drain",
    "plan_loss",
    "plan_rebalance",
]

UNPACED: Final = Pace()
"""No limit; then a plan takes no time."""


def plan_drain(
    relays: Iterable[PlanRelay], calls: Iterable[PlanCall], leaving: str | Collection[str], *, pace: Pace = UNPACED
) -> Plan:
    """Plan how a relay, or several at once, lose all their calls while they live.

    Args:
        relays: All relays of the set.
        calls: The calls of the set; those on other relays are passed over.
        leaving: Uids of the relays to drain. None of them is a target, whatever ``relays`` says.
        pace: How fast calls are moved.

    Raises:
        UnknownRelayError: One of ``leaving`` is not among ``relays``.
    """
    return plan_leave(PlanKind.DRAIN, relays, calls, _uids(leaving), pace)


def plan_loss(
    relays: Iterable[PlanRelay], calls: Iterable[PlanCall], lost: str | Collection[str], *, pace: Pace = UNPACED
) -> Plan:
    """Plan where the calls of a lost relay, or of several, go; arguments and errors are those of ``plan_drain``."""
    return plan_leave(PlanKind.LOSS, relays, calls, _uids(lost), pace)


def _uids(given: str | Collection[str]) -> frozenset[str]:
    return frozenset((given,) if isinstance(given, str) else given)


def plan_rebalance(
    relays: Iterable[PlanRelay],
    calls: Iterable[PlanCall],
    *,
    imbalance: float = 10.0,
    rest: float = 60.0,
    now: float = 0.0,
    pace: Pace = UNPACED,
) -> Plan:
    """Plan the fewest moves that bring every relay of the set within the allowed imbalance.

    From 3 to 4 equal relays with 3000 calls, the new one needs its share of 750 if no imbalance is allowed: 750 moves.
    With the default of 10 percent it is in balance from 675 calls on: 675 moves.

    Args:
        relays: All relays of the set. Those that are ``leaving`` lose all their calls in the same plan.
        calls: All calls of the set.
        imbalance: How far a relay's sessions may be from its fair share, in percent; 0 asks for the share itself.
        rest: A call that was moved less than so many seconds ago is left in peace.
        now: Seconds, by the clock of ``PlanCall.last_move_at``.
        pace: How fast calls are moved.
    """
    return plan_even(relays, calls, imbalance=imbalance, rest=rest, now=now, pace=pace)


def headroom(relays: Iterable[PlanRelay], spare: int) -> tuple[bool, str]:
    """Tell whether the set could lose its ``spare`` largest relays and still hold all its calls, and say it in words.

    The sessions of all signaling processes count, those on relays that do not serve too: they have to go somewhere. As
    every call needs a place afterwards, wherever it is now, the worst loss is that of the largest capacities.
    """
    known = list(relays)
    total = sum(relay.sessions + relay.others for relay in known)
    capacities = sorted((relay.capacity for relay in known if relay.target), reverse=True)
    room = sum(capacities[spare:])
    ok = total <= room
    message = f"{total} calls, room for {room} if {min(spare, len(capacities))} of {len(capacities)} relays failed"
    return ok, message
