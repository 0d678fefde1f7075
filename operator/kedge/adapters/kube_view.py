"""What signaling knows, for the operator: asked of each signaling pod by HTTP, or taken in process."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

import aiohttp

from kedge.adapters.token_file import Bearer, authorization
from kedge.base.address import host_for_uri
from kedge.ports.codec import CodecError, from_json
from kedge.ports.kube import POD_KIND, KubeApi, KubeError
from kedge.ports.records import SignalingSnapshot

SIGNALING_SELECTOR: Final = "app.kubernetes.io/name=kedge,app.kubernetes.io/component=signaling"
"""Labels of signaling pods."""
ADMIN_PORT: Final = 8080
_TIMEOUT: Final = aiohttp.ClientTimeout(total=3, connect=1)
_PODS_FOR: Final = 10.0
"""Seconds for which a list of pods is used."""
_log = logging.getLogger(__name__)


class InProcessView:
    """Implements ``ports.SignalingView`` of the same process; ``snapshot`` is called on the operator's thread."""

    def __init__(self, snapshot: Callable[[], SignalingSnapshot]) -> None:
        self._snapshot = snapshot

    async def snapshots(self) -> tuple[SignalingSnapshot, ...]:
        """Return the one replica's snapshot."""
        return (self._snapshot(),)


class HttpView:
    """Implements ``ports.SignalingView`` for signaling pods: ``GET /v1/snapshot?calls=false`` of each.

    Calls are left out: the operator only counts them, and ten thousand a second would be megabytes. While the API
    server is away the pods known last are asked.
    """

    def __init__(
        self,
        kube: KubeApi,
        *,
        namespace: str,
        selector: str = SIGNALING_SELECTOR,
        port: int = ADMIN_PORT,
        token: Bearer = str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kube = kube
        self._namespace = namespace
        self._selector = selector
        self._port = port
        self._token = token
        self._clock = clock
        self._urls: tuple[str, ...] = ()
        self._listed_at = float("-inf")

    async def snapshots(self) -> tuple[SignalingSnapshot, ...]:
        """Return what each replica that answers knows now."""
        if self._clock() - self._listed_at > _PODS_FOR:
            await self._list()
        async with aiohttp.ClientSession(timeout=_TIMEOUT, headers=authorization(self._token())) as session:
            answers = await asyncio.gather(*(self._ask(session, url) for url in self._urls))
        return tuple(one for one in answers if one is not None)

    async def _list(self) -> None:
        try:
            pods = await self._kube.list_objects(POD_KIND, self._namespace, self._selector)
        except KubeError as error:
            _log.warning("signaling pods cannot be listed, those known are asked: %s", error)
            return
        running = (pod["status"]["podIP"] for pod in pods if pod.get("status", {}).get("podIP"))
        self._urls = tuple(f"http://{host_for_uri(ip)}:{self._port}/v1/snapshot?calls=false" for ip in running)
        self._listed_at = self._clock()

    async def _ask(self, session: aiohttp.ClientSession, url: str) -> SignalingSnapshot | None:
        try:
            async with session.get(url) as response:
                response.raise_for_status()
                return from_json(SignalingSnapshot, await response.json())
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, CodecError) as error:
            _log.warning("signaling does not tell at %s: %s", url, error or type(error).__name__)
            return None
