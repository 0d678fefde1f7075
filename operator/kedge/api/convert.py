"""From the resource that people write to the words of the relay layer. Pure.

The resource may grow fields that signaling has no use for; what signaling acts on is ``relay.model``.
"""

from __future__ import annotations

import hashlib
from typing import Final

from kedge.api.names import REBALANCE_ANNOTATION
from kedge.api.relayset import (
    CanaryMode,
    DrainUnmovable,
    FailoverMode,
    FailoverOrder,
    RebalanceMode,
    RecordsPolicy,
    RelaySet,
    Unmovable,
    ZonePolicy,
)
from kedge.relay.model import (
    CanaryPolicy,
    DrainPolicy,
    Engine,
    FailoverPolicy,
    HealthPolicy,
    Intent,
    PlacementPolicy,
    RebalancePolicy,
    RecordPolicy,
    RelayDescription,
    RelaySetPolicy,
)

DEFAULT_NAMESPACE: Final = "default"
"""Of a RelaySet in a file that names none."""
_LABEL_LENGTH: Final = 63


def relay_set_key(relay_set: RelaySet) -> str:
    """Return ``namespace/name``."""
    return f"{relay_set.metadata.namespace or DEFAULT_NAMESPACE}/{relay_set.metadata.name}"


def label_value(name: str) -> str:
    """Return ``name`` as it stands in a label: names may have 253 characters, label values 63.

    A longer one is cut, and a digest of the whole keeps it apart from others.
    """
    if len(name) <= _LABEL_LENGTH:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: _LABEL_LENGTH - 9].rstrip('-.')}-{digest}"


def policy_of(relay_set: RelaySet) -> RelaySetPolicy:
    """Return what signaling needs to know of a RelaySet."""
    spec = relay_set.spec
    return RelaySetPolicy(
        key=relay_set_key(relay_set),
        engine=Engine(spec.engine.value),
        health=HealthPolicy(
            interval=spec.health.interval,
            timeout=spec.health.timeout,
            threshold=spec.health.threshold,
            canary=_canary_policy(relay_set),
        ),
        failover=FailoverPolicy(
            automatic=spec.failover.mode is FailoverMode.AUTOMATIC,
            rate=float(spec.failover.rate),
            rate_per_peer=float(spec.failover.rate_per_peer),
            retries=spec.failover.retries,
            emergency_first=spec.failover.order is FailoverOrder.EMERGENCY_FIRST,
            hang_up_unmovable=spec.failover.unmovable is Unmovable.HANGUP,
        ),
        placement=PlacementPolicy(
            max_sessions_per_relay=spec.sessions_per_relay,
            spare_relays=spec.placement.spare_relays,
            zones=spec.placement.zones is ZonePolicy.PREFER,
        ),
        rebalance=RebalancePolicy(
            on_scale_out=spec.rebalance.mode is RebalanceMode.ON_SCALE_OUT,
            allowed=spec.rebalance.mode is not RebalanceMode.DISABLED,
            imbalance=float(spec.rebalance.imbalance_percent),
            rate=float(spec.rebalance.rate),
            rest=spec.rebalance.rest,
        ),
        drain=DrainPolicy(
            deadline=spec.drain.deadline, hang_up_unmovable=spec.drain.unmovable is DrainUnmovable.HANGUP
        ),
        records=_record_policy(relay_set),
        rebalance_at=relay_set.metadata.annotations.get(REBALANCE_ANNOTATION, ""),
    )


def endpoints_of(relay_set: RelaySet) -> tuple[RelayDescription, ...]:
    """Return the relays that a RelaySet names by address; none where it has pods."""
    key = relay_set_key(relay_set)
    return tuple(
        RelayDescription(
            uid=f"{key}/{one.name}",
            name=one.name,
            relay_set=key,
            control=(one.address, one.port),
            zone=one.zone,
            weight=one.weight,
            intent=Intent(one.intent.value),
        )
        for one in relay_set.spec.endpoints
    )


def _canary_policy(relay_set: RelaySet) -> CanaryPolicy | None:
    canary = relay_set.spec.health.canary
    if canary.mode is not CanaryMode.ENABLED:
        return None
    return CanaryPolicy(interval=canary.interval, threshold=canary.threshold)


def _record_policy(relay_set: RelaySet) -> RecordPolicy:
    records = relay_set.spec.records
    return RecordPolicy(
        all_calls=records.policy is RecordsPolicy.ALL,
        moved_calls=records.policy is not RecordsPolicy.NONE,
        after=records.after,
        max_objects=records.max,
        writes_per_second=float(records.writes_per_second),
    )
