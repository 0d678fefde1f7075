"""What the demo measured, and how it is told. Pure: reports in, figures and lines out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.kit.results import FarmReport, quantile

from kedge.cli.plan_view import PlanRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """Something that made calls move, as their phones heard it."""

    name: str
    """What was done, in words before the number of calls: ``killed (SIGKILL) under``, ``drained of``."""
    relay: str
    calls: int
    """Calls that the relay lost or got."""
    gaps: tuple[float, ...]
    """Longest silence of each phone of these calls, in seconds."""

    @property
    def head(self) -> str:
        """What it was, in one line."""
        return f"{self.relay} {self.name} {self.calls} {'call' if self.calls == 1 else 'calls'}"

    @property
    def figures(self) -> tuple[str, str, str]:
        """The median, the 99th percentile and the longest gap, in ms."""
        return (
            milliseconds(quantile(self.gaps, 0.5)),
            milliseconds(quantile(self.gaps, 0.99)),
            milliseconds(max(self.gaps, default=0.0)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The whole demo."""

    calls: int
    kept: int
    """Calls with both phones in them, and audio in both directions at the end."""
    moved: int
    """Moves of calls from one relay to another that phones confirmed."""
    refused: dict[str, int] = field(default_factory=dict)
    """SIP responses of 300 and above, by status and method."""
    incidents: tuple[Incident, ...] = ()

    @property
    def lost(self) -> int:
        """Calls that are not what they were."""
        return self.calls - self.kept

    def last_line(self) -> str:
        """Return the line that scripts look for."""
        return f"demo: {self.calls} calls, {self.kept} kept, {self.lost} lost"


def milliseconds(seconds: float) -> str:
    """Return whole milliseconds with their unit."""
    return f"{seconds * 1000:.0f} ms"


def incident_of(name: str, relay: str, numbers: Iterable[int], report: FarmReport) -> Incident:
    """Return what the phones of the calls ``numbers`` heard in the report's window."""
    wanted = frozenset(numbers)
    calls = [call for call in report.calls if call.number in wanted]
    gaps = tuple(leg.gap for call in calls for leg in call.legs if leg.rtp)
    return Incident(name=name, relay=relay, calls=len(wanted), gaps=gaps)


def result_of(calls: int, incidents: Iterable[Incident], moved: int, report: FarmReport, audio_since: float) -> Result:
    """Judge at the end: who is still in a call, and has heard the other after ``audio_since``?"""
    refused = Counter(report.refused)
    for leg in report.legs():
        refused.update(f"{one.status} INVITE" for one in leg.reinvites if one.status >= 300)
    kept = sum(call.talking and call.audio_after(audio_since) for call in report.calls)
    return Result(calls=calls, kept=kept, moved=moved, refused=dict(refused), incidents=tuple(incidents))


def plan_text(plan: PlanRecord) -> str:
    """Return what Kedge is going to do, in one line."""
    ways = ", ".join(f"{row.calls} from {row.source} to {row.target or 'nowhere'}" for row in plan.table)
    takes = f"in {plan.seconds:.1f} s" if plan.seconds >= 0.1 else "in less than 0.1 s"
    return f"{plan.kind.lower()}: {ways or 'nothing to move'}" + (f"; {takes}" if plan.moves else "")


def summary_lines(result: Result) -> list[str]:
    """Return the summary for a terminal that is none; its last line is the result's."""
    lines = [f"calls {result.calls}, moves {result.moved}, lost {result.lost}"]
    for one in result.incidents:
        p50, p99, longest = one.figures
        lines.append(f"{one.head}: audio gap p50 {p50}, p99 {p99}, max {longest}")
    lines.append(f"SIP responses that were not 2xx: {refused_text(result)}")
    return [*lines, result.last_line()]


def refused_text(result: Result) -> str:
    """Return the refusals in one line."""
    return ", ".join(f"{count} x {kind}" for kind, count in sorted(result.refused.items())) or "none"
