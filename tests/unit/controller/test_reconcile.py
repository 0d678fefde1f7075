from __future__ import annotations

from typing import Any

import pytest
from tests.unit.controller.worlds import (
    NOW,
    SETTINGS,
    deployment,
    failover,
    pod,
    relay,
    relay_set,
    snapshot,
)

from kedge.api.relayset import RelaySet
from kedge.controller.manifests import owned_manifests
from kedge.controller.reconcile import Observed, Outcome, reconcile
from kedge.ports.kube import DEPLOYMENT_KIND, NETWORK_POLICY_KIND, Manifest
from kedge.ports.records import SignalingSnapshot

READY = snapshot(relay("r1", sessions=3), relay("r2"))


def observed(wanted: RelaySet, *pods: Manifest, **rollout: Any) -> Observed:
    """The world as it is once all was applied."""
    owned = {kind: [manifest] for kind, manifest in owned_manifests(wanted, SETTINGS)}
    if DEPLOYMENT_KIND in owned:
        owned[DEPLOYMENT_KIND] = [deployment(owned[DEPLOYMENT_KIND][0], **rollout)]
    return Observed(owned=owned, pods=pods or (pod("r1"), pod("r2")))


def look(
    wanted: RelaySet, seen: Observed, *snapshots: SignalingSnapshot, now: float = NOW, written_at: float = 0.0,
    status_interval: float = 5.0,
) -> Outcome:  # fmt: skip
    return reconcile(wanted, seen, snapshots, SETTINGS, now=now, written_at=written_at, status_interval=status_interval)


def status(outcome: Outcome) -> Manifest:
    assert outcome.status is not None
    return outcome.status


def condition(outcome: Outcome, kind: str) -> tuple[str, str]:
    found = next(one for one in status(outcome)["conditions"] if one["type"] == kind)
    return found["status"], found["reason"]


def merged(wanted: RelaySet, outcome: Outcome) -> RelaySet:
    """The RelaySet after the outcome's status was merged in."""
    before = {} if wanted.status is None else wanted.status.dump()
    after = {name: value for name, value in (before | status(outcome)).items() if value is not None}
    if (last := after.get("lastFailover")) is not None:
        after["lastFailover"] = {name: value for name, value in last.items() if value is not None}
    return relay_set(wanted.spec.dump(), after)


def test_what_is_missing_is_applied_and_what_is_right_is_not() -> None:
    wanted = relay_set()

    first = look(wanted, Observed(), READY)
    then = look(wanted, observed(wanted), READY)

    assert [kind.kind for kind, _ in first.applies] == ["Deployment", "PodDisruptionBudget", "NetworkPolicy"]
    assert then.applies == ()
    assert then.deletes == ()


def test_what_was_changed_or_left_out_since_is_applied_again() -> None:
    wanted = relay_set()
    seen = observed(relay_set({"replicas": 2, "template": {"nodeSelector": {"media": "yes"}}}))

    assert [kind.kind for kind, _ in look(wanted, seen, READY).applies] == ["Deployment"]


def test_a_policy_that_is_no_longer_wanted_is_deleted() -> None:
    seen = observed(relay_set())

    outcome = look(relay_set({"replicas": 2, "media": {"hostNetwork": True}}), seen, READY)

    assert [kind for kind, _ in outcome.deletes] == [NETWORK_POLICY_KIND]


def test_what_belongs_to_someone_else_is_neither_applied_nor_deleted() -> None:
    wanted = relay_set()
    seen = observed(wanted)
    seen.owned[DEPLOYMENT_KIND][0]["metadata"]["ownerReferences"] = []

    outcome = look(wanted, seen, READY)

    assert (outcome.applies, outcome.deletes) == ((), ())
    assert condition(outcome, "Ready") == ("False", "CannotServe")


def test_a_rollout_that_cannot_go_on_says_why() -> None:
    wanted = relay_set()
    sick = pod("r3", phase="Pending")
    sick["status"]["containerStatuses"] = [{"state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}]
    seen = observed(wanted, pod("r1"), pod("r2"), sick, replicas=3, updatedReplicas=1)

    outcome = look(wanted, seen, READY)

    assert condition(outcome, "Progressing") == ("True", "RollingOut")
    assert condition(outcome, "Degraded") == ("True", "PodsFailing")
    told = {one["type"]: one["message"] for one in status(outcome)["conditions"]}
    assert told["Degraded"] == "pod r3 does not start: ErrImagePull: not found"
    assert told["Progressing"] == f"1 of 2 pods are up to date, 2 available; {told['Degraded']}"


def test_status_of_a_healthy_set() -> None:
    wanted = relay_set()

    outcome = look(wanted, observed(wanted), READY)

    told = status(outcome)
    assert (told["observedGeneration"], told["replicas"], told["readyReplicas"], told["calls"]) == (3, 2, 2, 3)
    assert (told["state"], told["selector"]) == ("Ready", "kedge.media/relayset=voice")
    assert condition(outcome, "Ready") == ("True", "RelaysReady")
    assert condition(outcome, "Progressing") == ("False", "Complete")
    assert condition(outcome, "Degraded") == ("False", "RelaysHealthy")
    assert condition(outcome, "Balanced") == ("False", "Uneven")
    assert condition(outcome, "RecordsLimited") == ("False", "WithinBudget")


@pytest.mark.parametrize(
    ("snapshots", "rollout", "expected"),
    [
        ((snapshot(relay("r1"), relay("r2", "Down")),), {}, ("Degraded", ("False", "RelaysMissing"), "RelayDown")),
        (
            (snapshot(relay("r1"), relay("r2", "Suspect")),),
            {},
            ("Degraded", ("False", "RelaysMissing"), "RelaySuspect"),
        ),
        ((snapshot(relay("r1", "Down"), relay("r2", "Down")),), {}, ("Down", ("False", "NoRelayReady"), "RelayDown")),
        ((snapshot(relay("r1"), relay("r2", "Full")),), {}, ("Ready", ("True", "RelaysReady"), "RelaysHealthy")),
        ((snapshot(relay("r1")),), {}, ("Progressing", ("False", "RelaysMissing"), "RelaysHealthy")),
        ((snapshot(),), {}, ("Pending", ("False", "NoRelayReady"), "RelaysHealthy")),
        ((), {}, ("Pending", ("Unknown", "SignalingSilent"), "SignalingSilent")),
        ((READY,), {"updatedReplicas": 1}, ("Progressing", ("True", "RelaysReady"), "RelaysHealthy")),
        (
            (snapshot(relay("r1", sessions=4001), relay("r2")),),
            {},
            ("Degraded", ("True", "RelaysReady"), "NoSpareRelay"),
        ),
        (
            (READY,),
            {"conditions": [{"type": "Progressing", "reason": "ProgressDeadlineExceeded"}]},
            ("Degraded", ("True", "RelaysReady"), "DeadlineExceeded"),
        ),
    ],
)
def test_state_and_conditions(
    snapshots: tuple[SignalingSnapshot, ...], rollout: dict[str, Any], expected: tuple[str, tuple[str, str], str]
) -> None:
    wanted = relay_set()

    outcome = look(wanted, observed(wanted, **rollout), *snapshots)

    found = status(outcome)["state"], condition(outcome, "Ready"), condition(outcome, "Degraded")[1]
    assert found == expected


def test_a_set_of_no_relays_is_ready() -> None:
    wanted = relay_set({"replicas": 0})

    outcome = look(wanted, Observed(owned=observed(wanted).owned, pods=()), snapshot())

    assert (status(outcome)["state"], condition(outcome, "Ready")[0]) == ("Ready", "True")


def test_replicas_that_differ_are_told_as_the_worse_one_sees_it() -> None:
    wanted = relay_set()
    one, other = snapshot(relay("r1", sessions=2)), snapshot(relay("r1", "Down", sessions=1), replica="sig-1")

    told = status(look(wanted, observed(wanted, pod("r1")), one, other))["relays"]

    assert [(each["state"], each["sessions"]) for each in told] == [("Down", 3)]
    assert told[0]["message"].startswith("1 of 2 signaling processes say so")


def test_a_state_that_only_a_newer_replica_knows_is_not_relied_on() -> None:
    wanted = relay_set()

    told = status(look(wanted, observed(wanted, pod("r1")), snapshot(relay("r1", "Becalmed"))))["relays"]

    assert [each["state"] for each in told] == ["Suspect"]


def test_a_pod_that_nobody_has_probed_is_told_as_such() -> None:
    wanted = relay_set()

    outcome = look(
        wanted, observed(wanted, pod("r1"), pod("new"), pod("waits", phase="Pending")), snapshot(relay("r1"))
    )

    assert [(each["name"], each["reason"]) for each in status(outcome)["relays"]] == [
        ("new", "NotProbed"),
        ("r1", "Probed"),
    ]
    assert status(outcome)["replicas"] == 3


def test_of_two_pods_by_one_name_the_present_one_is_told() -> None:
    wanted = relay_set()
    gone = relay("r1", "Down", uid="zzz-before")

    told = status(look(wanted, observed(wanted, pod("r1")), snapshot(gone, relay("r1"))))["relays"]

    assert [each["state"] for each in told] == ["Ready"]


def test_while_signaling_is_silent_relays_and_calls_stay_as_they_were() -> None:
    wanted = relay_set()
    known = merged(wanted, look(wanted, observed(wanted), READY))

    silent = merged(known, look(known, observed(wanted), now=NOW + 60))

    assert known.status is not None
    assert silent.status is not None
    assert (silent.status.relays, silent.status.calls) == (known.status.relays, known.status.calls)
    assert silent.status.state is known.status.state


def test_nothing_is_written_when_nothing_is_new() -> None:
    wanted = relay_set()
    known = merged(wanted, look(wanted, observed(wanted), READY))

    again = look(known, observed(wanted), READY, now=NOW + 3600)

    assert again == Outcome()


def test_numbers_alone_wait_and_a_state_does_not() -> None:
    wanted = relay_set()
    known = merged(wanted, look(wanted, observed(wanted), READY))
    busier = snapshot(relay("r1", sessions=4), relay("r2"))

    soon = look(known, observed(wanted), busier, now=NOW + 2, written_at=NOW)
    later = look(known, observed(wanted), busier, now=NOW + 5, written_at=NOW)
    worse = look(known, observed(wanted), snapshot(relay("r1", "Down"), relay("r2")), now=NOW + 2, written_at=NOW)

    longer = look(known, observed(wanted), busier, now=NOW + 5, written_at=NOW, status_interval=20.0)

    assert (soon.status, soon.again_in) == (None, 3.0)
    assert (longer.status, longer.again_in) == (None, 15.0)
    assert status(later)["calls"] == 4
    assert status(worse)["relays"][0]["state"] == "Down"


def test_times_of_conditions_are_those_of_their_last_change() -> None:
    wanted = relay_set()
    first = merged(wanted, look(wanted, observed(wanted), READY))

    second = look(first, observed(wanted), snapshot(relay("r1"), relay("r2", "Down")), now=NOW + 60)

    times = {one["type"]: one["lastTransitionTime"] for one in status(second)["conditions"]}
    assert times["Ready"] == times["Degraded"] == "2023-11-14T22:14:20Z"
    assert times["Progressing"] == "2023-11-14T22:13:20Z"


def test_the_last_failover_is_summed_over_replicas_and_outlives_them() -> None:
    wanted = relay_set()
    one = snapshot(failovers=(failover(),))
    other = snapshot(
        replica="sig-1", failovers=(failover(started=NOW - 9.7, calls=30, moved=27, failed=3, gap_p50=0.2),)
    )

    known = merged(wanted, look(wanted, observed(wanted), one, other))
    later = merged(known, look(known, observed(wanted), READY, now=NOW + 60))

    assert known.status is not None
    assert known.status.last_failover is not None
    last = known.status.last_failover
    assert (last.calls, last.moved, last.failed, last.gap_p50, last.gap_p99) == (40, 36, 4, 0.175, 0.2)
    assert later.status is not None
    assert later.status.last_failover == last


def test_an_older_failover_does_not_replace_a_newer_one() -> None:
    wanted = relay_set()
    known = merged(wanted, look(wanted, observed(wanted), snapshot(failovers=(failover("r2"),))))

    after = look(known, observed(wanted), snapshot(failovers=(failover("r1", started=NOW - 3600),)))

    assert after.status is None or after.status["lastFailover"]["relay"] == "r2"


def test_a_field_that_is_no_longer_there_is_taken_back_in_nested_objects_too() -> None:
    wanted = relay_set()
    known = merged(wanted, look(wanted, observed(wanted), snapshot(failovers=(failover("r1"),))))

    nobody = failover("r2", started=NOW, calls=1, moved=0, failed=1)
    outcome = look(known, observed(wanted), snapshot(failovers=(nobody,)))

    assert status(outcome)["lastFailover"]["gapP50"] is None


def test_however_news_arrives_the_status_comes_out_the_same() -> None:
    wanted = relay_set()
    news = [
        snapshot(relay("r1"), relay("r2")),
        snapshot(relay("r1", "Suspect"), relay("r2")),
        snapshot(relay("r1", "Down", since=NOW), relay("r2", sessions=3), failovers=(failover(),)),
    ]

    def after(order: list[int]) -> RelaySet:
        state = wanted
        for step in order:
            outcome = look(state, observed(wanted), news[step])
            state = merged(state, outcome) if outcome.status is not None else state
        return state

    assert after([0, 1, 2]).status == after([2]).status == after([1, 1, 0, 2, 2]).status


def test_endpoints_and_selected_pods_are_counted() -> None:
    outside = relay_set({"endpoints": [{"name": "e1", "address": "192.0.2.9", "mediaAddress": "198.51.100.9"}]})
    selected = relay_set({"selector": {"matchLabels": {"app": "x"}}})

    by_address = look(outside, Observed(), snapshot(relay("e1")))
    by_label = look(selected, Observed(pods=(pod("r1"), pod("r2", deleting=True))), snapshot(relay("r1")))

    assert (status(by_address)["replicas"], status(by_address)["selector"]) == (1, "")
    assert status(by_address)["relays"][0]["addresses"] == ["198.51.100.9"]
    assert (status(by_label)["replicas"], status(by_label)["selector"]) == (1, "app=x")
    assert condition(by_label, "Progressing") == ("False", "NotManaged")


def test_a_spent_budget_of_records_is_told() -> None:
    wanted = relay_set()

    outcome = look(wanted, observed(wanted), snapshot(counters={"records_limited": 1}))

    assert condition(outcome, "RecordsLimited") == ("True", "BudgetSpent")
