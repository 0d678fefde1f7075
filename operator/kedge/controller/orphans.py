"""Call objects whose signaling process is gone for good. Pure.

A signaling process removes what an earlier run under its own name left; but a pod that is replaced has another name,
and nobody would. A process that merely does not answer is not gone: its objects get a time of grace, and should they be
deleted too soon, it makes them again. No call depends on them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from kedge.api.convert import label_value
from kedge.api.names import REPLICA_LABEL
from kedge.ports.kube import Manifest

_GRACE: Final = 120.0
"""Seconds that a process must have been silent."""
_AT_ONCE: Final = 200
"""Objects that are deleted in one go."""


def others_than(replicas: Iterable[str]) -> str:
    """Return the selector of Call objects that belong to none of these signaling processes."""
    names = ",".join(sorted({label_value(one) for one in replicas}))
    return f"{REPLICA_LABEL},{REPLICA_LABEL} notin ({names})"


class Orphans:
    """Remembers since when objects have had no process that answers."""

    def __init__(self, grace: float = _GRACE) -> None:
        self._grace = grace
        self._since: dict[str, float] = {}

    def take(self, found: Sequence[Manifest], now: float) -> list[Manifest]:
        """Return those of ``found`` (objects of silent processes) to delete; ``now`` in seconds, monotonic."""
        silent = {_replica(one) for one in found}
        self._since = {name: self._since.get(name, now) for name in silent}
        gone = {name for name, since in self._since.items() if now - since >= self._grace}
        return [one for one in found if _replica(one) in gone][:_AT_ONCE]


def _replica(call: Manifest) -> str:
    return str(call["metadata"]["labels"][REPLICA_LABEL])
