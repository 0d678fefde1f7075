"""What agents say of links: the word alone, beside probes in a simulated fleet, and for how long it counts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.relay.simulation import World
from tests.unit.relay.test_fleet import INTERVAL, MARGIN, TIMEOUT, ready_world

from kedge.relay.link_health import LAPSE, LinkHealth, LinkReport, LinkState, ReportResult
from kedge.relay.model import HealthPolicy, RelayState

WELL, DOWN, REMOVED = LinkState.WELL, LinkState.LINK_DOWN, LinkState.ADDRESS_REMOVED
TAKEN, OVERTAKEN, TOO_OLD = ReportResult.TAKEN, ReportResult.OVERTAKEN, ReportResult.TOO_OLD


def said(state: LinkState, sequence: int = 1, *, age: float = 0.0, relay: str = "uid-1") -> LinkReport:
    return LinkReport(relay=relay, interface="eth0", age=age, state=state, sequence=sequence)


def tell(world: World, state: LinkState, sequence: int = 1, **more: Any) -> ReportResult:
    return world.fleet.link_told(said(state, sequence, **more), world.now)


def seen(world: World, index: int = 1) -> tuple[str, str]:
    relay = world.relay(index)
    return relay.state.value, relay.reason


# --- the word alone ---


@pytest.mark.parametrize("sequences", [(2, 1), (2, 2), (0, 0)])
def test_a_report_that_was_overtaken_changes_nothing(sequences: tuple[int, int]) -> None:
    link = LinkHealth()
    link.take(said(DOWN, sequences[0]), 10.0)

    assert link.take(said(WELL, sequences[1]), 10.1) is OVERTAKEN
    assert link.in_trouble


def test_a_word_is_void_when_it_is_not_repeated() -> None:
    link = LinkHealth()
    link.take(said(DOWN, 1, age=1.0), 10.0)
    link.take(said(DOWN, 2, age=0.5), 11.0)

    link.lapse(11.0 + LAPSE - 0.5 - 0.001)
    before = link.in_trouble
    link.lapse(11.0 + LAPSE - 0.5)

    assert (before, link.in_trouble) == (True, False)


def test_a_report_that_was_long_on_its_way_does_not_speak_again_after_the_lapse() -> None:
    link = LinkHealth()
    link.take(said(DOWN, 2), 10.0)
    link.lapse(20.0)

    assert link.take(said(DOWN, 1), 20.0) is OVERTAKEN
    assert not link.in_trouble


@pytest.mark.parametrize(("age", "result"), [(LAPSE - 0.001, TAKEN), (LAPSE, TOO_OLD), (float("inf"), TOO_OLD)])
def test_what_was_seen_too_long_ago_is_void_when_it_comes(age: float, result: ReportResult) -> None:
    link = LinkHealth()

    assert link.take(said(DOWN, age=age), 10.0) is result
    assert link.in_trouble is (result is TAKEN)


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from([WELL, DOWN, REMOVED]))))
def test_in_any_order_the_highest_sequence_counts(reports: list[tuple[int, LinkState]]) -> None:
    link, told = LinkHealth(), dict[int, LinkState]()
    for sequence, state in reports:
        if link.take(said(state, sequence), 1.0) is TAKEN:
            told[sequence] = state

    assert link.state is (told[max(told)] if told else WELL)
    assert list(told) == sorted(told)


# --- beside probes ---


@pytest.mark.parametrize(("state", "reason"), [(DOWN, "LinkDown"), (REMOVED, "AddressRemoved")])
def test_while_probes_answer_a_word_keeps_new_calls_away_and_moves_none(state: LinkState, reason: str) -> None:
    world = ready_world(2)

    result = tell(world, state)

    assert (result, seen(world)) == (TAKEN, ("Suspect", reason))
    assert "its agent says" in world.relay(1).message
    for sequence in range(2, 12):
        world.run(1.0)
        tell(world, state, sequence)
    assert world.events() == ["Ready->Suspect"]
    assert {world.fleet.pick("default/edge") for _ in range(20)} == {world.relay(2)}


def test_it_is_ready_at_once_when_the_word_is_taken_back() -> None:
    world = ready_world(1)
    tell(world, DOWN)
    world.run(0.5)

    tell(world, WELL, 2)

    assert seen(world) == ("Ready", "Probed")


def test_it_is_ready_again_when_the_agent_has_gone_silent() -> None:
    world = ready_world(1)
    told_at = world.now
    tell(world, DOWN)
    world.run(1.0)
    tell(world, DOWN, 2)
    world.run(10.0)

    assert world.events() == ["Ready->Suspect", "Suspect->Ready"]
    assert world.time_of("Suspect->Ready") - told_at == pytest.approx(1.0 + LAPSE)


@pytest.mark.parametrize("after", [0.0, 0.03, 0.07])
def test_a_word_and_a_lost_probe_are_death_within_the_timeout_of_one_probe(after: float) -> None:
    world = ready_world(3)
    world.run(after)
    world.daemon(1).mode = "frozen"  # the link is down: nothing comes back

    tell(world, DOWN)
    told_at = world.now
    world.run(0.5)

    assert world.events("r1") == ["Ready->Suspect", "Suspect->Down", "lost LinkDown"]
    assert world.time_of("lost LinkDown") - told_at <= TIMEOUT + 0.001 < INTERVAL + TIMEOUT
    assert world.relay(1).message.endswith("and 1 probe lost in a row")


def test_the_confirming_probe_leaves_at_once_and_once() -> None:
    world = ready_world(1, health=HealthPolicy(interval=10.0, timeout=0.1))
    world.daemon(1).commands.clear()

    tell(world, DOWN)
    world.run(0.05)
    tell(world, DOWN, 2)
    world.run(0.05)

    assert [one[b"command"] for _, one in world.daemon(1).commands] == [b"ping"]


def test_a_word_that_comes_after_the_loss_counts_at_once() -> None:
    world = ready_world(3)
    world.daemon(1).mode = "frozen"
    world.run(INTERVAL + TIMEOUT + MARGIN)
    before = seen(world)

    tell(world, REMOVED)

    assert before == ("Suspect", "ProbeLost")
    assert seen(world) == ("Down", "AddressRemoved")


def test_a_word_and_a_refusal_are_death() -> None:
    world = ready_world(1)
    tell(world, DOWN)

    world.fleet.on_refused(world.relay(1), world.now)

    assert seen(world) == ("Down", "LinkDown")


def test_a_word_is_the_other_evidence_when_most_relays_are_silent() -> None:
    world = ready_world(4)
    for index in (1, 2, 3):
        world.daemon(index).mode = "frozen"
    world.run(1.0)
    held = [seen(world, index) for index in (1, 2, 3)]

    tell(world, DOWN)

    assert held == [("Suspect", "MostRelaysLost")] * 3
    assert [seen(world, index)[0] for index in (1, 2, 3)] == ["Down", "Suspect", "Suspect"]


def test_a_relay_that_is_down_needs_its_good_probes_whatever_its_agent_says() -> None:
    world = ready_world(3)
    world.daemon(1).mode = "frozen"
    tell(world, DOWN)
    world.run(0.5)
    world.daemon(1).mode = "up"
    world.forget()

    tell(world, WELL, 2)
    at_once = seen(world)
    world.run(1.0)

    assert at_once == ("Down", "LinkDown")
    assert world.events("r1") == ["Down->Ready"]


def test_one_that_answers_again_while_the_word_stands_gets_no_calls_yet() -> None:
    world = ready_world(3)
    world.daemon(1).mode = "frozen"
    tell(world, DOWN)
    world.run(0.5)
    world.daemon(1).mode = "up"
    world.forget()
    tell(world, DOWN, 2)

    world.run(2.0)
    during = seen(world)
    world.run(LAPSE)

    assert during == ("Suspect", "LinkDown")
    assert world.events("r1") == ["Down->Suspect", "Suspect->Ready"]


def test_a_relay_that_was_never_ready_stays_what_it_is() -> None:
    world = World(1)
    world.daemon(1).mode = "frozen"
    world.run(0.3)

    tell(world, DOWN)
    world.run(0.3)

    assert seen(world) == ("Suspect", "NotProbedYet")


def test_a_report_of_nobody_is_nobodys() -> None:
    world = ready_world(1)

    assert tell(world, DOWN, relay="uid-9") is ReportResult.UNKNOWN
    assert tell(world, DOWN, age=LAPSE) is TOO_OLD
    assert world.events() == []


def test_a_relay_that_goes_leaves_no_timer_of_a_word_behind() -> None:
    world = ready_world(2)
    tell(world, DOWN)
    del world.descriptions[1]
    world.apply()
    world.run(LAPSE + 1.0)

    assert list(world.fleet.relays) == ["uid-2"]
    assert world.events("r1")[-1] == "removed"
    assert world.relay(2).state is RelayState.READY
