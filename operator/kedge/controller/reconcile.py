"""Compare what a RelaySet wants with what is there; decide, touch nothing.

Level-triggered: the outcome depends on the arguments alone, so lost and repeated events are harmless, and an operator
that was restarted comes to the same status. What was written before is an argument too: times of change and the last
failover are kept from there, and nothing is written that says no more than what stands already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from kedge.api.meta import Condition
from kedge.api.relayset import ConditionType, RelaySet, RelaySetStatus
from kedge.controller.addressing import UnsupportedError
from kedge.controller.drift import drifted
from kedge.controller.external_ips import NOT_ASKED, ExternalIps, tell
from kedge.controller.gates import gates_of
from kedge.controller.manifests import ManifestSettings, owned_manifests
from kedge.controller.scale_in import scale_in
from kedge.controller.status import StatusInput, status_of
from kedge.ports.kube import Kind, Manifest
from kedge.ports.records import SignalingSnapshot

_POLL = 1.0
"""Seconds between two looks at relays that are emptied before they go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What the API server has for one RelaySet."""

    owned: dict[Kind, list[Manifest]] = field(default_factory=dict)
    """Objects that bear our labels, by kind."""
    pods: tuple[Manifest, ...] = ()
    """The relay pods, ours or selected."""
    external_ips: ExternalIps = NOT_ASKED
    """Of the nodes whose relay pods have yet to be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What to do."""

    applies: tuple[tuple[Kind, Manifest], ...] = ()
    deletes: tuple[tuple[Kind, Manifest], ...] = ()
    gates: tuple[Manifest, ...] = ()
    """Conditions of relay pods to apply to their status."""
    tells: tuple[Manifest, ...] = ()
    """Patches of relay pods: the external addresses of their nodes."""
    marks: tuple[Manifest, ...] = ()
    """Patches of relay pods: which of them are to go."""
    status: Manifest | None = None
    """What to merge into the status; None for nothing."""
    again_in: float | None = None
    """Seconds after which to look again: for a status that was held back, or relays that are being emptied."""


def reconcile(
    relay_set: RelaySet,
    observed: Observed,
    snapshots: Sequence[SignalingSnapshot],
    settings: ManifestSettings,
    *,
    now: float,
    written_at: float = float("-inf"),
    status_interval: float = 5.0,
) -> Outcome:
    """Return what to apply, delete and write for one RelaySet.

    ``snapshots`` is what signaling tells, one of each replica that answers. ``now`` and ``written_at`` (of the last
    write of the status) are unix seconds; a status in which only numbers differ waits ``status_interval`` seconds.
    """
    problem, wanted = "", []
    live = _deployment(relay_set, observed)
    shrinking = scale_in(relay_set.spec.replicas or 0, live, observed.pods, snapshots, now)
    try:
        wanted = owned_manifests(relay_set, settings, replicas=shrinking.replicas)
    except UnsupportedError as error:
        problem = str(error)
    applies, foreign = _applies(relay_set, wanted, observed)
    if foreign:
        problem = f"{foreign} exists and belongs to someone else"
    deletes = () if problem else _deletes(relay_set, wanted, observed)
    tells, trouble = tell(relay_set, observed.pods, observed.external_ips)
    status = status_of(
        StatusInput(
            relay_set=relay_set,
            deployment=live,
            pods=observed.pods,
            snapshots=tuple(snapshots),
            problem=problem,
            now=now,
            trouble=trouble,
        )
    )
    write, again_in = _status_write(relay_set.status, status, now - written_at, status_interval)
    waits = [one for one in (again_in, _POLL if shrinking.waits else None) if one is not None]
    return Outcome(
        applies=applies,
        deletes=deletes,
        gates=gates_of(observed.pods, snapshots),
        tells=tells,
        marks=() if problem else shrinking.marks,
        status=write,
        again_in=min(waits, default=None),
    )


def _applies(
    relay_set: RelaySet, wanted: Sequence[tuple[Kind, Manifest]], observed: Observed
) -> tuple[tuple[tuple[Kind, Manifest], ...], str]:
    """Return what to apply, and the name of an object that is in the way."""
    applies, foreign = [], ""
    for kind, manifest in wanted:
        name = manifest["metadata"]["name"]
        live = next((one for one in observed.owned.get(kind, ()) if one["metadata"]["name"] == name), None)
        if live is not None and not _is_ours(live, relay_set):
            foreign = f"{kind.kind} {name}"
        elif live is None or drifted(live, manifest):
            applies.append((kind, manifest))
    return tuple(applies), foreign


def _deletes(
    relay_set: RelaySet, wanted: Sequence[tuple[Kind, Manifest]], observed: Observed
) -> tuple[tuple[Kind, Manifest], ...]:
    names = {(kind, manifest["metadata"]["name"]) for kind, manifest in wanted}
    return tuple(
        (kind, live)
        for kind, lives in observed.owned.items()
        for live in lives
        if _is_ours(live, relay_set)
        and (kind, live["metadata"]["name"]) not in names
        and "deletionTimestamp" not in live["metadata"]
    )


def _deployment(relay_set: RelaySet, observed: Observed) -> Manifest | None:
    lives = (one for kind, found in observed.owned.items() if kind.kind == "Deployment" for one in found)
    return next((one for one in lives if _is_ours(one, relay_set)), None)


def _is_ours(live: Manifest, relay_set: RelaySet) -> bool:
    owners = live["metadata"].get("ownerReferences") or ()
    return any(one.get("controller") and one["uid"] == relay_set.metadata.uid for one in owners)


def _status_write(
    before: RelaySetStatus | None, status: RelaySetStatus, age: float, interval: float
) -> tuple[Manifest | None, float | None]:
    """Return what to write now, or after how many seconds to look again."""
    if before is not None and before == status:
        return None, None
    if before is not None and _without_numbers(before) == _without_numbers(status) and age < interval:
        return None, interval - age
    data = status.dump()
    if before is not None:  # a merge keeps what is not named
        data = _merge_patch(before.dump(), data)
    return data, None


def _merge_patch(before: Manifest, data: Manifest) -> Manifest:
    """Return ``data`` with null for what ``before`` has besides, in nested objects too (RFC 7386)."""
    patch: Manifest = dict.fromkeys(before.keys() - data.keys())
    for name, value in data.items():
        old = before.get(name)
        patch[name] = _merge_patch(old, value) if isinstance(value, dict) and isinstance(old, dict) else value
    return patch


def _without_numbers(status: RelaySetStatus) -> RelaySetStatus:
    """Return the status without what changes with each call: it is told now and then, not at once."""
    relays = tuple(one.model_copy(update={"sessions": 0}) for one in status.relays)
    conditions = tuple(_without_figures(one) for one in status.conditions if one.type != ConditionType.BALANCED)
    return status.model_copy(update={"calls": 0, "relays": relays, "conditions": conditions})


def _without_figures(condition: Condition) -> Condition:
    told = condition.type == ConditionType.PROGRESSING or condition.reason == "NoSpareRelay"
    return condition.model_copy(update={"message": ""}) if told else condition
