"""Kubernetes Events on RelaySets and on relay pods, made of what signaling tells. Pure.

The name of an Event is a digest of what it says. So it exists once, however often the operator sees it or is restarted;
and of replicas that say the same about the same moment, the first one's stands.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from kedge.api.convert import relay_set_key
from kedge.api.relayset import RelaySet
from kedge.ports.kube import EVENT_KIND, POD_KIND, RELAY_SET_KIND, Manifest
from kedge.ports.records import EventRecord, SignalingSnapshot

REPORTER: Final = "kedge.media/operator"
_OF_A_RELAY: Final = "Relay"
"""Reasons of what happens to a relay begin with it: RelayDown, RelayDraining, RelayReady, ..."""
_OLDEST: Final = 600.0
"""Seconds after which an event is no news: an operator that was away does not tell of last night."""
_SAME_MOMENT: Final = 10
"""Seconds within which replicas tell of the same thing."""
_NOTE: Final = 1024
"""Bytes of an Event's note."""


def events_of(
    relay_set: RelaySet, snapshots: Sequence[SignalingSnapshot], now: float, pods: Sequence[Manifest] = ()
) -> dict[str, Manifest]:
    """Return the Events for a RelaySet and its relay pods by name; ``now`` in unix seconds."""
    key = relay_set_key(relay_set)
    by_name = {one["metadata"]["name"]: one["metadata"] for one in pods}
    made: dict[str, Manifest] = {}
    for snapshot in snapshots:
        for one in snapshot.events:
            if one.relay_set != key or now - one.at > _OLDEST:
                continue
            regarding = [_of_relay_set(relay_set)]
            pod = by_name.get(one.relay)
            if pod is not None and one.reason.startswith(_OF_A_RELAY) and _was_there(pod, one.at):
                regarding.append(_of_pod(pod))
            for about in regarding:
                event = _event(about, snapshot.replica, one)
                made[event["metadata"]["name"]] = event
    return made


def _of_relay_set(relay_set: RelaySet) -> Manifest:
    metadata = relay_set.metadata
    return {
        "apiVersion": RELAY_SET_KIND.api_version,
        "kind": RELAY_SET_KIND.kind,
        "namespace": metadata.namespace,
        "name": metadata.name,
        "uid": metadata.uid,
    }


def _of_pod(metadata: Manifest) -> Manifest:
    names = {name: metadata[name] for name in ("namespace", "name", "uid")}
    return {"apiVersion": POD_KIND.api_version, "kind": POD_KIND.kind, **names}


def _was_there(metadata: Manifest, at: float) -> bool:
    """Whether it is this pod that was spoken of: another one of its name may be gone."""
    created = metadata.get("creationTimestamp")
    return created is None or datetime.fromisoformat(created).timestamp() <= at


def _event(about: Manifest, replica: str, record: EventRecord) -> Manifest:
    return {
        "apiVersion": EVENT_KIND.api_version,
        "kind": EVENT_KIND.kind,
        "metadata": {"name": _name(about, record), "namespace": about["namespace"]},
        "eventTime": datetime.fromtimestamp(record.at, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "type": "Warning" if record.warning else "Normal",
        "reason": record.reason[:128],
        "action": "Watch",
        "note": record.message.encode()[:_NOTE].decode(errors="ignore"),
        "reportingController": REPORTER,
        "reportingInstance": replica[:128] or "unknown",
        "regarding": about,
    }


def _name(about: Manifest, record: EventRecord) -> str:
    moment = int(record.at // _SAME_MOMENT)
    said = f"{about['uid']} {record.reason} {record.relay} {record.call} {record.message} {moment}"
    return f"{about['name'][:200]}.{hashlib.sha256(said.encode()).hexdigest()[:16]}"
