from __future__ import annotations

from kedge.base.backoff import Backoff
from kedge.controller.queue import WorkQueue


def queue() -> WorkQueue:
    return WorkQueue(lambda: Backoff(first=1.0, most=8.0, rand=lambda: 1.0))


def test_a_key_stands_once_however_often_it_changes() -> None:
    work = queue()
    for _ in range(3):
        work.add("a", 0.0)

    assert work.take(0.0) == "a"
    assert work.take(0.0) is None


def test_the_earlier_time_stands() -> None:
    work = queue()
    work.add("a", 10.0)
    work.add("a", 5.0)
    work.add("a", 20.0)

    assert work.next_deadline() == 5.0
    assert work.take(4.9) is None
    assert work.take(5.0) == "a"


def test_what_has_been_due_for_longest_comes_first() -> None:
    work = queue()
    work.add("late", 2.0)
    work.add("early", 1.0)

    assert [work.take(3.0), work.take(3.0)] == ["early", "late"]


def test_failures_come_again_with_a_growing_delay_and_news_do_not_hurry_them() -> None:
    work = queue()
    delays = []
    for _ in range(5):
        delays.append(work.failed("a", 0.0))
        work.add("a", 0.0)
        assert work.next_deadline() == delays[-1]
        assert work.take(100.0) == "a"
    work.succeeded("a")

    assert delays == [1.0, 2.0, 4.0, 8.0, 8.0]
    assert work.failed("a", 0.0) == 1.0
