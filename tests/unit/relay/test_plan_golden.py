"""Plans as a person reads them, against golden files. ``UPDATE_GOLDEN=1`` writes them anew: read the difference."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.relay.plans import make_set

from kedge.relay.plan import Pace, Plan, PlanCall, PlanRelay, plan_drain, plan_loss, plan_rebalance

GOLDEN = Path(__file__).parent / "golden"
PACE = Pace(rate=5000, rate_per_peer=2500)
SLOW = Pace(rate=5000, rate_per_peer=2500, calls=50)


def scale_out() -> Plan:
    some = make_set([1000, 1000, 1000, 0])
    calls = [call._replace(peers=("trunk", "pbx")) for call in some.calls]
    return plan_rebalance(some.relays, calls, imbalance=0, pace=SLOW)


def in_balance() -> Plan:
    some = make_set([700, 750, 800])
    return plan_rebalance(some.relays, some.calls, pace=SLOW)


def drain_in_zones() -> Plan:
    """Zone a has room for three of five; two recorded calls cannot move; the relay called c1 drains too."""
    relays = [
        PlanRelay(uid="1", name="a1", zone="a", sessions=9),
        PlanRelay(uid="2", name="a2", zone="a", sessions=7, capacity=10),
        PlanRelay(uid="3", name="b1", zone="b", sessions=4),
        PlanRelay(uid="4", name="c1", zone="c", serving=False, leaving=True),
    ]
    calls = [PlanCall(f"home{number}", "1", zone="a", emergency=number == 4) for number in range(5)]
    calls += [PlanCall(f"away{number}", "1", zone="c") for number in range(2)]
    calls += [PlanCall(f"recorded{number}", "1", movable=False, reason="Recording") for number in range(2)]
    return plan_drain(relays, calls, "1", pace=PACE)


def loss_without_room() -> Plan:
    some = make_set([6, 8, 9, 2], capacity=10)
    calls = [
        call._replace(silent_since=float(call.id[-1]), emergency=call.id == "c0-0005", peers=("trunk", "trunk"))
        for call in some.calls
    ]
    relays = [*some.relays[:3], replace(some.relays[3], serving=False)]
    return plan_loss(relays, calls, "r0", pace=Pace(rate=10, rate_per_peer=2))


def scale_out_while_draining() -> Plan:
    """The calls of relay-0 go to the new relay-3; relay-2 weighs double; four calls on relay-1 were moved of late."""
    some = make_set([8, 12, 6, 0], weights=[1, 1, 2, 1])
    calls = [call._replace(last_move_at=990.0) if "c1-0004" > call.id >= "c1-" else call for call in some.calls]
    relays = [replace(some.relays[0], serving=False, leaving=True), *some.relays[1:]]
    return plan_rebalance(relays, calls, imbalance=0, rest=60, now=1000.0, pace=SLOW)


CASES: dict[str, tuple[Callable[[], Plan], bool]] = {
    "scale-out": (scale_out, False),
    "in-balance": (in_balance, False),
    "drain-in-zones": (drain_in_zones, True),
    "loss-without-room": (loss_without_room, True),
    "scale-out-while-draining": (scale_out_while_draining, True),
}


@pytest.mark.parametrize("case", CASES)
def test_plans_are_as_in_the_golden_file(case: str) -> None:
    make, calls = CASES[case]
    text = json.dumps(make().as_dict(calls=calls), indent=1) + "\n"
    path = GOLDEN / f"plan-{case}.json"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()
