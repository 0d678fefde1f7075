"""Why pods do not come up, in plain words. Pure: it tells what scheduler and kubelets say, and judges nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from kedge.ports.kube import Manifest

_ON_THE_WAY: Final = ("ContainerCreating", "PodInitializing")
"""Reasons to wait that are none to worry."""
_SHORT: Final = 200


def failing(pods: Sequence[Manifest]) -> str:
    """Return which containers do not start and why; empty: none that is known of."""
    return _told((pod, _not_started(pod)) for pod in pods)


def homeless(pods: Sequence[Manifest]) -> str:
    """Return which pods have no node and why; empty: none that is known of."""
    return _told((pod, _not_scheduled(pod)) for pod in pods)


def _told(found: Iterable[tuple[Manifest, str]]) -> str:
    troubles = [f"pod {pod['metadata']['name']} {trouble}" for pod, trouble in found if trouble]
    more = f" and {len(troubles) - 1} more" if len(troubles) > 1 else ""
    return f"{troubles[0]}{more}" if troubles else ""


def _not_started(pod: Manifest) -> str:
    status = pod.get("status", {})
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason = waiting.get("reason", "")
        if reason and reason not in _ON_THE_WAY:
            return f"does not start: {reason}: {waiting.get('message', '')[:_SHORT]}"
    return ""


def _not_scheduled(pod: Manifest) -> str:
    for one in pod.get("status", {}).get("conditions") or ():
        if one["type"] == "PodScheduled" and one["status"] == "False":
            return f"has no node: {one.get('message', '')[:_SHORT]}"
    return ""
