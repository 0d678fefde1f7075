"""Relays from the cluster: RelaySets and their pods, watched, as one inventory snapshot.

It tells what exists and what is wanted; whether a relay works is for the prober. So a pod's readiness is only passed
on, a pod that is being deleted is to be drained, and while the API server is away the last snapshot stands. What
becomes of a relay that is in no snapshot any more, and of its calls, is decided by those who know the calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from kedge.adapters.kube_client import KubeClient
from kedge.adapters.kube_watch import Mirror
from kedge.api.convert import endpoints_of, label_value, policy_of
from kedge.api.names import CORDON_ANNOTATION, DRAIN_ANNOTATION, RELAYSET_LABEL, SCALE_IN_ANNOTATION
from kedge.api.relayset import Engine, Family, RelaySet
from kedge.ports.kube import POD_KIND, RELAY_SET_KIND, Manifest
from kedge.relay.model import Intent, InventorySnapshot, RecordPolicy, RelayDescription, RelaySetPolicy

ZONE_LABEL: Final = "topology.kubernetes.io/zone"
"""On pods since Kubernetes 1.35 (copied from the node): reading it there needs no right to read nodes."""
_MAKE_LABELS: Final = ("pod-template-hash", "controller-revision-hash")
"""Of Deployments, and of DaemonSets and StatefulSets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelaySetFacts:
    """What the inventory needs of a RelaySet."""

    policy: RelaySetPolicy
    endpoints: tuple[RelayDescription, ...]
    control_port: int
    family: Family
    """Of the control port."""
    selector: str
    """Labels of pods that someone else runs; empty where the pods are ours, or there are none."""
    label: str
    """Value of the RelaySet label on pods of ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodFacts:
    """What the inventory needs of a pod that has started."""

    uid: str
    namespace: str
    name: str
    ips: tuple[str, ...]
    """Its addresses, the first of them first."""
    node: str
    zone: str
    label: str
    ready: bool
    intent: Intent
    make: str = ""
    """Tells pods of one template from those of another; the same word on all pods of one."""
    created: str = ""
    """RFC 3339, so that the order of texts is that of times."""


def relay_set_facts(manifest: Manifest) -> RelaySetFacts | None:
    """Read a RelaySet; None for one that does not fit its model, or needs another engine (the operator tells it)."""
    try:
        relay_set = RelaySet.from_api(manifest)
    except ValidationError:
        return None
    selector = relay_set.spec.selector
    if relay_set.spec.engine is not Engine.RTPENGINE:
        return None
    return RelaySetFacts(
        policy=policy_of(relay_set),
        endpoints=endpoints_of(relay_set),
        control_port=relay_set.spec.control.port,
        family=relay_set.spec.media.families[0],
        selector="" if selector is None else str(selector),
        label=label_value(relay_set.metadata.name),
    )


def pod_facts(manifest: Manifest) -> PodFacts | None:
    """Read a pod; None before it runs and has an address, and after its last container has ended for good."""
    metadata, status = manifest["metadata"], manifest.get("status", {})
    ip = status.get("podIP")
    if not ip or status.get("phase") != "Running":
        return None  # a finished pod's address may be another's already
    labels = metadata.get("labels") or {}
    return PodFacts(
        uid=metadata["uid"],
        namespace=metadata["namespace"],
        name=metadata["name"],
        ips=(ip, *(one["ip"] for one in status.get("podIPs") or () if one["ip"] != ip)),
        node=manifest.get("spec", {}).get("nodeName", ""),
        zone=labels.get(ZONE_LABEL, ""),
        label=labels.get(RELAYSET_LABEL, ""),
        ready=any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions") or ()),
        intent=_intent(metadata),
        make=next((labels[one] for one in _MAKE_LABELS if one in labels), ""),
        created=metadata.get("creationTimestamp") or "",
    )


def _intent(metadata: Manifest) -> Intent:
    annotations = metadata.get("annotations") or {}
    if metadata.get("deletionTimestamp") or SCALE_IN_ANNOTATION in annotations:
        return Intent.DRAIN
    if annotations.get(DRAIN_ANNOTATION, "false") != "false":
        return Intent.DRAIN
    if annotations.get(CORDON_ANNOTATION, "false") != "false":
        return Intent.CORDON
    return Intent.SERVE


def describe(pod: PodFacts, facts: RelaySetFacts, *, outgoing: bool = False) -> RelayDescription:
    """Return a pod as a relay of a RelaySet."""
    return RelayDescription(
        uid=pod.uid,
        name=pod.name,
        relay_set=facts.policy.key,
        control=(_of_family(pod.ips, facts.family), facts.control_port),
        node=pod.node,
        zone=pod.zone,
        intent=pod.intent,
        backend_ready=pod.ready,
        outgoing=outgoing,
    )


def _of_family(ips: Sequence[str], family: Family) -> str:
    """Return the first address of a family; a pod that has none is asked at the one that it has."""
    return next((one for one in ips if (":" in one) is (family is Family.IPV6)), ips[0])


def relays_of(
    sets: Mapping[str, RelaySetFacts], ours: Iterable[PodFacts], theirs: Mapping[str, Iterable[PodFacts]]
) -> list[RelayDescription]:
    """Return the relays of all RelaySets: pods of ours by label, pods of others by set, and endpoints."""
    by_label: dict[str, list[PodFacts]] = {}
    for pod in ours:
        by_label.setdefault(f"{pod.namespace}/{pod.label}", []).append(pod)
    relays: list[RelayDescription] = []
    for key, facts in sets.items():
        own = () if facts.selector else by_label.get(f"{key.partition('/')[0]}/{facts.label}", ())
        relays += facts.endpoints
        relays += _described(facts, [*own, *theirs.get(key, ())])
    return sorted(relays, key=lambda one: (one.relay_set, one.name))


def _described(facts: RelaySetFacts, pods: Sequence[PodFacts]) -> Iterable[RelayDescription]:
    """Return the pods of a set as relays. Where they are of several makes, that of the newest pod is to stay."""
    stays = max(pods, key=lambda one: one.created).make if pods else ""
    return (describe(pod, facts, outgoing=pod.make != stays) for pod in pods)


class KubeInventory:
    """Implements ``ports.RelayInventory``. ``namespace`` empty means all namespaces."""

    def __init__(
        self,
        client: KubeClient,
        *,
        namespace: str,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._dirty = asyncio.Event()
        self._sets: Mirror[RelaySetFacts] = Mirror(
            client, RELAY_SET_KIND, namespace=namespace, project=relay_set_facts, changed=self._set_changed
        )
        self._pods: Mirror[PodFacts] = Mirror(
            client, POD_KIND, namespace=namespace, project=pod_facts, changed=self._touch, selector=RELAYSET_LABEL
        )
        self._foreign: dict[str, tuple[Mirror[PodFacts], asyncio.Task[None]]] = {}
        self._last: InventorySnapshot | None = None
        self._records: dict[str, RecordPolicy] = {}

    def record_policy(self, relay_set: str) -> RecordPolicy | None:
        """Return which calls of a RelaySet (``namespace/name``) get a Call object; from any thread."""
        return self._records.get(relay_set)

    async def run(self, publish: Callable[[InventorySnapshot], None]) -> None:
        """Call ``publish`` with every new snapshot until cancelled; the first once RelaySets and pods are listed."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._sets.run())
                tasks.create_task(self._pods.run())
                await self._sets.synced.wait()
                await self._pods.synced.wait()
                self._dirty.set()
                while True:
                    await self._dirty.wait()
                    self._dirty.clear()
                    self._publish(publish)
        finally:
            for _, task in self._foreign.values():
                task.cancel()
            self._foreign.clear()

    def _publish(self, publish: Callable[[InventorySnapshot], None]) -> None:
        sets = self._sets.objects
        theirs = {key: mirror.objects.values() for key, (mirror, _) in self._foreign.items()}
        relays = tuple(relays_of(sets, self._pods.objects.values(), theirs))
        policies = tuple(sets[key].policy for key in sorted(sets))
        self._records = {one.key: one.records for one in policies}
        snapshot = InventorySnapshot(relay_sets=policies, relays=relays)
        if snapshot != self._last:
            self._last = snapshot
            publish(snapshot)

    def _set_changed(self, key: str, old: RelaySetFacts | None, new: RelaySetFacts | None) -> None:
        wanted = new.selector if new is not None else ""
        if wanted != (old.selector if old is not None else ""):
            self._watch_foreign(key, wanted)
        self._dirty.set()

    def _watch_foreign(self, key: str, selector: str) -> None:
        if (running := self._foreign.pop(key, None)) is not None:
            running[1].cancel()
        if selector:
            mirror: Mirror[PodFacts] = Mirror(
                self._client,
                POD_KIND,
                namespace=key.partition("/")[0],
                project=pod_facts,
                changed=self._touch,
                selector=selector,
            )
            self._foreign[key] = (mirror, asyncio.get_running_loop().create_task(mirror.run()))

    def _touch(self, key: str, old: PodFacts | None, new: PodFacts | None) -> None:
        self._dirty.set()
