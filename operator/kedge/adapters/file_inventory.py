"""Relays from RelaySet files: what stands in for the API server where there is no cluster.

A file that has changed is read again; one that is wrong then is logged with all its problems, and the last good
inventory stays: a slip in an editor moves no call.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from kedge.adapters.file_watch import POLL, FileWatch
from kedge.api.convert import endpoints_of, policy_of
from kedge.api.errors import ManifestError, Problem, refusal
from kedge.api.load import load_manifests, unserved
from kedge.api.relayset import RelaySet
from kedge.base.errors import KedgeError
from kedge.relay.model import InventorySnapshot

_log = logging.getLogger(__name__)


class FilesError(KedgeError):
    """Files that cannot be used; the lines of the message say where and why. For who wrote them to mend."""


def read_relay_sets(files: Sequence[Path]) -> list[RelaySet]:
    """Return the RelaySets of ``files``, in order; Calls in them mean nothing here.

    Raises:
        FilesError: a file cannot be read, or anything in any of them is wrong; all of it is told at once.
    """
    found: list[RelaySet] = []
    lines: list[str] = []
    names: dict[tuple[str, str], Path] = {}
    for file in files:
        try:
            sets = [one for one in load_manifests(file) if isinstance(one, RelaySet)]
        except ManifestError as error:
            lines += map(str, error.problems)
            continue
        except OSError as error:
            lines.append(f"{file}: {error.strerror or error}")
            continue
        if not sets:
            lines.append(f"{file}: holds no RelaySet")
        for one in sets:
            lines += map(str, _unfit(one, file, names))
        found += sets
    if lines:
        raise FilesError("\n".join(lines))
    return found


def _unfit(one: RelaySet, file: Path, names: dict[tuple[str, str], Path]) -> list[Problem]:
    """Return what keeps a RelaySet, good in itself, from use without a cluster."""
    key = (one.metadata.namespace or "default", one.metadata.name)
    first = names.setdefault(key, file)
    problems = []
    if first != file:
        problems.append(refusal(("metadata", "name"), f"{first} has a RelaySet of that name", value=key[1]))
    if not one.spec.endpoints:
        hint = "is missing: without a cluster relays are known by address"
        problems.append(refusal(("spec", "endpoints"), hint))
    problems += unserved(one)
    source = f"{file}: RelaySet {key[1]}"
    return [
        Problem(path=each.path, value=each.value, allowed=each.allowed, message=each.message, source=source)
        for each in problems
    ]


def snapshot_of(relay_sets: Sequence[RelaySet]) -> InventorySnapshot:
    """Return what signaling needs of RelaySets that name their relays by address."""
    return InventorySnapshot(
        relay_sets=tuple(policy_of(one) for one in relay_sets),
        relays=tuple(relay for one in relay_sets for relay in endpoints_of(one)),
    )


class FileInventory:
    """Implements ``ports.RelayInventory``."""

    def __init__(self, files: Sequence[Path], *, poll: float = POLL) -> None:
        self._files = tuple(files)
        self._watch = FileWatch(files, poll=poll)

    async def run(self, publish: Callable[[InventorySnapshot], None]) -> None:
        """Publish what the files say, and again whenever they say something else."""
        told: InventorySnapshot | None = None
        async for _ in self._watch.changes():
            snapshot = self._read()
            if snapshot is not None and snapshot != told:
                if told is not None:
                    _log.info("the RelaySet files have changed: %d relays now", len(snapshot.relays))
                told = snapshot
                publish(snapshot)

    def _read(self) -> InventorySnapshot | None:
        try:
            return snapshot_of(read_relay_sets(self._files))
        except FilesError as error:
            for line in str(error).splitlines():
                _log.error("the RelaySets stay as they were: %s", line)
            return None
