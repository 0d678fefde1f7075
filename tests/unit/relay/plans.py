"""What the tests of plans share: sets of relays and calls, and what a plan makes of them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from hypothesis import settings
from hypothesis import strategies as st

from kedge.relay.plan import Plan, PlanCall, PlanRelay
from kedge.relay.plan_shares import bounds_of, fair_shares

QUIET = settings(deadline=None)
"""Examples are not timed."""
NOW = 1000.0
REST = 60.0
RESTING_SINCE = NOW - 10
RESTED_SINCE = NOW - 100


@dataclass(frozen=True)
class Set:
    """One RelaySet with its calls."""

    relays: tuple[PlanRelay, ...]
    calls: tuple[PlanCall, ...]

    def relay(self, uid: str) -> PlanRelay:
        return next(relay for relay in self.relays if relay.uid == uid)

    def after(self, plan: Plan) -> "Set":
        """Return the set when all moves are done."""
        went = {move.call: move.target for move in plan.moves}
        calls = tuple(
            call._replace(relay=went[call.id], last_move_at=NOW) if call.id in went else call for call in self.calls
        )
        return Set(tuple(replace(relay, sessions=plan.after[relay.uid]) for relay in self.relays), calls)


def make_set(loads: Sequence[int], *, capacity: int = 4000, weights: Sequence[int] = ()) -> Set:
    """Return relays ``r0``, ``r1``... of no zone, with so many calls each."""
    calls = [
        PlanCall(f"c{relay}-{number:04d}", f"r{relay}") for relay, count in enumerate(loads) for number in range(count)
    ]
    weights = weights or [1] * len(loads)
    relays = [
        PlanRelay(uid=f"r{index}", name=f"relay-{index}", sessions=load, capacity=capacity, weight=weight)
        for index, (load, weight) in enumerate(zip(loads, weights, strict=True))
    ]
    return Set(tuple(relays), tuple(calls))


STATES = (
    {"serving": True},
    {"serving": True},
    {"serving": True},
    {"serving": False},  # cordoned
    {"serving": False, "leaving": True},
)


@st.composite
def sets(draw: st.DrawFn, *, relays: int = 6, calls: int = 24, capacity: int = 10, unlisted: int = 2) -> Set:
    """Any set: relays of any weight, zone and state; calls of any zone, of which some cannot move or are resting."""
    zones = st.sampled_from(["", "a", "b"])
    count = draw(st.integers(1, relays))
    made = [
        PlanCall(
            id=f"c{number:02d}",
            relay=f"r{draw(st.integers(0, count - 1))}",
            zone=draw(st.sampled_from(["", "a", "b", "elsewhere"])),
            emergency=draw(st.integers(0, 5)) == 5,
            last_move_at=draw(st.sampled_from([None, None, RESTED_SINCE, RESTING_SINCE])),
            silent_since=draw(st.sampled_from([None, 1.0, 2.0])),
            movable=draw(st.integers(0, 4)) < 4,
        )
        for number in range(draw(st.integers(0, calls)))
    ]
    on = Counter(call.relay for call in made)
    described = [
        PlanRelay(
            uid=f"r{index}",
            name=f"relay-{index}",
            zone=draw(zones),
            weight=draw(st.integers(1, 3)),
            sessions=on[f"r{index}"] + draw(st.integers(0, unlisted)),
            capacity=draw(st.integers(0, capacity)),
            others=draw(st.integers(0, 2)),
            **draw(st.sampled_from(STATES)),
        )
        for index in range(count)
    ]
    return Set(tuple(described), tuple(made))


def limit(relay: PlanRelay) -> int:
    return max(0, relay.capacity - relay.others) if relay.target else 0


def zones_served(given: Set, without: Iterable[str] = ()) -> set[str]:
    return {relay.zone for relay in given.relays if relay.target and relay.zone and relay.uid not in set(without)}


# --- what a rebalance is worth, and the best of all that there are ----------------------------------------------------


def bounds(given: Set, imbalance: float) -> dict[str, tuple[int, int]]:
    """Return the bounds of each target by the definition; what counts for a zone is said once more here."""
    targets = [relay for relay in given.relays if relay.target]
    served = {relay.zone for relay in targets if relay.zone}
    counts: Counter[str] = Counter()
    for call in given.calls:
        relay = given.relay(call.relay)
        if relay.target or (relay.leaving and call.movable):
            counts[call.zone if call.zone in served and (call.movable or call.zone == relay.zone) else ""] += 1
    listed = Counter(call.relay for call in given.calls)
    counts[""] += sum(relay.sessions - listed[relay.uid] for relay in targets)
    shares = fair_shares(targets, counts)
    return {relay.uid: bounds_of(relay, share, imbalance) for relay, share in zip(targets, shares, strict=True)}


Worth = tuple[int, int, int, int]


def worth(given: Set, ends: dict[str, str], allowed: dict[str, tuple[int, int]]) -> Worth:
    """Return how bad an outcome is: calls stuck, calls sent out of their zone, sessions outside of bounds, moves."""
    served = zones_served(given)
    loads = {relay.uid: relay.sessions for relay in given.relays}
    crossed = moves = 0
    for call in given.calls:
        end = ends.get(call.id, call.relay)
        if end == call.relay:
            continue
        moves += 1
        loads[call.relay] -= 1
        loads[end] += 1
        crossed += call.zone in served and given.relay(end).zone != call.zone
    concerned = [relay for relay in given.relays if relay.target or relay.leaving]
    stuck = sum(max(0, loads[relay.uid] - limit(relay)) for relay in concerned)
    outside = 0
    for relay in concerned:
        lower, upper = allowed.get(relay.uid, (0, 0))
        load = min(loads[relay.uid], limit(relay))
        outside += max(0, lower - load, load - upper)
    return stuck, crossed, outside, moves


def may_leave(given: Set, call: PlanCall) -> bool:
    relay = given.relay(call.relay)
    rested = call.last_move_at is None or call.last_move_at <= NOW - REST
    return call.movable and (relay.leaving or (relay.target and rested))


def outcomes(given: Set) -> Iterator[dict[str, str]]:
    """Yield all that may be done: each call stays or goes to any target, and none is raised above its limit."""
    movable = [call for call in given.calls if may_leave(given, call)]
    targets = [relay.uid for relay in given.relays if relay.target]
    limits = {relay.uid: max(limit(relay), relay.sessions) for relay in given.relays if relay.target}
    sessions = {relay.uid: relay.sessions for relay in given.relays}
    for ends in product(*[sorted({call.relay, *targets}) for call in movable]):
        loads = dict(sessions)
        for call, end in zip(movable, ends, strict=True):
            loads[call.relay] -= 1
            loads[end] += 1
        if all(loads[uid] <= most for uid, most in limits.items()):
            yield {call.id: end for call, end in zip(movable, ends, strict=True)}


def best(given: Set, imbalance: float) -> Worth:
    """Return the worth of the best of all outcomes, zones left only for the sake of calls that are stuck."""
    allowed = bounds(given, imbalance)
    return min(worth(given, ends, allowed) for ends in outcomes(given))


def named(plan: Plan) -> list[str]:
    """Return every call that a plan names."""
    return [move.call for move in plan.moves] + [left.call for left in (*plan.unplaced, *plan.unmovable)]
