"""How waiting for a drain or a rebalance ends, from one snapshot after another."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pytest
from rich.console import Console

from kedge.cli.follow import PATIENCE, DrainWatch, Look, RebalanceWatch, follow
from kedge.ports.records import ProgressRecord, RelayRecord, SignalingSnapshot

ASKED = 1000.0
KEY = "default/voice"


def relay(sessions: int, *, intent: str = "Drain", state: str = "Draining", uid: str = "u1") -> RelayRecord:
    return RelayRecord(
        uid=uid, name="r1", relay_set=KEY, address="127.0.0.1:2223", state=state, reason="", message="", since=0.0,
        sessions=sessions, instance="i", intent=intent,
    )  # fmt: skip


def progress(
    calls: int, moved: int, *, failed: int = 0, done: bool = False, started: float = ASKED + 1, kind: str = "Drain",
    message: str = "",
) -> ProgressRecord:  # fmt: skip
    return ProgressRecord(
        relay_set=KEY, kind=kind, relay="r1" if kind == "Drain" else "", started=started, calls=calls, moved=moved,
        failed=failed, seconds_left=0.5, done=done, message=message,
    )  # fmt: skip


def seen(relays: Sequence[RelayRecord] = (), tasks: Sequence[ProgressRecord] = ()) -> SignalingSnapshot:
    return SignalingSnapshot(replica="r", at=ASKED, relays=tuple(relays), progress=tuple(tasks))


def drain(sessions: int = 8) -> DrainWatch:
    return DrainWatch(relay(sessions, intent="Serve", state="Ready"), ASKED)


def test_a_drain_is_over_when_the_relay_is_empty() -> None:
    watch = drain()

    before = watch.look(seen([relay(8, intent="Serve", state="Ready")]), 0.0)
    under_way = watch.look(seen([relay(3)], [progress(8, 5)]), 1.0)
    over = watch.look(seen([relay(0)], [progress(8, 8, done=True)]), 2.5)

    assert [one.ended for one in (before, under_way, over)] == [False, False, True]
    assert (under_way.calls, under_way.moved, under_way.text) == (8, 5, "draining relay r1, 0.5 s left")
    assert (over.ok, over.text) == (True, "relay r1 is drained: 8 of 8 calls moved after 2.5 s")


def test_an_empty_relay_waits_for_its_last_figures_but_not_for_long() -> None:
    watch, slow = drain(), [seen([relay(0)], [progress(8, 7)])]

    looks = [watch.look(one, at) for at in (0.0, PATIENCE - 0.1, PATIENCE) for one in slow]

    assert [one.ended for one in looks] == [False, False, True]
    assert looks[-1].ok


def test_where_nobody_tells_of_progress_calls_are_counted() -> None:
    watch = drain(4)

    under_way = watch.look(seen([relay(1)]), 0.0)
    over = watch.look(seen([relay(0)]), 1.0)

    assert (under_way.calls, under_way.moved, under_way.ended) == (4, 3, False)
    assert (over.ended, over.ok, over.moved) == (True, True, 4)
    assert over.text == "relay r1 is drained: it has no calls left after 1.0 s", "how many there were is not known"


def test_a_relay_without_calls_is_drained_at_once() -> None:
    look = drain(0).look(seen([relay(0)]), 0.0)

    assert (look.ended, look.ok, look.text) == (True, True, "relay r1 is drained: it has no calls")


def test_an_empty_relay_is_not_drained_before_the_wish_is_seen() -> None:
    assert not drain(0).look(seen([relay(0, intent="Serve", state="Ready")]), 0.0).ended


def test_calls_that_cannot_move_end_the_waiting_only_when_nothing_else_has_been_left_for_a_while() -> None:
    watch = drain()
    held = progress(8, 6, failed=2, message="2 calls cannot leave: Recording")

    looks = [
        watch.look(seen([relay(2)], [held]), 0.0),
        watch.look(seen([relay(3)], [held]), PATIENCE),  # one more, that can move
        watch.look(seen([relay(2)], [held]), PATIENCE + 1),
        watch.look(seen([relay(2)], [held]), 2 * PATIENCE),
        watch.look(seen([relay(2)], [held]), 2 * PATIENCE + 1),
    ]

    assert [one.ended for one in looks] == [False, False, False, False, True]
    assert not looks[-1].ok
    assert "6 of 8 calls moved; 2 calls cannot leave: Recording" in looks[-1].text


def test_a_relay_that_was_emptied_by_hanging_up_is_not_well() -> None:
    look = drain().look(seen([relay(0)], [progress(8, 7, failed=1, done=True, message="NoCapacity")]), 1.0)

    assert (look.ended, look.ok) == (True, False)
    assert "1 could not be: NoCapacity" in look.text


@pytest.mark.parametrize(
    ("then", "ok", "told"),
    [
        ([], True, "relay r1 is gone"),
        ([relay(5, uid="another")], True, "relay r1 is gone"),
        ([relay(5, state="Down")], False, "is Down"),
        ([relay(5, intent="Serve", state="Ready")], False, "was taken back"),
    ],
    ids=["gone", "another of its name", "down", "taken back"],
)
def test_a_drain_ends_otherwise(then: list[RelayRecord], ok: bool, told: str) -> None:
    watch = drain()
    watch.look(seen([relay(8)]), 0.0)

    look = watch.look(seen(then), 1.0)

    assert (look.ended, look.ok) == (True, ok)
    assert told in look.text


def test_a_rebalance_of_an_earlier_time_is_not_taken_for_this_one() -> None:
    watch = RebalanceWatch(KEY, ASKED)
    old = progress(9, 9, kind="Rebalance", done=True, started=ASKED - 60)

    looks = [
        watch.look(seen([], [old]), 0.0),
        watch.look(seen([], [old, progress(6, 2, kind="Rebalance")]), 1.0),
        watch.look(seen([], [progress(6, 6, kind="Rebalance", done=True)]), 2.0),
    ]

    assert [(one.ended, one.calls, one.moved) for one in looks] == [(False, 0, 0), (False, 6, 2), (True, 6, 6)]
    assert (looks[-1].ok, looks[-1].text) == (True, f"{KEY} is rebalanced: 6 of 6 calls moved")


def test_one_that_was_under_way_already_is_waited_for() -> None:
    watch = RebalanceWatch(KEY, ASKED)
    earlier = ASKED - 5

    watch.look(seen([], [progress(6, 2, kind="Rebalance", started=earlier)]), 0.0)
    look = watch.look(seen([], [progress(6, 6, kind="Rebalance", started=earlier, done=True)]), 1.0)

    assert (look.ended, look.ok) == (True, True)


def test_a_set_that_is_not_in_balance_at_the_end_is_not_well() -> None:
    task = progress(0, 0, kind="Rebalance", done=True, message="what is left is resting")

    look = RebalanceWatch(KEY, ASKED).look(seen([], [task]), 0.0)

    assert (look.ended, look.ok) == (True, False)
    assert look.text == f"{KEY} is rebalanced: no call had to move; not in balance: what is left is resting"


class Clock:
    """Time that passes only in pauses."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds


def test_following_ends_with_the_last_look() -> None:
    clock, console = Clock(), Console(file=io.StringIO())

    last = follow(
        lambda now: Look(calls=4, moved=int(now), text="under way", ended=now >= 4), console, interval=1.0,
        timeout=60, clock=clock, pause=clock.pause,
    )  # fmt: skip

    assert (last.moved, last.ok, clock.now) == (4, True, 4.0)


def test_following_gives_up_in_time() -> None:
    clock, console = Clock(), Console(file=io.StringIO())
    look = Look(calls=4, moved=1, text="draining relay r1")

    last = follow(lambda now: look, console, interval=1.0, timeout=3, clock=clock, pause=clock.pause)

    assert (last.ended, last.ok, clock.now) == (True, False, 3.0)
    assert last.text == "not done after 3 s: draining relay r1, 1 of 4 calls moved"


def test_a_terminal_gets_a_bar_and_others_nothing() -> None:
    clock = Clock()

    def output(*, terminal: bool) -> str:
        file = io.StringIO()
        console = Console(file=file, force_terminal=terminal, width=100, _environ={})
        follow(
            lambda now: Look(calls=8, moved=3, text="draining r1", ended=True), console, timeout=1, clock=clock,
            pause=clock.pause,
        )  # fmt: skip
        return file.getvalue()

    assert "draining r1" in output(terminal=True)
    assert "3/8" in output(terminal=True)
    assert output(terminal=False).strip() == ""
