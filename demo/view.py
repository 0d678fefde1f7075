"""What is seen of the demo: a live picture in a terminal, plain lines elsewhere."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Final

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from demo.figures import Incident, Result, refused_text, summary_lines
from kedge.ports.records import EventRecord, ProgressRecord, RelayRecord

_COLOURS: Final = {"Ready": "green", "Suspect": "yellow", "Draining": "yellow", "Down": "red"}
_EVENTS: Final = 30
"""Events that are shown where there is room."""
_OTHER_LINES: Final = 23
"""Lines of the picture beside events and relays."""
_BAR: Final = 24
_PROGRESS_BAR: Final = 16
_SVG_WIDTH: Final = 108
_FOREIGN_FONT: Final = re.compile(r"@font-face\s*\{.*?\}\s*", re.DOTALL)


class View:
    """Takes news, and shows them. ``with`` begins and ends the live picture."""

    def __init__(self, console: Console, *, calls: int) -> None:
        self._console = console
        self._calls = calls
        self._began = time.monotonic()
        self._began_wall = time.time()
        self._act = "starting"
        self._relays: Sequence[RelayRecord] = ()
        self._counts: dict[str, float] = {}
        self._events: deque[tuple[float, Text]] = deque(maxlen=_EVENTS)
        self._plan = ""
        self._progress: ProgressRecord | None = None
        self._incidents: list[Incident] = []
        self._result: Result | None = None
        self._live: Live | None = None

    def __enter__(self) -> View:
        """Begin the live picture, if there is a terminal."""
        if self._console.is_terminal:
            self._live = Live(get_renderable=self._fitting, console=self._console, refresh_per_second=8)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the last picture standing."""
        if self._live is not None:
            self._live.stop()

    # --- news -------------------------------------------------------------------------------------------------------

    def act(self, text: str) -> None:
        """Say what the demo itself does now."""
        self._act = text
        self._note(time.time(), Text(text, style="bold cyan"))

    def event(self, event: EventRecord) -> None:
        """Show one of Kedge's events."""
        self._note(event.at, Text(event.message, style="yellow" if event.warning else ""))

    def plan(self, text: str) -> None:
        """Show what Kedge says that it is going to do."""
        self._plan = text
        self._note(time.time(), Text(f"plan: {text}", style="cyan"))

    def state(
        self, relays: Sequence[RelayRecord], counts: dict[str, float], progress: Sequence[ProgressRecord] = ()
    ) -> None:
        """Show relays, what the phones count, and how far Kedge's own plans are."""
        self._relays, self._counts = sorted(relays, key=lambda one: one.name), counts
        self._progress = max(progress, key=lambda one: one.started, default=None)

    def incident(self, incident: Incident) -> None:
        """Show what a move of calls meant to the phones."""
        self._incidents.append(incident)
        if self._live is None:
            p50, p99, longest = incident.figures
            gaps = f"audio gap p50 {p50}, p99 {p99}, max {longest}"
            at = time.time() - self._began_wall
            self._line(f"{at:6.2f} s  {incident.head}: {gaps}")

    def end(self, result: Result) -> None:
        """Show the summary. The very last line is the result's, with or without a terminal."""
        self._act = "done"
        self._result = result
        if self._live is not None:
            self._live.stop()
            style = "bold green" if result.lost == 0 else "bold red"
            self._console.print(result.last_line(), style=style, highlight=False)
            return
        for line in summary_lines(result):
            self._line(line)

    def _note(self, at: float, text: Text) -> None:
        self._events.append((at - self._began_wall, text))
        if self._live is None:
            self._line(f"{at - self._began_wall:6.2f} s  {text.plain}")

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    # --- the picture ------------------------------------------------------------------------------------------------

    def _fitting(self) -> RenderableType:
        """Return the picture with as many events as the terminal has room for."""
        return self.render(events=self._console.height - _OTHER_LINES - len(self._relays))

    def render(self, *, events: int = _EVENTS) -> RenderableType:
        """Return the picture as it is now."""
        parts: list[RenderableType] = [self._head(), self._relay_table(), self._event_panel(max(3, events))]
        if self._incidents:
            parts.append(self._incident_table())
        if self._result is not None:
            parts.append(self._totals(self._result))
        return Group(*parts)

    def _head(self) -> RenderableType:
        counts = self._counts
        hearing = int(counts.get("rtp", 0) - counts.get("silent", 0))
        line = Text.assemble(
            ("kedge demo", "bold"), f"  {time.monotonic() - self._began:4.0f} s   calls ",
            (f"{int(counts.get('talking', 0))}/{self._calls}", "bold"), "   phones that hear the other ",
            (f"{hearing}/{2 * self._calls}", "bold green" if hearing == 2 * self._calls else "bold red"),
            "   RTP packets received ", (f"{int(counts.get('received', 0)):,}", "bold"),
        )  # fmt: skip
        return Group(line, Text(self._act, style="bold cyan"), self._plan_line(), self._progress_line())

    def _plan_line(self) -> Text:
        return Text(f"plan      {self._plan or '-'}", no_wrap=True, overflow="ellipsis")

    def _progress_line(self) -> Text:
        one = self._progress
        if one is None:
            return Text("progress  -")
        what = f"drain of {one.relay}" if one.relay else "rebalance"
        share = 1.0 if one.done else one.moved / max(1, one.calls)
        filled = round(_PROGRESS_BAR * share)
        took = max(0.0, time.time() - one.started)
        pace = "done" if one.done else f"{one.moved / max(took, 0.1):.0f} calls/s, {one.seconds_left:.1f} s left"
        failed = f", {one.failed} could not be" if one.failed else ""
        return Text.assemble(
            "progress  ", ("█" * filled, "green"), ("░" * (_PROGRESS_BAR - filled), "dim"),
            f"  {what}: {one.moved} of {one.calls} calls moved{failed}, {pace}",
        )  # fmt: skip

    def _relay_table(self) -> RenderableType:
        table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False)
        table.add_column("RELAY")
        table.add_column("STATE", width=9)
        table.add_column("CALLS", justify="right")
        table.add_column("", width=_BAR)
        table.add_column("WHY", ratio=1, no_wrap=True, overflow="ellipsis")
        for one in self._relays:
            colour = _COLOURS.get(one.state, "")
            bar = "█" * round(_BAR * one.sessions / max(1, self._calls))
            table.add_row(
                one.name, Text(one.state, style=colour), str(one.sessions), Text(bar, style=colour), escape(one.message)
            )
        return table

    def _event_panel(self, events: int) -> RenderableType:
        shown = list(self._events)[-events:]
        lines = [Text.assemble((f"{at:6.2f} s  ", "dim"), text) for at, text in shown]
        lines += [Text("") for _ in range(min(events, _EVENTS) - len(lines))]
        for line in lines:
            line.no_wrap, line.overflow = True, "ellipsis"
        return Panel(Group(*lines), title="events", title_align="left", border_style="dim")

    def _incident_table(self) -> RenderableType:
        table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False)
        table.add_column("AUDIO GAP AT THE PHONES", ratio=1)
        for name in ("P50", "P99", "MAX"):
            table.add_column(name, justify="right")
        for one in self._incidents:
            table.add_row(one.head, *one.figures)
        return table

    def _totals(self, result: Result) -> RenderableType:
        moves = f"calls {result.calls}   moves {result.moved}   lost {result.lost}"
        return Text(f"{moves}   SIP responses that were not 2xx: {refused_text(result)}")

    def save_svg(self, file: Path) -> None:
        """Write the picture as it is now to ``file``. It names no font of anybody else's server."""
        console = Console(record=True, width=_SVG_WIDTH, file=StringIO(), force_terminal=True, color_system="truecolor")
        console.print(self.render())
        if self._result is not None:
            console.print(Text(self._result.last_line(), style="bold green"))
        svg = _FOREIGN_FONT.sub("", console.export_svg(title="make demo"))
        file.write_text(svg.replace("Fira Code, monospace", "ui-monospace, Menlo, Consolas, monospace"))
