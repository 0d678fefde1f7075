"""Balance, headroom and moves under way, as status tells them, summed over signaling processes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from tests.unit.controller.test_reconcile import condition, look, merged, observed, status
from tests.unit.controller.worlds import KEY, NOW, deployment, pod, relay, relay_set, snapshot

from kedge.api.relayset import Placement, ZonePolicy
from kedge.controller.load import moves, plan_relays, uneven, zone_calls
from kedge.controller.reconcile import Observed, Outcome
from kedge.ports.kube import DEPLOYMENT_KIND
from kedge.ports.records import ProgressRecord, SignalingSnapshot, ZoneRecord


def progress(relay: str = "r1", **rest: Any) -> ProgressRecord:
    values: dict[str, Any] = {
        "relay_set": KEY, "kind": "Drain" if relay else "Rebalance", "relay": relay, "started": NOW - 1, "calls": 40,
        "moved": 12, "failed": 0, "seconds_left": 3.2, "done": False,
    }  # fmt: skip
    return ProgressRecord(**(values | rest))


def judged(*snapshots: SignalingSnapshot, imbalance: float = 10.0, zones: str = "Prefer") -> str:
    placement = Placement(zones=ZonePolicy(zones))
    return uneven(plan_relays(KEY, 4000, snapshots), zone_calls(KEY, placement, snapshots), imbalance)


def message(outcome: Outcome, kind: str) -> str:
    found = next(one for one in status(outcome)["conditions"] if one["type"] == kind)
    return str(found["message"])


@pytest.mark.parametrize(
    ("sessions", "imbalance", "told"),
    [
        ((10, 10, 10), 0.0, ""),
        ((9, 10, 11), 10.0, ""),
        ((9, 10, 11), 0.0, "r0 has 9 calls, 10 would be its share; r2 has 11 calls, 10 would be its share"),
        ((15, 15, 0), 10.0, "r0 has 15 calls, 9 to 11 would be its share; r1 has 15 calls, 9 to 11 would be its share"
         "; r2 has 0 calls, 9 to 11 would be its share"),
        ((1, 0, 0), 10.0, ""),
        ((0, 0, 0), 10.0, ""),
        ((30,), 0.0, ""),
        ((20, 0, 0, 0), 0.0, "r0 has 20 calls, 5 would be its share; r1 has 0 calls, 5 would be its share"
         "; r2 has 0 calls, 5 would be its share and 1 more"),
    ],
)  # fmt: skip
def test_a_relay_outside_its_share_is_named(sessions: tuple[int, ...], imbalance: float, told: str) -> None:
    relays = [relay(f"r{index}", sessions=count) for index, count in enumerate(sessions)]

    assert judged(snapshot(*relays), imbalance=imbalance) == told


def test_the_calls_of_all_signaling_processes_make_balance() -> None:
    one = snapshot(relay("r1", sessions=9), relay("r2", sessions=1))
    other = snapshot(relay("r1", sessions=1), relay("r2", sessions=9), replica="sig-1")

    assert judged(one, other) == ""
    assert judged(one) != ""


def test_a_share_is_by_weight() -> None:
    assert judged(snapshot(relay("r1", sessions=10), relay("r2", sessions=20, weight=2))) == ""


def test_a_relay_that_is_to_be_left_counts_until_it_is_empty() -> None:
    leaving = relay("r3", "Draining", sessions=2, intent="Drain")

    assert judged(snapshot(relay("r1", sessions=5), relay("r2", sessions=5), leaving)) == (
        "r3 has 2 calls and is to have none"
    )


def test_a_cordoned_relay_keeps_its_calls_and_is_left_out() -> None:
    cordoned = relay("r3", "Cordoned", sessions=50, intent="Cordon")

    assert judged(snapshot(relay("r1", sessions=5), relay("r2", sessions=5), cordoned)) == ""


@pytest.mark.parametrize(("zones", "even"), [("Prefer", True), ("Ignore", False)])
def test_calls_that_prefer_a_zone_belong_there(zones: str, even: bool) -> None:
    seen = snapshot(
        relay("r1", sessions=20, zone="a"), relay("r2", sessions=4, zone="b"),
        zones=(ZoneRecord(relay_set=KEY, zone="a", calls=20), ZoneRecord(relay_set=KEY, zone="b", calls=4)),
    )  # fmt: skip

    assert (judged(seen, zones=zones) == "") is even


def test_zones_without_a_relay_are_no_zone() -> None:
    seen = snapshot(
        relay("r1", sessions=5, zone="a"), relay("r2", sessions=5, zone="b"),
        zones=(ZoneRecord(relay_set=KEY, zone="c", calls=10),),
    )  # fmt: skip

    assert judged(seen) == ""
    assert zone_calls("media/other", Placement(), [seen]) == Counter()


def test_balance_is_a_condition() -> None:
    wanted = relay_set()

    def balanced(*snapshots: SignalingSnapshot) -> tuple[str, str]:
        return condition(look(wanted, observed(wanted), *snapshots), "Balanced")

    assert balanced(snapshot(relay("r1", sessions=3), relay("r2", sessions=3))) == ("True", "Even")
    assert balanced(snapshot(relay("r1", sessions=6), relay("r2"))) == ("False", "Uneven")
    assert balanced(snapshot(relay("r1", "Down"))) == ("Unknown", "NoRelayServes")
    assert balanced() == ("Unknown", "SignalingSilent")


def test_a_lack_of_room_for_a_loss_is_told_with_the_sum_of_all_signaling_processes() -> None:
    wanted = relay_set({"replicas": 2, "placement": {"maxSessionsPerRelay": 10}})
    one = snapshot(relay("r1", sessions=3), relay("r2", sessions=3))
    other = snapshot(relay("r1", sessions=3), relay("r2", sessions=3), replica="sig-1")

    enough, lacking = look(wanted, observed(wanted), one), look(wanted, observed(wanted), one, other)

    assert condition(enough, "Degraded") == ("False", "RelaysHealthy")
    assert condition(lacking, "Degraded") == ("True", "NoSpareRelay")
    assert message(lacking, "Degraded") == "12 calls, room for 10 if 1 of 2 relays failed"


@pytest.mark.parametrize(
    ("records", "reason", "told"),
    [
        ([], "", ""),
        ([progress(done=True)], "", ""),
        ([progress(relay_set="media/other")], "", ""),
        ([progress()], "Draining", "12 of 40 calls have left relay r1, 3 s left"),
        ([progress("")], "Rebalancing", "12 of 40 calls have moved to even out load, 3 s left"),
        (
            [progress(message="2 calls cannot leave: NoCapacity"), progress("r2", moved=0), progress("")],
            "Draining",
            "12 of 40 calls have left relay r1, 3 s left; 2 calls cannot leave: NoCapacity; "
            "0 of 40 calls have left relay r2, 3 s left; 12 of 40 calls have moved to even out load, 3 s left",
        ),
    ],
)
def test_moves_are_told_in_plain_words(records: list[ProgressRecord], reason: str, told: str) -> None:
    found = moves(KEY, [snapshot(progress=tuple(records))])

    assert (found.reason, found.message) == (reason, told)


def test_what_several_signaling_processes_move_is_summed() -> None:
    one, other = progress(), progress(calls=10, moved=5, seconds_left=0.4)

    found = moves(KEY, [snapshot(progress=(one,)), snapshot(progress=(other,), replica="sig-1")])

    assert found.message == "17 of 50 calls have left relay r1, 3 s left"


def test_a_drain_under_way_is_progress_and_its_end_is_not() -> None:
    wanted = relay_set()
    relays = (relay("r1", sessions=3), relay("r2", sessions=3))

    during = look(wanted, observed(wanted), snapshot(*relays, progress=(progress(),)))
    after = look(wanted, observed(wanted), snapshot(*relays, progress=(progress(done=True),)))

    assert condition(during, "Progressing") == ("True", "Draining")
    assert status(during)["state"] == "Progressing"
    assert condition(after, "Progressing") == ("False", "Complete")


def test_relays_of_others_are_drained_too() -> None:
    outside = relay_set({"endpoints": [{"name": "e1", "address": "192.0.2.9"}]})

    outcome = look(outside, Observed(), snapshot(relay("e1"), progress=(progress("e1"),)))

    assert condition(outcome, "Progressing") == ("True", "Draining")


def test_a_rollout_gives_the_reason_and_tells_of_drains() -> None:
    wanted = relay_set()
    seen = observed(wanted, pod("r1"), pod("r2"))
    seen.owned[DEPLOYMENT_KIND] = [deployment(seen.owned[DEPLOYMENT_KIND][0], updatedReplicas=1)]

    outcome = look(wanted, seen, snapshot(relay("r1"), progress=(progress(),)))

    assert condition(outcome, "Progressing") == ("True", "RollingOut")
    assert message(outcome, "Progressing") == (
        "1 of 2 pods are up to date, 2 available; 12 of 40 calls have left relay r1, 3 s left"
    )


def test_how_far_moves_are_waits_for_the_interval_and_their_end_does_not() -> None:
    wanted = relay_set()
    relays = (relay("r1", sessions=3), relay("r2", sessions=3))
    known = merged(wanted, look(wanted, observed(wanted), snapshot(*relays, progress=(progress(),))))

    further = snapshot(relay("r1", sessions=1), relay("r2", sessions=5), progress=(progress(moved=14),))
    soon = look(known, observed(wanted), further, now=NOW + 2, written_at=NOW)
    ended = look(known, observed(wanted), snapshot(*relays), now=NOW + 2, written_at=NOW)

    assert (soon.status, soon.again_in) == (None, 3.0)
    assert condition(ended, "Progressing") == ("False", "Complete")
