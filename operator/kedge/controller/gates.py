"""The readiness gate of relay pods: a pod is Ready only once media of our own has passed through it.

A rollout waits for it, so a new image that answers commands and relays nothing takes no old relay away. The condition
is true as soon as one signaling process has had a canary through, and false while those that have tried had none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from kedge.ports.kube import POD_KIND, Manifest
from kedge.ports.records import SignalingSnapshot

MEDIA_READY: Final = "kedge.media/media-ready"
"""Type of the condition, and of the gate that asks for it."""


def gates_of(pods: Sequence[Manifest], snapshots: Sequence[SignalingSnapshot]) -> tuple[Manifest, ...]:
    """Return what to apply to the status of pods that have the gate and another condition than signaling tells."""
    told: dict[str, bool] = {}
    for snapshot in snapshots:
        for relay in snapshot.relays:
            if relay.media_ready is not None:
                told[relay.uid] = told.get(relay.uid, False) or relay.media_ready
    return tuple(
        _condition(pod, passed=told[pod["metadata"]["uid"]])
        for pod in pods
        if _has_gate(pod) and pod["metadata"]["uid"] in told and _stands(pod) != told[pod["metadata"]["uid"]]
    )


def _has_gate(pod: Manifest) -> bool:
    gates = pod.get("spec", {}).get("readinessGates") or ()
    return any(one["conditionType"] == MEDIA_READY for one in gates) and "deletionTimestamp" not in pod["metadata"]


def _stands(pod: Manifest) -> bool | None:
    conditions = pod.get("status", {}).get("conditions") or ()
    return next((one["status"] == "True" for one in conditions if one["type"] == MEDIA_READY), None)


def _condition(pod: Manifest, *, passed: bool) -> Manifest:
    metadata = pod["metadata"]
    condition = {
        "type": MEDIA_READY,
        "status": "True" if passed else "False",
        "reason": "CanaryPassed" if passed else "CanaryLost",
        "message": "media of Kedge's own passes" if passed else "media of Kedge's own does not come through",
    }
    return {
        "apiVersion": POD_KIND.api_version,
        "kind": POD_KIND.kind,
        "metadata": {"namespace": metadata["namespace"], "name": metadata["name"], "uid": metadata["uid"]},
        "status": {"conditions": [condition]},
    }
