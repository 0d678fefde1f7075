"""Which relay a new call goes to: the less loaded of two at random, of its zone as long as one there has room.

Two random choices spread calls almost as evenly as the least loaded of all would, and several signaling replicas, each
of which counts its own calls only, do not herd to the same relay. Zones are a preference: a call leaves its own when no
relay there may take it, and then all others are alike.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from kedge.relay.relay import Relay


def load_of(relay: Relay) -> float:
    """Return its load after one more session, for its weight."""
    return (relay.sessions + 1) / relay.description.weight


def pick_of_two(
    relays: Sequence[Relay], rng: random.Random, avoid: Relay | None = None, zone: str = ""
) -> Relay | None:
    """Return the less loaded of two of ``relays`` that has room; if neither has, the least loaded of all that have.

    Args:
        relays: Those that serve.
        rng: Makes the two choices.
        avoid: A relay that shall not be it.
        zone: The zone that comes first, as long as one of its relays has room; empty where all are alike.
    """
    if zone:
        near = _pick([relay for relay in relays if relay.description.zone == zone], rng, avoid)
        if near is not None:
            return near
    return _pick(relays, rng, avoid)


def _pick(relays: Sequence[Relay], rng: random.Random, avoid: Relay | None) -> Relay | None:
    count = len(relays)
    if count == 0:
        return None
    first = relays[int(rng.random() * count)]
    second = first
    if count > 1:
        index = int(rng.random() * (count - 1))
        second = relays[index] if relays[index] is not first else relays[count - 1]
    usable = [relay for relay in (first, second) if relay is not avoid and relay.free]
    if not usable:
        usable = [relay for relay in relays if relay is not avoid and relay.free]
    return min(usable, key=load_of, default=None)
