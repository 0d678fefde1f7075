"""An API server in memory, as far as the controller uses one. It counts writes and can be away."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable

from kedge.ports.kube import Kind, KubeCredentials, KubeError, KubeUnavailableError, Manifest


class FakeKube:
    """Implements ``ports.kube.KubeApi``. ``writes`` names what was written: ``verb Kind/name``."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], Manifest] = {}
        self.writes: list[str] = []
        self.away = False
        self.denied: set[str] = set()
        """Kinds that may not be read."""
        self.asked = 0
        self.lists = 0
        self._news = asyncio.Event()
        self.closed = False

    def put(self, manifest: Manifest) -> None:
        metadata = manifest["metadata"]
        self.objects[manifest["kind"], metadata["namespace"], metadata["name"]] = copy.deepcopy(manifest)

    async def until(self, true: Callable[[], bool]) -> None:
        """Wait until something is so; looked at after each request."""
        async with asyncio.timeout(10):
            while not true():
                self._news.clear()
                await self._news.wait()

    async def get(self, kind: Kind, namespace: str, name: str) -> Manifest | None:
        self._ask()
        if kind.kind in self.denied:
            raise KubeError(403, "Forbidden", f"{kind.plural} may not be read")
        return copy.deepcopy(self.objects.get((kind.kind, namespace, name)))

    async def list_objects(self, kind: Kind, namespace: str, selector: str = "") -> list[Manifest]:
        self._ask()
        self.lists += 1
        terms = [term for term in selector.split(",") if term and " " not in term]
        wanted = dict(term.split("=") for term in terms if "=" in term)
        needed = {term for term in terms if "=" not in term}
        return [
            copy.deepcopy(one)
            for (each, place, _), one in self.objects.items()
            if each == kind.kind
            and namespace in ("", place)
            and wanted.items() <= one["metadata"].get("labels", {}).items()
            and needed <= one["metadata"].get("labels", {}).keys()
        ]

    async def create(self, kind: Kind, manifest: Manifest) -> Manifest:
        self._ask()
        key = kind.kind, manifest["metadata"]["namespace"], manifest["metadata"]["name"]
        if key in self.objects:
            raise KubeError(409, "AlreadyExists", "it is there")
        self.writes.append(f"create {kind.kind}/{key[2]}")
        self.put(manifest)
        return manifest

    async def apply(self, kind: Kind, manifest: Manifest, *, subresource: str = "") -> Manifest:
        self._ask()
        name = manifest["metadata"]["name"]
        self.writes.append(f"apply {kind.kind}/{name}")
        self.put(manifest)
        return manifest

    async def patch(self, kind: Kind, namespace: str, name: str, patch: Manifest) -> Manifest:
        """Merge annotations; nothing else is patched."""
        self._ask()
        live = self.objects.get((kind.kind, namespace, name))
        if live is None:
            raise KubeError(404, "NotFound", name)
        self.writes.append(f"patch {kind.kind}/{name}")
        merged = live["metadata"].get("annotations", {}) | patch["metadata"]["annotations"]
        live["metadata"]["annotations"] = {key: value for key, value in merged.items() if value is not None}
        return live

    async def patch_status(self, kind: Kind, namespace: str, name: str, status: Manifest) -> Manifest:
        self._ask()
        live = self.objects.get((kind.kind, namespace, name))
        if live is None:
            raise KubeError(404, "NotFound", name)
        self.writes.append(f"status {kind.kind}/{name}")
        merged = live.get("status", {}) | status
        live["status"] = {key: value for key, value in merged.items() if value is not None}
        return live

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str = "") -> bool:
        self._ask()
        self.writes.append(f"delete {kind.kind}/{name}")
        return self.objects.pop((kind.kind, namespace, name), None) is not None

    async def credentials(self) -> KubeCredentials:
        return KubeCredentials(server="http://127.0.0.1:9")  # nobody listens there: kopf keeps trying

    async def close(self) -> None:
        self.closed = True

    def _ask(self) -> None:
        self.asked += 1
        self._news.set()
        if self.away:
            raise KubeUnavailableError(503, "ServiceUnavailable", "away")
