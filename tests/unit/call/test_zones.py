"""The zone of a call: its caller's peer's, else its callee's peer's, else that of signaling itself."""

from __future__ import annotations

import ipaddress

import pytest
from tests.unit.call.world import World

from kedge.call.routing import Peer
from kedge.relay.model import RelayDescription


@pytest.mark.parametrize(
    ("caller", "callee", "own", "expected"),
    [("a", "b", "c", "a"), ("", "b", "c", "b"), ("", "", "c", "c"), ("", "", "", "")],
)
def test_whose_zone_it_is(caller: str, callee: str, own: str, expected: str) -> None:
    world = zoned(caller, callee, own)

    assert world.call().call.zone == expected


def test_its_relay_is_of_its_zone_and_after_a_loss_too() -> None:
    world = zoned("b", "", "", relays=4)
    for name in ("r2", "r4"):
        old = world.descriptions[name]
        world.descriptions[name] = RelayDescription(
            uid=old.uid, name=name, relay_set=old.relay_set, control=old.control, zone="b"
        )
    world.apply()
    talks = [world.call() for _ in range(8)]
    assert {talk.relay for talk in talks} == {"r2", "r4"}

    world.daemons["r2"].kill()
    world.run(3.0)

    assert {talk.relay for talk in talks} == {"r4"}


def zoned(caller: str, callee: str, own: str, *, relays: int = 1) -> World:
    peers = (
        Peer("left", (ipaddress.ip_network("198.51.100.0/24"),), zone=caller),
        Peer("right", (ipaddress.ip_network("203.0.113.0/24"),), zone=callee),
    )
    return World(relays, peers=peers, settings={"zone": own})
