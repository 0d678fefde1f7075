"""Least privilege, by the API server's own trace: every right that the chart grants is used by something.

That nothing is refused for want of a right is tested wherever Kedge is installed: see ``InstalledKedge``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cluster.background import Background
from tests.cluster.conftest import BROKEN_TLS
from tests.cluster.installed import CHART, InstalledKedge
from tests.cluster.stage import installed, stage
from tests.lab import Lab
from tests.lab.audit import Request

from kedge.adapters.kube_client import KubeClient
from kedge.controller.manifests import ManifestSettings
from kedge.controller.operator import Operator, OperatorSettings
from kedge.ports.records import SignalingSnapshot

pytestmark = BROKEN_TLS

BY_ADMISSION = {("kedge.media", "relaysets/finalizers", "update")}
"""Asked by the admission plugin that the lab has on, whenever an object is made that blocks its owner's deletion."""


@pytest.fixture
def kedge(own_lab: Lab) -> Iterator[InstalledKedge]:
    """Kedge as Helm installs it."""
    with installed(own_lab) as kedge:
        yield kedge


async def test_every_right_that_the_chart_grants_is_used(own_lab: Lab, kedge: InstalledKedge, tmp_path: Path) -> None:
    canary = {"health": {"canary": {"mode": "Enabled"}}}
    async with stage(kedge, 2, spec=canary) as on_stage:
        await on_stage.call(4)
        kedge.until(lambda: len(kedge.get("calls")["items"]) == 4, "a Call object for each call")
        kedge.relay_set(1, spec=canary)
        on_stage.ready(1)
        kedge.until(lambda: told_of_moves(kedge, 2), "the Calls tell of the moves")
        await on_stage.all_heard()
    kedge.until(lambda: not kedge.get("calls")["items"], "the Calls have gone with their calls")
    kedge.relay_set(1, spec={"media": {"hostNetwork": True}})
    kedge.until(lambda: not kedge.get("networkpolicies", "--selector=kedge.media/relayset=voice")["items"], "no policy")

    orphan(kedge)
    with Background(lambda: hurried(own_lab, kedge, tmp_path).run(), inside=own_lab.inside):
        kedge.until(lambda: not kedge.get("calls")["items"], "the orphan is removed")

    trace = own_lab.requests()
    for role in ("operator", "signaling"):
        unused = granted(role) - used(trace, f"{kedge.namespace}:kedge-{role}") - BY_ADMISSION
        assert not unused, f"granted to {role} and not used"


def told_of_moves(kedge: InstalledKedge, count: int) -> bool:
    """Whether so many Calls tell of a move at least."""
    return sum("lastReanchor" in one["status"] for one in kedge.get("calls")["items"]) >= count


def granted(role: str) -> set[tuple[str, str, str]]:
    """Return group, resource and verb of all that the chart grants to a role."""
    rules = yaml.safe_load((CHART / "files" / f"rules-{role}.yaml").read_text())
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def used(trace: list[Request], account: str) -> set[tuple[str, str, str]]:
    """Return what an account has used; server-side apply asks for ``create`` too where the object is new."""
    own = [one for one in trace if one.account == account and one.status < 300]
    applied = {(one.group, one.resource, "create") for one in own if one.verb == "patch" and one.status == 201}
    return {(one.group, one.resource, one.verb) for one in own} | applied


def orphan(kedge: InstalledKedge) -> None:
    """Make a Call object of a signaling process that never was."""
    manifest = {
        "apiVersion": "kedge.media/v1alpha1", "kind": "Call",
        "metadata": {"name": "orphan", "labels": {"kedge.media/replica": "nobody"}},
        "spec": {"relaySet": "voice", "relay": "none"},
    }  # fmt: skip
    kedge.kubectl("create", "-f", "-", stdin=json.dumps(manifest))


class Alone:
    """A view with one signaling process, which has nothing to tell."""

    async def snapshots(self) -> tuple[SignalingSnapshot, ...]:
        return (SignalingSnapshot(replica="alone", at=time.time()),)


def hurried(lab: Lab, kedge: InstalledKedge, folder: Path) -> Operator:
    """Return an operator with the installed one's account, for which the minutes that an orphan is left are seconds."""
    kedge.kubectl("scale", "deployment", "kedge-operator", "--replicas=0")
    config: dict[str, Any] = json.loads(lab.kubectl("config", "view", "--raw", "-o", "json"))
    config["users"][0]["user"] = {"token": kedge.kubectl("create", "token", "kedge-operator").strip()}
    path = folder / "kubeconfig"
    path.write_text(json.dumps(config))
    manifests = ManifestSettings(image=kedge.relay_image, signaling_labels={"app": "none"})
    settings = OperatorSettings(manifests=manifests, namespace=kedge.namespace, resync=1.0)
    return Operator(settings, KubeClient(str(path)), Alone(), monotonic=lambda: time.monotonic() * 100)
