"""What signaling tells, sorted by RelaySet, so that no RelaySet has to look through the relays of all. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any, Final

from kedge.controller.status import RECORDS_LIMITED_COUNTER
from kedge.ports.records import SignalingSnapshot

_SORTED: Final = ("relays", "failovers", "progress", "zones", "events")
"""Fields of a snapshot that belong to one RelaySet each."""


class Told:
    """The snapshots of all replicas that answer."""

    def __init__(self, snapshots: Sequence[SignalingSnapshot] = ()) -> None:
        empty: dict[str, Any] = dict.fromkeys(_SORTED, ())
        self.replicas = tuple(one.replica for one in snapshots)
        self._bare = tuple(replace(one, calls=(), **empty) for one in snapshots)
        self._parts: dict[str, tuple[SignalingSnapshot, ...]] = {}
        sorted_ones = [_sorted(one) for one in snapshots]
        for key in {key for one in sorted_ones for key in one}:
            self._parts[key] = tuple(
                replace(bare, **parts.get(key, {})) for bare, parts in zip(self._bare, sorted_ones, strict=True)
            )

    def of(self, key: str) -> tuple[SignalingSnapshot, ...]:
        """Return what is told of one RelaySet, by each replica that answers."""
        return self._parts.get(key, self._bare)


def _sorted(snapshot: SignalingSnapshot) -> dict[str, dict[str, Any]]:
    """Return the fields of a snapshot that belong to RelaySets, by key of the RelaySet."""
    lists: dict[str, dict[str, list[Any]]] = {}
    for name in _SORTED:
        for one in getattr(snapshot, name):
            lists.setdefault(one.relay_set, {}).setdefault(name, []).append(one)
    return {key: {name: tuple(found) for name, found in parts.items()} for key, parts in lists.items()}


def news(snapshots: Sequence[SignalingSnapshot]) -> Hashable:
    """Return what of one RelaySet is worth a write at once."""
    return tuple(
        (
            one.replica,
            tuple((r.uid, r.state, r.reason, r.message, r.since, r.instance, r.media_ready) for r in one.relays),
            one.failovers,
            tuple((e.at, e.reason, e.message) for e in one.events),
            one.counters.get(RECORDS_LIMITED_COUNTER, 0) > 0,
        )
        for one in sorted(snapshots, key=lambda one: one.replica)
    )


def numbers(snapshots: Sequence[SignalingSnapshot]) -> Hashable:
    """Return what can wait."""
    return tuple(
        (
            tuple((r.uid, r.sessions, r.capacity, r.weight, r.zone, r.intent) for r in one.relays),
            one.progress,
            one.zones,
        )
        for one in snapshots
    )
