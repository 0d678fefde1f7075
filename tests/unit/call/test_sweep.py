"""The sweep of relays for sessions that no call has: what it deletes, what it lets alone, and how it asks."""

from __future__ import annotations

from tests.unit.call.daemon import Session
from tests.unit.call.world import World

from kedge.call.sweep import Sweep

INTERVAL = 60.0


class Swept(World):
    """A world with a sweep."""

    def __init__(self, relays: int = 1) -> None:
        super().__init__(relays, settings={"sweep_interval": INTERVAL})
        Sweep(self.b2bua).start(self.now)

    def leave(self, relay: str, name: str) -> str:
        """Make a session at a relay that Kedge knows nothing of."""
        self.daemons[relay].sessions[name] = Session()
        return name

    def left_at(self, relay: str) -> set[str]:
        return set(self.daemons[relay].sessions)

    def deleted(self, relay: str) -> list[str]:
        return [name for _, command, name in self.daemons[relay].commands if command == "delete"]


def test_what_no_call_has_at_two_looks_in_a_row_is_deleted() -> None:
    world = Swept()
    world.run(INTERVAL / 2)
    world.leave("r1", f"{world.b2bua.mark}.call-gone.1")

    world.run(INTERVAL)
    assert world.left_at("r1"), "at the first look it may be on its way"
    world.run(INTERVAL)

    assert not world.left_at("r1")
    assert ("OrphansDeleted", "deleted 1 sessions at relay r1 that belonged to no call") in world.books.events


def test_sessions_of_other_processes_and_of_others_are_let_alone() -> None:
    world = Swept()
    foreign = {"t0.call-x.1", "call-of-somebody@else", "kedge-canary-1", f"x{world.b2bua.mark}.call-x.1"}
    for name in foreign:
        world.leave("r1", name)

    world.run(5 * INTERVAL)

    assert world.left_at("r1") == foreign
    assert not world.deleted("r1")


def test_sessions_of_calls_are_let_alone_and_an_earlier_one_of_a_call_is_not() -> None:
    world = Swept()
    talk = world.call()
    earlier = world.leave("r1", f"{world.b2bua.mark}.{talk.id}.0")

    world.run(5 * INTERVAL)

    world.assert_anchored(talk)
    assert world.deleted("r1") == [earlier]


def test_a_call_that_rings_keeps_its_session() -> None:
    world = Swept()
    world.right.ringing = ((0.0, 180, False), (170.0, 200, True))

    party = world.left.invite()
    world.run(175.0)

    assert party.talking
    world.assert_anchored(world.talk_of(party))


def test_relays_take_turns_and_one_that_is_down_is_passed_over() -> None:
    world = Swept(3)
    world.daemons["r3"].kill()

    world.run(10 * INTERVAL + 1.0)

    first, second, dead = (world.daemons[name].listed for name in ("r1", "r2", "r3"))
    assert 9 <= len(first) <= 11
    assert 9 <= len(second) <= 11
    assert not dead
    apart = [abs(one - other) for one, _ in first for other, _ in second]
    assert min(apart) >= INTERVAL / 3 - 1.0


def test_where_long_replies_are_lost_fewer_names_are_asked_for_and_more_again_later() -> None:
    world = Swept()
    daemon = world.daemons["r1"]
    daemon.lists = False
    world.run(7.5 * INTERVAL)
    asked = [limit for _, limit in daemon.listed]
    assert asked[:3] == [1000, 500, 250]
    assert asked[-1] == 32

    daemon.lists = True
    world.run(8 * INTERVAL)

    assert daemon.listed[-1][1] == 1000
    assert world.relay("r1").state.value == "Ready", "a lost reply is no evidence"
