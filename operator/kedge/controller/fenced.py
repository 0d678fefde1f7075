"""The last look before each write: an operator that no longer leads must not act, wherever it is in its work."""

from __future__ import annotations

from collections.abc import Callable

from kedge.ports.kube import Kind, KubeApi, KubeCredentials, KubeUnavailableError, Manifest


class FencedKube:
    """Implements ``ports.kube.KubeApi``: reads pass, writes only while ``leads()`` says so."""

    def __init__(self, kube: KubeApi, leads: Callable[[], bool]) -> None:
        self._kube = kube
        self._leads = leads

    async def get(self, kind: Kind, namespace: str, name: str) -> Manifest | None:
        """Return the object, or None where there is none."""
        return await self._kube.get(kind, namespace, name)

    async def list_objects(self, kind: Kind, namespace: str, selector: str = "") -> list[Manifest]:
        """Return the objects of a namespace (empty: of all) that a label selector matches."""
        return await self._kube.list_objects(kind, namespace, selector)

    async def create(self, kind: Kind, manifest: Manifest) -> Manifest:
        """Create the object that the manifest names."""
        self._check()
        return await self._kube.create(kind, manifest)

    async def apply(self, kind: Kind, manifest: Manifest, *, subresource: str = "") -> Manifest:
        """Make what the manifest says so by server-side apply, taking the fields from whoever has them."""
        self._check()
        return await self._kube.apply(kind, manifest, subresource=subresource)

    async def patch(self, kind: Kind, namespace: str, name: str, patch: Manifest) -> Manifest:
        """Merge ``patch`` into an object (not its status)."""
        self._check()
        return await self._kube.patch(kind, namespace, name, patch)

    async def patch_status(self, kind: Kind, namespace: str, name: str, status: Manifest) -> Manifest:
        """Merge ``status`` into an object's status."""
        self._check()
        return await self._kube.patch_status(kind, namespace, name, status)

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str = "") -> bool:
        """Delete the object (where ``uid`` is given, only that one); return whether it was there."""
        self._check()
        return await self._kube.delete(kind, namespace, name, uid=uid)

    async def credentials(self) -> KubeCredentials:
        """Return how this client reaches the API server now; tokens are refreshed by asking again."""
        return await self._kube.credentials()

    async def close(self) -> None:
        """Close all connections."""
        await self._kube.close()

    def _check(self) -> None:
        if not self._leads():
            raise KubeUnavailableError(0, "NotLeading", "another operator may act by now")
