"""What balance is: the fair share of each relay, and the bounds around it.

Only relays that may get calls are reckoned with. Each call belongs to the zone that it prefers if a relay of that zone
is among them, else to none. The **fair share** of each relay comes from pouring all calls in like water:

1. The calls of each zone stand at one level over the relays of that zone: a relay's part is its weight times the level,
   and never more than its capacity. What does not fit overflows, and joins the calls of no zone.
2. Calls of no zone fill the set from its lowest level on.

Without zones, that is ``calls * weight / sum of weights``. With an allowed imbalance ``p``, a relay is **in balance**
while ``floor(share * (1 - p)) <= sessions <= ceil(share * (1 + p))``, the upper bound cut at its capacity: calls are
whole, so a relay may always have the share rounded either way. The lower bound matters as much as the upper: one new
relay beside twenty takes but a twentieth off each, and would else stay empty.

A share depends on which calls there are and on nothing that a move changes: what is in balance after a plan stays so.
All loads are those of this signaling process. Where each process levels its own calls, their sum is level, and none has
to know, or to outguess, what the others are about to move.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from kedge.relay.plan_model import Bounds, PlanRelay

_NARROW: Final = 100
"""Halvings of the interval in which a level is sought: past the precision of a float."""
_TINY: Final = 1e-6
"""Calls; what rounding errors of a share may amount to."""


def limit_of(relay: PlanRelay) -> int:
    """Return how many sessions of this process may be on the relay, before those of others take more."""
    return max(0, relay.capacity - relay.others)


def fair_shares(relays: Sequence[PlanRelay], calls: Mapping[str, int]) -> list[float]:
    """Return the share of each relay.

    Args:
        relays: Those that may get calls.
        calls: How many calls there are of each zone; those of zones without a relay here, and of ``""``, of none.
    """
    if not relays:
        return []
    limits = [limit_of(relay) for relay in relays]
    weights = [relay.weight for relay in relays]
    base = [0.0] * len(relays)
    for zone in {relay.zone for relay in relays if relay.zone}:
        members = [index for index, relay in enumerate(relays) if relay.zone == zone]
        count = min(calls.get(zone, 0), sum(limits[index] for index in members))
        level = _level(count, lambda at, of=members: sum(min(weights[i] * at, limits[i]) for i in of))  # type: ignore[misc]
        for index in members:
            base[index] = min(weights[index] * level, limits[index])
    total = min(sum(calls.values()), sum(limits))

    def poured(at: float) -> list[float]:
        return [max(low, min(weight * at, limit)) for low, weight, limit in zip(base, weights, limits, strict=True)]

    return poured(_level(total, lambda at: sum(poured(at))))


def _level(total: float, volume: Callable[[float], float]) -> float:
    """Return the level at which ``volume`` (which grows with it) is ``total``; the lowest of several."""
    high = 1.0
    while volume(high) < total - _TINY:
        high *= 2
    low = 0.0
    for _ in range(_NARROW):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if volume(middle) < total:
            low = middle
        else:
            high = middle
    return high


def bounds_of(relay: PlanRelay, share: float, imbalance: float) -> Bounds:
    """Return between how many sessions a relay is in balance; ``imbalance`` is in percent."""
    part = imbalance / 100
    upper = min(math.ceil(share * (1 + part) - _TINY), limit_of(relay))
    return Bounds(max(0, min(math.floor(share * (1 - part) + _TINY), upper)), upper)
