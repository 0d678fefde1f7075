"""Which relays go when a set shrinks: those with the fewest calls, emptied before they are told to end. Pure.

A ReplicaSet chooses by itself whom it ends: pods that are not ready first, then those of the lowest
pod-deletion-cost. So victims are chosen in that order, and marked on their pods: with the lowest cost, and with the
time of the choice, which signaling takes for a wish to drain them. The number is lowered once they are empty. Calls
that cannot leave do not put that off for ever: after ``EMPTYING`` their relay is told to end all the same, and the hold
of its pod gives them ``drain.deadline``.

The choice stands on the pods and nowhere else: an operator that was restarted goes on with it, and a set that grows
again meanwhile takes it back. While pods are being replaced by others nothing is chosen: all old ones go.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from kedge.api.names import DRAIN_ANNOTATION, SCALE_IN_ANNOTATION
from kedge.ports.kube import Manifest
from kedge.ports.records import RelayRecord, SignalingSnapshot

EMPTYING: Final = 30.0
"""Seconds that the number is left as it is for the sake of victims that have calls."""
DELETION_COST: Final = "controller.kubernetes.io/pod-deletion-cost"
_LOWEST: Final = str(-(2**31))


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleIn:
    """What to do now."""

    replicas: int
    """What the Deployment shall have."""
    marks: tuple[Manifest, ...] = ()
    """Patches of pods: the choice, or its end."""
    waits: bool = False
    """Whether the number is to be lowered later."""


def scale_in(
    wanted: int,
    deployment: Manifest | None,
    pods: Sequence[Manifest],
    snapshots: Sequence[SignalingSnapshot],
    now: float,
) -> ScaleIn:
    """Return how many pods the Deployment shall have, and whose end is near; ``now`` in unix seconds."""
    has = wanted if deployment is None else int(deployment["spec"].get("replicas", wanted))
    alive = [pod for pod in pods if _is_alive(pod)]
    marked = [pod for pod in alive if SCALE_IN_ANNOTATION in _annotations(pod)]
    if has <= wanted:
        over = len(alive) > wanted  # the ReplicaSet has yet to end those that are marked
        return ScaleIn(replicas=wanted, marks=() if over else tuple(_unmark(pod) for pod in marked))
    victims = _choose(alive, len(alive) - wanted, snapshots) if _are_alike(alive) else []
    marks = [_mark(pod, now) for pod in victims if pod not in marked]
    marks += [_unmark(pod) for pod in marked if pod not in victims]
    if all(pod in marked and _may_go(pod, snapshots, now) for pod in victims):
        return ScaleIn(replicas=wanted, marks=tuple(marks))
    return ScaleIn(replicas=has, marks=tuple(marks), waits=True)


def _choose(alive: Sequence[Manifest], count: int, snapshots: Sequence[SignalingSnapshot]) -> list[Manifest]:
    calls = Counter[str]()
    for one in (relay for snapshot in snapshots for relay in snapshot.relays):
        calls[one.uid] += one.sessions
    nodes = Counter(_node(pod) for pod in alive)

    def rank(pod: Manifest) -> tuple[Any, ...]:
        marks = _annotations(pod)
        wished = marks.get(DRAIN_ANNOTATION, "false") != "false"  # somebody has begun to empty it for that
        chosen = SCALE_IN_ANNOTATION in marks
        return _is_ready(pod), not chosen, not wished, calls[pod["metadata"]["uid"]], -nodes[_node(pod)]

    newest_first = sorted(alive, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")), reverse=True)
    return sorted(newest_first, key=rank)[: max(0, count)]


def _may_go(pod: Manifest, snapshots: Sequence[SignalingSnapshot], now: float) -> bool:
    """Whether all that tell of signaling know that it is to be emptied, and have no call on it; or it is overdue."""
    chosen = datetime.fromisoformat(_annotations(pod)[SCALE_IN_ANNOTATION]).timestamp()
    records = [one for snapshot in snapshots for one in snapshot.relays if one.uid == pod["metadata"]["uid"]]
    return now - chosen >= EMPTYING or (bool(snapshots) and all(_is_left(one) for one in records))


def _is_left(relay: RelayRecord) -> bool:
    return relay.sessions == 0 and (relay.intent == "Drain" or relay.state == "Down")


def _mark(pod: Manifest, now: float) -> Manifest:
    at = datetime.fromtimestamp(int(now), UTC).isoformat().replace("+00:00", "Z")
    return _patch(pod, {SCALE_IN_ANNOTATION: at, DELETION_COST: _LOWEST})


def _unmark(pod: Manifest) -> Manifest:
    return _patch(pod, {SCALE_IN_ANNOTATION: None, DELETION_COST: None})


def _patch(pod: Manifest, annotations: dict[str, str | None]) -> Manifest:
    names = {key: pod["metadata"][key] for key in ("namespace", "name", "uid")}  # another pod of the name: a conflict
    return {"metadata": {**names, "annotations": annotations}}


def _annotations(pod: Manifest) -> dict[str, str]:
    return pod["metadata"].get("annotations") or {}


def _is_alive(pod: Manifest) -> bool:
    return "deletionTimestamp" not in pod["metadata"] and pod.get("status", {}).get("phase") in ("Pending", "Running")


def _is_ready(pod: Manifest) -> bool:
    conditions = pod.get("status", {}).get("conditions") or ()
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _are_alike(pods: Sequence[Manifest]) -> bool:
    return len({(pod["metadata"].get("labels") or {}).get("pod-template-hash") for pod in pods}) <= 1


def _node(pod: Manifest) -> str:
    return str(pod.get("spec", {}).get("nodeName", ""))
