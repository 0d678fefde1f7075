"""What plans are made of, and what they say: plain values that can be shown, compared and written as JSON.

A plan is a picture: it was right for the relays and calls that it was given. Whoever acts on it reserves room at the
target before each move, and makes the plan anew when something has changed; it never repairs one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, unique
from typing import Final, NamedTuple

from kedge.base.errors import KedgeError

NO_CAPACITY: Final = "NoCapacity"
"""Relays serve, but none that the call may go to has room."""
NO_RELAY: Final = "NoRelay"
"""No other relay of the set serves."""
RESTING: Final = "Resting"
"""The call was moved a short while ago, and is not moved again only to even out load."""
UNMOVABLE: Final = "Unmovable"
"""The call cannot be moved, and nobody has said why."""

LEGS: Final = 2
"""re-INVITEs that one move takes: one for each leg."""


class PlanError(KedgeError):
    """A plan was asked for that makes no sense; the fault is the asker's."""


class UnknownRelayError(PlanError):
    """A relay was named that the set does not have."""

    def __init__(self, uid: str) -> None:
        super().__init__(f"the set has no relay {uid!r}")
        self.uid = uid


@unique
class PlanKind(Enum):
    """What a plan is for."""

    DRAIN = "Drain"
    LOSS = "Loss"
    REBALANCE = "Rebalance"


class PlanCall(NamedTuple):
    """One call of this signaling process, as plans see it. A tuple: ten thousand are made for one plan."""

    id: str
    relay: str
    """Uid of the relay that it is on."""
    zone: str = ""
    """The zone whose relays it prefers; empty where any relay is as good."""
    emergency: bool = False
    last_move_at: float | None = None
    """When it was moved last (seconds, the clock of ``now``); None if it never was."""
    silent_since: float | None = None
    """Since when (seconds) nobody has heard anything; None if media flows as far as is known."""
    movable: bool = True
    reason: str = ""
    """Why it cannot be moved, where it cannot: a word such as ``Recording``."""
    peers: tuple[str, ...] = ()
    """Names of the two peers that get a re-INVITE each when it moves; for the budget of each peer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRelay:
    """One relay of the set, as plans see it."""

    uid: str
    name: str
    zone: str = ""
    weight: int = 1
    """Its share of calls against the other relays'; with 0 it gets none."""
    serving: bool = True
    """Whether it may get calls: healthy, neither drained nor cordoned. One that does not serve is never a target."""
    leaving: bool = False
    """Whether its calls have to go (it drains, or is lost). A cordoned relay neither serves nor leaves."""
    outgoing: bool = False
    """Whether a rollout is about to replace it: what is moved here has to be moved again."""
    sessions: int = 0
    """Sessions of this process on it, those included that have only been reserved."""
    capacity: int = 4000
    """``maxSessionsPerRelay``: sessions of all signaling processes together at most."""
    others: int = 0
    """Sessions that other signaling processes have on it; 0 if unknown."""
    replicas: int = 1
    """Signaling processes that share the room that is left: each plans with an equal part of it."""

    @property
    def target(self) -> bool:
        """Whether calls may be moved here, if there is room."""
        return self.serving and not self.leaving and self.weight > 0

    @property
    def room(self) -> int:
        """How many more calls this process may put here."""
        return max(0, self.capacity - self.sessions - self.others) // max(1, self.replicas)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast calls are moved. This process's share of what the RelaySet allows; 0 means without limit."""

    rate: float = 0.0
    """re-INVITEs a second in all."""
    rate_per_peer: float = 0.0
    """re-INVITEs a second to one peer."""
    calls: float = 0.0
    """Calls a second (``rebalance.rate``)."""

    def seconds(self, calls: Iterable[PlanCall]) -> float:
        """Return how long it takes to begin the moves of ``calls``; the last one is done a round trip or two later."""
        count = 0
        per_peer: Counter[str] = Counter()
        for call in calls:
            count += 1
            for peer in call.peers:
                per_peer[peer] += 1
        longest = [0.0]
        if self.rate > 0:
            longest.append(LEGS * count / self.rate)
        if self.calls > 0:
            longest.append(count / self.calls)
        if self.rate_per_peer > 0 and per_peer:
            longest.append(max(per_peer.values()) / self.rate_per_peer)
        return max(longest)


class Move(NamedTuple):
    """One call goes from one relay to another (uids)."""

    call: str
    source: str
    target: str


class Left(NamedTuple):
    """One call that stays although it should not."""

    call: str
    reason: str
    relay: str
    """Uid of the relay that it stays on."""


class Row(NamedTuple):
    """One line of a plan's table. Relays by name; ``target`` is empty for calls that stay, and ``reason`` says why."""

    calls: int
    source: str
    target: str
    reason: str


class Bounds(NamedTuple):
    """Between how many sessions of this process a relay is in balance, both included."""

    lower: int
    upper: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Which calls go where, in this order, and what comes of it."""

    kind: PlanKind
    names: Mapping[str, str]
    """The name of each relay, by uid, in the order of names."""
    moves: tuple[Move, ...] = ()
    """In the order in which they are to begin: then no relay is over its capacity at any time."""
    unplaced: tuple[Left, ...] = ()
    """Calls that should move and could, if there were room."""
    unmovable: tuple[Left, ...] = ()
    """Calls that should move and cannot."""
    before: Mapping[str, int]
    """Sessions of this process on each relay, by uid."""
    after: Mapping[str, int]
    """The same when all moves are done."""
    seconds: float = 0.0
    """How long it takes at the pace that was given."""
    bounds: Mapping[str, Bounds]
    """What balance means for each relay; empty but for ``Rebalance``."""

    @property
    def balanced(self) -> bool:
        """Whether every relay is within its bounds when all moves are done."""
        return all(bound.lower <= self.after[uid] <= bound.upper for uid, bound in self.bounds.items())

    def table(self) -> list[Row]:
        """Return how many calls go from where to where, then what does not fit, then what cannot move, and why."""
        rows = []
        moved = Counter((move.source, move.target) for move in self.moves)
        for (source, target), count in sorted(moved.items(), key=self._by_name):
            rows.append(Row(count, self.names[source], self.names[target], ""))
        for left in (self.unplaced, self.unmovable):
            counted = Counter((each.relay, each.reason) for each in left)
            for (relay, reason), count in sorted(counted.items(), key=self._by_name):
                rows.append(Row(count, self.names[relay], "", reason))
        return rows

    def _by_name(self, item: tuple[tuple[str, str], int]) -> tuple[str, str]:
        (relay, other), _ = item
        return self.names[relay], self.names.get(other, other)

    def as_dict(self, *, calls: bool = False) -> dict[str, object]:
        """Return it as JSON takes it; with each single call only if ``calls``."""
        relays = []
        for uid, name in self.names.items():
            relay = {"name": name, "before": self.before[uid], "after": self.after[uid]}
            if uid in self.bounds:
                relay |= self.bounds[uid]._asdict()
            relays.append(relay)
        shown: dict[str, object] = {
            "kind": self.kind.value,
            "moves": len(self.moves),
            "unplaced": len(self.unplaced),
            "unmovable": len(self.unmovable),
            "seconds": round(self.seconds, 3),
            "balanced": self.balanced,
            "relays": relays,
            "table": [row._asdict() for row in self.table()],
        }
        if self.kind is not PlanKind.REBALANCE:
            del shown["balanced"]
        if calls:
            shown["calls"] = {
                "moves": [[move.call, self.names[move.source], self.names[move.target]] for move in self.moves],
                "unplaced": [[left.call, self.names[left.relay], left.reason] for left in self.unplaced],
                "unmovable": [[left.call, self.names[left.relay], left.reason] for left in self.unmovable],
            }
        return shown


def in_order(relays: Iterable[PlanRelay]) -> list[PlanRelay]:
    """Return the relays in the order that breaks every tie: by name, then uid."""
    return sorted(relays, key=lambda relay: (relay.name, relay.uid))


def urgency(call: PlanCall) -> tuple[bool, float, str]:
    """Order calls that have to go: emergency calls first, then the longest silent, then by id."""
    since = call.silent_since
    return not call.emergency, float("inf") if since is None else since, call.id


def deal(counts: Iterable[tuple[int, int]]) -> list[int]:
    """Return every key as many times as counted, all spread evenly: no relay gets its commands in one burst.

    Args:
        counts: Key and count. Equal places go to the earlier.
    """
    places = []
    for rank, (key, count) in enumerate(counts):
        step = 1.0 / count if count else 0.0
        places.extend([((place + 0.5) * step, rank, key) for place in range(count)])
    places.sort()
    return [key for _, _, key in places]
