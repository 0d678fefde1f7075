"""The chart as Helm renders it: golden files, refusals of wrong values, and what must agree with other files.

``UPDATE_GOLDEN=1`` writes the golden files anew: then read the difference.
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from scripts import chart
from tests.lab import binaries

from kedge.adapters.kube_view import SIGNALING_SELECTOR
from kedge.adapters.metrics import registry_of
from kedge.api.load import load_settings
from kedge.ports.records import SignalingSnapshot
from kedge.runtime.stats import Stats

HERE = Path(__file__).parent
CASES = sorted(path.stem for path in (HERE / "values").glob("*.yaml"))
WITH_SETTINGS = [case for case in CASES if case != "everything"]
RESTRICTED = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}

Objects = Mapping[tuple[str, str], dict[str, Any]]


@pytest.fixture(scope="session")
def helm() -> Path:
    return binaries.helm()


def template(helm: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [str(helm), "template", "kedge", str(chart.CHART), "--namespace=voice", chart.KUBE, *words]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def rendered(helm: Path, case: str) -> str:
    done = template(helm, "--values", str(HERE / "values" / f"{case}.yaml"))
    assert done.returncode == 0, done.stderr
    return done.stdout


def objects(text: str) -> Objects:
    return {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(text) if one}


def pods(found: Objects) -> Iterator[dict[str, Any]]:
    for (kind, _), one in found.items():
        if kind == "Deployment":
            yield one["spec"]["template"]
        elif kind == "Pod":
            yield one


@pytest.mark.parametrize("case", CASES)
def test_it_is_rendered_as_in_the_golden_file(helm: Path, case: str) -> None:
    found = [one for _, one in sorted(objects(rendered(helm, case)).items()) if one["kind"] != "Role"]
    text = yaml.safe_dump_all(found, sort_keys=False, width=120)

    path = HERE / "golden" / f"{case}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_lint_finds_nothing(helm: Path) -> None:
    done = subprocess.run(
        [str(helm), "lint", "--strict", str(chart.CHART)], check=False, capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("case", CASES)
def test_no_container_has_more_rights_than_restricted_pods_may_have(helm: Path, case: str) -> None:
    found = list(pods(objects(rendered(helm, case))))

    assert found
    for pod in found:
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert [one["securityContext"] for one in spec["containers"]] == [RESTRICTED] * len(spec["containers"])


@pytest.mark.parametrize("case", WITH_SETTINGS)
def test_the_process_takes_the_settings_that_are_rendered(helm: Path, case: str) -> None:
    found = objects(rendered(helm, case))
    text = found["ConfigMap", "kedge-settings"]["data"]["settings.yaml"]

    settings = load_settings(text, environment={"POD_IP": "192.0.2.7"})

    assert settings.sip.listen[0].address == "192.0.2.7"
    assert settings.metrics is not None
    deployment = found["Deployment", "kedge-signaling"]
    assert settings.signaling.replicas == deployment["spec"]["replicas"], "each takes its share of the limits"


@pytest.mark.parametrize("case", CASES)
def test_the_operator_and_the_policies_of_relays_find_signaling_by_its_labels(helm: Path, case: str) -> None:
    name = "voice" if case == "everything" else "kedge"
    labels = objects(rendered(helm, case))["Deployment", f"{name}-signaling"]["spec"]["template"]["metadata"]["labels"]

    assert dict(one.split("=") for one in SIGNALING_SELECTOR.split(",")).items() <= labels.items()


@pytest.mark.parametrize("case", ["default", "embedded"])
def test_the_roles_have_the_rules_of_the_manifests_and_no_more(helm: Path, case: str) -> None:
    found = objects(rendered(helm, case))
    plain = objects((chart.MANIFESTS / "rbac.yaml").read_text(encoding="utf-8"))

    for key, role in plain.items():
        if key[0] == "Role":
            assert found[key]["rules"] == role["rules"]
    assert {kind for kind, _ in found if "Role" in kind} == {"Role", "RoleBinding"}, "none of the whole cluster"


def test_more_signaling_pods_leave_those_that_run_in_peace(helm: Path) -> None:
    two, three = (
        objects(template(helm, "--set", f"signaling.replicas={count}").stdout)["Deployment", "kedge-signaling"]
        for count in (2, 3)
    )

    assert (two["spec"]["replicas"], three["spec"]["replicas"]) == (2, 3)
    assert two["spec"]["template"] == three["spec"]["template"]


@pytest.mark.parametrize(
    ("change", "rolled"),
    [
        ("settings.sip.userAgent=Changed", set()),
        ("settings.signaling.zone=b", set()),
        ("settings.log.level=debug", set()),
        ("settings.sip.listen[0].address=192.0.2.1", {"kedge-signaling", "kedge-operator"}),
        ("settings.signaling.replica=one", {"kedge-signaling", "kedge-operator"}),
        ("settings.kube.namespace=other", {"kedge-signaling", "kedge-operator"}),
        ("settings.kube.leadership.retry=1s", {"kedge-operator"}),
    ],
)
def test_only_settings_that_take_effect_at_a_start_roll_pods(helm: Path, change: str, rolled: set[str]) -> None:
    before, after = pod_templates(helm), pod_templates(helm, "--set", change)
    embedded = "--set=mode=embedded"

    assert {name for name in before if before[name] != after[name]} == rolled
    kept = pod_templates(helm, embedded) == pod_templates(helm, embedded, "--set", change)
    assert kept is not bool(rolled), "the operator is in its process"


@functools.cache
def pod_templates(helm: Path, *words: str) -> dict[str, Any]:
    """Return the pod template of each Deployment, by name."""
    found = objects(template(helm, *words).stdout)
    return {name: one["spec"]["template"] for (kind, name), one in found.items() if kind == "Deployment"}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"mode": "both"}, "at '/mode': value must be one of 'split', 'embedded'"),
        ({"replica": 2}, "additional properties 'replica' not allowed"),
        ({"signaling": {"replicas": "two"}}, "at '/signaling/replicas': got string, want integer"),
        ({"signaling": {"hostnetwork": True}}, "at '/signaling': additional properties 'hostnetwork' not allowed"),
        ({"image": {"pullPolicy": "Sometimes"}}, "at '/image/pullPolicy': value must be one of"),
        ({"relays": {"signalingNetworks": ["nodes"]}}, "at '/relays/signalingNetworks/0': 'nodes' does not match"),
        ({"settings": {"sip": {"ringTimeout": 180}}}, "at '/settings/sip/ringTimeout': got number, want string"),
        ({"settings": {"sip": {"ringTimeout": "180"}}}, "at '/settings/sip/ringTimeout': '180' does not match"),
        ({"settings": {"peers": [{"name": "a"}]}}, "at '/settings/peers/0': missing property 'networks'"),
        ({"settings": {"metrics": {"port": 70000}}}, "at '/settings/metrics/port': maximum: got 70,000, want 65,535"),
        ({"settings": {"log": {"level": "chatty"}}}, "at '/settings/log/level': value must be one of"),
    ],
)
def test_a_wrong_value_is_told_by_its_field(helm: Path, tmp_path: Path, values: dict[str, Any], told: str) -> None:
    (tmp_path / "values.json").write_text(json.dumps(values))

    done = template(helm, "--values", str(tmp_path / "values.json"))

    assert done.returncode != 0
    assert told in done.stderr


def test_the_schema_names_every_value_and_no_other() -> None:
    schema = json.loads(chart.SCHEMA.read_text(encoding="utf-8"))
    values = yaml.safe_load((chart.CHART / "values.yaml").read_text(encoding="utf-8"))

    assert set(schema["properties"]) - {"global"} == set(values)
    for part in ("operator", "signaling", "networkPolicy", "image", "relays", "test"):
        assert set(schema["properties"][part]["properties"]) == set(values[part]), part
    assert not list(open_objects(schema, ""))


def open_objects(node: Any, path: str) -> Iterator[str]:
    """Paths of objects with named properties that would take others as well."""
    if isinstance(node, dict):
        if "properties" in node and node.get("type") == "object" and node.get("additionalProperties") is not False:
            yield path
        for key, value in node.items():
            yield from open_objects(value, f"{path}/{key}")


def test_what_follows_from_other_files_is_up_to_date(helm: Path) -> None:
    stale = [path.name for path, text in chart.derived(helm).items() if path.read_text(encoding="utf-8") != text]

    assert not stale, "run `make chart`"


def test_the_manifests_are_the_default_of_the_chart(helm: Path) -> None:
    plain = chart.MANIFESTS
    kustomization = yaml.safe_load((plain / "kustomization.yaml").read_text(encoding="utf-8"))
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for name in kustomization["resources"]:
        found |= objects((plain / name).read_text(encoding="utf-8"))

    assert set(found) == {(one["kind"], one["metadata"]["name"]) for one in chart.render(helm, "--include-crds")}


class NoBooks:
    """Signaling that has seen nothing."""

    stats = Stats()

    def snapshot(self, *, calls: bool = True) -> SignalingSnapshot:
        return SignalingSnapshot(replica="a", at=0.0)

    def parse_errors(self) -> dict[str, int]:
        return {}


@pytest.mark.parametrize("name", ["alerts.yaml", "dashboard.json"])
def test_alerts_and_dashboard_ask_for_metrics_that_exist(name: str) -> None:
    known = {one.name for one in registry_of(NoBooks()).collect()}
    asked = set(re.findall(r"\bkedge_[a-z_]+", (chart.CHART / "files" / name).read_text(encoding="utf-8")))

    assert asked
    assert {re.sub(r"_(total|bucket|sum|count)$", "", one) for one in asked} <= known
