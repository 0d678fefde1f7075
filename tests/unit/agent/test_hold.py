from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge.agent.hold import Hold, HoldTimes, Release

TIMES = HoldTimes(deadline=30.0, settle=1.0, interval=0.25)


def released_at(look: Callable[[Hold, float], None], *, began: float = 100.0) -> tuple[float, Release]:
    """Look every interval until the pod may end; return after how many seconds, and why."""
    hold = Hold(TIMES, began)
    now = began
    while True:
        look(hold, now)
        reason = hold.release(now)
        if reason is not None:
            return now - began, reason
        now += TIMES.interval


def test_an_empty_relay_is_held_until_what_was_under_way_has_arrived() -> None:
    assert released_at(lambda hold, now: hold.answered(0, now)) == (1.0, Release.EMPTY)


def test_a_relay_is_held_while_it_has_calls() -> None:
    assert released_at(lambda hold, now: hold.answered(3 if now < 104.0 else 0, now)) == (5.0, Release.EMPTY)


def test_a_call_that_arrives_late_begins_the_wait_anew() -> None:
    def look(hold: Hold, now: float) -> None:
        hold.answered(1 if now == 100.75 else 0, now)

    assert released_at(look) == (2.0, Release.EMPTY)


def test_a_relay_whose_calls_do_not_leave_is_let_go_at_the_deadline() -> None:
    assert released_at(lambda hold, now: hold.answered(1, now)) == (30.0, Release.DEADLINE)


def test_a_silent_relay_is_not_taken_for_an_empty_one() -> None:
    assert released_at(lambda hold, now: hold.silent()) == (30.0, Release.DEADLINE)


def test_silence_in_between_begins_the_wait_anew() -> None:
    def look(hold: Hold, now: float) -> None:
        if now == 100.75:
            hold.silent()
        else:
            hold.answered(0, now)

    assert released_at(look) == (2.0, Release.EMPTY)


def test_a_relay_that_is_gone_need_not_be_held() -> None:
    assert released_at(lambda hold, now: hold.refused(now)) == (1.0, Release.RELAY_GONE)


def test_one_refusal_amid_answers_is_not_the_end() -> None:
    def look(hold: Hold, now: float) -> None:
        if now == 101.0:
            hold.refused(now)
        else:
            hold.answered(1, now)

    assert released_at(look) == (30.0, Release.DEADLINE)


def test_two_answers_are_needed_however_far_apart() -> None:
    hold = Hold(TIMES, 0.0)
    hold.answered(0, 0.0)

    assert hold.release(5.0) is None
    hold.answered(0, 5.0)
    assert hold.release(5.0) is Release.EMPTY


def tell(hold: Hold, what: str, now: float) -> None:
    if what == "silent":
        hold.silent()
    elif what == "refused":
        hold.refused(now)
    else:
        hold.answered(0 if what == "empty" else 2, now)


_LOOKS = st.lists(st.tuples(st.sampled_from(["calls", "empty", "silent", "refused"]), st.floats(0.01, 3.0)))


@given(_LOOKS)
def test_a_pod_is_let_go_for_a_reason_and_by_the_deadline(looks: list[tuple[str, float]]) -> None:
    hold, now, since = Hold(TIMES, 0.0), 0.0, 0.0
    last = ""
    for what, seconds in looks:
        now += seconds
        tell(hold, what, now)
        since, last = (since, last) if what == last else (now, what)
        reason = hold.release(now)
        if now >= hold.deadline:
            assert reason is not None
        elif reason is not None:
            assert {Release.EMPTY: "empty", Release.RELAY_GONE: "refused"}[reason] == last
            assert now - since >= TIMES.settle


@pytest.mark.parametrize("again", [0.0, 10.0, 29.0])
def test_whoever_asks_again_gets_no_more_time(again: float) -> None:
    hold = Hold(TIMES, 100.0)
    hold.answered(1, 100.0 + again)

    assert hold.deadline == 130.0
