"""The chart as Helm renders it: golden files, refusals of wrong values, and what must agree with other files.

``UPDATE_GOLDEN=1`` writes the golden files anew: then read the difference.
"""

from __future__ import annotations

import base64
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
from kedge.api.settings import Settings
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
    for one in found:
        if one["kind"] == "Secret":
            one["data"] = dict.fromkeys(one["data"], "random")
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
        assert spec["securityContext"]["fsGroup"] == spec["securityContext"]["runAsGroup"], "Secrets can be read"
        assert [one["securityContext"] for one in spec["containers"]] == [RESTRICTED] * len(spec["containers"])


def tokens(found: Objects) -> dict[str, str]:
    return {name: one["data"]["token"] for (kind, name), one in found.items() if kind == "Secret"}


def test_tokens_are_random_and_stand_in_their_secrets_alone(helm: Path) -> None:
    first, second = rendered(helm, "default"), rendered(helm, "default")
    made = [*tokens(objects(first)).values(), *tokens(objects(second)).values()]

    assert set(tokens(objects(first))) == {"kedge-admin-token", "kedge-report-token"}
    assert len(set(made)) == 4
    for one in made[:2]:
        plain = base64.b64decode(one).decode()
        assert re.fullmatch(r"[A-Za-z0-9]{48}", plain)
        assert first.count(one) == 1
        assert plain not in first


def test_with_secrets_of_ones_own_none_is_made(helm: Path) -> None:
    words = ("--set", "adminToken.existingSecret=ours", "--set", "adminToken.existingReportSecret=reports")
    found = objects(template(helm, *words).stdout)

    assert tokens(found) == {}
    assert token_files(found["Deployment", "kedge-signaling"]) == {"admin": "ours", "report": "reports"}
    assert token_files(found["Deployment", "kedge-operator"]) == {"admin": "ours"}
    assert {"name": "KEDGE_REPORT_SECRET", "value": "reports"} in environment(found["Deployment", "kedge-operator"])


def token_files(deployment: dict[str, Any]) -> dict[str, str]:
    """The Secret by the name of the file that its token is."""
    volumes = deployment["spec"]["template"]["spec"]["volumes"]
    sources = [one["secret"] for volume in volumes for one in volume.get("projected", {}).get("sources", ())]
    return {item["path"]: one["name"] for one in sources for item in one["items"]}


def environment(deployment: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    return found


@pytest.mark.parametrize("case", CASES)
def test_no_role_may_read_secrets_and_each_pod_has_the_files_that_it_reads(helm: Path, case: str) -> None:
    found = objects(rendered(helm, case))

    for (kind, name), one in found.items():
        for rule in one["rules"] if kind == "Role" else ():
            assert not {"secrets", "*"} & set(rule["resources"]), name
        if kind == "Deployment":
            (mount,) = [
                each
                for each in one["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
                if each["name"] == "tokens"
            ]
            wanted = {"admin"} if name.endswith("-operator") else {"admin", "report"}
            assert {f"{mount['mountPath']}/{each}" for each in token_files(one)} == {
                f"/etc/kedge-tokens/{each}" for each in wanted
            }


def test_without_an_admin_api_there_are_no_tokens(helm: Path) -> None:
    found = objects(template(helm, "--set", "settings.admin=null").stdout)

    assert tokens(found) == {}
    assert token_files(found["Deployment", "kedge-signaling"]) == {}


@pytest.mark.parametrize("case", WITH_SETTINGS)
def test_the_process_takes_the_settings_that_are_rendered(helm: Path, case: str) -> None:
    found = objects(rendered(helm, case))
    text = found["ConfigMap", "kedge-settings"]["data"]["settings.yaml"]

    settings = load_settings(text, environment={"POD_IP": "192.0.2.7"})

    assert settings.sip.listen[0].address == "192.0.2.7"
    assert settings.metrics is not None
    assert settings.admin is not None
    files = token_files(found["Deployment", "kedge-signaling"])
    assert {settings.admin.token_file, settings.admin.report_token_file} == {
        f"/etc/kedge-tokens/{one}" for one in files
    }
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
    ("grace", "least"), [("5m", 330), ("1h2m3s", 3753), ("1500ms", 32), ("0s", 30)], ids=lambda one: str(one)
)
def test_a_pod_has_the_time_that_its_calls_are_given(helm: Path, grace: str, least: int) -> None:
    def with_seconds(seconds: int) -> subprocess.CompletedProcess[str]:
        given = f"settings.signaling.shutdownGrace={grace},signaling.terminationGracePeriodSeconds={seconds}"
        return template(helm, "--set", given)

    enough, too_short = with_seconds(least), with_seconds(least - 1)

    assert enough.returncode == 0, enough.stderr
    assert too_short.returncode != 0
    assert f"signaling.terminationGracePeriodSeconds: must be {least} or more" in too_short.stderr


def test_the_chart_knows_the_default_of_the_grace(helm: Path) -> None:
    least = round(Settings().signaling.shutdown_grace) + 30

    done = template(helm, "--set", f"signaling.terminationGracePeriodSeconds={least - 1}")

    assert f"must be {least} or more" in done.stderr


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
    for part in ("operator", "signaling", "networkPolicy", "adminToken", "image", "relays", "test"):
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

    made = {(one["kind"], one["metadata"]["name"]) for one in chart.render(helm, "--include-crds")}
    assert set(found) == {one for one in made if one[0] != "Secret"}
    for _, name in made - set(found):
        told = (plain / "kustomization.yaml").read_text(encoding="utf-8")
        assert name in {f"kedge-{scope}-token" for scope in re.findall(r"admin|report", told)}


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
