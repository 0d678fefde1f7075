"""The status of a RelaySet: numbers, relays, and conditions that say what is wrong in plain words. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from kedge.api.convert import relay_set_key
from kedge.api.meta import Condition, ConditionStatus
from kedge.api.relayset import (
    MOST_RELAYS,
    ConditionType,
    RelaySet,
    RelaySetState,
    RelaySetStatus,
    RelayState,
    RelayStatus,
)
from kedge.controller.load import moves, plan_relays, uneven, zone_calls
from kedge.controller.manifests import pod_labels
from kedge.controller.pods import failing, homeless
from kedge.controller.relays import NOT_PROBED, last_failover, relay_statuses, timestamp
from kedge.ports.kube import Manifest
from kedge.ports.records import SignalingSnapshot
from kedge.relay.plan import headroom

RECORDS_LIMITED_COUNTER: Final = "records_limited"
"""Counter of a snapshot: not 0 while the budget holds Call objects back."""
_SERVING: Final = (RelayState.READY, RelayState.FULL)
_BROKEN: Final = (RelayState.DOWN, RelayState.SUSPECT)
_NAMED: Final = 5
"""Relays that a message names at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusInput:
    """What a status is made of."""

    relay_set: RelaySet
    deployment: Manifest | None
    pods: tuple[Manifest, ...]
    snapshots: tuple[SignalingSnapshot, ...]
    problem: str
    """Why the relays cannot be made; empty where they can."""
    now: float
    """Unix seconds."""
    trouble: str = ""
    """What some of the relays wait for, as far as the operator itself knows."""


@dataclass(frozen=True, slots=True)
class _Verdict:
    """A condition without its times."""

    kind: ConditionType
    status: ConditionStatus
    reason: str
    message: str


def status_of(given: StatusInput) -> RelaySetStatus:
    """Return the whole status."""
    relay_set = given.relay_set
    before = relay_set.status or RelaySetStatus()
    relays = relay_statuses(
        relay_set_key(relay_set),
        given.pods,
        relay_set.spec.endpoints,
        given.snapshots,
        {one.name: one for one in before.relays},
    )
    facts = _Facts(given, relays)
    verdicts = (_ready(facts), _progressing(facts), _degraded(facts), _balanced(facts), _records(facts))
    return RelaySetStatus(
        observed_generation=relay_set.metadata.generation,
        state=_state(facts, verdicts, before.state),
        replicas=facts.existing,
        ready_replicas=facts.ready,
        selector=_selector(relay_set),
        calls=facts.calls if given.snapshots else before.calls,
        relays=relays[: MOST_RELAYS * 2],
        last_failover=last_failover(relay_set_key(relay_set), given.snapshots, before.last_failover),
        conditions=tuple(_timed(one, before.conditions, given) for one in verdicts),
    )


class _Facts:
    """The numbers that the conditions speak of."""

    def __init__(self, given: StatusInput, relays: Sequence[RelayStatus]) -> None:
        spec = given.relay_set.spec
        alive = [pod for pod in given.pods if _is_alive(pod)]
        self.given = given
        self.spec = spec
        self.heard = bool(given.snapshots)
        self.relays = relays
        self.ready = sum(1 for one in relays if one.state in _SERVING)
        self.calls = sum(one.sessions for one in relays)
        self.existing = len(spec.endpoints) or len(alive)
        self.wanted = self.existing if spec.replicas is None else spec.replicas
        self.rollout = _Rollout(given.deployment)
        self.failing = failing(alive)
        self.trouble = "; ".join(one for one in (given.trouble, self.failing, homeless(alive)) if one)
        """What keeps pods from coming up; empty: nothing that is known of."""
        key = relay_set_key(given.relay_set)
        self.plan_relays = plan_relays(key, spec.sessions_per_relay, given.snapshots)
        self.zones = zone_calls(key, spec.placement, given.snapshots)
        self.moves = moves(key, given.snapshots)


class _Rollout:
    """How far a Deployment has come."""

    def __init__(self, deployment: Manifest | None) -> None:
        live = deployment or {}
        status = live.get("status", {})
        self.exists = deployment is not None
        self.wanted = live.get("spec", {}).get("replicas", 0)
        self.updated = status.get("updatedReplicas", 0)
        self.available = status.get("availableReplicas", 0)
        seen = status.get("observedGeneration", 0) >= live.get("metadata", {}).get("generation", 0)
        reasons = {one["type"]: one.get("reason", "") for one in status.get("conditions") or ()}
        self.stuck = reasons.get("Progressing") == "ProgressDeadlineExceeded"
        finished = reasons.get("Progressing") == "NewReplicaSetAvailable" or self.available >= self.wanted
        replaced = self.updated >= self.wanted and status.get("replicas", 0) <= self.updated
        self.settled = seen and replaced and finished


def _is_alive(pod: Manifest) -> bool:
    return "deletionTimestamp" not in pod["metadata"] and pod.get("status", {}).get("phase") in ("Pending", "Running")


def _selector(relay_set: RelaySet) -> str:
    if relay_set.spec.endpoints:
        return ""
    if relay_set.spec.selector is not None:
        return str(relay_set.spec.selector)[:2048]
    return ",".join(f"{key}={value}" for key, value in pod_labels(relay_set).items())


def _ready(facts: _Facts) -> _Verdict:
    kind, count = ConditionType.READY, f"{facts.ready} of {facts.wanted} relays are ready"
    if facts.given.problem:
        return _Verdict(kind, ConditionStatus.FALSE, "CannotServe", facts.given.problem)
    if not facts.heard:
        return _Verdict(kind, ConditionStatus.UNKNOWN, "SignalingSilent", "no signaling process tells of its relays")
    if facts.ready >= facts.wanted:
        return _Verdict(kind, ConditionStatus.TRUE, "RelaysReady", count)
    message = f"{count}; {facts.trouble}" if facts.trouble else count
    return _Verdict(kind, ConditionStatus.FALSE, "RelaysMissing" if facts.ready else "NoRelayReady", message)


def _progressing(facts: _Facts) -> _Verdict:
    """Pods are being replaced, or calls moved, or both: of both, the pods give the reason."""
    rollout, going = _rolling_out(facts), facts.moves
    if not going.reason:
        return rollout
    if rollout.status is ConditionStatus.TRUE:
        return replace(rollout, message=f"{rollout.message}; {going.message}")
    return _Verdict(ConditionType.PROGRESSING, ConditionStatus.TRUE, going.reason, going.message)


def _rolling_out(facts: _Facts) -> _Verdict:
    kind, rollout = ConditionType.PROGRESSING, facts.rollout
    if facts.spec.replicas is None:
        return _Verdict(kind, ConditionStatus.FALSE, "NotManaged", "the relays are made by others")
    if facts.given.problem:
        return _Verdict(kind, ConditionStatus.FALSE, "CannotServe", facts.given.problem)
    if not rollout.exists:
        return _Verdict(kind, ConditionStatus.TRUE, "Creating", "the Deployment is being made")
    count = f"{rollout.updated} of {rollout.wanted} pods are up to date, {rollout.available} available"
    message = f"{count}; {facts.trouble}" if facts.trouble else count
    if rollout.stuck:
        return _Verdict(kind, ConditionStatus.FALSE, "DeadlineExceeded", message)
    if not rollout.settled:
        return _Verdict(kind, ConditionStatus.TRUE, "RollingOut", message)
    return _Verdict(kind, ConditionStatus.FALSE, "Complete", message)


def _degraded(facts: _Facts) -> _Verdict:
    kind = ConditionType.DEGRADED
    if not facts.heard:
        return _Verdict(kind, ConditionStatus.UNKNOWN, "SignalingSilent", "no signaling process tells of its relays")
    broken = [one for one in facts.relays if one.state in _BROKEN and one.reason != NOT_PROBED]
    if broken:
        down = any(one.state is RelayState.DOWN for one in broken)
        return _Verdict(kind, ConditionStatus.TRUE, "RelayDown" if down else "RelaySuspect", _named(broken))
    if facts.failing:
        return _Verdict(kind, ConditionStatus.TRUE, "PodsFailing", facts.failing)
    if facts.rollout.stuck:
        return _Verdict(kind, ConditionStatus.TRUE, "DeadlineExceeded", "relay pods do not become available")
    spared, message = headroom(facts.plan_relays, facts.spec.placement.spare_relays)
    if not spared:
        return _Verdict(kind, ConditionStatus.TRUE, "NoSpareRelay", message)
    return _Verdict(kind, ConditionStatus.FALSE, "RelaysHealthy", "no relay is in trouble")


def _named(relays: Sequence[RelayStatus]) -> str:
    names = [f"{one.name} is {one.state.value} ({one.reason})" for one in relays[:_NAMED]]
    more = len(relays) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def _balanced(facts: _Facts) -> _Verdict:
    kind, allowed = ConditionType.BALANCED, facts.spec.rebalance.imbalance_percent
    if not facts.heard:
        return _Verdict(kind, ConditionStatus.UNKNOWN, "SignalingSilent", "no signaling process tells of its relays")
    if not any(one.target for one in facts.plan_relays):
        return _Verdict(kind, ConditionStatus.UNKNOWN, "NoRelayServes", "no relay takes calls")
    message = uneven(facts.plan_relays, facts.zones, float(allowed))
    if message:
        return _Verdict(kind, ConditionStatus.FALSE, "Uneven", message)
    return _Verdict(kind, ConditionStatus.TRUE, "Even", f"each relay is within {allowed} percent of its share of calls")


def _records(facts: _Facts) -> _Verdict:
    kind = ConditionType.RECORDS_LIMITED
    limited = [one.replica for one in facts.given.snapshots if one.counters.get(RECORDS_LIMITED_COUNTER)]
    if limited:
        message = f"the budget of Call objects does not suffice: {', '.join(sorted(limited)[:_NAMED])}"
        return _Verdict(kind, ConditionStatus.TRUE, "BudgetSpent", message)
    return _Verdict(kind, ConditionStatus.FALSE, "WithinBudget", "")


def _state(facts: _Facts, verdicts: Sequence[_Verdict], before: RelaySetState | None) -> RelaySetState:
    true = {one.kind for one in verdicts if one.status is ConditionStatus.TRUE}
    if facts.given.problem:
        return RelaySetState.DOWN if before is RelaySetState.DOWN else RelaySetState.PENDING
    if not facts.heard:
        return before or RelaySetState.PENDING
    if facts.wanted and not facts.ready:
        lost = any(one.state is RelayState.DOWN for one in facts.relays)
        return RelaySetState.DOWN if lost else RelaySetState.PENDING
    if ConditionType.DEGRADED in true:
        return RelaySetState.DEGRADED
    if ConditionType.PROGRESSING in true or ConditionType.READY not in true:
        return RelaySetState.PROGRESSING
    return RelaySetState.READY


def _timed(verdict: _Verdict, before: Sequence[Condition], given: StatusInput) -> Condition:
    old = next((one for one in before if one.type == verdict.kind.value), None)
    same = old is not None and old.status is verdict.status
    return Condition(
        type=verdict.kind.value,
        status=verdict.status,
        reason=verdict.reason,
        message=verdict.message[:4096],
        observed_generation=given.relay_set.metadata.generation,
        last_transition_time=old.last_transition_time if old is not None and same else timestamp(int(given.now)),
    )
