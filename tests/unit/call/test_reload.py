"""Other settings under calls: those that are there go on as they began, new ones follow what is new."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from tests.unit.call.phones import Party
from tests.unit.call.world import CALLEE, KEDGE, SET, Talk, World

from kedge.base.address import Address
from kedge.call.routing import Peer, Route, Routing
from kedge.call.settings import CallSettings

SECOND: Address = ("203.0.113.2", 5060)
ELSEWHERE = "192.0.2.128/25"


def peer(name: str, *networks: str, **more: Any) -> Peer:
    return Peer(name, tuple(ipaddress.ip_network(one) for one in networks), **more)


LEFT, RIGHT = ("left", "198.51.100.0/24"), ("right", "203.0.113.0/24")


def reload(
    world: World, *peers: Peer, hops: tuple[Address, ...] = (CALLEE,), **settings: Any
) -> None:  # fmt: skip
    """Take other peers and settings, and one route to ``hops`` (none where there are none)."""
    routes = (Route(name="new", relay_set=SET, next_hops=hops),) if hops else ()
    world.b2bua.reload(CallSettings(address=KEDGE, **settings), Routing(peers, routes))


def refused(world: World, status: int) -> None:
    party = world.left.invite()
    world.run(1.0)
    assert (party.alive, party.status) == (False, status), party.log


def hold_and_move(world: World, talk: Talk) -> None:
    """Either party's re-INVITE is answered, and the call is moved when its relay dies."""
    for party in (talk.caller, talk.callee):
        assert party.hold()
        world.run(1.0)
        assert party.responses[-1].status == 200
        assert party.reinvite()
        world.run(1.0)
    world.lose(talk)
    world.run(2.0)
    assert world.books.results() == ["Moved"]
    world.assert_anchored(talk)


@pytest.mark.parametrize("drop", [False, True], ids=["strangers refused", "strangers dropped"])
@pytest.mark.parametrize("side", ["caller", "callee"])
def test_calls_of_peers_and_routes_that_are_gone_go_on_and_end_by_either_side(side: str, drop: bool) -> None:
    world = World()
    talk = world.call()

    reload(world, hops=(), drop_strangers=drop)

    hold_and_move(world, talk)
    getattr(talk, side).bye()
    world.assert_empty()
    assert {one.name: one.calls for one in world.peers} == {"left": 0, "right": 0}


def test_whoever_is_no_peer_any_more_begins_no_call() -> None:
    world = World()
    world.call()

    reload(world, peer(*RIGHT))

    refused(world, 403)


def test_a_network_that_shrinks_cuts_off_no_call_and_requests_go_where_they_went() -> None:
    world = World()
    talk = world.call()

    reload(world, peer("left", ELSEWHERE), peer("right", ELSEWHERE), drop_strangers=True)

    hold_and_move(world, talk)
    since = world.now
    talk.caller.bye()
    world.run(0.5)
    assert [one.destination for one in world.sent("BYE", since=since)] == [CALLEE]
    world.assert_empty()


def test_a_stranger_is_let_in_by_no_tag_of_another_call() -> None:
    world = World()
    talk = world.call()
    stranger = world.phone("eve", ("192.0.2.200", 5060))
    reload(world, peer(*LEFT), peer(*RIGHT))
    since = world.now

    forged = Party(stranger, talk.caller.call_id, caller=True)
    forged.local_tag, forged.remote_tag = talk.caller.local_tag, talk.caller.remote_tag
    forged.local_uri, forged.remote_uri = talk.caller.local_uri, talk.caller.remote_uri
    forged.target, forged.cseq, forged.state = talk.caller.target, 50, "talking"
    forged.bye()
    world.run(0.5)

    assert [one.word for one in world.packets if one.destination == stranger.address and one.at >= since] == ["403 BYE"]
    world.assert_anchored(talk)


def test_new_calls_follow_the_new_route_and_a_call_that_rings_the_one_it_began_with() -> None:
    world = World(hops=(CALLEE, SECOND))
    world.phone("eve", SECOND)
    world.right.ringing = ((0.0, 180, False), (1.0, 503, False))
    ringing = world.left.invite()
    world.run(0.5)

    reload(world, peer(*LEFT), hops=(SECOND,))
    world.run(2.0)

    assert ringing.talking, "its second hop was asked, though no peer covers it any more"
    refused(world, 503)
    reload(world, peer(*LEFT), peer(*RIGHT), hops=(SECOND,))
    assert world.call().callee.phone.name == "eve"


def test_what_is_counted_of_a_peer_goes_on_by_its_name() -> None:
    world = World()
    first, second = world.call(), world.call()
    limited = peer(*LEFT, max_calls=2)

    reload(world, limited, peer(*RIGHT))
    refused(world, 503)
    first.caller.bye()
    world.run(0.5)
    third = world.call()

    assert limited.calls == 2
    for talk in (second, third):
        talk.caller.bye()
    world.assert_empty()
    assert limited.calls == 0


def test_a_peer_that_comes_back_finds_its_calls_counted() -> None:
    world = World()
    world.call()
    reload(world, peer(*RIGHT))

    back = peer(*LEFT, max_calls=1)
    reload(world, back, peer(*RIGHT))

    assert back.calls == 1
    refused(world, 503)


def test_a_change_gives_no_peer_a_fresh_allowance_of_new_calls() -> None:
    peers = [peer(*LEFT, calls_per_second=2), peer(*RIGHT)]
    world = World(peers=tuple(peers))
    world.run(5.0)
    for _ in range(2):
        world.left.invite()
    world.run(0.01)

    reload(world, peer(*LEFT, calls_per_second=2), peer(*RIGHT))
    refused(world, 503)

    world.run(1.0)
    world.call()


def test_who_was_met_is_known_to_the_new_routing_before_it_is_asked() -> None:
    old = Routing((peer(*LEFT), peer(*RIGHT)), ())
    old.peer_of(CALLEE)
    stranger = ("192.0.2.200", 5060)
    old.peer_of(stranger)
    asked: list[str] = []

    class Counting(Peer):
        def prefix_of(self, address: Any) -> int:
            asked.append(str(address))
            return super().prefix_of(address)

    new = Routing((Counting("right", peer(*RIGHT).networks),), ())
    new.learn_from(old)
    learnt = list(asked)

    assert new.peer_of(CALLEE) is new.peers[0]
    assert new.peer_of(stranger) is None
    assert asked == learnt == [CALLEE[0], stranger[0]]


def test_limits_and_times_are_those_of_the_newest_settings() -> None:
    world = World()
    world.call()
    reload(world, peer(*LEFT), peer(*RIGHT), max_calls=1, refuse_for=7.0)
    refused(world, 503)
    assert world.left.made[-1].responses[-1].get("Retry-After") == "7"

    reload(world, peer(*LEFT), peer(*RIGHT), ring_timeout=2.0)
    world.right.ringing = ((0.0, 180, False),)
    party = world.left.invite()
    world.run(3.0)

    assert (party.alive, party.status) == (False, 408)


def test_strangers_are_refused_or_left_without_an_answer() -> None:
    world = World()
    stranger = world.phone("eve", ("192.0.2.200", 5060))
    stranger.invite()
    world.run(0.5)
    reload(world, peer(*LEFT), peer(*RIGHT), drop_strangers=True)
    party = stranger.invite()
    world.run(0.5)

    assert [one.word for one in world.packets if one.destination == stranger.address] == ["403 INVITE"]
    assert party.alive, "it waits still"
