"""The heap of deadlines: order, cancelling, and what happens while it fires."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge.base.timers import Timer, TimerHeap, TimerTarget


class Recorder(TimerTarget):
    def __init__(self) -> None:
        self.fired: list[tuple[int, float]] = []

    def on_timer(self, kind: int, now: float) -> None:
        self.fired.append((kind, now))


class Rescheduler(TimerTarget):
    """Schedules itself anew, for now, each time it fires."""

    def __init__(self, heap: TimerHeap) -> None:
        self.heap = heap
        self.count = 0

    def on_timer(self, kind: int, now: float) -> None:
        self.count += 1
        self.heap.schedule(now, self, kind)


class Canceller(TimerTarget):
    def __init__(self, heap: TimerHeap) -> None:
        self.heap = heap
        self.victims: list[Timer] = []

    def on_timer(self, kind: int, now: float) -> None:
        for victim in self.victims:
            self.heap.cancel(victim)


class Faulty(TimerTarget):
    def on_timer(self, kind: int, now: float) -> None:
        raise ZeroDivisionError


def test_fires_in_order_of_deadline_then_of_scheduling() -> None:
    heap, target = TimerHeap(), Recorder()
    for at, kind in [(3.0, 1), (1.0, 2), (3.0, 3), (2.0, 4)]:
        heap.schedule(at, target, kind)

    assert heap.next_deadline() == 1.0
    assert heap.run_due(2.5) == 2
    assert heap.run_due(3.0) == 2

    assert target.fired == [(2, 2.5), (4, 2.5), (1, 3.0), (3, 3.0)]
    assert heap.next_deadline() is None


def test_nothing_fires_early() -> None:
    heap, target = TimerHeap(), Recorder()
    heap.schedule(1.0, target)

    assert heap.run_due(0.999) == 0
    assert target.fired == []


def test_a_cancelled_timer_does_not_fire_and_lets_go_of_its_target() -> None:
    heap, target = TimerHeap(), Recorder()
    timer = heap.schedule(1.0, target)

    heap.cancel(timer)
    heap.cancel(timer)

    assert not timer.active
    assert timer.target is None
    assert len(heap) == 0
    assert heap.next_deadline() is None
    assert heap.run_due(2.0) == 0
    assert target.fired == []


def test_cancelling_none_or_a_fired_timer_changes_nothing() -> None:
    heap, target = TimerHeap(), Recorder()
    timer = heap.schedule(1.0, target)
    heap.schedule(5.0, target)
    heap.run_due(1.0)

    heap.cancel(timer)
    heap.cancel(None)

    assert not timer.active
    assert len(heap) == 1


def test_what_is_scheduled_while_firing_waits_for_the_next_run() -> None:
    heap = TimerHeap()
    target = Rescheduler(heap)
    heap.schedule(0.0, target)

    assert heap.run_due(1.0) == 1
    assert target.count == 1
    assert heap.run_due(1.0) == 1
    assert target.count == 2


def test_a_timer_cancelled_by_an_earlier_one_of_the_same_run_does_not_fire() -> None:
    heap, target = TimerHeap(), Recorder()
    canceller = Canceller(heap)
    heap.schedule(1.0, canceller)
    canceller.victims.append(heap.schedule(1.0, target))

    assert heap.run_due(1.0) == 1
    assert target.fired == []
    assert len(heap) == 0


def test_a_target_that_raises_costs_no_other_its_deadline() -> None:
    heap, target = TimerHeap(), Recorder()
    again = Rescheduler(heap)
    heap.schedule(1.0, again)
    heap.schedule(1.0, Faulty())
    heap.schedule(1.0, target, 7)

    with pytest.raises(ZeroDivisionError):
        heap.run_due(1.0)

    assert heap.run_due(1.0) == 2
    assert target.fired == [(7, 1.0)]
    assert again.count == 2


def test_the_heap_does_not_grow_with_cancelled_timers() -> None:
    heap, target = TimerHeap(), Recorder()
    kept = heap.schedule(50.0, target, 1)
    for _ in range(20_000):
        heap.cancel(heap.schedule(100.0, target))

    assert len(heap._heap) + sum(map(len, heap._slots.values())) < 500
    assert len(heap) == 1
    assert kept.active
    assert heap.run_due(200.0) == 1
    assert target.fired == [(1, 200.0)]


def test_the_heap_does_not_grow_with_cancelled_timers_that_were_looked_at() -> None:
    heap, target = TimerHeap(), Recorder()
    heap.schedule(300.0, target)
    for index in range(20_000):
        heap.run_due(index * 0.01)
        heap.cancel(heap.schedule(index * 0.01 + 32.0, target))
        assert heap.next_deadline() == 300.0

    assert len(heap._heap) + sum(map(len, heap._slots.values())) < 20_000 / 4


@given(st.lists(st.tuples(st.floats(0, 3), st.floats(0, 40), st.booleans()), max_size=60))
def test_deadlines_that_come_and_go_over_time_fire_as_from_one_sorted_list(
    plan: list[tuple[float, float, bool]],
) -> None:
    """Each step: time passes, a timer is scheduled, and perhaps the oldest living one is cancelled."""
    heap, target = TimerHeap(), Recorder()
    model: dict[int, tuple[float, Timer]] = {}
    now = 0.0
    expected: list[tuple[int, float]] = []

    def run_until(then: float) -> None:
        while (deadline := heap.next_deadline()) is not None and deadline <= then:
            due = sorted((at, kind) for kind, (at, _) in model.items() if at <= deadline)
            assert due[0][0] == deadline
            for _, kind in due:
                del model[kind]
                expected.append((kind, deadline))
            assert heap.run_due(deadline) == len(due)
        assert deadline == min((at for at, _ in model.values()), default=None)

    for kind, (passes, ahead, cancels) in enumerate(plan):
        now += passes
        run_until(now)
        heap.run_due(now)
        model[kind] = (now + ahead, heap.schedule(now + ahead, target, kind))
        if cancels:
            _, timer = model.pop(next(iter(model)))
            heap.cancel(timer)
        assert len(heap) == len(model)
    run_until(1000.0)

    assert target.fired == expected
    assert len(heap) == 0


def test_compaction_while_firing_keeps_the_count() -> None:
    heap, target = TimerHeap(), Recorder()
    canceller = Canceller(heap)
    heap.schedule(1.0, canceller)
    canceller.victims = [heap.schedule(2.0, target) for _ in range(10_000)]
    heap.schedule(3.0, target, 9)

    heap.run_due(1.0)

    assert len(heap) == 1
    assert heap.next_deadline() == 3.0
    heap.run_due(3.0)
    assert target.fired == [(9, 3.0)]


@given(st.lists(st.tuples(st.floats(0, 100), st.booleans()), max_size=60), st.floats(0, 100))
def test_exactly_the_live_and_due_fire_in_order(plan: list[tuple[float, bool]], now: float) -> None:
    heap, target = TimerHeap(), Recorder()
    timers = [heap.schedule(at, target, index) for index, (at, _) in enumerate(plan)]
    for timer, (_, cancelled) in zip(timers, plan, strict=True):
        if cancelled:
            heap.cancel(timer)

    heap.run_due(now)

    due = [(at, index) for index, (at, cancelled) in enumerate(plan) if not cancelled and at <= now]
    assert [kind for kind, _ in target.fired] == [index for _, index in sorted(due)]
    assert len(heap) == sum(1 for at, cancelled in plan if not cancelled and at > now)
