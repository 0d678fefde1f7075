"""The planned end of a signaling process, in virtual time: who is still served, how long, and when it is over."""

from __future__ import annotations

import pytest
from tests.unit.call.test_setup import ask, request
from tests.unit.call.world import CALLEE, World

from kedge.runtime.ending import REASON, Ending


class Ended:
    """A world that is told to end at once."""

    def __init__(self, calls: int, grace: float) -> None:
        self.world = World()
        self.talks = [self.world.call() for _ in range(calls)]
        self.at: list[float] = []
        self.ending = Ending(self.world.b2bua, lambda: self.at.append(self.world.now))
        self.began = self.world.now
        self.ending.begin(grace, self.world.now)
        self.world.run(0.1)

    @property
    def after(self) -> list[float]:
        """Seconds from the beginning to each word that it is over."""
        return [at - self.began for at in self.at]


def test_without_calls_it_is_over_at_once() -> None:
    ended = Ended(0, 300.0)

    assert ended.after == [0.0]
    assert ended.ending.over


def test_new_calls_and_options_get_503_while_the_old_ones_go_on() -> None:
    ended = Ended(1, 300.0)

    invited = ask(ended.world, request("INVITE"))
    asked = ask(ended.world, request("OPTIONS"))
    ended.talks[0].callee.hold()
    ended.world.run(200.0)

    assert (invited.status, invited.get("Retry-After"), asked.status) == (503, "10", 503)
    assert "got 200 INVITE" in ended.talks[0].callee.events(), "a call that goes on is served"
    ended.world.assert_anchored(ended.talks[0])
    assert not ended.ending.over


def test_it_is_over_when_the_last_call_has_ended_by_itself() -> None:
    ended = Ended(2, 300.0)
    ended.talks[0].caller.bye()
    ended.world.run(10.0)
    assert not ended.ending.over

    ended.talks[1].caller.bye()
    ended.world.run(0.2)

    assert ended.after == [pytest.approx(10.1, abs=0.2)]
    assert ended.ending.hung_up == 0


def test_what_is_left_at_the_end_of_the_grace_is_hung_up_on_both_sides() -> None:
    ended = Ended(3, 20.0)
    world = ended.world

    world.run(19.0)
    assert not world.sent("BYE")
    world.run(2.0)

    assert ended.after == [pytest.approx(20.05, abs=0.1)]
    assert ended.ending.hung_up == 3
    assert [talk.caller.events()[-1] + talk.callee.events()[-1] for talk in ended.talks] == ["BYEBYE"] * 3
    assert {one.message.get("Reason") for one in world.sent("BYE")} == {f'SIP;cause=503;text="{REASON}"'}
    assert not any(daemon.sessions for daemon in world.daemons.values()), "relays have done what they were told"
    world.assert_empty()


def test_a_call_that_still_rings_is_refused_and_cancelled_then() -> None:
    world = World()
    world.right.ringing = ((0.0, 180, False),)
    party = world.left.invite()
    world.run(1.0)
    over: list[float] = []

    Ending(world.b2bua, lambda: over.append(world.now)).begin(5.0, world.now)
    world.run(6.0)

    assert party.status == 503
    assert len(world.sent("CANCEL", CALLEE)) == 1
    assert len(over) == 1
    world.assert_empty()


def test_a_second_signal_ends_the_grace() -> None:
    ended = Ended(1, 300.0)

    ended.ending.hurry(ended.world.now)
    ended.world.run(1.0)

    assert ended.after == [pytest.approx(0.2, abs=0.15)]
    assert not ended.talks[0].alive


def test_a_party_that_does_not_answer_the_bye_is_waited_for_some_seconds() -> None:
    ended = Ended(1, 1.0)
    ended.world.tamper = lambda one: None if one.word == "200 BYE" else 0.0

    ended.world.run(30.0)

    assert ended.after == [pytest.approx(6.0, abs=0.2)]


def test_many_calls_are_hung_up_in_portions() -> None:
    ended = Ended(250, 1.0)

    ended.world.run(3.0)

    byes = sorted({one.at for one in ended.world.sent("BYE", CALLEE)})
    assert len(byes) >= 3
    assert byes[-1] - byes[0] == pytest.approx(0.1, abs=0.05)
    assert ended.ending.hung_up == 250
