"""``--wait``: how far a drain or a rebalance has got, from one snapshot after another. Pure but for ``follow``.

Both are made from what is seen, not from what was answered: so waiting can begin while a drain is under way already,
and works alike on the admin API (which tells of progress) and on a cluster's RelaySet status (which tells of calls).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from kedge.cli.show import printable
from kedge.ports.records import ProgressRecord, RelayRecord, SignalingSnapshot

PATIENCE: Final = 5.0
"""Seconds for which nothing but calls that cannot be moved may be left, until waiting ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How far it is."""

    calls: int
    """Calls to move, in all."""
    moved: int
    text: str
    """What to say of it."""
    ended: bool = False
    ok: bool = True
    """Once it has ended: whether all is as it was wanted."""


class _Watch:
    """Finds the record of what is waited for."""

    def __init__(self, kind: str, since: float) -> None:
        self._kind = kind
        self._since = since
        self._last: ProgressRecord | None = None

    def _find(self, snapshot: SignalingSnapshot, *, relay: str, relay_set: str) -> ProgressRecord | None:
        """Return the latest record; one that had ended before ``since`` is of an earlier time."""
        known = self._last.started if self._last is not None else None
        for one in snapshot.progress:
            mine = (one.kind, one.relay, one.relay_set) == (self._kind, relay, relay_set)
            if mine and (not one.done or one.started >= self._since or one.started == known):
                self._last = one
        return self._last


class DrainWatch(_Watch):
    """Waits for a relay to be empty. ``since`` is the time of a snapshot from before the wish."""

    def __init__(self, relay: RelayRecord, since: float) -> None:
        super().__init__("Drain", since)
        self._relay = relay
        self._most = relay.sessions
        self._began: float | None = None
        self._seen = False
        self._stuck_since: float | None = None
        self._empty_since: float | None = None

    def look(self, snapshot: SignalingSnapshot, now: float) -> Look:
        """Return how far it is; ``now`` in seconds, of any clock."""
        began = self._began = now if self._began is None else self._began
        mine = self._relay
        relay = next((one for one in snapshot.relays if (one.uid, one.relay_set) == (mine.uid, mine.relay_set)), None)
        if relay is None:
            return self._end(f"relay {mine.name} is gone", ok=True)
        if relay.state == "Down":
            return self._end(f"relay {mine.name} is Down: its calls are moved as after a loss", ok=False)
        if relay.intent != "Drain" and self._seen:
            return self._end(f"the drain of relay {mine.name} was taken back", ok=False)
        self._seen = self._seen or relay.intent == "Drain"
        self._most = max(self._most, relay.sessions)
        progress = self._find(snapshot, relay=mine.name, relay_set=mine.relay_set)
        return self._judged(relay, progress, began, now)

    def _judged(self, relay: RelayRecord, progress: ProgressRecord | None, began: float, now: float) -> Look:
        calls = progress.calls if progress is not None else self._most
        moved = progress.moved if progress is not None else self._most - relay.sessions
        failed = progress.failed if progress is not None else 0
        done = f"{moved} of {calls} calls moved"
        if self._seen and not relay.sessions and not calls:
            return self._end(f"relay {relay.name} is drained: it has no calls", ok=True)
        if self._seen and not relay.sessions and self._is_counted(progress, now):
            took = f" after {now - began:.1f} s"
            if progress is None:  # a status is seconds old: how many there were, it cannot say
                done = "it has no calls left"
            lost = f", {failed} could not be: {progress.message}" if failed and progress is not None else ""
            return Look(
                calls=calls, moved=moved, text=f"relay {relay.name} is drained: {done}{took}{lost}", ended=True,
                ok=not failed,
            )  # fmt: skip
        if progress is not None and self._is_stuck(relay.sessions, failed, now):
            text = (
                f"relay {relay.name} is not empty: {done}; {progress.message}. It stays drained until they have ended"
            )
            return Look(calls=calls, moved=moved, text=text, ended=True, ok=False)
        left = f", {progress.seconds_left:.1f} s left" if progress is not None else ""
        return Look(calls=calls, moved=moved, text=f"draining relay {relay.name}{left}")

    def _is_counted(self, progress: ProgressRecord | None, now: float) -> bool:
        """Tell whether the figures are the last ones: the relay is empty a moment before all moves are counted."""
        self._empty_since = now if self._empty_since is None else self._empty_since
        return progress is None or progress.done or now - self._empty_since >= PATIENCE

    def _is_stuck(self, sessions: int, failed: int, now: float) -> bool:
        if sessions > failed or not sessions:
            self._stuck_since = None
            return False
        self._stuck_since = now if self._stuck_since is None else self._stuck_since
        return now - self._stuck_since >= PATIENCE

    def _end(self, text: str, *, ok: bool) -> Look:
        return Look(calls=self._most, moved=0, text=text, ended=True, ok=ok)


class RebalanceWatch(_Watch):
    """Waits for a set's load to be evened out. ``since`` is the time of a snapshot from before the wish."""

    def __init__(self, relay_set: str, since: float) -> None:
        super().__init__("Rebalance", since)
        self._relay_set = relay_set

    def look(self, snapshot: SignalingSnapshot, now: float) -> Look:
        """Return how far it is; ``now`` in seconds, of any clock."""
        progress = self._find(snapshot, relay="", relay_set=self._relay_set)
        if progress is None:
            return Look(calls=0, moved=0, text=f"rebalancing {self._relay_set}")
        calls, moved = progress.calls, progress.moved
        if not progress.done:
            text = f"rebalancing {self._relay_set}, {progress.seconds_left:.1f} s left"
            return Look(calls=calls, moved=moved, text=text)
        done = f"{moved} of {calls} calls moved" if calls else "no call had to move"
        trouble = f"; not in balance: {progress.message}" if progress.message else ""
        text = f"{self._relay_set} is rebalanced: {done}{trouble}"
        return Look(calls=calls, moved=moved, text=text, ended=True, ok=not progress.message)


def follow(
    look: Callable[[float], Look], console: Console, *, interval: float = 0.25, timeout: float,
    pause: Callable[[float], None] = time.sleep, clock: Callable[[], float] = time.monotonic,
) -> Look:  # fmt: skip
    """Look until it has ended or ``timeout`` seconds have passed, with a bar on a terminal; return the last look."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("calls"))
    deadline = clock() + timeout
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        while True:
            seen = look(clock())
            bar.update(task, description=printable(seen.text), total=seen.calls or None, completed=seen.moved)
            if seen.ended:
                return seen
            if clock() >= deadline:
                text = f"not done after {timeout:g} s: {seen.text}, {seen.moved} of {seen.calls} calls moved"
                return Look(calls=seen.calls, moved=seen.moved, text=text, ended=True, ok=False)
            pause(interval)
