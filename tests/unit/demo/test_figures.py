"""What the demo makes of the phones' reports."""

from __future__ import annotations

import pytest
from demo.figures import Incident, Result, incident_of, plan_text, result_of, summary_lines
from tests.kit.results import CallReport, FarmReport, LegReport, ReInvite

from kedge.cli.plan_view import PlannedRow, PlanRecord

AT = 100.0


def leg(side: str, *, state: str = "talking", heard: float = AT, gap: float = 0.02, status: int = 200) -> LegReport:
    return LegReport(
        side=side, state=state, rtp=True, last_received=heard, gap=gap, reinvites=[ReInvite(50.0, status=status)]
    )


def call(number: int, caller: LegReport | None = None, callee: LegReport | None = None) -> CallReport:
    return CallReport(number=number, caller=caller or leg("caller"), callee=callee or leg("callee"))


def report(*calls: CallReport, refused: dict[str, int] | None = None) -> FarmReport:
    return FarmReport(at=AT, since=0.0, calls=list(calls), refused=refused or {})


@pytest.mark.parametrize(
    "ill",
    [
        call(2, caller=leg("caller", heard=AT - 2)),
        call(2, callee=leg("callee", heard=AT - 2)),
        call(2, callee=leg("callee", state="ended")),
        CallReport(number=2, caller=leg("caller"), callee=None),
    ],
    ids=["caller hears nothing", "callee hears nothing", "hung up", "never got there"],
)
def test_a_call_is_kept_only_with_both_phones_and_audio_both_ways(ill: CallReport) -> None:
    result = result_of(2, (), 0, report(call(1), ill), AT - 1)

    assert (result.kept, result.lost) == (1, 1)
    assert result.last_line() == "demo: 2 calls, 1 kept, 1 lost"


def test_a_call_that_no_phone_knows_any_more_is_lost() -> None:
    assert result_of(3, (), 0, report(call(1), call(2)), AT - 1).lost == 1


def test_gaps_are_those_of_the_calls_of_the_lost_relay_in_both_directions() -> None:
    incident = incident_of(
        "killed", "r1", [1, 2],
        report(call(1, leg("caller", gap=0.1), leg("callee", gap=0.3)), call(2, leg("caller", gap=0.2)), call(3)),
    )  # fmt: skip

    assert (incident.calls, sorted(incident.gaps)) == (2, [0.02, 0.1, 0.2, 0.3])
    assert incident.figures == ("200 ms", "300 ms", "300 ms")


def test_refusals_are_counted_in_both_directions() -> None:
    result = result_of(1, (), 0, report(call(1, leg("caller", status=491)), refused={"503 INVITE": 2}), AT - 1)

    assert result.refused == {"503 INVITE": 2, "491 INVITE": 1}


def test_the_summary_ends_with_the_line_for_scripts() -> None:
    killed = Incident(name="killed (SIGKILL) under", relay="r1", calls=7, gaps=(0.1, 0.12))
    drained = Incident(name="drained of", relay="r2", calls=1, gaps=(0.02,))
    result = Result(calls=20, kept=20, moved=7, refused={"491 INVITE": 2}, incidents=(killed, drained))

    assert summary_lines(result) == [
        "calls 20, moves 7, lost 0",
        "r1 killed (SIGKILL) under 7 calls: audio gap p50 120 ms, p99 120 ms, max 120 ms",
        "r2 drained of 1 call: audio gap p50 20 ms, p99 20 ms, max 20 ms",
        "SIP responses that were not 2xx: 2 x 491 INVITE",
        "demo: 20 calls, 20 kept, 0 lost",
    ]


def test_a_plan_is_one_line() -> None:
    rows = (
        PlannedRow(calls=3, source="r1", target="r2", reason=""),
        PlannedRow(calls=1, source="r1", target="", reason="NoCapacity"),
    )
    plan = PlanRecord(kind="Drain", moves=3, unplaced=1, unmovable=0, seconds=0.25, relays=(), table=rows)
    nothing = PlanRecord(kind="Rebalance", moves=0, unplaced=0, unmovable=0, seconds=0.0, relays=(), table=())

    assert plan_text(plan) == "drain: 3 from r1 to r2, 1 from r1 to nowhere; in 0.2 s"
    assert plan_text(nothing) == "rebalance: nothing to move"
