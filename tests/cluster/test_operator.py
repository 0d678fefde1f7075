"""The operator against a real API server. There are no controllers in it: pods are what the test makes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.conftest import BROKEN_TLS, Namespace

from kedge.adapters.kube_client import KubeClient
from kedge.controller.manifests import ManifestSettings
from kedge.controller.operator import Operator, OperatorSettings
from kedge.ports.kube import RELAY_SET_KIND, Kind, Manifest
from kedge.ports.records import EventRecord, FailoverRecord, RelayRecord, SignalingSnapshot

pytestmark = BROKEN_TLS

LABELS = {"kedge.media/relayset": "voice"}


class View:
    """Signaling, as far as the operator sees it."""

    def __init__(self) -> None:
        self.now: tuple[SignalingSnapshot, ...] = (SignalingSnapshot(replica="sig-0", at=0.0),)

    async def snapshots(self) -> tuple[SignalingSnapshot, ...]:
        return self.now


class Hurried:
    """A clock for which each look takes a minute."""

    def __init__(self) -> None:
        self._now = 0.0

    def __call__(self) -> float:
        self._now += 60.0
        return self._now


def relay_set(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "kedge.media/v1alpha1",
        "kind": "RelaySet",
        "metadata": {"name": "voice"},
        "spec": {"engine": "RTPEngine", **spec},
    }


def relay(namespace: Namespace, pod: dict[str, Any], state: str = "Ready", *, sessions: int = 0) -> RelayRecord:
    return RelayRecord(
        uid=pod["metadata"]["uid"],
        name=pod["metadata"]["name"],
        relay_set=f"{namespace.name}/voice",
        address=f"{pod['status']['podIP']}:2223",
        state=state,
        reason="Probed" if state == "Ready" else "Refused",
        message="",
        since=1_700_000_000.0,
        sessions=sessions,
        instance="i1",
        node="node-a",
    )


@contextmanager
def running(
    namespace: Namespace,
    view: View,
    directory: Path,
    monotonic: Callable[[], float] = time.monotonic,
    *,
    client: Callable[[str], KubeClient] = KubeClient,
    resync: float = 5.0,
) -> Iterator[Operator]:
    settings = OperatorSettings(
        manifests=ManifestSettings(image="relay:1", signaling_labels={"app.kubernetes.io/component": "signaling"}),
        namespace=namespace.name,
        resync=resync,
        poll=0.2,
    )
    operator = Operator(settings, client(namespace.kubeconfig("operator", directory)), view, monotonic=monotonic)
    operator.start()
    try:
        yield operator
        assert operator.alive
    finally:
        assert operator.stop()


@pytest.fixture
def view() -> View:
    return View()


def condition(manifest: dict[str, Any], kind: str) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in manifest["status"]["conditions"] if one["type"] == kind)
    return found


def test_a_relay_set_gets_what_runs_its_relays(namespace: Namespace, view: View, tmp_path: Path) -> None:
    owner = namespace.create(relay_set(replicas=2))

    with running(namespace, view, tmp_path):
        namespace.until(lambda: bool(namespace.get("networkpolicy", "voice-relay")), "the last object is applied")
        deployment = namespace.get("deployment", "voice-relay")
        namespace("scale", "relayset", "voice", "--replicas=3")
        namespace.until(lambda: namespace.get("deployment", "voice-relay")["spec"]["replicas"] == 3, "it is scaled")

    assert deployment["spec"]["replicas"] == 2
    assert deployment["metadata"]["ownerReferences"][0]["uid"] == owner["metadata"]["uid"]
    assert namespace.get("poddisruptionbudget", "voice-relay")["spec"]["maxUnavailable"] == 1


def test_what_others_change_is_put_right_and_what_they_add_stays(
    namespace: Namespace, view: View, tmp_path: Path
) -> None:
    namespace.create(relay_set(replicas=2))
    with running(namespace, view, tmp_path):
        namespace.until(lambda: bool(namespace.get("networkpolicy", "voice-relay")), "all is applied")
        template = {"spec": {"containers": [{"name": "relay", "image": "evil:1"}]}}
        patch = {"metadata": {"annotations": {"mine": "yes"}}, "spec": {"replicas": 9, "template": template}}

        namespace("patch", "deployment", "voice-relay", "-p", json.dumps(patch))

        def right() -> bool:
            spec = namespace.get("deployment", "voice-relay")["spec"]
            image = spec["template"]["spec"]["containers"][0]["image"]
            return bool(spec["replicas"] == 2 and image == "relay:1")

        namespace.until(right, "replicas and image are as before")
    assert namespace.get("deployment", "voice-relay")["metadata"]["annotations"]["mine"] == "yes"


def test_a_deployment_of_someone_else_is_left_alone(namespace: Namespace, view: View, tmp_path: Path) -> None:
    namespace("create", "deployment", "voice-relay", "--image=theirs:1")
    namespace.create(relay_set(replicas=2))

    with running(namespace, view, tmp_path):
        namespace.until(lambda: "status" in namespace.get("relayset", "voice"), "a status is written")

    ready = condition(namespace.get("relayset", "voice"), "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "CannotServe")
    assert "voice-relay exists" in ready["message"]
    template = namespace.get("deployment", "voice-relay")["spec"]["template"]
    assert template["spec"]["containers"][0]["image"] == "theirs:1"


def test_status_scale_and_events_tell_what_signaling_tells(namespace: Namespace, view: View, tmp_path: Path) -> None:
    namespace.create(relay_set(replicas=2))
    one = namespace.relay_pod("r1", LABELS, "192.0.2.11")
    two = namespace.relay_pod("r2", LABELS, "192.0.2.12")
    key = f"{namespace.name}/voice"
    now = time.time()
    view.now = (
        SignalingSnapshot(replica="sig-0", at=now, relays=(relay(namespace, one, sessions=7), relay(namespace, two))),
    )
    with running(namespace, view, tmp_path):
        namespace.until(lambda: condition(namespace.get("rly", "voice"), "Ready")["status"] == "True", "it is ready")
        before = namespace.get("rly", "voice")["status"]
        scale = namespace.server.kubectl(
            "get", "--raw", f"/apis/kedge.media/v1alpha1/namespaces/{namespace.name}/relaysets/voice/scale"
        )

        loss = FailoverRecord(
            relay_set=key,
            relay="r1",
            reason="Refused",
            started=now,
            calls=7,
            moved=7,
            failed=0,
            pending=0,
            detection=0.1,
            gap_p50=0.12,
            gap_p99=0.15,
        )
        told = EventRecord(at=now, warning=True, reason="RelayDown", message="r1 refuses", relay_set=key, relay="r1")
        relays = (relay(namespace, one, "Down"), relay(namespace, two, sessions=7))
        view.now = (SignalingSnapshot(replica="sig-0", at=now, relays=relays, failovers=(loss,), events=(told,)),)
        namespace.until(lambda: "lastFailover" in namespace.get("rly", "voice")["status"], "the failover is told")
        namespace.until(lambda: len(namespace.list("events.events.k8s.io")) == 2, "the event is told")
        of_pod = namespace("describe", "pod", "r1")

    assert (before["readyReplicas"], before["calls"], before["state"]) == (2, 7, "Progressing")
    assert '"replicas":2' in scale
    assert '"selector":"kedge.media/relayset=voice"' in scale
    after = namespace.get("rly", "voice")["status"]
    assert after["lastFailover"]["moved"] == 7
    assert after["lastFailover"]["gapP50"] == "120ms"
    assert [(each["name"], each["state"]) for each in after["relays"]] == [("r1", "Down"), ("r2", "Ready")]
    assert "r1 is Down (Refused)" in condition({"status": after}, "Degraded")["message"]
    about = [one["regarding"] for one in namespace.list("events.events.k8s.io") if one["reason"] == "RelayDown"]
    assert sorted((one["kind"], one["name"]) for one in about) == [("Pod", "r1"), ("RelaySet", "voice")]
    assert "RelayDown" in of_pod


def test_a_new_operator_changes_nothing(namespace: Namespace, view: View, tmp_path: Path) -> None:
    namespace.create(relay_set(replicas=1))
    with running(namespace, view, tmp_path):
        namespace.until(lambda: "status" in namespace.get("rly", "voice"), "a status is written")
        namespace.until(lambda: bool(namespace.get("networkpolicy", "voice-relay")), "all is applied")
    kinds = ("deployment", "poddisruptionbudget", "networkpolicy")
    before = [namespace.get(kind, "voice-relay")["metadata"]["resourceVersion"] for kind in kinds]

    pod = namespace.relay_pod("r1", LABELS, "192.0.2.11")
    view.now = (SignalingSnapshot(replica="sig-0", at=0.0, relays=(relay(namespace, pod),)),)
    with running(namespace, view, tmp_path):
        namespace.until(lambda: namespace.get("rly", "voice")["status"]["readyReplicas"] == 1, "it has looked")

    assert [namespace.get(kind, "voice-relay")["metadata"]["resourceVersion"] for kind in kinds] == before


class Counting(KubeClient):
    """Counts resyncs and writes."""

    def __init__(self, kubeconfig: str) -> None:
        super().__init__(kubeconfig)
        self.resyncs = 0
        self.writes: list[str] = []

    async def list_objects(self, kind: Kind, namespace: str, selector: str = "") -> list[Manifest]:
        self.resyncs += kind == RELAY_SET_KIND
        return await super().list_objects(kind, namespace, selector)

    async def apply(self, kind: Kind, manifest: Manifest, *, subresource: str = "") -> Manifest:
        self.writes.append(f"apply {kind.kind}")
        return await super().apply(kind, manifest, subresource=subresource)

    async def patch_status(self, kind: Kind, namespace: str, name: str, status: Manifest) -> Manifest:
        self.writes.append(f"status {kind.kind}")
        return await super().patch_status(kind, namespace, name, status)


def test_a_resync_writes_nothing_where_nothing_has_changed(namespace: Namespace, view: View, tmp_path: Path) -> None:
    namespace.create(relay_set(replicas=1))
    namespace.relay_pod("r1", LABELS, "192.0.2.11")
    made: list[Counting] = []

    def counting(kubeconfig: str) -> KubeClient:
        made.append(Counting(kubeconfig))
        return made[0]

    with running(namespace, view, tmp_path, client=counting, resync=0.5):
        (client,) = made
        namespace.until(lambda: "status RelaySet" in client.writes, "a status is written")
        first = client.resyncs
        namespace.until(lambda: client.resyncs >= first + 4, "all has come to rest")
        before = list(client.writes)
        namespace.until(lambda: client.resyncs >= first + 9, "several resyncs later")

        assert client.writes == before


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "crashed"])
def test_it_catches_up_after_the_api_server_was_away(
    namespace: Namespace, view: View, tmp_path: Path, frozen: bool
) -> None:
    namespace.create(relay_set(replicas=1))
    pod = namespace.relay_pod("r1", LABELS, "192.0.2.11")
    with running(namespace, view, tmp_path) as operator:
        namespace.until(lambda: "status" in namespace.get("rly", "voice"), "a status is written")

        namespace.server.cut(frozen=frozen)
        view.now = (SignalingSnapshot(replica="sig-0", at=0.0, relays=(relay(namespace, pod, sessions=3),)),)
        namespace.server.restore()

        namespace.until(lambda: namespace.get("rly", "voice")["status"]["calls"] == 3, "the status has caught up")
        namespace("scale", "relayset", "voice", "--replicas=4")
        namespace.until(lambda: namespace.get("deployment", "voice-relay")["spec"]["replicas"] == 4, "it watches again")
        assert operator.alive


def test_call_objects_of_a_signaling_process_that_is_gone_are_removed(
    namespace: Namespace, view: View, tmp_path: Path
) -> None:
    for name, replica in (("orphan", "sig-9"), ("living", "sig-0")):
        labels = {"kedge.media/replica": replica}
        spec = {"relaySet": "voice", "relay": "r1"}
        namespace.create(
            {
                "apiVersion": "kedge.media/v1alpha1",
                "kind": "Call",
                "metadata": {"name": name, "labels": labels},
                "spec": spec,
            }
        )

    with running(namespace, view, tmp_path, monotonic=Hurried()):
        namespace.until(lambda: len(namespace.list("calls")) == 1, "the orphan is removed")

    assert namespace.list("calls")[0]["metadata"]["name"] == "living"
