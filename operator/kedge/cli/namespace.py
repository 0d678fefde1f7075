"""Which namespace is meant: whoever's word is nearest."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from kubernetes.aio import config as kube_config

_POD_NAMESPACE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def namespace_of(kubeconfig: str, context: str, told: str = "") -> str:
    """Return where RelaySets are: as told, else the pod's own namespace, else that of the kubeconfig's context."""
    if told:
        return told
    try:
        return _POD_NAMESPACE.read_text().strip()
    except OSError:
        return _of_context(kubeconfig, context)


def _of_context(kubeconfig: str, context: str) -> str:
    try:
        contexts, current = kube_config.list_kube_config_contexts(kubeconfig or None)  # type: ignore[no-untyped-call]
    except (kube_config.ConfigException, OSError):
        return "default"
    chosen = next((one for one in contexts if one["name"] == context), current)
    return str(chosen["context"].get("namespace") or "default")
