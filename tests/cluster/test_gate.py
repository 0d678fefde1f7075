"""With a media canary, a relay pod is Ready only once media has passed through it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.cluster.system import CALLEE, KedgeInCluster
from tests.lab import Lab

from kedge.controller.gates import MEDIA_READY


def test_a_relay_pod_is_ready_once_a_canary_has_passed(own_lab: Lab, tmp_path: Path) -> None:
    with KedgeInCluster(own_lab, tmp_path, callee=(CALLEE, 5070), sip_port=5060) as kedge:
        kedge.apply(kedge.relay_set("voice", 2, health={"canary": {"mode": "Enabled", "interval": "500ms"}}))

        kedge.wait_ready("voice", 2)

        def passed() -> bool:
            """Each pod has the gate, its condition, and by that is Ready."""
            pods = [kedge.get("pod", one["name"]) for one in kedge.snapshot()["relays"]]
            return len(pods) == 2 and all(is_ready_by_gate(pod) for pod in pods)

        kedge.until(passed, "both pods are Ready, and media has passed")


def is_ready_by_gate(pod: dict[str, Any]) -> bool:
    """Say whether a pod is Ready, with the gate and its condition."""
    conditions = {one["type"]: one["status"] for one in pod["status"]["conditions"]}
    gates = [one["conditionType"] for one in pod["spec"]["readinessGates"]]
    return gates == [MEDIA_READY] and conditions.get(MEDIA_READY) == conditions["Ready"] == "True"
