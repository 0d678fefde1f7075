"""``advertise.type: NodeExternalIP``: tells relay pods the external addresses of their nodes. Pure.

Only the scheduler knows where a pod goes, and only its node knows an external address, so it is written on the pod once
there is one: an annotation that the agent waits for. That takes the right to read nodes, which belong to no namespace;
without it, nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kedge.api.names import EXTERNAL_IP_ANNOTATION
from kedge.api.relayset import AdvertiseType, RelaySet
from kedge.ports.kube import Manifest


@dataclass(frozen=True, slots=True)
class ExternalIps:
    """What is known of nodes, as far as it was asked for."""

    by_node: Mapping[str, tuple[str, ...]]
    denied: bool = False
    """Whether nodes may not be read."""


NOT_ASKED = ExternalIps({})


def waiting_nodes(relay_set: RelaySet, pods: Iterable[Manifest]) -> frozenset[str]:
    """Return the nodes of relay pods that have yet to be told an address."""
    return frozenset(pod["spec"]["nodeName"] for pod in _waiting(relay_set, pods))


def addresses_of(node: Manifest) -> tuple[str, ...]:
    """Return a node's external addresses."""
    told = node.get("status", {}).get("addresses") or ()
    return tuple(one["address"] for one in told if one["type"] == "ExternalIP")


def tell(relay_set: RelaySet, pods: Sequence[Manifest], nodes: ExternalIps) -> tuple[tuple[Manifest, ...], str]:
    """Return patches of pods that can be told now, and why others cannot; empty if there is no trouble."""
    waiting = list(_waiting(relay_set, pods))
    if waiting and nodes.denied:
        return (), (
            "advertise.type NodeExternalIP needs the right to read nodes"
            " (operator.readNodes of the chart, manifests/read-nodes.yaml)"
        )
    known = [(pod, nodes.by_node.get(pod["spec"]["nodeName"], ())) for pod in waiting]
    patches = tuple(_patch(pod, ips) for pod, ips in known if ips)
    without = sorted({pod["spec"]["nodeName"] for pod, ips in known if not ips})
    trouble = f"node {without[0]} has no ExternalIP, and its relay waits for one" if without else ""
    return patches, trouble


def _waiting(relay_set: RelaySet, pods: Iterable[Manifest]) -> Iterable[Manifest]:
    spec = relay_set.spec
    if spec.replicas is None or spec.media.advertise.type is not AdvertiseType.NODE_EXTERNAL_IP:
        return
    for pod in pods:
        metadata = pod["metadata"]
        told = EXTERNAL_IP_ANNOTATION in (metadata.get("annotations") or {})
        if not told and pod.get("spec", {}).get("nodeName") and "deletionTimestamp" not in metadata:
            yield pod


def _patch(pod: Manifest, ips: Sequence[str]) -> Manifest:
    names = {key: pod["metadata"][key] for key in ("namespace", "name", "uid")}  # another pod of the name: a conflict
    return {"metadata": {**names, "annotations": {EXTERNAL_IP_ANNOTATION: ",".join(ips)}}}
