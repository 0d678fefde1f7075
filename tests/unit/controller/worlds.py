"""What the controller's tests are made of: RelaySets, pods, Deployments and what signaling tells."""

from __future__ import annotations

from typing import Any

from kedge.api.relayset import RelaySet
from kedge.controller.manifests import ManifestSettings
from kedge.ports.kube import Manifest
from kedge.ports.records import EventRecord, FailoverRecord, RelayRecord, SignalingSnapshot

UID = "11111111-2222-3333-4444-555555555555"
KEY = "media/voice"
NOW = 1_700_000_000.0
SETTINGS = ManifestSettings(image="relay:1", signaling_labels={"app": "signaling"})


def relay_set_manifest(spec: dict[str, Any], status: dict[str, Any] | None = None) -> Manifest:
    manifest: Manifest = {
        "apiVersion": "kedge.media/v1alpha1",
        "kind": "RelaySet",
        "metadata": {"name": "voice", "namespace": "media", "uid": UID, "generation": 3},
        "spec": {"engine": "RTPEngine", **spec},
    }
    if status is not None:
        manifest["status"] = status
    return manifest


def relay_set(spec: dict[str, Any] | None = None, status: dict[str, Any] | None = None) -> RelaySet:
    return RelaySet.from_api(relay_set_manifest(spec or {"replicas": 2}, status))


def pod(name: str, ip: str = "192.0.2.1", *, phase: str = "Running", deleting: bool = False) -> Manifest:
    metadata = {
        "name": name,
        "namespace": "media",
        "uid": f"uid-{name}",
        "labels": {"kedge.media/relayset": "voice"},
    }
    if deleting:
        metadata["deletionTimestamp"] = "2023-11-14T22:13:20Z"
    return {"metadata": metadata, "spec": {"nodeName": "node-a"}, "status": {"phase": phase, "podIP": ip}}


def deployment(manifest: Manifest, **status: Any) -> Manifest:
    """``manifest`` as the API server has it, rolled out unless ``status`` says otherwise."""
    replicas = manifest["spec"]["replicas"]
    full = {"observedGeneration": 1, "replicas": replicas, "updatedReplicas": replicas, "availableReplicas": replicas}
    metadata = {**manifest["metadata"], "generation": 1, "uid": "uid-deployment", "resourceVersion": "7"}
    return {**manifest, "metadata": metadata, "status": {**full, **status}}


def relay(name: str, state: str = "Ready", *, reason: str = "Probed", sessions: int = 0, **rest: Any) -> RelayRecord:
    values: dict[str, Any] = {
        "uid": f"uid-{name}",
        "name": name,
        "relay_set": KEY,
        "address": "192.0.2.1:2223",
        "state": state,
        "reason": reason,
        "message": "",
        "since": NOW - 100,
        "sessions": sessions,
        "instance": "i1",
    }
    return RelayRecord(**(values | rest))


def failover(name: str = "r1", **rest: Any) -> FailoverRecord:
    values: dict[str, Any] = {
        "relay_set": KEY,
        "relay": name,
        "reason": "Refused",
        "started": NOW - 10,
        "calls": 10,
        "moved": 9,
        "failed": 1,
        "pending": 0,
        "detection": 0.1,
        "gap_p50": 0.1,
        "gap_p99": 0.2,
    }
    return FailoverRecord(**(values | rest))


def event(reason: str = "RelayDown", *, at: float = NOW - 1, message: str = "r1 refuses") -> EventRecord:
    return EventRecord(at=at, warning=True, reason=reason, message=message, relay_set=KEY, relay="r1")


def snapshot(*relays: RelayRecord, replica: str = "sig-0", **rest: Any) -> SignalingSnapshot:
    return SignalingSnapshot(replica=replica, at=NOW, relays=relays, **rest)
