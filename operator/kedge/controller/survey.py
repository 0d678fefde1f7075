"""What the API server has for RelaySets: asked for one of them, or for all at once.

A resync of many RelaySets that asked for each would cost five requests apiece, of which none tells anything new. So it
lists each kind once and hands out the parts. Where the lists leave a doubt (an object that is not there may belong to
somebody else under our name; a selector may choose any pods) the one RelaySet is asked for after all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from kedge.api.convert import label_value
from kedge.api.names import RELAYSET_LABEL
from kedge.api.relayset import RelaySet
from kedge.controller.external_ips import ExternalIps, addresses_of, waiting_nodes
from kedge.controller.manifests import owned_name, pod_labels
from kedge.controller.reconcile import Observed
from kedge.ports.kube import (
    DEPLOYMENT_KIND,
    DISRUPTION_BUDGET_KIND,
    NETWORK_POLICY_KIND,
    NODE_KIND,
    POD_KIND,
    RELAY_SET_KIND,
    Kind,
    KubeApi,
    KubeError,
    Manifest,
)

_OWNED: Final = (DEPLOYMENT_KIND, DISRUPTION_BUDGET_KIND, NETWORK_POLICY_KIND)


async def observe(kube: KubeApi, relay_set: RelaySet) -> Observed:
    """Ask for what there is for one RelaySet."""
    namespace = relay_set.metadata.namespace or ""
    owned: dict[Any, list[Manifest]] = {}
    if relay_set.spec.replicas is not None:
        name = owned_name(relay_set)
        lives = await asyncio.gather(*(kube.get(kind, namespace, name) for kind in _OWNED))
        owned = {kind: [live] for kind, live in zip(_OWNED, lives, strict=True) if live is not None}
    pods = await _pods(kube, relay_set, namespace)
    return Observed(owned=owned, pods=pods, external_ips=await _external_ips(kube, waiting_nodes(relay_set, pods)))


async def _external_ips(kube: KubeApi, names: frozenset[str]) -> ExternalIps:
    found: dict[str, tuple[str, ...]] = {}
    for name in sorted(names):
        try:
            node = await kube.get(NODE_KIND, "", name)
        except KubeError as error:
            if not error.is_denied:
                raise
            return ExternalIps({}, denied=True)
        found[name] = addresses_of(node) if node is not None else ()
    return ExternalIps(found)


async def _pods(kube: KubeApi, relay_set: RelaySet, namespace: str) -> tuple[Manifest, ...]:
    spec = relay_set.spec
    if spec.endpoints:
        return ()
    labels = ",".join(f"{key}={value}" for key, value in pod_labels(relay_set).items())
    selector = labels if spec.selector is None else str(spec.selector)
    return tuple(await kube.list_objects(POD_KIND, namespace, selector))


@dataclass(frozen=True, slots=True)
class Survey:
    """All that was there at one time."""

    relay_sets: dict[str, Manifest]
    """By key, ``namespace/name``."""
    names: dict[str, str]
    """Key by ``namespace/label``: a label is too short for some names."""
    _owned: dict[Kind, dict[tuple[str, str], Manifest]]
    _pods: dict[tuple[str, str], tuple[Manifest, ...]]
    """By namespace and the label that names the RelaySet."""

    def of(self, relay_set: RelaySet) -> Observed | None:
        """Return what there was for a RelaySet; None where that has to be asked for."""
        spec, namespace = relay_set.spec, relay_set.metadata.namespace or ""
        if spec.selector is not None:
            return None
        owned: dict[Kind, list[Manifest]] = {}
        if spec.replicas is not None:
            place = namespace, owned_name(relay_set)
            if not all(place in self._owned[kind] for kind in _OWNED):
                return None
            owned = {kind: [self._owned[kind][place]] for kind in _OWNED}
        pods = () if spec.endpoints else self._pods.get((namespace, label_value(relay_set.metadata.name)), ())
        if waiting_nodes(relay_set, pods):
            return None
        return Observed(owned=owned, pods=pods)


async def survey(kube: KubeApi, namespace: str) -> Survey:
    """List all there is for the RelaySets of a namespace (empty: of all)."""
    relay_sets = await kube.list_objects(RELAY_SET_KIND, namespace)
    lists = [await kube.list_objects(kind, namespace, RELAYSET_LABEL) for kind in (*_OWNED, POD_KIND)]
    names = {_place(one): f"{_place(one)[0]}/{_place(one)[1]}" for one in relay_sets}
    return Survey(
        {key: one for one in relay_sets for key in [names[_place(one)]]},
        {f"{place[0]}/{label_value(place[1])}": key for place, key in names.items()},
        {kind: {_place(one): one for one in found} for kind, found in zip(_OWNED, lists, strict=False)},
        _by_label(lists[-1]),
    )


def _place(manifest: Manifest) -> tuple[str, str]:
    return manifest["metadata"]["namespace"], manifest["metadata"]["name"]


def _by_label(pods: Sequence[Manifest]) -> dict[tuple[str, str], tuple[Manifest, ...]]:
    found: dict[tuple[str, str], list[Manifest]] = {}
    for pod in pods:
        metadata = pod["metadata"]
        found.setdefault((metadata["namespace"], metadata["labels"][RELAYSET_LABEL]), []).append(pod)
    return {place: tuple(some) for place, some in found.items()}
