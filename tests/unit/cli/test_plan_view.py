"""A plan as a person reads it. The data are those that the planner makes."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence

import pytest
from rich.console import Console

from kedge.cli.plan_view import plan_lines, plan_view, read_plan
from kedge.cli.target import TargetError
from kedge.relay.plan import Pace, Plan, PlanCall, PlanRelay, plan_drain, plan_rebalance

RELAYS = (PlanRelay(uid="u1", name="r1", sessions=6), PlanRelay(uid="u2", name="r2", sessions=1, capacity=4))


def calls(count: int, *, unmovable: int = 0, relay: str = "u1") -> list[PlanCall]:
    stay = [PlanCall(f"fax-{n}", relay, movable=False, reason="Fax") for n in range(unmovable)]
    return [*stay, *(PlanCall(f"call-{n}", relay) for n in range(count - unmovable))]


def lines(plan: Plan, *, named: bool = False, width: int = 100) -> list[str]:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(plan_view(read_plan(json.loads(json.dumps(plan.as_dict(calls=named))))))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def rows(text: Sequence[str]) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("   ") if cell.strip()] for line in text if line and "─" not in line]


def test_it_tells_what_goes_where_what_does_not_fit_and_what_cannot_move() -> None:
    shown = lines(plan_drain(RELAYS, calls(6, unmovable=1), "u1", pace=Pace(rate=1)))

    assert rows(shown) == [
        ["3 calls move, in 6.0 s at the pace that is allowed."],
        ["2 calls do not fit anywhere."],
        ["1 call cannot be moved now."],
        ["CALLS", "FROM", "TO", "WHY IT STAYS"],
        ["3", "r1", "r2"],
        ["2", "r1", "(stays)", "NoCapacity: no relay that it may go to has room"],
        ["1", "r1", "(stays)", "Fax"],
        ["RELAY", "NOW", "THEN", "CHANGE"],
        ["r1", "6", "3", "-3"],
        ["r2", "1", "4", "+3"],
    ]


def test_calls_are_named_when_asked_for() -> None:
    shown = rows(lines(plan_drain(RELAYS, calls(3, unmovable=1), "u1"), named=True))

    assert shown[-4:] == [
        ["CALL", "FROM", "TO", "WHY IT STAYS"],
        ["call-0", "r1", "r2"],
        ["call-1", "r1", "r2"],
        ["fax-0", "r1", "(stays)", "Fax"],
    ]


def test_a_rebalance_tells_what_balance_is_and_whether_it_is_reached() -> None:
    relays = (PlanRelay(uid="u1", name="r1", sessions=10), PlanRelay(uid="u2", name="r2"))

    good = rows(lines(plan_rebalance(relays, calls(10), imbalance=0)))
    held = rows(lines(plan_rebalance(relays, calls(10, unmovable=10), imbalance=0)))

    assert ["RELAY", "NOW", "THEN", "CHANGE", "IN BALANCE"] in good
    assert ["r2", "0", "5", "+5", "5 to 5"] in good
    assert ["The set is not in balance afterwards."] in held
    assert ["The set is not in balance afterwards."] not in good


def test_nothing_to_do_is_said() -> None:
    even = (PlanRelay(uid="u1", name="r1"), PlanRelay(uid="u2", name="r2"))

    def told(plan: Plan) -> list[str]:
        return list(plan_lines(read_plan(plan.as_dict())))

    assert told(plan_rebalance(even, [])) == ["No call moves: the set is in balance."]
    assert told(plan_drain(even, [], "u1")) == ["No call moves."]


def test_one_call_that_moves_at_once_is_one_call() -> None:
    plan = read_plan(plan_drain(RELAYS, calls(1), "u1").as_dict())

    assert list(plan_lines(plan)) == ["1 call moves, in less than 0.1 s at the pace that is allowed."]


def test_names_do_not_steer_the_terminal() -> None:
    relays = (PlanRelay(uid="u1", name="\x1b[2Jr1", sessions=1), PlanRelay(uid="u2", name="r2"))

    assert "\x1b[2J" not in "\n".join(lines(plan_drain(relays, calls(1), "u1"), named=True))


def test_an_answer_that_is_no_plan_is_refused() -> None:
    with pytest.raises(TargetError, match=r"no plan: PlanRecord\.kind is missing"):
        read_plan({})
