"""Records on a terminal: tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final, TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kedge.ports.codec import to_json
from kedge.ports.records import CallRecord, EventRecord, RelayRecord

_WIDTH_OF_A_PIPE: Final = 250
_NUMBERS: Final = frozenset({"ANCHORS", "CALLS", "AGE", "SINCE", "NOW", "THEN", "CHANGE"})
_COLOURS: Final = {
    "Ready": "green",
    "Active": "green",
    "Suspect": "yellow",
    "Moving": "yellow",
    "Draining": "yellow",
    "Cordoned": "yellow",
    "Full": "yellow",
    "Down": "red",
}


def console_of(stream: TextIO | None = None) -> Console:
    """Return where tables go: as wide as the terminal, and never cut where there is none."""
    stream = stream or sys.stdout
    return Console(file=stream, width=None if stream.isatty() else _WIDTH_OF_A_PIPE, highlight=False)


def as_json(records: Sequence[object]) -> str:
    """Return a JSON list of records."""
    return json.dumps(to_json(list(records)), indent=2, ensure_ascii=False)


def as_json_text(data: object) -> str:
    """Return plain data as JSON for people and programs."""
    return json.dumps(data, indent=2, ensure_ascii=False)


def as_json_line(record: object) -> str:
    """Return one record as a line of JSON."""
    return json.dumps(to_json(record), ensure_ascii=False)


def call_table(calls: Iterable[CallRecord], now: float) -> Table:
    """Return the table of ``kedge calls``."""
    table = table_of("CALL", "FROM", "TO", "RELAY", "STATE", "ANCHORS", "LAST MOVE", "AGE")
    for one in calls:
        last = one.last_anchor
        move = f"{last.reason} from {last.source or '?'}: {last.result}" if last is not None else ""
        table.add_row(
            *map(_text, (one.id, one.caller, one.callee, one.relay)), _state(one.state.value), str(one.anchors),
            _text(move), age(now - one.started),
        )  # fmt: skip
    return table


def relay_table(relays: Iterable[RelayRecord], now: float) -> Table:
    """Return the table of ``kedge relays``."""
    table = table_of("RELAY", "SET", "ADDRESS", "STATE", "CALLS", "SINCE", "WHY")
    for one in sorted(relays, key=lambda each: (each.relay_set, each.name)):
        table.add_row(
            *map(_text, (one.name, one.relay_set, one.address)), _state(one.state), str(one.sessions),
            age(now - one.since), _text(f"{one.reason}: {one.message}"),
        )  # fmt: skip
    return table


def event_line(event: EventRecord) -> Text:
    """Return the line of ``kedge events``; the time is local."""
    at = datetime.fromtimestamp(event.at, UTC).astimezone().strftime("%H:%M:%S.%f")[:-3]
    return Text.assemble(
        (at, "dim"),
        "  ",
        (f"{event.reason:16}", "yellow" if event.warning else "green"),
        f"  {printable(event.message)}",
    )


def age(seconds: float) -> str:
    """Return an age as kubectl does: its largest one or two units."""
    left = max(0, int(seconds))
    if left < 120:
        return f"{left}s"
    if left < 600:
        return f"{left // 60}m{left % 60}s"
    if left < 3 * 3600:
        return f"{left // 60}m"
    return f"{left // 3600}h" if left < 48 * 3600 else f"{left // 86400}d"


def printable(value: str) -> str:
    """Return a value as it may go to a terminal: what a caller puts into its URI must not steer it."""
    return "".join(one if one.isprintable() else "?" for one in value)


def table_of(*columns: str) -> Table:
    """Return an empty table; columns with numbers stand to the right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in columns:
        table.add_column(name, no_wrap=True, justify="right" if name in _NUMBERS else "left")
    return table


def _text(value: str) -> Text:
    return Text(printable(value))


def _state(state: str) -> Text:
    return Text(printable(state), style=_COLOURS.get(state, ""))
