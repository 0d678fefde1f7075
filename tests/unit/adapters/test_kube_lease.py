from __future__ import annotations

from typing import Any

import pytest

from kedge.adapters.kube_lease import KubeLease, record_of
from kedge.ports.kube import Kind, Manifest
from kedge.ports.lease import LeaseRecord

RECORD = LeaseRecord(
    holder="a", duration=15, acquired=1_700_000_000_000_001, renewed=1_700_000_002_500_000, transitions=3
)


class Api:
    """Keeps the last manifest."""

    def __init__(self) -> None:
        self.lease: Manifest | None = None
        self.verbs: list[str] = []

    async def get(self, kind: Kind, namespace: str, name: str) -> Manifest | None:
        return self.lease

    async def create(self, kind: Kind, manifest: Manifest) -> Manifest:
        return self._put("create", manifest)

    async def replace(self, kind: Kind, manifest: Manifest) -> Manifest:
        return self._put("replace", manifest)

    async def close(self) -> None:
        pass

    def _put(self, verb: str, manifest: Manifest) -> Manifest:
        self.verbs.append(verb)
        self.lease = {**manifest, "metadata": {**manifest["metadata"], "resourceVersion": str(len(self.verbs))}}
        return self.lease


async def test_what_is_written_is_read_back() -> None:
    api = Api()
    lease = KubeLease(api, namespace="media", name="kedge-operator")

    assert await lease.read() is None
    written = await lease.write(RECORD, None)

    assert await lease.read() == written
    assert (written.record, written.version) == (RECORD, "1")
    assert api.lease is not None
    assert api.lease["spec"]["acquireTime"] == "2023-11-14T22:13:20.000001Z"
    assert api.lease["spec"]["renewTime"] == "2023-11-14T22:13:22.500000Z"


async def test_a_write_keeps_what_others_put_on_the_object_and_names_its_version() -> None:
    api = Api()
    api.lease = {
        "metadata": {
            "name": "kedge-operator", "namespace": "media", "resourceVersion": "41", "labels": {"theirs": "yes"},
            "managedFields": [{}],
        },
        "spec": {"holderIdentity": "b"},
    }  # fmt: skip
    lease = KubeLease(api, namespace="media", name="kedge-operator")
    seen = await lease.read()
    assert seen is not None

    await lease.write(RECORD, "40")

    assert api.verbs == ["replace"]
    metadata: dict[str, Any] = api.lease["metadata"]
    assert metadata["labels"] == {"theirs": "yes"}
    assert "managedFields" not in metadata


@pytest.mark.parametrize(
    "time", [None, "", "yesterday", "2023-11-14T22:13:22", "9999-12-31T23:59:59.999999Z", "0001-01-01T00:00:00Z"]
)
def test_a_time_that_is_none_counts_as_none(time: str | None) -> None:
    assert record_of({"spec": {"renewTime": time}}).renewed == 0


@pytest.mark.parametrize("spec", [{}, {"spec": None}, {"spec": {}}, {"spec": {"holderIdentity": None}}])
def test_every_field_may_be_missing(spec: Manifest) -> None:
    assert record_of(spec) == LeaseRecord(holder="", duration=0, acquired=0, renewed=0, transitions=0)
