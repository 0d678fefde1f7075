"""A mirror of objects in the API server, kept by list and watch, that survives whatever the API server does.

While the server is away the mirror stays as it was: absence from the API is no evidence of anything. After an outage
the watch goes on where it stopped; where the server no longer knows that place (410), all is listed again and the
differences are told, so that those who listen cannot tell the two apart.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Generic, TypeVar

from kedge.adapters.kube_client import KubeClient
from kedge.base.backoff import Backoff
from kedge.ports.kube import Kind, KubeError, Manifest

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Mirror(Generic[T]):
    """Keeps ``project(object)`` of each object, by ``namespace/name``.

    ``changed(key, old, new)`` is called after each difference; None stands for "not there". Objects of which
    ``project`` returns None are as good as absent.
    """

    def __init__(
        self,
        client: KubeClient,
        kind: Kind,
        *,
        namespace: str,
        project: Callable[[Manifest], T | None],
        changed: Callable[[str, T | None, T | None], None],
        selector: str = "",
        backoff: Backoff | None = None,
    ) -> None:
        self._client = client
        self._kind = kind
        self._namespace = namespace
        self._selector = selector
        self._project = project
        self._changed = changed
        self._backoff = backoff or Backoff()
        self.objects: dict[str, T] = {}
        self.synced = asyncio.Event()
        """Set once the first list is in."""

    async def run(self) -> None:
        """List and watch until cancelled."""
        while True:
            try:
                version = await self._list()
                await self._follow(version)
            except KubeError as error:
                await self._rest(error)

    async def _list(self) -> str:
        items, version = await self._client.list_with_version(self._kind, self._namespace, self._selector)
        self._backoff.reset()
        found = {_key(item): item for item in items}
        for key in self.objects.keys() - found.keys():
            self._put(key, None)
        for key, item in found.items():
            self._put(key, item)
        if not self.synced.is_set():
            self.synced.set()
        return version

    async def _follow(self, version: str) -> None:
        """Watch from ``version`` on, over broken connections, until the server no longer knows where we were."""
        while True:
            try:
                async for event in self._client.watch(self._kind, self._namespace, self._selector, version):
                    if event["type"] == "ERROR":
                        raise _error_of(event["object"])
                    self._backoff.reset()
                    version = self._take(event)
            except KubeError as error:
                if error.is_expired:
                    return
                await self._rest(error)
            else:
                await asyncio.sleep(self._backoff.next())  # a server that hangs up at once is not asked in a tight loop

    def _take(self, event: Manifest) -> str:
        item = event["object"]
        if event["type"] in ("ADDED", "MODIFIED"):
            self._put(_key(item), item)
        elif event["type"] == "DELETED":
            self._put(_key(item), None)
        return str(item["metadata"]["resourceVersion"])

    def _put(self, key: str, item: Manifest | None) -> None:
        old = self.objects.get(key)
        new = None if item is None else self._project(item)
        if new == old:
            return
        if new is None:
            del self.objects[key]
        else:
            self.objects[key] = new
        self._changed(key, old, new)

    async def _rest(self, error: KubeError) -> None:
        delay = self._backoff.next()
        _log.warning("watch of %s is interrupted, again in %.1f s: %s", self._kind.plural, delay, error)
        await asyncio.sleep(delay)


def _key(item: Manifest) -> str:
    metadata = item["metadata"]
    return f"{metadata.get('namespace', '')}/{metadata['name']}"


def _error_of(status: Manifest) -> KubeError:
    return KubeError(int(status.get("code") or 0), str(status.get("reason") or "Error"), str(status.get("message")))
