"""Kubernetes Events on RelaySets, made of what signaling tells. Pure.

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
from kedge.ports.kube import EVENT_KIND, RELAY_SET_KIND, Manifest
from kedge.ports.records import EventRecord, SignalingSnapshot

REPORTER: Final = "kedge.media/operator"
_OLDEST: Final = 600.0
"""Seconds after which an event is no news: an operator that was away does not tell of last night."""
_SAME_MOMENT: Final = 10
"""Seconds within which replicas tell of the same thing."""
_NOTE: Final = 1024
"""Bytes of an Event's note."""


def events_of(relay_set: RelaySet, snapshots: Sequence[SignalingSnapshot], now: float) -> dict[str, Manifest]:
    """Return the Events for a RelaySet by name; ``now`` in unix seconds."""
    key = relay_set_key(relay_set)
    told = ((snapshot.replica, one) for snapshot in snapshots for one in snapshot.events)
    made = (
        _event(relay_set, replica, one) for replica, one in told if one.relay_set == key and now - one.at <= _OLDEST
    )
    return {one["metadata"]["name"]: one for one in made}


def _event(relay_set: RelaySet, replica: str, record: EventRecord) -> Manifest:
    metadata = relay_set.metadata
    return {
        "apiVersion": EVENT_KIND.api_version,
        "kind": EVENT_KIND.kind,
        "metadata": {"name": _name(relay_set, record), "namespace": metadata.namespace},
        "eventTime": datetime.fromtimestamp(record.at, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "type": "Warning" if record.warning else "Normal",
        "reason": record.reason[:128],
        "action": "Watch",
        "note": record.message.encode()[:_NOTE].decode(errors="ignore"),
        "reportingController": REPORTER,
        "reportingInstance": replica[:128] or "unknown",
        "regarding": {
            "apiVersion": RELAY_SET_KIND.api_version,
            "kind": RELAY_SET_KIND.kind,
            "namespace": metadata.namespace,
            "name": metadata.name,
            "uid": metadata.uid,
        },
    }


def _name(relay_set: RelaySet, record: EventRecord) -> str:
    moment = int(record.at // _SAME_MOMENT)
    said = f"{relay_set.metadata.uid} {record.reason} {record.relay} {record.call} {record.message} {moment}"
    return f"{relay_set.metadata.name[:200]}.{hashlib.sha256(said.encode()).hexdigest()[:16]}"
