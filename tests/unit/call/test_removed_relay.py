"""A relay is taken out of the inventory under calls: it is known until each move off it has ended, one way or another.

A call gives up its place on a relay before its phones have agreed to the next one. Until then it may have to go back,
and its session there is not deleted yet.
"""

from __future__ import annotations

from tests.unit.call.world import Packet, World

from kedge.sip.message import Response


def slow_answers(packet: Packet) -> float:
    """Let phones take a second to answer a re-INVITE."""
    return 1.0 if isinstance(packet.message, Response) and packet.message.status >= 200 else 0.0


def take_out(world: World, name: str) -> None:
    del world.descriptions[name]
    world.apply()
    assert world.until(lambda: world.relay(name).sessions == 0)
    world.run(0.5)


def test_the_session_that_a_slow_move_leaves_is_deleted() -> None:
    world = World(2)
    talk = world.call()
    left = talk.relay
    world.tamper = slow_answers

    take_out(world, left)

    assert world.daemons[left].sessions, "the phones have not answered"
    assert world.until(lambda: f"uid-{left}" not in world.fleet.relays)
    assert talk.relay != left
    assert not world.daemons[left].sessions
    world.assert_anchored(talk)


def test_a_party_that_refuses_the_new_relay_comes_back_to_one_that_is_still_known() -> None:
    world = World(2)
    talk = world.call()
    left = talk.relay
    talk.callee.replies.append(488)
    world.tamper = slow_answers

    take_out(world, left)

    assert world.until(lambda: talk.call.move is None)
    assert talk.relay == left
    assert f"uid-{left}" in world.fleet.relays
    world.assert_anchored(talk)
