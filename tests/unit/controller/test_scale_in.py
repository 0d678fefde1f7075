from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from tests.unit.controller.worlds import NOW, pod, relay, snapshot

from kedge.api.names import DRAIN_ANNOTATION, SCALE_IN_ANNOTATION
from kedge.controller.scale_in import DELETION_COST, EMPTYING, ScaleIn, scale_in
from kedge.ports.kube import Manifest
from kedge.ports.records import SignalingSnapshot

READY = [{"type": "Ready", "status": "True"}]


def ready(
    name: str, *, node: str = "", make: str = "1", created: str = "2023-01-01T00:00:00Z", **marks: str
) -> Manifest:
    made = pod(name)
    made["metadata"]["labels"]["pod-template-hash"] = make
    made["metadata"] |= {"creationTimestamp": created, "annotations": marks}
    made["spec"]["nodeName"] = node or f"node-of-{name}"
    made["status"]["conditions"] = READY
    return made


def chosen(name: str, *, ago: float = 0.0, **more: Any) -> Manifest:
    at = datetime.fromtimestamp(NOW - ago, UTC).isoformat()
    return ready(name, **{SCALE_IN_ANNOTATION: at, DELETION_COST: "-2147483648"}, **more)


def decide(wanted: int, pods: list[Manifest], *snapshots: SignalingSnapshot, has: int | None = None) -> ScaleIn:
    deployment = {"spec": {"replicas": len(pods) if has is None else has}}
    return scale_in(wanted, deployment, pods, snapshots, NOW)


def marked(outcome: ScaleIn) -> dict[str, bool]:
    """Who is marked (True) or whose mark is taken back (False), by name."""
    return {
        one["metadata"]["name"]: one["metadata"]["annotations"][SCALE_IN_ANNOTATION] is not None
        for one in outcome.marks
    }


def test_the_relay_with_the_fewest_calls_of_all_processes_is_marked_and_the_number_stays() -> None:
    one = snapshot(relay("a", sessions=4), relay("b", sessions=1), relay("c", sessions=3))
    other = replace(snapshot(relay("a"), relay("b", sessions=6), relay("c", sessions=2)), replica="other")

    outcome = decide(2, [ready("a"), ready("b"), ready("c")], one, other)

    assert (outcome.replicas, outcome.waits, marked(outcome)) == (3, True, {"a": True})
    assert outcome.marks[0]["metadata"]["uid"] == "uid-a"
    assert outcome.marks[0]["metadata"]["annotations"][DELETION_COST] == "-2147483648"


def test_the_number_is_lowered_once_all_know_of_the_wish_and_no_call_is_left() -> None:
    pods = [chosen("a"), ready("b")]
    knows, empty = relay("a", intent="Drain", sessions=1), relay("a", intent="Drain")

    assert decide(1, pods, snapshot(relay("a"))).replicas == 2, "a call may just be placed there"
    assert decide(1, pods, snapshot(knows)).replicas == 2
    assert decide(1, pods, snapshot(empty), snapshot(knows)).replicas == 2
    assert decide(1, pods).replicas == 2, "nobody tells"
    done = decide(1, pods, snapshot(empty), snapshot(relay("a", state="Down")))
    assert (done.replicas, done.waits, done.marks) == (1, False, ())


def test_calls_that_cannot_leave_do_not_put_it_off_for_ever() -> None:
    busy = snapshot(relay("a", intent="Drain", sessions=1))
    assert decide(1, [chosen("a", ago=EMPTYING - 1), ready("b")], busy).replicas == 2
    assert decide(1, [chosen("a", ago=EMPTYING), ready("b")], busy).replicas == 1


def test_the_choice_stands_until_the_replica_set_has_ended_them() -> None:
    idle = snapshot(relay("a", intent="Drain"), relay("b"))
    assert decide(1, [chosen("a"), ready("b")], idle, has=1).marks == ()
    assert marked(decide(1, [chosen("a")], idle, has=1)) == {"a": False}


def test_it_is_taken_back_when_the_set_grows_again() -> None:
    outcome = decide(2, [chosen("a"), ready("b")], snapshot(relay("a", intent="Drain", sessions=1)))
    assert (outcome.replicas, marked(outcome)) == (2, {"a": False})


def test_who_was_chosen_stays_chosen_whatever_becomes_of_the_calls() -> None:
    now = snapshot(relay("a", intent="Drain", sessions=5), relay("b", sessions=0), relay("c", sessions=1))
    pods = [chosen("a"), ready("b"), ready("c")]
    assert decide(2, pods, now).marks == ()
    assert marked(decide(1, pods, now)) == {"b": True}


def test_a_pod_that_is_not_ready_goes_first_as_the_replica_set_will_have_it() -> None:
    sick = ready("c")
    sick["status"]["conditions"] = []
    outcome = decide(2, [chosen("a"), ready("b"), sick], snapshot(relay("a"), relay("b"), relay("c", sessions=9)))
    assert marked(outcome) == {"c": True, "a": False}


def test_a_wish_to_drain_counts_more_than_calls_and_then_crowded_nodes_and_the_newest_go_first() -> None:
    idle = snapshot(relay("a", sessions=5), relay("b"), relay("c"))
    wished = ready("a", **{DRAIN_ANNOTATION: "true"})
    assert marked(decide(2, [wished, ready("b"), ready("c")], idle)) == {"a": True}
    crowd = [ready("b", node="n"), ready("c", node="n"), ready("d", created="2024-01-01T00:00:00Z")]
    assert marked(decide(2, crowd, snapshot())) == {"b": True}
    assert marked(decide(2, [ready("b"), ready("c"), crowd[2]], snapshot())) == {"d": True}


def test_nothing_is_chosen_while_pods_are_replaced_or_are_too_few_anyway() -> None:
    assert decide(1, [ready("a"), ready("b", make="2")], snapshot()) == ScaleIn(replicas=1)
    assert decide(2, [ready("a"), ready("b")], snapshot(), has=3) == ScaleIn(replicas=2)
    assert scale_in(2, None, [], (), NOW) == ScaleIn(replicas=2)
