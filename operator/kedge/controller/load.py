"""What status tells of load: whether calls are spread evenly, whether a loss would be borne, which moves go on. Pure.

All signaling processes count: a relay has as many sessions as all of them have on it. Balance is what
``relay.plan_shares`` says, the same as for a rebalance; but that reckons with each call, and this with their numbers,
so that a status costs the same for ten calls and for ten thousand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from kedge.api.policies import Placement, ZonePolicy
from kedge.ports.records import ProgressRecord, RelayRecord, SignalingSnapshot
from kedge.relay.plan import PlanRelay
from kedge.relay.plan_shares import bounds_of, fair_shares

_NAMED: Final = 3
"""Relays that a message names at most."""
_SERVING: Final = ("Ready", "Full")


@dataclass(frozen=True, slots=True)
class Moves:
    """Drains and rebalances under way."""

    reason: str
    """Draining or Rebalancing; empty while none is."""
    message: str


def plan_relays(key: str, capacity: int, snapshots: Sequence[SignalingSnapshot]) -> list[PlanRelay]:
    """Return the relays of a set as all signaling processes together have them, by name.

    Each takes ``capacity`` calls.
    """
    told: dict[str, list[RelayRecord]] = {}
    for snapshot in snapshots:
        for record in snapshot.relays:
            if record.relay_set == key:
                told.setdefault(record.uid, []).append(record)
    relays = [_plan_relay(records, capacity) for records in told.values()]
    return sorted(relays, key=lambda one: (one.name, one.uid))


def _plan_relay(records: Sequence[RelayRecord], capacity: int) -> PlanRelay:
    first = records[0]
    return PlanRelay(
        uid=first.uid, name=first.name, zone=first.zone, weight=first.weight, capacity=capacity,
        serving=all(one.state in _SERVING and one.intent == "Serve" for one in records),
        leaving=any(one.intent == "Drain" for one in records), sessions=sum(one.sessions for one in records),
    )  # fmt: skip


def zone_calls(key: str, placement: Placement, snapshots: Sequence[SignalingSnapshot]) -> Counter[str]:
    """Return how many calls prefer each zone; none does where the RelaySet ignores zones."""
    counted: Counter[str] = Counter()
    if placement.zones is ZonePolicy.PREFER:
        for snapshot in snapshots:
            counted.update({one.zone: one.calls for one in snapshot.zones if one.relay_set == key})
    return counted


def uneven(relays: Sequence[PlanRelay], zones: Counter[str], imbalance: float) -> str:
    """Tell which relays have more or fewer calls than balance allows; empty where none does.

    Args:
        relays: All relays of the set. The calls of one that is to be left count: they have to go to the others.
        zones: Calls by the zone that they prefer.
        imbalance: How far a relay may be from its fair share, in percent.
    """
    targets = [one for one in relays if one.target]
    total = sum(one.sessions for one in relays if one.target or one.leaving)
    near = {zone: count for zone, count in zones.items() if any(one.zone == zone for one in targets)}
    shares = fair_shares(targets, {**near, "": max(0, total - sum(near.values()))})
    said = []
    for relay, share in zip(targets, shares, strict=True):
        bounds = bounds_of(relay, share, imbalance)
        if not bounds.lower <= relay.sessions <= bounds.upper:
            fair = f"{bounds.lower} to {bounds.upper}" if bounds.lower < bounds.upper else f"{bounds.upper}"
            said.append(f"{relay.name} has {relay.sessions} calls, {fair} would be its share")
    said += [f"{one.name} has {one.sessions} calls and is to have none" for one in relays if _lingers(one)]
    more = f" and {len(said) - _NAMED} more" if len(said) > _NAMED else ""
    return "; ".join(said[:_NAMED]) + more


def _lingers(relay: PlanRelay) -> bool:
    return relay.leaving and relay.sessions > 0


def moves(key: str, snapshots: Sequence[SignalingSnapshot]) -> Moves:
    """Return what is being moved in a set, summed over signaling processes."""
    tasks: dict[tuple[str, str], list[ProgressRecord]] = {}
    for snapshot in snapshots:
        for one in snapshot.progress:
            if one.relay_set == key and not one.done:
                tasks.setdefault((one.kind, one.relay), []).append(one)
    if not tasks:
        return Moves("", "")
    reason = "Draining" if any(kind == "Drain" for kind, _ in tasks) else "Rebalancing"
    said = [_moved(relay, records) for (_, relay), records in sorted(tasks.items())]
    more = f" and {len(said) - _NAMED} more" if len(said) > _NAMED else ""
    return Moves(reason, "; ".join(said[:_NAMED]) + more)


def _moved(relay: str, records: Sequence[ProgressRecord]) -> str:
    moved, calls = sum(one.moved for one in records), sum(one.calls for one in records)
    left = max(one.seconds_left for one in records)
    what = f"have left relay {relay}" if relay else "have moved to even out load"
    held = "".join(f"; {text}" for text in dict.fromkeys(one.message for one in records if one.message))
    return f"{moved} of {calls} calls {what}, {left:.0f} s left{held}"
