"""A Lease in the API server (``coordination.k8s.io/v1``). Implements ``ports.lease.LeaseStore``.

It is ours because that of the client library cannot create a Lease and takes a lost connection for a lead that goes on.
What others have put on the object (labels, say) stays: the last manifest is written back with another ``spec``.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

from kedge.ports.kube import LEASE_KIND, Kind, Manifest
from kedge.ports.lease import NOBODY, LeaseRecord, SeenLease

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SENSIBLE_YEARS: Final = range(1970, 9000)
"""Times beyond are taken for none: there must be room for one more microsecond."""


class LeaseApi(Protocol):
    """What is used of ``KubeClient``."""

    async def get(self, kind: Kind, namespace: str, name: str) -> Manifest | None:
        """Return the object, or None where there is none."""

    async def create(self, kind: Kind, manifest: Manifest) -> Manifest:
        """Create the object that the manifest names."""

    async def replace(self, kind: Kind, manifest: Manifest) -> Manifest:
        """Put the manifest in the place of the object of the same version."""

    async def close(self) -> None:
        """Close all connections."""


class KubeLease:
    """The Lease ``name`` in ``namespace``. ``api`` is for it alone: the lead must not wait for other requests."""

    def __init__(self, api: LeaseApi, *, namespace: str, name: str) -> None:
        self._api = api
        self._namespace = namespace
        self._name = name
        self._metadata: Mapping[str, Any] = {}

    async def read(self) -> SeenLease | None:
        """Return the Lease, or None where there is none."""
        manifest = await self._api.get(LEASE_KIND, self._namespace, self._name)
        return self._seen(manifest) if manifest is not None else None

    async def write(self, record: LeaseRecord, version: str | None) -> SeenLease:
        """Create the Lease where ``version`` is None, else replace just that version; return what it is now."""
        metadata: Manifest = {"name": self._name, "namespace": self._namespace}
        if version is None:
            return self._seen(await self._api.create(LEASE_KIND, _manifest(metadata, record)))
        kept = {key: value for key, value in self._metadata.items() if key != "managedFields"}
        metadata = {**kept, **metadata, "resourceVersion": version}
        return self._seen(await self._api.replace(LEASE_KIND, _manifest(metadata, record)))

    async def close(self) -> None:
        """Close all connections."""
        await self._api.close()

    def _seen(self, manifest: Manifest) -> SeenLease:
        self._metadata = manifest["metadata"]
        return SeenLease(record=record_of(manifest), version=str(manifest["metadata"]["resourceVersion"]))


def record_of(manifest: Manifest) -> LeaseRecord:
    """Return what a Lease says; all its fields are optional."""
    spec = manifest.get("spec") or {}
    return LeaseRecord(
        holder=spec.get("holderIdentity") or NOBODY,
        duration=spec.get("leaseDurationSeconds") or 0,
        acquired=_microseconds(spec.get("acquireTime")),
        renewed=_microseconds(spec.get("renewTime")),
        transitions=spec.get("leaseTransitions") or 0,
    )


def _manifest(metadata: Mapping[str, Any], record: LeaseRecord) -> Manifest:
    return {
        "apiVersion": LEASE_KIND.api_version,
        "kind": LEASE_KIND.kind,
        "metadata": dict(metadata),
        "spec": {
            "holderIdentity": record.holder,
            "leaseDurationSeconds": record.duration,
            "acquireTime": _text(record.acquired),
            "renewTime": _text(record.renewed),
            "leaseTransitions": record.transitions,
        },
    }


def _text(microseconds: int) -> str:
    at = _EPOCH + timedelta(microseconds=microseconds)
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _microseconds(text: str | None) -> int:
    try:
        at = datetime.fromisoformat(text) if text else _EPOCH
    except ValueError:
        return 0
    return (at - _EPOCH) // timedelta(microseconds=1) if at.tzinfo and at.year in _SENSIBLE_YEARS else 0
