"""RelaySet to the objects that run its relays: Deployment, PodDisruptionBudget, NetworkPolicy. Pure.

Each manifest is the whole of what Kedge owns, for server-side apply: a field that is left out here belongs to somebody
else. What the relay is told on its command line is the contract with its image, whose entrypoint must be the relay.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from kedge.api.convert import label_value
from kedge.api.durations import format_duration
from kedge.api.meta import Resources, Toleration
from kedge.api.names import RELAYSET_LABEL
from kedge.api.relayset import CanaryMode, Engine, RelaySet, RelaySetSpec, Template
from kedge.controller.addressing import (
    UnsupportedError,
    agent_arguments,
    agent_environment,
    agent_mounts,
    config_file,
    from_field,
    needs_file,
    relay_arguments,
    relay_environment,
    relay_mounts,
    volumes,
)
from kedge.controller.gates import MEDIA_READY
from kedge.ports.kube import (
    DEPLOYMENT_KIND,
    DISRUPTION_BUDGET_KIND,
    NETWORK_POLICY_KIND,
    RELAY_SET_KIND,
    Kind,
    Manifest,
)

MANAGED_BY_LABEL: Final = "app.kubernetes.io/managed-by"
MANAGER: Final = "kedge"
APPLIED_ANNOTATION: Final = "kedge.media/applied"
"""On what Kedge applies: a digest of the manifest. Tells that a field was left out since, which live data cannot."""
_USER: Final = 65532
_NODE_LOSS_SECONDS: Final = 20
"""How long a pod stays on a node that is gone. Its calls have long moved; the time is for the node to come back."""
_HOLD_SECONDS: Final = 10
"""How long a relay without an agent runs on after its pod was told to end, so that calls can leave it."""
_END_SECONDS: Final = 10
_REQUESTS: Final = {"cpu": "250m", "memory": "128Mi"}
"""Of a relay. A container that requests no CPU gets what others leave, and has the audio of its calls wait for it."""
_TOKEN_VOLUME: Final = "report-token"
_TOKEN_FOLDER: Final = "/etc/kedge-tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestSettings:
    """What all RelaySets of one operator have in common."""

    image: str
    """The rtpengine image for RelaySets that name none."""
    signaling_labels: Mapping[str, str]
    """Labels of signaling pods: only they may command a relay."""
    signaling_namespace: str = ""
    """Where they run; empty for the RelaySet's own namespace."""
    signaling_networks: tuple[str, ...] = ()
    """Networks (CIDR) from which signaling commands relays when it uses the network of its nodes."""
    agent_image: str = ""
    """Kedge's own image, for the agent beside each relay; without one, a relay's end is held for a fixed time."""
    signaling_service: str = ""
    """Headless Service of signaling in the RelaySet's namespace, which agents report dead links to; empty for none."""
    admin_port: int = 0
    """The port of signaling's admin API; 0: there is none."""
    report_secret: str = ""
    """Secret in the RelaySet's namespace with the token for reports."""


def owned_manifests(
    relay_set: RelaySet, settings: ManifestSettings, *, replicas: int | None = None
) -> list[tuple[Kind, Manifest]]:
    """Return all that shall exist for a RelaySet; nothing where others run the relays.

    ``replicas`` is how many pods there shall be for now, where that is not what the spec says.

    Raises:
        UnsupportedError: the RelaySet cannot be served by this version.
    """
    spec = relay_set.spec
    if spec.engine is not Engine.RTPENGINE:
        raise UnsupportedError(f"engine {spec.engine.value} is not supported yet: this set gets no calls")
    if spec.replicas is None:
        return []
    made = [
        (DEPLOYMENT_KIND, deployment(relay_set, settings, spec.replicas if replicas is None else replicas)),
        (DISRUPTION_BUDGET_KIND, disruption_budget(relay_set)),
    ]
    if not spec.media.host_network:  # it would be void: policies do not reach the node's network
        made.append((NETWORK_POLICY_KIND, network_policy(relay_set, settings)))
    return [(kind, _stamped(manifest)) for kind, manifest in made]


def owned_name(relay_set: RelaySet) -> str:
    """Return the name of a RelaySet's Deployment and what goes with it; short enough for its pods' names."""
    name = relay_set.metadata.name
    if len(name) > 40:
        name = f"{name[:31].rstrip('-.')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return f"{name}-relay"


def pod_labels(relay_set: RelaySet) -> dict[str, str]:
    """Return the labels that single out a RelaySet's own pods."""
    return {RELAYSET_LABEL: label_value(relay_set.metadata.name)}


def deployment(relay_set: RelaySet, settings: ManifestSettings, replicas: int) -> Manifest:
    """Return the Deployment of so many relay pods."""
    spec = relay_set.spec
    template = spec.template or Template()
    surge, unavailable = spec.update_strategy.max_surge, spec.update_strategy.max_unavailable
    if spec.media.host_network:
        surge, unavailable = 0, max(1, unavailable)  # a node holds one relay: there may be no room for one more
    labels = {**template.labels, **_labels(relay_set), **pod_labels(relay_set)}
    metadata: Manifest = {"labels": labels}
    if template.annotations:
        metadata["annotations"] = dict(template.annotations)
    return {
        "apiVersion": DEPLOYMENT_KIND.api_version,
        "kind": DEPLOYMENT_KIND.kind,
        "metadata": _metadata(relay_set),
        "spec": {
            "replicas": replicas,
            "minReadySeconds": 2,
            "revisionHistoryLimit": 3,
            "selector": {"matchLabels": pod_labels(relay_set)},
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable},
            },
            "template": {"metadata": metadata, "spec": _pod(relay_set, template, settings)},
        },
    }


def disruption_budget(relay_set: RelaySet) -> Manifest:
    """Return the budget that lets evictions take one relay at a time, and a broken one at any time."""
    return {
        "apiVersion": DISRUPTION_BUDGET_KIND.api_version,
        "kind": DISRUPTION_BUDGET_KIND.kind,
        "metadata": _metadata(relay_set),
        "spec": {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": pod_labels(relay_set)},
        },
    }


def network_policy(relay_set: RelaySet, settings: ManifestSettings) -> Manifest:
    """Return the policy that opens media to all, and the control port to signaling alone."""
    media, control = relay_set.spec.media.port_range, relay_set.spec.control.port
    signaling: Manifest = {"podSelector": {"matchLabels": dict(settings.signaling_labels)}}
    if settings.signaling_namespace:
        names = {"kubernetes.io/metadata.name": settings.signaling_namespace}
        signaling["namespaceSelector"] = {"matchLabels": names}
    sources = [signaling, *({"ipBlock": {"cidr": one}} for one in settings.signaling_networks)]
    return {
        "apiVersion": NETWORK_POLICY_KIND.api_version,
        "kind": NETWORK_POLICY_KIND.kind,
        "metadata": _metadata(relay_set),
        "spec": {
            "podSelector": {"matchLabels": pod_labels(relay_set)},
            "policyTypes": ["Ingress"],
            "ingress": [
                {"from": sources, "ports": [{"protocol": "UDP", "port": control}]},
                {"ports": [{"protocol": "UDP", "port": media.min, "endPort": media.max}]},
            ],
        },
    }


def _metadata(relay_set: RelaySet) -> Manifest:
    metadata = relay_set.metadata
    owner = {
        "apiVersion": RELAY_SET_KIND.api_version,
        "kind": RELAY_SET_KIND.kind,
        "name": metadata.name,
        "uid": metadata.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {
        "name": owned_name(relay_set),
        "namespace": metadata.namespace,
        "labels": {**_labels(relay_set), **pod_labels(relay_set)},
        "ownerReferences": [owner],
    }


def _labels(relay_set: RelaySet) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "kedge-relay",
        "app.kubernetes.io/instance": label_value(relay_set.metadata.name),
        "app.kubernetes.io/component": "relay",
        "app.kubernetes.io/part-of": "kedge",
        MANAGED_BY_LABEL: MANAGER,
    }


def _stamped(manifest: Manifest) -> Manifest:
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:16]
    metadata = {**manifest["metadata"], "annotations": {APPLIED_ANNOTATION: digest}}
    return {**manifest, "metadata": metadata}


def _pod(relay_set: RelaySet, template: Template, settings: ManifestSettings) -> Manifest:
    pod: Manifest = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": _hold_seconds(relay_set, settings) + _END_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(relay_set, template, settings)],
        "tolerations": _tolerations(template),
        "topologySpreadConstraints": _spread(relay_set, template),
    }
    if relay_set.spec.health.canary.mode is CanaryMode.ENABLED:
        pod["readinessGates"] = [{"conditionType": MEDIA_READY}]
    if settings.agent_image:
        pod["initContainers"] = [_agent(relay_set, settings)]
    reports = _reports(relay_set, settings)
    found = volumes(relay_set.spec, agent=bool(settings.agent_image))
    if reports and settings.report_secret:
        # Optional: a relay shall not wait for what only makes the loss of its link known sooner.
        secret = {"secretName": settings.report_secret, "optional": True}
        found.append({"name": _TOKEN_VOLUME, "secret": secret})
    if found:
        pod["volumes"] = found
    if relay_set.spec.media.host_network:
        pod["hostNetwork"] = True
        pod["dnsPolicy"] = "ClusterFirstWithHostNet" if reports else "Default"  # else it looks nothing up there
    if template.priority_class_name is not None:
        pod["priorityClassName"] = template.priority_class_name
    if template.node_selector:
        pod["nodeSelector"] = dict(template.node_selector)
    return pod


def _container(relay_set: RelaySet, template: Template, settings: ManifestSettings) -> Manifest:
    spec, agent = relay_set.spec, bool(settings.agent_image)
    port: Manifest = {"name": "control", "containerPort": spec.control.port, "protocol": "UDP"}
    if spec.media.host_network:
        port["hostPort"] = spec.control.port  # so that the scheduler puts one relay on a node
    environment = relay_environment(spec, agent=agent)
    container: Manifest = {
        "name": "relay",
        "image": template.image or settings.image,
        "args": [*_arguments(relay_set, agent=agent), *template.args],
        **({"env": environment} if environment else {}),
        "ports": [port],
        "securityContext": _restricted(),
        "lifecycle": {"preStop": _pre_stop(relay_set, settings)},
        "resources": _resources(template),
    }
    if mounts := relay_mounts(spec, agent=agent):
        container["volumeMounts"] = mounts
    if template.image_pull_policy is not None:
        container["imagePullPolicy"] = template.image_pull_policy.value
    return container


def _resources(template: Template) -> Manifest:
    """Return what the RelaySet asks for, and for what it says nothing of, what the operator does."""
    asked = template.resources or Resources()
    requests = {name: amount for name, amount in _REQUESTS.items() if name not in asked.limits} | asked.requests
    return asked.model_copy(update={"requests": requests}).model_dump(mode="json", exclude_defaults=True)


def _agent(relay_set: RelaySet, settings: ManifestSettings) -> Manifest:
    """Return the native sidecar: it starts before the relay, and ends after it."""
    spec = relay_set.spec
    control = spec.control.port
    kubelet = _for_kubelet(spec)
    own = "[$(POD_IP)]" if needs_file(spec.media, agent=True) else "$(POD_IP)"
    port: Manifest = {"name": "agent", "containerPort": control, "protocol": "TCP"}
    if spec.media.host_network:
        port["hostPort"] = control
    agent: Manifest = {
        "name": "agent",
        "image": settings.agent_image,
        "restartPolicy": "Always",
        "args": [
            "agent",
            f"--control={own}:{control}",
            f"--listen={kubelet.get('host', own)}:{control}",  # TCP, where the relay has UDP: free where that is
            f"--deadline={format_duration(spec.drain.deadline)}",
            *agent_arguments(spec),
        ],
        "env": [from_field("POD_IP", "status.podIP"), *agent_environment(spec)],
        "ports": [port],
        "startupProbe": {
            "httpGet": {"path": "/healthz", "port": control, **kubelet},
            "periodSeconds": 1,
            "failureThreshold": 60,
        },
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "192Mi"}},
        "securityContext": _restricted(),
    }
    if mounts := agent_mounts(spec):
        agent["volumeMounts"] = mounts
    if _reports(relay_set, settings):
        _let_report(agent, settings)
    return agent


def _reports(relay_set: RelaySet, settings: ManifestSettings) -> bool:
    """Return whether agents watch the link: in the pod network it is not theirs that is cut, but the node's."""
    told = settings.agent_image and settings.signaling_service and settings.admin_port
    return bool(told) and relay_set.spec.media.host_network


def _let_report(agent: Manifest, settings: ManifestSettings) -> None:
    agent["args"] += ["--media-address=$(POD_IP)", f"--signaling={settings.signaling_service}:{settings.admin_port}"]
    agent["env"].append(from_field("POD_UID", "metadata.uid"))
    if settings.report_secret:
        agent["args"].append(f"--token-file={_TOKEN_FOLDER}/token")
        token = {"name": _TOKEN_VOLUME, "mountPath": _TOKEN_FOLDER, "readOnly": True}
        agent["volumeMounts"] = [*agent.get("volumeMounts", ()), token]


def _pre_stop(relay_set: RelaySet, settings: ManifestSettings) -> Manifest:
    """All hooks of a pod run at once, so it is the relay's own that must be held."""
    spec = relay_set.spec
    if settings.agent_image:
        return {"httpGet": {"path": "/v1/hold", "port": spec.control.port, **_for_kubelet(spec)}}
    return {"sleep": {"seconds": _HOLD_SECONDS}}


def _for_kubelet(spec: RelaySetSpec) -> dict[str, str]:
    """Return where the kubelet, which alone asks the agent, finds it, if not at the pod's address.

    Of a pod with its node's network its runtime tells it none, so that a hook without a host fails, and calls are lost.
    """
    return {"host": "127.0.0.1"} if spec.media.host_network else {}


def _hold_seconds(relay_set: RelaySet, settings: ManifestSettings) -> int:
    return math.ceil(relay_set.spec.drain.deadline) if settings.agent_image else _HOLD_SECONDS


def _restricted() -> Manifest:
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def _arguments(relay_set: RelaySet, *, agent: bool) -> list[str]:
    spec = relay_set.spec
    return [
        f"--config-file={config_file(spec.media, agent=agent)}",
        "--foreground",
        "--log-stderr",
        "--table=-1",
        *relay_arguments(spec, agent=agent),
        f"--port-min={spec.media.port_range.min}",
        f"--port-max={spec.media.port_range.max}",
        "--delete-delay=0",
        "--poller-per-thread",
    ]


def _tolerations(template: Template) -> list[Manifest]:
    theirs = [_toleration(one) for one in template.tolerations]
    named = {one.get("key") for one in theirs}
    ours: list[dict[str, Any]] = [
        {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": _NODE_LOSS_SECONDS}
        for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
        if key not in named
    ]
    return [*theirs, *ours]


def _toleration(one: Toleration) -> Manifest:
    return one.dump()


def _spread(relay_set: RelaySet, template: Template) -> list[Manifest]:
    given = [one.dump() for one in template.topology_spread_constraints] or [
        {"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "ScheduleAnyway"}
        for key in ("topology.kubernetes.io/zone", "kubernetes.io/hostname")
    ]
    return [{**one, "labelSelector": {"matchLabels": pod_labels(relay_set)}} for one in given]
