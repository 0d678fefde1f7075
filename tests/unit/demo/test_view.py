"""What is seen of the demo, without a demo."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest
from demo.figures import Incident, Result
from demo.view import View
from rich.console import Console

from kedge.ports.records import EventRecord, ProgressRecord, RelayRecord

INCIDENT = Incident(name="killed (SIGKILL) under", relay="relay-1", calls=1, gaps=(0.1, 0.12))
RESULT = Result(calls=2, kept=2, moved=1, incidents=(INCIDENT,))


def relay(name: str, state: str, sessions: int) -> RelayRecord:
    return RelayRecord(
        uid=name, name=name, relay_set="default/voice", address="127.0.0.1:2223", state=state, reason="Probed",
        message="[bold]it[/bold] answers", since=0.0, sessions=sessions, instance="i",
    )  # fmt: skip


def play(view: View) -> None:
    view.act("2 calls talk")
    view.state([relay("relay-2", "Ready", 2), relay("relay-1", "Down", 0)], {"talking": 2, "rtp": 4, "silent": 1})
    view.event(EventRecord(at=time.time(), warning=True, reason="RelayDown", message="relay relay-1 is Down"))
    view.incident(INCIDENT)
    view.end(RESULT)


def progress(started: float, *, done: bool = False, relay: str = "") -> ProgressRecord:
    return ProgressRecord(
        relay_set="default/voice", kind="Drain" if relay else "Rebalance", relay=relay, started=started, calls=8,
        moved=8 if done else 2, failed=1, seconds_left=0.0 if done else 1.25, done=done,
    )  # fmt: skip


def seen(console: Console) -> str:
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_without_a_terminal_there_are_plain_lines_and_the_last_one_is_the_result() -> None:
    console = Console(file=io.StringIO(), force_terminal=False, width=40)
    with View(console, calls=2) as view:
        play(view)

    lines = seen(console).splitlines()
    assert [line.partition(" s  ")[2] for line in lines[:3]] == [
        "2 calls talk",
        "relay relay-1 is Down",
        "relay-1 killed (SIGKILL) under 1 call: audio gap p50 120 ms, p99 120 ms, max 120 ms",
    ]
    assert lines[-1] == "demo: 2 calls, 2 kept, 0 lost"
    assert "\x1b" not in seen(console)


@pytest.mark.parametrize("height", [24, 60])
def test_in_a_terminal_the_result_comes_last_and_the_picture_fits(height: int) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=height, _environ={})
    with View(console, calls=2) as view:
        play(view)

    assert "demo: 2 calls, 2 kept, 0 lost" in seen(console).splitlines()[-1]
    assert "120 ms" in seen(console), "the figures are not cut off"


def test_the_picture_tells_states_events_and_gaps_and_takes_no_markup_from_others() -> None:
    console = Console(file=io.StringIO(), force_terminal=False, width=100)
    view = View(console, calls=2)
    play(view)
    picture = Console(file=io.StringIO(), width=100)
    picture.print(view.render())

    text = seen(picture)
    assert text.index("relay-1") < text.index("relay-2"), "in the order of their names"
    for wanted in ("2/2", "3/4", "Down", "[bold]it[/bold] answers", "relay relay-1 is Down", "120 ms", "moves 1"):
        assert wanted in text


def test_a_saved_picture_names_no_server(tmp_path: Path) -> None:
    view = View(Console(file=io.StringIO(), force_terminal=False), calls=2)
    play(view)

    view.save_svg(tmp_path / "demo.svg")

    svg = (tmp_path / "demo.svg").read_text()
    assert "font-face" not in svg
    assert "monospace" in svg
    assert "kept" in svg


def test_plan_progress_and_pace_are_seen_of_what_began_last() -> None:
    view = View(Console(file=io.StringIO(), force_terminal=False), calls=8)
    view.plan("drain: 8 from relay-1 to relay-2")
    view.state([], {}, [progress(time.time(), relay="relay-1"), progress(0.0, done=True)])
    picture = Console(file=io.StringIO(), width=120)
    picture.print(view.render())

    text = seen(picture)
    assert "plan      drain: 8 from relay-1 to relay-2" in text
    assert "████░░░░░░░░░░░░  drain of relay-1: 2 of 8 calls moved, 1 could not be, " in text
    assert "1.2 s left" in text


def test_a_plan_that_was_carried_out_is_seen_as_done() -> None:
    view = View(Console(file=io.StringIO(), force_terminal=False), calls=8)
    view.state([], {}, [progress(0.0, done=True)])
    picture = Console(file=io.StringIO(), width=120)
    picture.print(view.render())

    assert "█" * 16 + "  rebalance: 8 of 8 calls moved, 1 could not be, done" in seen(picture)
