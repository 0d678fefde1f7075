"""From what the books say of relays and calls to a plan, and the pace to keep to. Pure: it may run on any thread."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import Final

from kedge.base.errors import KedgeError
from kedge.ports.records import CallRecord, RelayRecord
from kedge.relay.model import RelaySetPolicy
from kedge.relay.plan import Pace, Plan, PlanCall, PlanKind, PlanRelay, plan_drain, plan_loss, plan_rebalance

_DRAIN_SHARE: Final = 0.25
"""The part of the failover's pace that a drain takes: its calls have audio, so that it need not hurry so much."""
_MISSED: Final = 60.0
"""Seconds before the start of this process in which a wish may have been made that nobody has seen."""
_SERVING: Final = ("Ready", "Full")


class PlanRequestError(KedgeError):
    """A plan was asked for that cannot be made: no such RelaySet or relay, or its mode forbids it."""


def planned(
    policy: RelaySetPolicy,
    kind: PlanKind,
    leaving: Sequence[str],
    relays: Sequence[PlanRelay],
    records: Iterable[CallRecord],
    now: float,
    *,
    asked: Mapping[str, str] | None = None,
    refused: AbstractSet[str] = frozenset(),
) -> Plan:
    """Make a plan for one RelaySet; ``now`` is Unix time.

    ``asked`` has the targets of calls that were asked to move, which count as there; what has ``refused`` stays.
    """
    there, zones = asked or {}, policy.placement.zones
    calls = [
        _call(one, one.zone if zones else "", there.get(one.id, ""), now, refused)
        for one in records
        if one.relay_set == policy.key
    ]
    pace = pace_of(policy, kind)
    if kind is PlanKind.DRAIN:
        return plan_drain(relays, calls, leaving, pace=pace)
    if kind is PlanKind.LOSS:
        return plan_loss(relays, calls, leaving, pace=pace)
    even = policy.rebalance
    return plan_rebalance(relays, calls, imbalance=even.imbalance, rest=even.rest, now=now, pace=pace)


def pace_of(policy: RelaySetPolicy, kind: PlanKind) -> Pace:
    """Return the pace; ``calls`` is what the planner keeps to, and never more than budgets allow."""
    rate, per_peer = policy.failover.rate, policy.failover.rate_per_peer
    calls = _DRAIN_SHARE * min(rate / 2, per_peer)
    if kind is PlanKind.LOSS:
        return Pace(rate=rate, rate_per_peer=per_peer)
    if kind is PlanKind.REBALANCE:
        calls = min(calls, policy.rebalance.rate)
    return Pace(rate=rate, rate_per_peer=per_peer, calls=calls)


def plan_relay(one: RelayRecord, sessions: int) -> PlanRelay:
    """Return a relay as plans take it, with so many sessions."""
    return PlanRelay(
        uid=one.uid, name=one.name, zone=one.zone, weight=one.weight, capacity=one.capacity, serving=serves(one),
        leaving=one.intent == "Drain" or one.state == "Down", sessions=sessions, outgoing=one.outgoing,
    )  # fmt: skip


def _call(one: CallRecord, zone: str, target: str, now: float, refused: AbstractSet[str]) -> PlanCall:
    anchor = one.last_anchor
    movable, reason = one.movable.status, one.movable.reason
    if one.id in refused:
        movable, reason = False, "Refused"
    return PlanCall(
        id=one.id, relay=target or one.relay_uid, zone=zone, emergency=one.emergency,
        last_move_at=now if target else anchor.at if anchor is not None else None, movable=movable,
        reason=reason, peers=(one.caller_peer, one.callee_peer),
    )  # fmt: skip


def serves(one: RelayRecord) -> bool:
    """Whether a relay has calls and may have more, as far as there is room."""
    return one.state in _SERVING and one.intent == "Serve"


def picture_of(relays: Iterable[RelayRecord]) -> frozenset[tuple[str, bool, str]]:
    """Return what, when it changes, makes a plan worthless: who serves, and who is to leave."""
    return frozenset((one.uid, serves(one), one.intent) for one in relays)


def set_named(policies: Mapping[str, RelaySetPolicy], name: str) -> str:
    """Return the key of the RelaySet that a person calls ``name``, or of the only one.

    Raises:
        PlanRequestError: there is none, or several.
    """
    keys = [key for key in policies if name in (key, key.partition("/")[2]) or not name]
    if len(keys) != 1:
        known = ", ".join(sorted(policies)) or "none"
        raise PlanRequestError(f"{'several RelaySets match' if keys else 'there is no RelaySet'} {name!r}: {known}")
    return keys[0]


def relay_named(relays: Sequence[RelayRecord], relay_set: str, name: str) -> RelayRecord:
    """Return the relay that a person calls ``name``.

    Raises:
        PlanRequestError: there is none, or several.
    """
    found = [
        one for one in relays
        if one.name == name and relay_set in ("", one.relay_set, one.relay_set.partition("/")[2])
    ]  # fmt: skip
    if len(found) != 1:
        known = ", ".join(sorted(one.name for one in relays)) or "none"
        raise PlanRequestError(f"{'several relays are called' if found else 'there is no relay'} {name!r}: {known}")
    return found[0]


def is_news(at: str, started: float) -> bool:
    """Whether a wish that was there before this process was made while none was running, and not long ago."""
    try:
        asked = datetime.fromisoformat(at)
    except ValueError:
        return False
    return asked.tzinfo is not None and asked.timestamp() > started - _MISSED


def why_ended(relay: RelayRecord | None) -> str:
    """Return why a drain ends although the relay was not emptied; empty if it was."""
    if relay is not None and relay.state == "Down":
        return "the relay was lost"
    return "it was taken back" if relay is not None and relay.sessions else ""
