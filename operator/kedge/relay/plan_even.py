"""Calls even out: a rebalance with the fewest moves. What balance is stands in ``plan_shares``.

A relay that has to be left (it drains, or is lost) is reckoned with at once: its calls go where they even out the
rest, so that one plan answers a scale-out in the midst of a drain, and no call moves twice. A relay that is cordoned
keeps its calls and gets none; it and they are left out of the reckoning.

Which calls go, where any of several would do: no emergency calls as long as there are others, then those that were
moved the longest ago or never. A call that was moved less than ``rest`` seconds ago goes only off a relay that has to
be left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from kedge.relay.plan_flow import ALL, Costs, Flow, Load
from kedge.relay.plan_model import (
    NO_CAPACITY,
    NO_RELAY,
    RESTING,
    UNMOVABLE,
    Bounds,
    Left,
    Move,
    Pace,
    Plan,
    PlanCall,
    PlanKind,
    PlanRelay,
    deal,
    in_order,
    urgency,
)
from kedge.relay.plan_shares import bounds_of, fair_shares, limit_of


class _Step(NamedTuple):
    """A move between relays by their index."""

    call: PlanCall
    source: int
    target: int


class _Picture:
    """The set as it is: relays that give or take by index, and their calls by relay and hub."""

    __slots__ = ("bounds", "groups", "hubs", "moved", "pinned", "relays")

    def __init__(
        self,
        relays: Sequence[PlanRelay],
        calls: Iterable[PlanCall],
        imbalance: float,
        rest: float,
        now: float,
    ) -> None:
        self.relays = [relay for relay in relays if relay.target or relay.leaving]
        zones = sorted({relay.zone for relay in self.relays if relay.target and relay.zone})
        self.hubs = {zone: hub for hub, zone in enumerate(zones, start=1)}
        self.groups: list[list[list[PlanCall]]] = [[[] for _ in range(len(zones) + 1)] for _ in self.relays]
        """Calls that may be moved, by relay and hub."""
        self.pinned: list[list[Left]] = [[] for _ in self.relays]
        """Calls that may not, by relay."""
        self.bounds: list[Bounds] = []
        counts = self._sort(calls, rest, now)
        self._bound(counts, imbalance)

    def _sort(self, calls: Iterable[PlanCall], rest: float, now: float) -> list[int]:
        """Put the calls into groups; return how many each hub has, whether or not they can be moved just now."""
        index = {relay.uid: number for number, relay in enumerate(self.relays)}
        leaving = [relay.leaving for relay in self.relays]
        sessions = [relay.sessions for relay in self.relays]
        counts = [0] * (len(self.hubs) + 1)
        rested = now - rest
        hubs = self.hubs
        for call in calls:
            at = index.get(call.relay)
            if at is None:
                continue
            hub = hubs.get(call.zone, ALL)
            if not call.movable:
                self.pinned[at].append(Left(call.id, call.reason or UNMOVABLE, call.relay))
                if leaving[at]:
                    continue
                if self.relays[at].zone != call.zone:
                    hub = ALL  # it will never be in its own zone
            elif call.last_move_at is not None and call.last_move_at > rested and not leaving[at]:
                self.pinned[at].append(Left(call.id, RESTING, call.relay))
            else:
                self.groups[at][hub].append(call)
            counts[hub] += 1
            sessions[at] -= 1
        # Sessions that are no call in the list (one that is being set up, say) are load that stays.
        counts[ALL] += sum(max(0, more) for more, relay in zip(sessions, self.relays, strict=True) if not relay.leaving)
        return counts

    def _bound(self, counts: Sequence[int], imbalance: float) -> None:
        targets = [relay for relay in self.relays if relay.target]
        by_zone = {zone: counts[hub] for zone, hub in self.hubs.items()}
        shares = iter(fair_shares(targets, {"": counts[ALL], **by_zone}))
        for relay in self.relays:
            self.bounds.append(bounds_of(relay, next(shares), imbalance) if relay.target else Bounds(0, 0))

    def flow(self) -> Flow:
        """Return the flow of least cost over this picture."""
        costs = Costs(len(self.hubs) + 1, len(self.relays))
        loads = []
        for relay, bound in zip(self.relays, self.bounds, strict=True):
            capacity = limit_of(relay) if relay.target else 0
            limit = relay.sessions + relay.room if relay.target else 0
            loads.append(Load(relay.sessions, bound.lower, bound.upper, capacity, limit, costs))
        members: list[list[int]] = [[] for _ in range(len(self.hubs) + 1)]
        for index, relay in enumerate(self.relays):
            if relay.target:
                members[ALL].append(index)
                if relay.zone:
                    members[self.hubs[relay.zone]].append(index)
        flow = Flow(loads, members, [[len(group) for group in groups] for groups in self.groups], costs)
        flow.solve()
        return flow


def plan_even(
    relays: Iterable[PlanRelay], calls: Iterable[PlanCall], *, imbalance: float, rest: float, now: float, pace: Pace
) -> Plan:
    """Plan the fewest moves after which every relay is in balance, or as near to it as can be."""
    ordered = in_order(relays)
    picture = _Picture(ordered, calls, imbalance, rest, now)
    flow = picture.flow()
    before = {relay.uid: relay.sessions for relay in ordered}
    after = dict(before)
    steps = _in_sequence(list(_steps(picture, flow)), picture.relays)
    moves = []
    for call, source, target in steps:
        move = Move(call.id, picture.relays[source].uid, picture.relays[target].uid)
        moves.append(move)
        after[move.source] -= 1
        after[move.target] += 1
    unplaced, unmovable = _left(picture, after, {move.call for move in moves})
    return Plan(
        kind=PlanKind.REBALANCE,
        names={relay.uid: relay.name for relay in ordered},
        moves=tuple(moves),
        unplaced=tuple(unplaced),
        unmovable=tuple(unmovable),
        before=before,
        after=after,
        seconds=pace.seconds(step.call for step in steps),
        bounds={relay.uid: bound for relay, bound in zip(picture.relays, picture.bounds, strict=True)},
    )


def _steps(picture: _Picture, flow: Flow) -> Iterator[_Step]:
    """Name the calls that the flow has only counted."""
    crossing: list[tuple[PlanCall, int]] = []
    for hub in [*picture.hubs.values(), ALL]:
        going: list[tuple[PlanCall, int]] = []
        counts = [row[hub] for row in flow.left]
        queues = [iter(_first_to_go(picture, index, hub, count)) for index, count in enumerate(counts)]
        going.extend((next(queues[index]), index) for index in deal(enumerate(counts)))
        if hub == ALL:
            going.extend(crossing)
        stay = len(going) - flow.crossed[hub]
        crossing.extend(going[stay:])
        targets = deal((index, row[hub]) for index, row in enumerate(flow.entered))
        for (call, source), target in zip(going[:stay], targets, strict=True):
            yield _Step(call, source, target)


def _first_to_go(picture: _Picture, index: int, hub: int, count: int) -> list[PlanCall]:
    if not count:
        return []
    group = picture.groups[index][hub]
    return sorted(group, key=urgency if picture.relays[index].leaving else _spare)[:count]


def _spare(call: PlanCall) -> tuple[bool, float, str]:
    moved = call.last_move_at
    return call.emergency, float("-inf") if moved is None else moved, call.id


def _in_sequence(steps: list[_Step], relays: Sequence[PlanRelay]) -> list[_Step]:
    """Order moves: before calls come to a relay, those that leave it have gone; then urgent ones; then all evenly.

    The moves have no circle: it would leave all loads as they are, and the flow has no move that is not needed.
    """
    depth = _depths(steps, len(relays))
    seen: dict[tuple[int, int], int] = {}
    numbered = []
    for step in steps:
        pair = (step.source, step.target)
        number = seen[pair] = seen.get(pair, -1) + 1
        numbered.append((step, number))

    def key(item: tuple[_Step, int]) -> tuple[int, bool, bool, float, int, int]:
        step, number = item
        leaving = relays[step.source].leaving
        place = (number + 0.5) / (seen[step.source, step.target] + 1)
        urgent = leaving and step.call.emergency
        return depth[step.target], not leaving, not urgent, place, step.source, step.target

    return [step for step, _ in sorted(numbered, key=key)]


def _depths(steps: Iterable[_Step], count: int) -> list[int]:
    """Return for each relay the length of the longest chain of moves that begins there."""
    edges = {(step.source, step.target) for step in steps}
    depth = [0] * count
    for _ in range(count):
        changed = False
        for source, target in edges:
            if depth[source] <= depth[target]:
                depth[source] = depth[target] + 1
                changed = True
        if not changed:
            break
    return depth


def _left(picture: _Picture, after: dict[str, int], moved: set[str]) -> tuple[list[Left], list[Left]]:
    """List calls that keep a relay above what it may have, and why: those without room, and those that cannot move."""
    unplaced: list[Left] = []
    unmovable: list[Left] = []
    reason = NO_CAPACITY if any(relay.target for relay in picture.relays) else NO_RELAY
    for index, (relay, bound) in enumerate(zip(picture.relays, picture.bounds, strict=True)):
        over = after[relay.uid] - bound.upper
        if over <= 0:
            continue
        unmovable.extend(sorted(picture.pinned[index]))
        staying = [call for group in picture.groups[index] for call in group if call.id not in moved]
        staying.sort(key=(lambda call: (call.emergency, urgency(call))) if not relay.leaving else urgency)
        unplaced.extend(Left(call.id, reason, relay.uid) for call in staying[:over])
    return unplaced, unmovable
