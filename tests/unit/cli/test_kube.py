"""``kubectl kedge``: what is read from and written to the objects of a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.unit.cli.fake_cluster import FakeCluster

from kedge.cli.kube import ClusterError, KubeTarget
from kedge.ports.kube import Manifest
from kedge.ports.records import CallState
from kedge.relay.model import Intent

SPACE = "media"


def relay_set(name: str = "voice", *, status: Manifest | None = None, **spec: Any) -> Manifest:
    return {
        "apiVersion": "kedge.media/v1alpha1", "kind": "RelaySet",
        "metadata": {"name": name, "namespace": SPACE, "uid": name},
        "spec": {"engine": "RTPEngine", **(spec or {"replicas": 2})}, "status": status or {},
    }  # fmt: skip


def pod(name: str, **labels: str) -> Manifest:
    return {"kind": "Pod", "metadata": {"name": name, "namespace": SPACE, "labels": labels}}


def call(name: str, *, status: Manifest | None = None) -> Manifest:
    return {
        "apiVersion": "kedge.media/v1alpha1", "kind": "Call",
        "metadata": {
            "name": name, "namespace": SPACE, "labels": {"kedge.media/relay": "relay-a"},
            "creationTimestamp": "2026-01-01T10:00:00Z",
        },
        "spec": {"relaySet": "voice", "relay": "relay-a"},
    } | ({"status": status} if status else {})  # fmt: skip


RELAY = pod("relay-a", **{"kedge.media/relayset": "voice"})


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster(relay_set(), RELAY)


@pytest.fixture
def target(cluster: FakeCluster) -> Iterator[KubeTarget]:
    with KubeTarget(namespace=SPACE, api=cluster) as made:
        yield made
    assert cluster.closed


def notes(cluster: FakeCluster, kind: str, name: str) -> dict[str, str]:
    found: dict[str, str] = cluster.objects[kind, SPACE, name]["metadata"].get("annotations", {})
    return found


def test_a_drain_and_a_cordon_are_annotations_of_the_pod_that_go_again(
    cluster: FakeCluster, target: KubeTarget
) -> None:
    target.wish("relay-a", Intent.DRAIN)
    drained = dict(notes(cluster, "Pod", "relay-a"))
    target.wish("relay-a", Intent.CORDON)
    both = dict(notes(cluster, "Pod", "relay-a"))
    target.wish("relay-a", Intent.SERVE)

    assert drained == {"kedge.media/drain": "true"}
    assert both == {"kedge.media/drain": "true", "kedge.media/cordon": "true"}
    assert notes(cluster, "Pod", "relay-a") == {}


def test_a_pod_of_others_is_a_relay_where_a_set_selects_pods(cluster: FakeCluster, target: KubeTarget) -> None:
    cluster.put(pod("theirs", app="rtpengine"))
    with pytest.raises(ClusterError, match="pod theirs is no relay"):
        target.wish("theirs", Intent.DRAIN)
    cluster.put(relay_set("own", selector={"matchLabels": {"app": "rtpengine"}}))

    target.wish("theirs", Intent.DRAIN)

    assert [name for _, name, _ in cluster.patches] == ["theirs"]


def test_a_relay_by_address_is_drained_in_the_spec_of_its_set(cluster: FakeCluster, target: KubeTarget) -> None:
    racks = [{"name": f"rack-{n}", "address": f"192.0.2.{n}", "port": 2223} for n in (1, 2)]
    cluster.put(relay_set("metal", endpoints=racks))
    cluster.objects["RelaySet", SPACE, "metal"]["metadata"]["resourceVersion"] = "17"

    target.wish("rack-2", Intent.DRAIN)

    spec = {"endpoints": [racks[0], racks[1] | {"intent": "Drain"}]}
    assert cluster.patches == [("RelaySet", "metal", {"metadata": {"resourceVersion": "17"}, "spec": spec})]


def test_of_two_relays_of_a_name_the_set_says_which(cluster: FakeCluster, target: KubeTarget) -> None:
    for name in ("metal", "tin"):
        cluster.put(relay_set(name, endpoints=[{"name": "rack-1", "address": "192.0.2.1", "port": 2223}]))

    with pytest.raises(ClusterError, match="several RelaySets have a relay rack-1: say which with --set"):
        target.wish("rack-1", Intent.CORDON)
    target.wish("rack-1", Intent.CORDON, relay_set="media/tin")

    assert [name for _, name, _ in cluster.patches] == ["tin"]


def test_a_relay_that_is_not_there_is_told(cluster: FakeCluster, target: KubeTarget) -> None:
    with pytest.raises(ClusterError, match="there is no relay nobody in namespace media"):
        target.wish("nobody", Intent.DRAIN)
    assert cluster.patches == []


def test_a_rebalance_is_the_time_of_the_wish_on_the_set(cluster: FakeCluster, target: KubeTarget) -> None:
    before = datetime.now(UTC)

    key = target.rebalance("")

    at = datetime.fromisoformat(notes(cluster, "RelaySet", "voice")["kedge.media/rebalance"])
    assert key == "media/voice"
    assert abs((at - before).total_seconds()) < 60
    assert at.tzinfo is not None


def test_which_set_is_to_be_rebalanced_must_be_plain(cluster: FakeCluster, target: KubeTarget) -> None:
    cluster.put(relay_set("still", replicas=2, rebalance={"mode": "Disabled"}))

    with pytest.raises(ClusterError, match="say which RelaySet is meant; namespace media has: still, voice"):
        target.rebalance("")
    with pytest.raises(ClusterError, match="there is no RelaySet vioce"):
        target.rebalance("vioce")
    with pytest.raises(ClusterError, match=r"still has rebalance\.mode Disabled"):
        target.rebalance("still")
    assert cluster.patches == []
    assert target.rebalance("media/voice") == "media/voice"


def test_a_call_is_moved_and_ended_by_its_spec(cluster: FakeCluster, target: KubeTarget) -> None:
    cluster.put(call("call-1"))
    cluster.put(relay_set("metal", endpoints=[{"name": "rack-1", "address": "192.0.2.7", "port": 2223}]))

    target.move("call-1", "relay-a")
    target.move("call-1", "rack-1")
    target.terminate("call-1")

    assert [patch for _, _, patch in cluster.patches] == [
        {"spec": {"relay": "relay-a"}}, {"spec": {"relay": "rack-1"}}, {"spec": {"state": "Terminated"}}
    ]  # fmt: skip
    with pytest.raises(ClusterError, match="there is no relay relay-z"):
        target.move("call-1", "relay-z")
    with pytest.raises(ClusterError, match='the cluster says: calls "call-9" not found'):
        target.move("call-9", "relay-a")


def test_relays_are_those_of_the_status(cluster: FakeCluster, target: KubeTarget) -> None:
    since = "2026-01-01T10:00:00Z"
    relays = [
        {"name": "relay-a", "state": "Ready", "sessions": 3, "control": "10.0.0.1:2223", "since": since},
        {"name": "relay-b", "state": "Draining", "reason": "Draining", "sessions": 1},
    ]
    cluster.put(relay_set(status={"relays": relays, "newField": 1}))
    cluster.put(relay_set("broken", endpoints=7))

    a, b = target.relays()

    assert (a.name, a.relay_set, a.address, a.state, a.sessions, a.intent) == (
        "relay-a", "media/voice", "10.0.0.1:2223", "Ready", 3, "Serve",
    )  # fmt: skip
    assert a.since == datetime(2026, 1, 1, 10, tzinfo=UTC).timestamp()
    assert (b.state, b.intent) == ("Draining", "Drain")
    assert target.snapshot().relays[0].name == "relay-a"


def test_calls_are_the_objects(cluster: FakeCluster, target: KubeTarget) -> None:
    moved = {
        "from": "relay-b", "to": "relay-a", "reason": "Drain", "result": "Moved", "duration": "120ms",
        "at": "2026-01-01T11:00:00Z",
    }  # fmt: skip
    movable = {
        "type": "Movable", "status": "False", "reason": "Recording", "lastTransitionTime": "2026-01-01T11:00:00Z",
    }  # fmt: skip
    status = {
        "state": "Active", "relay": "relay-a", "from": "sip:a@x", "to": "sip:b@y", "anchors": 1, "lastReanchor": moved,
        "started": "2026-01-01T10:00:05Z", "conditions": [movable],
    }  # fmt: skip
    cluster.put(call("call-1", status=status))
    cluster.put(call("call-2"))

    one, two = target.calls()

    assert (one.id, one.relay, one.caller, one.callee, one.state, one.anchors) == (
        "call-1", "relay-a", "sip:a@x", "sip:b@y", CallState.ACTIVE, 1,
    )  # fmt: skip
    assert one.last_anchor is not None
    assert (one.last_anchor.source, one.last_anchor.reason, one.last_anchor.duration) == ("relay-b", "Drain", 0.12)
    assert (one.movable.status, one.movable.reason) == (False, "Recording")
    assert (two.state, two.relay) == (CallState.SETTING_UP, "relay-a")
    assert [each.id for each in target.calls(limit=1)] == ["call-1"]
    assert target.calls(relay="relay-z") == []


def test_a_plan_needs_signaling(target: KubeTarget) -> None:
    with pytest.raises(ClusterError, match=r"kubectl exec --namespace .* -- kedge plan.*--server"):
        target.plan("Drain", relay="relay-a")


def test_a_cluster_that_is_away_is_told(cluster: FakeCluster, target: KubeTarget) -> None:
    cluster.away = True

    with pytest.raises(ClusterError, match="the cluster says: away"):
        target.relays()
    with pytest.raises(ClusterError, match="the cluster says: away"):
        target.wish("relay-a", Intent.DRAIN)
