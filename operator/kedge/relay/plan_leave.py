"""Calls leave their relays: a drain, or a loss. All that can go do go; the others are listed with the reason.

Who goes: if there is less room than calls, emergency calls are placed first, then the longest silent. Where to: a call
with a zone goes to a relay of that zone as long as one has room. Calls without a zone, and those for which their own
has no room left, fill the whole set then. Each call adds to the relay that is the least loaded for its weight by then,
of those that a rollout is not about to replace, as long as one has room: from the others it would have to move again.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Sequence

from kedge.relay.plan_model import (
    NO_CAPACITY,
    NO_RELAY,
    UNMOVABLE,
    Left,
    Move,
    Pace,
    Plan,
    PlanCall,
    PlanKind,
    PlanRelay,
    UnknownRelayError,
    deal,
    in_order,
    urgency,
)


def plan_leave(
    kind: PlanKind, relays: Iterable[PlanRelay], calls: Iterable[PlanCall], leaving: Collection[str], pace: Pace
) -> Plan:
    """Plan how all calls leave the relays ``leaving`` (uids).

    Raises:
        UnknownRelayError: One of them is not among ``relays``.
    """
    ordered = in_order(relays)
    names = {relay.uid: relay.name for relay in ordered}
    for uid in sorted(leaving):
        if uid not in names:
            raise UnknownRelayError(uid)
    wanted = sorted((call for call in calls if call.relay in leaving), key=urgency)
    movable = [call for call in wanted if call.movable]
    targets = [relay for relay in ordered if relay.target and relay.uid not in leaving]
    going = movable[: sum(relay.room for relay in targets)]
    reason = NO_CAPACITY if targets else NO_RELAY
    chosen = _choose(going, targets)
    before = {relay.uid: relay.sessions for relay in ordered}
    after = dict(before)
    moves = []
    for call in going:
        target = chosen[call.id]
        moves.append(Move(call.id, call.relay, target))
        after[call.relay] -= 1
        after[target] += 1
    return Plan(
        kind=kind,
        names=names,
        moves=tuple(moves),
        unplaced=tuple(Left(call.id, reason, call.relay) for call in movable[len(going) :]),
        unmovable=tuple(Left(call.id, call.reason or UNMOVABLE, call.relay) for call in wanted if not call.movable),
        before=before,
        after=after,
        seconds=pace.seconds(going),
        bounds={},
    )


def _choose(going: Sequence[PlanCall], targets: Sequence[PlanRelay]) -> dict[str, str]:
    """Return the target's uid for each call, by id; ``targets`` have room for all."""
    taken = [0] * len(targets)
    by_zone: dict[str, list[int]] = {}
    for index, relay in enumerate(targets):
        by_zone.setdefault(relay.zone, []).append(index)
    homed: dict[str, list[PlanCall]] = {}
    anywhere: list[PlanCall] = []
    for call in going:
        if call.zone and call.zone in by_zone:
            homed.setdefault(call.zone, []).append(call)
        else:
            anywhere.append(call)
    chosen: dict[str, str] = {}
    for zone in sorted(homed):
        fit = _spread(homed[zone], targets, by_zone[zone], taken, chosen)
        anywhere.extend(homed[zone][fit:])
    _spread(anywhere, targets, range(len(targets)), taken, chosen)
    return chosen


def _spread(
    calls: Sequence[PlanCall],
    targets: Sequence[PlanRelay],
    allowed: Iterable[int],
    taken: list[int],
    chosen: dict[str, str],
) -> int:
    """Spread ``calls`` over the ``allowed`` targets, note it in ``taken`` and ``chosen``; return how many fit."""
    allowed = list(allowed)
    had = [taken[index] for index in allowed]
    heap = [
        (targets[index].outgoing, (targets[index].sessions + taken[index] + 1) / targets[index].weight, index)
        for index in allowed
        if taken[index] < targets[index].room
    ]
    heapq.heapify(heap)
    limits = [relay.room for relay in targets]
    placed = 0
    while heap and placed < len(calls):
        index = heap[0][-1]
        taken[index] += 1
        placed += 1
        if taken[index] < limits[index]:
            relay = targets[index]
            load = (relay.sessions + taken[index] + 1) / relay.weight
            heapq.heapreplace(heap, (relay.outgoing, load, index))
        else:
            heapq.heappop(heap)
    counts = [(index, taken[index] - before) for index, before in zip(allowed, had, strict=True)]
    for call, index in zip(calls, deal(counts), strict=False):
        chosen[call.id] = targets[index].uid
    return placed
