"""The API server's word on the CRDs: it takes them, refuses what is wrong by its field, and fills in defaults."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.lab.control_plane import ApiServer, Kubectl
from tests.lab.daemons import wait_until
from tests.lab.errors import KubectlError
from tests.unit.api.wrong_manifests import CALL, ENDPOINTS, REPLICAS, SELECTOR, WRONG, Json, Wrong, manifest

from kedge.api.call import Call, CallSpec
from kedge.api.relayset import RelaySet

ROOT = Path(__file__).parents[2]
NAMESPACE = "crd-tests"
SAMPLES = sorted((ROOT / "manifests" / "samples").glob("relayset-*.yaml"))


class Objects:
    """kubectl in a namespace of this module's own."""

    def __init__(self, kubectl: Kubectl) -> None:
        self._kubectl = kubectl

    def __call__(self, *args: str, stdin: str | None = None) -> str:
        return self._kubectl(f"--namespace={NAMESPACE}", *args, stdin=stdin)

    def create(self, manifest_: Json, *flags: str) -> Json:
        created: Json = json.loads(self("create", "-f", "-", "-o", "json", *flags, stdin=json.dumps(manifest_)))
        return created

    def get(self, kind: str, name: str) -> Json:
        found: Json = json.loads(self("get", kind, name, "-o", "json"))
        return found

    def patch(self, kind: str, name: str, spec: Json) -> None:
        self("patch", kind, name, "--type=merge", "-p", json.dumps({"spec": spec}))

    def refused(self, *args: str, stdin: str | None = None) -> str:
        """What the API server says when it refuses."""
        with pytest.raises(KubectlError) as caught:
            self(*args, stdin=stdin)
        return caught.value.stderr


@pytest.fixture(scope="module")
def objects(apiserver: ApiServer) -> Iterator[Objects]:
    """The CRDs are applied, and this module has a namespace; other modules may need the CRDs, so they stay."""
    kubectl = apiserver.kubectl
    kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
    names = ("crd/relaysets.kedge.media", "crd/calls.kedge.media")
    kubectl("wait", "--for=condition=Established", "--timeout=30s", *names)
    wait_until(lambda: _served(kubectl), "both kinds are served", timeout=30)
    kubectl("create", "namespace", NAMESPACE)
    yield Objects(kubectl)
    kubectl("delete", "relaysets,calls", "--all", f"--namespace={NAMESPACE}")
    kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def _served(kubectl: Kubectl) -> bool:
    try:
        kubectl("get", "relaysets,calls", "--all-namespaces")
    except KubectlError:
        return False
    return True


@pytest.fixture
def relay_set(objects: Objects) -> Iterator[str]:
    """A RelaySet with replicas."""
    objects.create(manifest(REPLICAS, name="voice"))
    yield "voice"
    objects("delete", "relayset", "voice")


@pytest.fixture
def call(objects: Objects) -> Iterator[str]:
    """A Call."""
    objects.create(manifest(CALL, kind="Call", name="c1"))
    yield "c1"
    objects("delete", "call", "c1")


def test_crds_are_accepted_without_a_complaint(objects: Objects) -> None:
    for name in ("relaysets.kedge.media", "calls.kedge.media"):
        conditions = {one["type"]: one["status"] for one in objects.get("crd", name)["status"]["conditions"]}

        assert conditions == {"NamesAccepted": "True", "Established": "True"}, "NonStructuralSchema is not among them"


@pytest.mark.parametrize("wrong", WRONG, ids=[one.name for one in WRONG])
def test_wrong_manifest_is_refused_by_field(objects: Objects, wrong: Wrong) -> None:
    text = json.dumps(manifest(wrong.spec, kind=wrong.kind))

    refusal = objects.refused("create", "--dry-run=server", "-f", "-", stdin=text)

    assert wrong.field in refusal
    assert wrong.says in refusal


@pytest.mark.parametrize("path", SAMPLES, ids=[one.name for one in SAMPLES])
def test_samples_are_accepted_and_read_back_as_in_a_file(objects: Objects, path: Path) -> None:
    sample = yaml.safe_load(path.read_text(encoding="utf-8"))

    created = RelaySet.from_api(objects.create(sample, "--dry-run=server"))

    assert created.spec == RelaySet.parse(sample).spec, "the API server and the models fill in the same defaults"


def test_api_server_fills_in_every_default_of_the_models(objects: Objects) -> None:
    for spec in (REPLICAS, SELECTOR, ENDPOINTS, REPLICAS | {"media": {"portRange": {"max": 40000}}, "health": {}}):
        stored = objects.create(manifest(spec), "--dry-run=server")["spec"]

        written_out = RelaySet.parse(manifest(spec)).spec.dump()
        assert _without_empty(written_out) == _without_empty(stored)


def test_what_the_models_write_is_accepted(objects: Objects) -> None:
    for spec in (REPLICAS | {"template": {"image": "x"}}, SELECTOR, ENDPOINTS):
        full = RelaySet.parse(manifest(spec))

        assert RelaySet.from_api(objects.create(full.dump(), "--dry-run=server")).spec == full.spec


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"engine": "RTPProxy"}, 'spec.engine: Invalid value: "object": the engine of a RelaySet cannot change'),
        (
            {"replicas": None, "selector": SELECTOR["selector"]},
            "cannot change between replicas, selector and endpoints",
        ),
        ({"replicas": None, "endpoints": ENDPOINTS["endpoints"]}, "cannot change between replicas, selector"),
    ],
)
def test_engine_and_source_cannot_change(objects: Objects, relay_set: str, change: Json, says: str) -> None:
    refusal = objects.refused("patch", "relayset", relay_set, "--type=merge", "-p", json.dumps({"spec": change}))

    assert says in refusal


def test_the_rest_of_a_relay_set_can_change(objects: Objects, relay_set: str) -> None:
    objects.patch("relayset", relay_set, {"replicas": 5, "health": {"interval": "1s"}, "template": {"image": "x"}})

    spec = RelaySet.from_api(objects.get("relayset", relay_set)).spec
    assert (spec.replicas, spec.health.interval, spec.health.timeout) == (5, 1.0, 0.1)


def test_a_spec_does_not_change_through_status_nor_status_through_the_spec(objects: Objects, relay_set: str) -> None:
    status = {"calls": 7, "readyReplicas": 2, "replicas": 2, "state": "Ready", "selector": "a=b"}
    both = json.dumps({"spec": {"replicas": 9}, "status": status})

    objects("patch", "relayset", relay_set, "--type=merge", "--subresource=status", "-p", both)
    found = objects.get("rly", relay_set)
    assert (found["spec"]["replicas"], found["status"]["calls"]) == (2, 7)

    objects("patch", "relayset", relay_set, "--type=merge", "-p", json.dumps({"status": {"calls": 0}}))
    assert objects.get("rly", relay_set)["status"]["calls"] == 7


def test_wrong_status_is_refused(objects: Objects, relay_set: str) -> None:
    patch = json.dumps({"status": {"relays": [{"name": "a", "state": "Dead"}]}})

    refusal = objects.refused("patch", "relayset", relay_set, "--type=merge", "--subresource=status", "-p", patch)

    assert "status.relays[0].state: Unsupported value" in refusal


def test_scale_drives_replicas_and_tells_the_selector(objects: Objects, relay_set: str) -> None:
    status = json.dumps({"status": {"replicas": 2, "selector": "kedge.media/relayset=voice"}})
    objects("patch", "relayset", relay_set, "--type=merge", "--subresource=status", "-p", status)

    objects("scale", f"relayset/{relay_set}", "--replicas=4")

    path = f"/apis/kedge.media/v1alpha1/namespaces/{NAMESPACE}/relaysets/{relay_set}/scale"
    scale = json.loads(objects("get", "--raw", path))
    assert objects.get("relayset", relay_set)["spec"]["replicas"] == 4
    assert scale["spec"] == {"replicas": 4}
    assert scale["status"] == {"replicas": 2, "selector": "kedge.media/relayset=voice"}
    assert "spec.replicas" in objects.refused("scale", f"relayset/{relay_set}", "--replicas=257")


def test_columns_tell_what_a_person_wants_to_know(objects: Objects, relay_set: str, call: str) -> None:
    status: Json = {"calls": 7, "readyReplicas": 1, "state": "Degraded"}
    _set_status(objects, "relayset", relay_set, status)
    shown: Json = {"from": "sip:a@x", "to": "sip:b@x", "relay": "voice-0", "state": "Active", "anchors": 1}
    _set_status(objects, "call", call, shown)

    header, line = objects("get", "rly").splitlines()
    assert header.split() == ["NAME", "ENGINE", "DESIRED", "READY", "CALLS", "STATE", "AGE"]
    assert line.split()[:-1] == ["voice", "RTPEngine", "2", "1", "7", "Degraded"]
    header, line = objects("get", "calls").splitlines()
    assert header.split() == ["NAME", "FROM", "TO", "RELAY", "STATE", "ANCHORS", "AGE"]
    assert line.split()[:-1] == ["c1", "sip:a@x", "sip:b@x", "voice-0", "Active", "1"]
    assert objects("get", "kedge", "-o", "name").split() == ["call.kedge.media/c1", "relayset.kedge.media/voice"]


def test_a_call_may_get_another_relay_and_be_ended_for_good(objects: Objects, call: str) -> None:
    objects.patch("call", call, {"relay": "voice-1"})
    assert CallSpec.parse(objects.get("call", call)["spec"]).relay == "voice-1"

    for change, says in (
        ({"engine": "RTPProxy"}, "the engine of a call cannot change"),
        ({"relaySet": "other"}, "the relay set of a call cannot change"),
    ):
        said = objects.refused("patch", "call", call, "--type=merge", "-p", json.dumps({"spec": change}))
        assert says in said
    objects.patch("call", call, {"state": "Terminated"})
    again = json.dumps({"spec": {"state": "Active"}})
    assert "spec.state" in objects.refused("patch", "call", call, "--type=merge", "-p", again)


def test_call_has_the_defaults_of_the_model(objects: Objects) -> None:
    stored = objects.create(manifest(CALL, kind="Call"), "--dry-run=server")

    assert Call.from_api(stored).spec == Call.parse(manifest(CALL, kind="Call")).spec


def test_fields_are_explained(objects: Objects) -> None:
    assert "Time between two probes of one relay." in objects("explain", "relayset.spec.health.interval")


def _set_status(objects: Objects, kind: str, name: str, status: Json) -> None:
    patch = json.dumps({"status": status})
    objects("patch", kind, name, "--type=merge", "--subresource=status", "-p", patch)


def _without_empty(data: Any) -> Any:
    """Absent and empty are the same to a reader."""
    if isinstance(data, list):
        return [_without_empty(one) for one in data]
    if not isinstance(data, dict):
        return data
    slim = {key: _without_empty(value) for key, value in data.items()}
    return {key: value for key, value in slim.items() if value not in ("", [], {})}
