"""The fewest moves that even out load: a flow of least cost, over counts of calls and not over calls.

Theory. Every call is *homed* (it goes only to relays of its zone) or *free*. A **hub** stands for each zone, and hub 0
for the whole set; a move is a unit of flow from a relay through the hub of the call to another relay. What counts, the
weightier always before the lighter:

1. calls on relays that they have to leave, or above capacity: as few as can be;
2. calls sent out of their zone (from the hub of a zone to hub 0): as few as can be, and only for the sake of 1;
3. sessions by which relays are outside their bounds, all added up: as few as can be;
4. moves: as few as can be;
5. among plans alike in all that, the more even one.

Each is a cost in whole numbers, so heavy that one unit of it is more than the lighter ones can gain along any path that
visits no node twice. The cost of a relay's load is convex. Successive shortest paths (Ford, Fulkerson; here from the
relays whose last session costs most to those whose next one costs least) keep the flow the cheapest for its amount, and
end when no path gains anything: by the theorem that a flow is optimal unless its residual graph has a negative cycle,
no set of moves does better. The nodes are relays and zones, so it takes no longer for ten thousand calls than for ten.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

ALL: Final = 0
"""The hub of the whole set."""
_STEPS: Final = 16
"""Steps of evenness inside the bounds, and outside, at most."""
_ALL_STEPS: Final = 160
"""The same for all relays together: each step of each relay may take a path of its own."""
_FAR: Final = 1 << 60


class Costs:
    """How heavy each aim is, for a number of hubs and relays."""

    __slots__ = ("crossing", "move", "outside", "steps", "stuck")

    def __init__(self, hubs: int, relays: int) -> None:
        self.steps = max(2, min(_STEPS, _ALL_STEPS // max(1, relays)))
        """Steps of evenness."""
        self.move = self.steps
        """More than evenness gains by one session."""
        self.outside = self.move * (hubs + 2)
        """More than the moves of a path, which goes through each hub at most once, and evenness."""
        self.crossing = self.outside * 4
        """More than what one path gains by bounds: two sessions at most; and all of the above."""
        self.stuck = self.crossing * (hubs + 3)
        """More than all crossings of a path, and all of the above."""


class Load:
    """What the load of one relay costs: a convex function, kept as segments of equal cost for each further session."""

    __slots__ = ("_costs", "_ends", "_steps", "limit", "sessions")

    def __init__(self, sessions: int, lower: int, upper: int, capacity: int, limit: int, costs: Costs) -> None:
        self.sessions = sessions
        self.limit = limit
        """Sessions to which moves may raise it at most."""
        self._steps = costs.steps
        self._ends: list[int] = []
        self._costs: list[int] = []
        self._add(0, lower, -costs.outside)
        self._add(lower, upper, 0)
        self._add(upper, capacity, costs.outside)
        self._add(capacity, max(capacity, sessions), costs.stuck)

    def _add(self, low: int, high: int, cost: int) -> None:
        """Add the sessions from ``low`` (not included) to ``high``, in steps that cost a little more each."""
        parts = min(self._steps, high - low)
        for part in range(parts):
            self._ends.append(low + (high - low) * (part + 1) // parts)
            self._costs.append(cost + part * self._steps // parts)

    def last(self) -> tuple[int, int]:
        """Return what the last session costs, and how many of the last ones cost as much (0: there is none)."""
        if self.sessions <= 0:
            return 0, 0
        index = bisect_left(self._ends, self.sessions)
        return self._costs[index], self.sessions - (self._ends[index - 1] if index else 0)

    def next(self) -> tuple[int, int]:
        """Return what the next session costs, and how many of the next ones cost as much (0: none may be added)."""
        if self.sessions >= self.limit:
            return 0, 0
        index = bisect_left(self._ends, self.sessions + 1)
        return self._costs[index], min(self._ends[index], self.limit) - self.sessions


class Flow:
    """How many calls leave each relay, by hub, and how many come to it."""

    __slots__ = ("_costs", "_hubs", "_loads", "_members", "crossed", "entered", "fresh", "left")

    def __init__(
        self, loads: Sequence[Load], members: Sequence[Sequence[int]], fresh: Sequence[Sequence[int]], costs: Costs
    ) -> None:
        """Begin with every call where it is.

        Args:
            loads: Of each relay.
            members: For each hub, the relays that calls may get to from there; those of hub 0 are all targets.
            fresh: For each relay and hub, how many calls may be moved.
            costs: The weight of each aim.
        """
        self._loads = loads
        self._members = members
        self._hubs = len(members)
        self._costs = costs
        self.fresh = [list(row) for row in fresh]
        self.left = [[0] * self._hubs for _ in loads]
        """Calls that leave relay i through hub h."""
        self.entered = [[0] * self._hubs for _ in loads]
        """Calls that come to relay i through hub h."""
        self.crossed = [0] * self._hubs
        """Calls that go from hub h on to hub 0."""

    def solve(self) -> None:
        """Improve the flow until nothing does."""
        while self._improve():
            pass

    def _improve(self) -> bool:
        """Send calls along the path that gains most; return False if none gains anything."""
        relays = len(self._loads)
        before = [-1] * (relays + self._hubs)
        far = [_FAR] * (relays + self._hubs)
        for index, load in enumerate(self._loads):
            cost, count = load.last()
            if count:
                far[index] = -cost
        # The heaviest first: most of what they reach is then never reached better.
        queue = deque(sorted((index for index in range(relays) if far[index] < _FAR), key=far.__getitem__))
        self._reach(queue, far, before)
        best, end = 0, -1
        for index in self._members[ALL]:
            cost, count = self._loads[index].next()
            if count and far[index] + cost < best:
                best, end = far[index] + cost, index
        if end < 0:
            return False
        self._send(end, before)
        return True

    def _reach(self, queue: deque[int], far: list[int], before: list[int]) -> None:
        """Find the cheapest way to every node (Bellman, Ford: some steps back have a negative cost)."""
        relays = len(self._loads)
        through = self._hubs > 1  # with one hub alone, the way on from a relay leads back to where it was reached from
        waiting = [False] * len(far)
        for node in queue:
            waiting[node] = True
        while queue:
            node = queue.popleft()
            waiting[node] = False
            here = far[node]
            for to, cost in self._steps(node):
                if here + cost < far[to]:
                    far[to] = here + cost
                    before[to] = node
                    if not waiting[to] and (through or to >= relays):
                        waiting[to] = True
                        queue.append(to)

    def _steps(self, node: int) -> list[tuple[int, int]]:
        """Return where a call can go from a node, and at what cost."""
        relays = len(self._loads)
        move, crossing = self._costs.move, self._costs.crossing
        if node < relays:
            fresh, left, entered = self.fresh[node], self.left[node], self.entered[node]
            # One that has come through a hub goes elsewhere for nothing; one that was here has to be moved for it.
            return [
                (relays + hub, 0 if entered[hub] else move)
                for hub in range(self._hubs)
                if entered[hub] or fresh[hub] > left[hub]
            ]
        hub = node - relays
        steps = [(index, 0) for index in self._members[hub]]
        steps += [(index, -move) for index, left in enumerate(self.left) if left[hub]]  # it stays, after all
        if hub == ALL:
            steps += [(relays + zone, -crossing) for zone, crossed in enumerate(self.crossed) if crossed]
        else:
            steps.append((relays + ALL, crossing))
        return steps

    def _send(self, end: int, before: list[int]) -> None:
        """Send as many calls as the whole path takes at the same cost."""
        path = [end]
        while before[path[-1]] >= 0:
            path.append(before[path[-1]])
        path.reverse()
        steps = list(pairwise(path))
        count = min(self._loads[path[0]].last()[1], self._loads[end].next()[1])
        count = min([count, *(self._room(node, to) for node, to in steps)])
        for node, to in steps:
            self._pass(node, to, count)
        self._loads[path[0]].sessions -= count
        self._loads[end].sessions += count

    def _room(self, node: int, to: int) -> int:
        relays = len(self._loads)
        if node < relays:
            hub = to - relays
            return self.entered[node][hub] or self.fresh[node][hub] - self.left[node][hub]
        hub = node - relays
        if to < relays:
            return self.left[to][hub] or _FAR
        return self.crossed[to - relays] if hub == ALL else _FAR

    def _pass(self, node: int, to: int, count: int) -> None:
        relays = len(self._loads)
        if node < relays:
            hub = to - relays
            if self.entered[node][hub]:
                self.entered[node][hub] -= count
            else:
                self.left[node][hub] += count
        elif to < relays:
            hub = node - relays
            if self.left[to][hub]:
                self.left[to][hub] -= count
            else:
                self.entered[to][hub] += count
        elif node - relays == ALL:
            self.crossed[to - relays] -= count
        else:
            self.crossed[node - relays] += count
