"""The relays of one set as all signaling replicas together see them. Pure.

Each replica probes for itself, so they may differ: the worse news counts, since a relay that one replica cannot reach
is no good for its calls. Pods that no replica has probed yet are told as such.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from kedge.api.relayset import Endpoint, LastFailover, RelayState, RelayStatus
from kedge.ports.kube import Manifest
from kedge.ports.records import FailoverRecord, RelayRecord, SignalingSnapshot

NOT_PROBED: Final = "NotProbed"
_SHORT: Final = 256
_WORST_FIRST: Final = (
    RelayState.DOWN,
    RelayState.SUSPECT,
    RelayState.DRAINING,
    RelayState.CORDONED,
    RelayState.FULL,
    RelayState.READY,
)
_SAME_LOSS: Final = 10.0
"""Seconds within which replicas tell of the same loss."""


def timestamp(at: float) -> datetime:
    """Return unix seconds as a time, to the millisecond, as it comes back from the API server."""
    return datetime.fromtimestamp(round(at, 3), UTC)


def relay_statuses(
    key: str,
    pods: Sequence[Manifest],
    endpoints: Sequence[Endpoint],
    snapshots: Sequence[SignalingSnapshot],
    before: Mapping[str, RelayStatus],
) -> tuple[RelayStatus, ...]:
    """Return the relays of a set, by name. Where no replica answers, each is told as it was before."""
    seen: dict[str, list[RelayRecord]] = {}
    for snapshot in snapshots:
        for record in snapshot.relays:
            if record.relay_set == key:
                seen.setdefault(record.uid, []).append(record)
    present = {pod["metadata"]["uid"] for pod in pods}
    media = {one.name: one.media_address or one.address for one in endpoints}
    found: dict[str, RelayStatus] = {}
    for _, records in sorted(seen.items(), key=lambda item: (item[0] in present, item[0])):
        found[records[0].name] = _merged(records, len(snapshots), media)  # of two by one name, the present pod wins
    for name, address, node in (*_running(pods), *((one.name, one.address, "") for one in endpoints)):
        if name not in found:
            found[name] = _unseen(name, address, node, before.get(name), heard=bool(snapshots))
    return tuple(found[name] for name in sorted(found))


def last_failover(key: str, snapshots: Sequence[SignalingSnapshot], before: LastFailover | None) -> LastFailover | None:
    """Return the newest loss of a relay, summed over replicas; what stands is kept where nobody knows a newer one."""
    records = [one for snapshot in snapshots for one in snapshot.failovers if one.relay_set == key]
    if not records:
        return before
    newest = max(records, key=lambda one: one.started)
    same = [one for one in records if one.relay == newest.relay and newest.started - one.started <= _SAME_LOSS]
    summed = _summed(same)
    if before is None or before.relay == summed.relay or before.at <= summed.at:
        return summed
    return before


def _summed(records: Sequence[FailoverRecord]) -> LastFailover:
    moved = sum(one.moved for one in records)
    weighted = sum(one.gap_p50 * one.moved for one in records)
    return LastFailover(
        relay=records[0].relay,
        reason=records[0].reason[:_SHORT],
        at=timestamp(min(one.started for one in records)),
        calls=sum(one.calls for one in records),
        moved=moved,
        failed=sum(one.failed for one in records),
        detection=round(max(0.0, *(one.detection for one in records), 0.0), 3),
        gap_p50=round(max(0.0, weighted / moved), 3) if moved else None,
        gap_p99=round(max(0.0, *(one.gap_p99 for one in records), 0.0), 3) if moved else None,
    )


def _merged(records: Sequence[RelayRecord], replicas: int, media: Mapping[str, str]) -> RelayStatus:
    state = min((_state(one.state) for one in records), key=_WORST_FIRST.index)
    such = [one for one in records if _state(one.state) is state]
    first = min(such, key=lambda one: one.since)
    message = first.message
    if len(such) < replicas:
        message = f"{len(such)} of {replicas} signaling processes say so: {message}"
    return RelayStatus(
        name=first.name,
        state=state,
        reason=first.reason[:_SHORT],
        message=message[:_SHORT],
        since=timestamp(first.since),
        node=first.node[:_SHORT],
        zone=first.zone[:_SHORT],
        control=first.address[:_SHORT],
        addresses=(media.get(first.name) or first.address.rpartition(":")[0].strip("[]"),),
        sessions=sum(one.sessions for one in records),
        instance=first.instance[:_SHORT],
    )


def _state(text: str) -> RelayState:
    """Return the state of that name; one that only a newer replica knows is not to be relied on."""
    try:
        return RelayState(text)
    except ValueError:
        return RelayState.SUSPECT


def _running(pods: Iterable[Manifest]) -> Iterable[tuple[str, str, str]]:
    for pod in pods:
        status = pod.get("status", {})
        if status.get("podIP") and status.get("phase") == "Running":
            yield pod["metadata"]["name"], status["podIP"], pod["spec"].get("nodeName", "")


def _unseen(name: str, address: str, node: str, before: RelayStatus | None, *, heard: bool) -> RelayStatus:
    if before is not None and (not heard or before.reason == NOT_PROBED):
        return before
    message = "no signaling process has probed it yet"
    return RelayStatus(
        name=name, state=RelayState.SUSPECT, reason=NOT_PROBED, message=message, node=node, addresses=(address,)
    )
