import random
from collections import Counter
from dataclasses import replace

import pytest
from tests.unit.relay.simulation import World

from kedge.relay.model import Intent
from kedge.relay.placement import pick_of_two
from kedge.relay.plan_picture import picture_of
from kedge.relay.relay import Relay


def relays(*zones: str, limit: int = 100) -> list[Relay]:
    """Return relays ``r1``, ``r2``... in these zones, all Ready."""
    world = World(len(zones), limit=limit)
    for index, zone in enumerate(zones, start=1):
        world.change(index, zone=zone)
    world.run(0.35)
    assert world.states() == ["Ready"] * len(zones)
    return list(world.fleet.relays.values())


def place(among: list[Relay], count: int, *, zone: str = "", avoid: Relay | None = None) -> dict[str, int]:
    """Return how many of so many calls each relay gets."""
    rng = random.Random(1)
    counts: Counter[str] = Counter()
    for _ in range(count):
        relay = pick_of_two(among, rng, avoid, zone)
        name = "none" if relay is None else relay.name
        counts[name] += 1
        if relay is not None:
            relay.sessions += 1
    return dict(counts)


def test_calls_of_a_zone_stay_there_while_there_is_room_and_then_go_anywhere() -> None:
    some = relays("a", "a", "b", "c", limit=10)
    assert place(some, 20, zone="a") == {"r1": 10, "r2": 10}
    assert place(some, 20, zone="a") == {"r3": 10, "r4": 10}
    assert place(some, 1, zone="a") == {"none": 1}


@pytest.mark.parametrize("zone", ["", "elsewhere"])
def test_calls_of_no_zone_or_one_without_a_relay_go_anywhere(zone: str) -> None:
    assert set(place(relays("a", "b", "c"), 60, zone=zone)) == {"r1", "r2", "r3"}


def test_a_relay_to_be_avoided_is_avoided_though_it_is_the_only_one_of_its_zone() -> None:
    some = relays("a", "b")
    assert place(some, 5, zone="a", avoid=some[0]) == {"r2": 5}


def test_two_random_choices_spread_by_weight_and_do_not_herd() -> None:
    some = relays("", "", "", "", limit=1000)
    assert max(place(some, 400).values()) <= 105
    # Nobody counts the sessions of others: eight processes that see no sessions at all still do not pick one relay.
    for relay in some:
        relay.sessions = 0
    first = [pick_of_two(some, random.Random(seed)) for seed in range(200)]
    assert max(Counter(relay.name for relay in first if relay is not None).values()) < 80
    some[0].description = replace(some[0].description, weight=2)
    counts = place(some[:2], 300)
    assert counts["r1"] == pytest.approx(200, abs=2)


def test_plans_see_a_relay_as_it_is() -> None:
    world = World(3, limit=7)
    world.change(1, zone="a", weight=5)
    world.change(2, intent=Intent.DRAIN)
    world.change(3, intent=Intent.CORDON)
    world.run(0.35)
    world.fleet.reserve(world.relay(1))
    first, second, third = (picture_of(world.relay(index), others=2, replicas=2) for index in (1, 2, 3))
    assert (first.uid, first.name, first.zone, first.weight, first.sessions, first.capacity) == (
        "uid-1", "r1", "a", 5, 1, 7,
    )  # fmt: skip
    assert (first.target, first.room) == (True, 2)
    assert (second.serving, second.leaving) == (False, True)
    assert (third.serving, third.leaving) == (False, False)
    world.daemon(1).mode = "killed"
    world.run(0.5)
    lost = picture_of(world.relay(1))
    assert (lost.serving, lost.leaving) == (False, True)
