"""``kedge plan``: a plan as tables that a person reads before it is carried out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.text import Text

from kedge.cli.show import printable, table_of
from kedge.cli.target import TargetError
from kedge.ports.codec import CodecError, from_json

_STAYS: Final = "(stays)"
_REASONS: Final = {
    "NoCapacity": "no relay that it may go to has room",
    "NoRelay": "no other relay serves",
    "Resting": "it was moved a short while ago",
    "Unmovable": "it cannot be moved",
}
"""What the commonest reasons mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRelay:
    """What a plan does to one relay."""

    name: str
    before: int
    after: int
    lower: int | None = None
    """In balance from so many calls on; None where balance is not what the plan is for."""
    upper: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRow:
    """So many calls go from one relay to another, or stay where ``target`` is empty."""

    calls: int
    source: str
    target: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCalls:
    """Each call: its id, its relay, and where it goes or why it stays."""

    moves: tuple[tuple[str, ...], ...] = ()
    unplaced: tuple[tuple[str, ...], ...] = ()
    unmovable: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRecord:
    """A plan, as the admin API tells it."""

    kind: str
    moves: int
    unplaced: int
    unmovable: int
    seconds: float
    relays: tuple[PlannedRelay, ...]
    table: tuple[PlannedRow, ...]
    balanced: bool | None = None
    calls: PlannedCalls | None = None


def read_plan(data: dict[str, Any]) -> PlanRecord:
    """Return the plan that the admin API answered with.

    Raises:
        TargetError: it is none.
    """
    try:
        return from_json(PlanRecord, data)
    except CodecError as error:
        raise TargetError(f"the answer is no plan: {error}") from None


def plan_lines(plan: PlanRecord) -> Iterator[str]:
    """Yield what a plan comes to, in words."""
    stays = plan.unplaced + plan.unmovable
    if not plan.moves:
        yield "No call moves." if plan.kind != "Rebalance" or stays else "No call moves: the set is in balance."
    else:
        pace = f"in {plan.seconds:.1f} s" if plan.seconds >= 0.1 else "in less than 0.1 s"
        yield f"{_calls(plan.moves)} {_verb('move', plan.moves)}, {pace} at the pace that is allowed."
    if plan.unplaced:
        yield f"{_calls(plan.unplaced)} {_verb('do', plan.unplaced)} not fit anywhere."
    if plan.unmovable:
        yield f"{_calls(plan.unmovable)} cannot be moved now."
    if plan.balanced is False:
        yield "The set is not in balance afterwards."


def plan_view(plan: PlanRecord) -> RenderableType:
    """Return the tables of a plan: what goes where, what comes of it for each relay, and each call if asked for."""
    parts: list[RenderableType] = [Text("\n".join(plan_lines(plan)), style="bold")]
    if plan.table:
        parts += [Text(""), _ways(plan)]
    parts += [Text(""), _relays(plan)]
    if plan.calls is not None and (plan.moves or plan.unplaced or plan.unmovable):
        parts += [Text(""), _each_call(plan.calls)]
    return Group(*parts)


def _ways(plan: PlanRecord) -> RenderableType:
    stays = any(row.reason for row in plan.table)
    table = table_of("CALLS", "FROM", "TO", *(["WHY IT STAYS"] if stays else []))
    for row in plan.table:
        why = [_text(_reason(row.reason))] if stays else []
        table.add_row(str(row.calls), _text(row.source), _text(row.target or _STAYS), *why)
    return table


def _relays(plan: PlanRecord) -> RenderableType:
    balance = any(one.lower is not None for one in plan.relays)
    table = table_of("RELAY", "NOW", "THEN", "CHANGE", *(["IN BALANCE"] if balance else []))
    for one in plan.relays:
        change = f"{one.after - one.before:+d}" if one.after != one.before else ""
        bounds = [f"{one.lower} to {one.upper}" if one.lower is not None else ""] if balance else []
        table.add_row(_text(one.name), str(one.before), str(one.after), change, *bounds)
    return table


def _each_call(calls: PlannedCalls) -> RenderableType:
    stay = (*calls.unplaced, *calls.unmovable)
    table = table_of("CALL", "FROM", "TO", *(["WHY IT STAYS"] if stay else []))
    for call, source, target in calls.moves:
        table.add_row(*map(_text, (call, source, target)))
    for call, relay, reason in stay:
        table.add_row(*map(_text, (call, relay, _STAYS, _reason(reason))))
    return table


def _reason(reason: str) -> str:
    told = _REASONS.get(reason)
    return f"{reason}: {told}" if told else reason


def _calls(count: int) -> str:
    return "1 call" if count == 1 else f"{count} calls"


def _verb(verb: str, count: int) -> str:
    return {"do": "does"}.get(verb, f"{verb}s") if count == 1 else verb


def _text(value: str) -> Text:
    return Text(printable(value))
