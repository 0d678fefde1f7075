"""CPU that the operator takes for a resync of many RelaySets in which nothing has changed, and what it writes.

Usage: python benchmarks/resync.py [--sets N] [--relays N] [--seconds S] [--apiserver] [--json]

By default the API server is a store in memory that hands out JSON, parsed anew for each answer as the client does;
``--apiserver`` takes a real kube-apiserver and the real client instead, HTTP and TLS included. Signaling is asked once
a second and tells of every relay; calls stand still, counters of packets do not. Measured is the CPU of the operator's
thread: from the beginning of a resync until nothing is asked for any more, and at rest from then to the next.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, cast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import Figure, show
from tests.lab.control_plane import ApiServer

from kedge.adapters.kube_client import KubeClient
from kedge.api.names import GROUP, VERSION
from kedge.controller.manifests import ManifestSettings
from kedge.controller.operator import Operator, OperatorSettings
from kedge.ports.kube import (
    DEPLOYMENT_KIND,
    POD_KIND,
    RELAY_SET_KIND,
    Kind,
    KubeApi,
    KubeCredentials,
    KubeError,
    Manifest,
)
from kedge.ports.records import RelayRecord, SignalingSnapshot

NAMESPACE: Final = "media"
LIMIT: Final = 1.0
"""Seconds of CPU that a resync may take."""
_CRDS: Final = Path(__file__).resolve().parents[1] / "crds"
_RUNNING: Final = {"phase": "Running", "podIP": "192.0.2.1"}
_AT_ONCE: Final = 8
_SINCE: Final = 1_700_000_000.0


class Stored:
    """Implements ``ports.kube.KubeApi`` in memory."""

    def __init__(self) -> None:
        self._objects: dict[tuple[str, str, str], str] = {}
        self._labels: dict[tuple[str, str, str], dict[str, str]] = {}

    async def get(self, kind: Kind, namespace: str, name: str) -> Manifest | None:
        """Return an object."""
        found = self._objects.get((kind.kind, namespace, name))
        return None if found is None else self._parsed(found)

    async def list_objects(self, kind: Kind, namespace: str, selector: str = "") -> list[Manifest]:
        """Return the objects that a selector of labels matches."""
        terms = [term.partition("=") for term in selector.split(",") if term and " " not in term]
        return [
            self._parsed(text)
            for key, text in self._objects.items()
            if key[0] == kind.kind
            and namespace in ("", key[1])
            and all(
                (found := self._labels[key].get(name)) is not None and value in ("", found) for name, _, value in terms
            )
        ]

    async def create(self, kind: Kind, manifest: Manifest) -> Manifest:
        """Store an object."""
        return self.put(kind, manifest)

    async def apply(self, kind: Kind, manifest: Manifest, *, subresource: str = "") -> Manifest:
        """Store an object."""
        return self.put(kind, manifest)

    async def patch(self, kind: Kind, namespace: str, name: str, patch: Manifest) -> Manifest:
        """Nobody asks for it here."""
        raise NotImplementedError

    async def patch_status(self, kind: Kind, namespace: str, name: str, status: Manifest) -> Manifest:
        """Merge a status."""
        live = await self.get(kind, namespace, name)
        if live is None:
            raise KubeError(404, "NotFound", name)
        live["status"] = {**live.get("status", {}), **status}
        return self.put(kind, live)

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str = "") -> bool:
        """Remove an object."""
        return self._objects.pop((kind.kind, namespace, name), None) is not None

    async def credentials(self) -> KubeCredentials:
        """Nobody asks for it here."""
        raise NotImplementedError

    async def close(self) -> None:
        """Nothing is open."""

    def put(self, kind: Kind, manifest: Manifest) -> Manifest:
        """Store an object as the API server would."""
        metadata = manifest["metadata"]
        metadata.setdefault("uid", f"uid-{kind.kind}-{metadata['name']}")
        metadata.setdefault("generation", 1)
        key = kind.kind, metadata["namespace"], metadata["name"]
        self._objects[key] = json.dumps({"apiVersion": kind.api_version, "kind": kind.kind, **manifest})
        self._labels[key] = metadata.get("labels", {})
        return manifest

    @staticmethod
    def _parsed(text: str) -> Manifest:
        parsed: Manifest = json.loads(text)
        return parsed


class Counted:
    """Hands on to another ``KubeApi``, and counts."""

    def __init__(self, kube: KubeApi) -> None:
        self._kube = kube
        self.reads = self.writes = 0
        self.under_way = 0
        """Requests without an answer yet."""
        self.began = (0, 0, 0.0)
        """Reads, writes and CPU seconds of this thread when the last resync began."""
        self.resync_began = asyncio.Event()

    def __getattr__(self, verb: str) -> Any:
        """Return a verb that counts; ``KubeApi`` has no other attributes."""
        perform = getattr(self._kube, verb)

        async def counted(*given: Any, **named: Any) -> Any:
            if verb == "list_objects" and given[0] is RELAY_SET_KIND:
                self.began = self.reads, self.writes, time.thread_time()
                self.resync_began.set()
            self.reads += verb in ("get", "list_objects")
            self.writes += verb in ("create", "apply", "patch", "patch_status", "delete")
            self.under_way += 1
            try:
                return await perform(*given, **named)
            finally:
                self.under_way -= 1

        return counted


class Signaling:
    """Implements ``ports.ports.SignalingView``: relays are well and calls stay, but packets are counted."""

    def __init__(self, relays: tuple[RelayRecord, ...]) -> None:
        self._relays = relays
        self._packets = 0

    async def snapshots(self) -> tuple[SignalingSnapshot, ...]:
        """Return what the one replica knows."""
        self._packets += 1000
        counters = {"requests_received": self._packets}
        return (SignalingSnapshot(replica="sig-0", at=time.time(), relays=self._relays, counters=counters),)


class NoWatch:
    """Implements ``controller.watching.Watching``: nothing happens."""

    def __init__(
        self, *, namespace: str, notify: Callable[[str], None], login: Callable[[], Awaitable[KubeCredentials]]
    ) -> None:
        """Nothing is to be kept."""

    def start(self) -> None:
        """Nothing begins."""

    def stop(self) -> None:
        """Nothing ends."""

    def join(self, timeout: float = 0.0) -> bool:
        """It has ended."""
        return True


async def fill(kube: KubeApi, sets: int, relays: int) -> Signaling:
    """Make RelaySets and their pods."""
    slots = asyncio.Semaphore(_AT_ONCE)
    records: list[RelayRecord] = []

    async def one_set(number: int) -> None:
        name = f"voice-{number:04d}"
        async with slots:
            await kube.create(RELAY_SET_KIND, _relay_set(name, relays))
            for index in range(relays):
                pod = _pod(name, index)
                made = await kube.create(POD_KIND, pod)
                await kube.patch_status(POD_KIND, NAMESPACE, pod["metadata"]["name"], _RUNNING)
                records.append(_record(name, made))

    async with asyncio.TaskGroup() as tasks:
        for number in range(sets):
            tasks.create_task(one_set(number))
    return Signaling(tuple(records))


def _relay_set(name: str, relays: int) -> Manifest:
    return {
        "apiVersion": f"{GROUP}/{VERSION}", "kind": "RelaySet", "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"engine": "RTPEngine", "replicas": relays},
    }  # fmt: skip


def _pod(name: str, index: int) -> Manifest:
    labels = {
        "app.kubernetes.io/managed-by": "kedge",
        "app.kubernetes.io/name": "kedge-relay",
        f"{GROUP}/relayset": name,
    }
    return {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": f"{name}-relay-{index}", "namespace": NAMESPACE, "labels": labels},
        "spec": {"nodeName": "node-a", "containers": [{"name": "relay", "image": "relay:1"}]},
    }  # fmt: skip


def _record(name: str, pod: Manifest) -> RelayRecord:
    return RelayRecord(
        uid=pod["metadata"]["uid"], name=pod["metadata"]["name"], relay_set=f"{NAMESPACE}/{name}",
        address="192.0.2.1:2223", state="Ready", reason="Probed", message="it answers", since=_SINCE, sessions=50,
        instance="i1", capacity=4000,
    )  # fmt: skip


async def measure(kube: KubeApi, told: Signaling, sets: int, seconds: float) -> dict[str, Figure]:
    """Let the operator come to rest, then measure a resync and a stretch of rest."""
    counted = Counted(kube)
    settings = OperatorSettings(
        manifests=ManifestSettings(image="relay:1", signaling_labels={"app": "signaling"}), namespace=NAMESPACE,
        resync=seconds,
    )  # fmt: skip
    operator = Operator(settings, cast(KubeApi, counted), told, watching=NoWatch)
    task = asyncio.create_task(operator.run())
    first = time.thread_time()
    await _settled(counted, kube)
    first_pass = time.thread_time() - first
    figures: dict[str, Figure] = {
        "sets": sets,
        "first_pass_cpu_ms": first_pass * 1000,
        "first_pass_writes": counted.writes,
    }
    counted.resync_began.clear()
    await counted.resync_began.wait()
    reads, writes, used = counted.began
    await _quiet(counted)
    busy, reads, writes = time.thread_time() - used, counted.reads - reads, counted.writes - writes
    counted.resync_began.clear()
    used, at = time.thread_time(), time.monotonic()
    await counted.resync_began.wait()
    rest = (counted.began[2] - used) / (time.monotonic() - at)
    operator.stop()
    await task
    return figures | {
        "resync_cpu_ms": busy * 1000, "resync_reads": reads, "resync_writes": writes, "rest_cpu_ms_per_s": rest * 1000,
    }  # fmt: skip


async def _settled(counted: Counted, kube: KubeApi) -> None:
    """Wait until a whole resync writes nothing; Deployments are rolled out as soon as they are there."""
    while True:
        counted.resync_began.clear()
        await counted.resync_began.wait()
        before = counted.writes
        await _quiet(counted)
        if before and counted.writes == before:
            return
        for live in await kube.list_objects(DEPLOYMENT_KIND, NAMESPACE):
            wanted, metadata = live["spec"]["replicas"], live["metadata"]
            if "status" not in live or "updatedReplicas" not in live["status"]:
                numbers = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), wanted)
                status = numbers | {"observedGeneration": metadata["generation"]}
                await kube.patch_status(DEPLOYMENT_KIND, NAMESPACE, metadata["name"], status)


async def _quiet(counted: Counted) -> None:
    """Wait until nothing was asked for half a second, and all is answered."""
    asked = -1
    while counted.under_way or asked != counted.reads + counted.writes:
        asked = counted.reads + counted.writes
        await asyncio.sleep(0.5)


async def _with_apiserver(sets: int, relays: int, seconds: float) -> dict[str, Figure]:
    server = await asyncio.to_thread(ApiServer.start)
    try:
        await asyncio.to_thread(_prepare, server)
        kube = KubeClient(str(server.kubeconfig))
        return await measure(kube, await fill(kube, sets, relays), sets, seconds)
    finally:
        await asyncio.to_thread(server.stop)


def _prepare(server: ApiServer) -> None:
    server.kubectl("apply", "--server-side", "-f", str(_CRDS))
    server.kubectl("wait", "--for=condition=Established", "--timeout=30s", f"crd/relaysets.{GROUP}")
    server.kubectl("create", "namespace", NAMESPACE)
    server.kubectl("create", "serviceaccount", "default", f"--namespace={NAMESPACE}")


async def _in_memory(sets: int, relays: int, seconds: float) -> dict[str, Figure]:
    kube = Stored()
    return await measure(kube, await fill(kube, sets, relays), sets, seconds)


def main() -> None:
    """Measure, print, and fail where a resync costs too much or writes."""
    parser = argparse.ArgumentParser(description="CPU and writes of the operator's resync.")
    parser.add_argument("--sets", type=int, default=200)
    parser.add_argument("--relays", type=int, default=10, help="relays of each RelaySet")
    parser.add_argument("--seconds", type=float, default=10.0, help="between two resyncs")
    parser.add_argument("--apiserver", action="store_true", help="against a real kube-apiserver")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    run = _with_apiserver if given.apiserver else _in_memory
    figures = asyncio.run(run(given.sets, given.relays, given.seconds))
    show(figures, as_json=given.json)
    if figures["resync_writes"] or figures["resync_cpu_ms"] > LIMIT * 1000:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
