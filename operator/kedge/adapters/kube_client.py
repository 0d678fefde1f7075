"""The Kubernetes API over ``kubernetes.aio``: configuration, authentication and TLS are its; paths and JSON are ours.

Typed models for every kind would cost more than they give for six kinds, and cannot hold what a newer API server says.
One client belongs to one event loop; it opens nothing before the first request, so it can be made anywhere. It never
retries: whoever asks knows better whether the answer still matters.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final
from urllib.request import getproxies_environment

import aiohttp
from kubernetes.aio import config as kube_config
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.client.rest import RESTClientObject

from kedge.ports.kube import NAMESPACE_ENDS, Kind, KubeCredentials, KubeError, KubeUnavailableError, Manifest

FIELD_MANAGER: Final = "kedge"
"""Who owns the fields that server-side apply writes."""
_REQUEST_SECONDS: Final = 10.0
_CONNECT_SECONDS: Final = 3.0
_WATCH: Final = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=75)
"""Bookmarks come every minute: a stream silent for longer is dead, though its connection may stand."""
_WATCH_SECONDS: Final = 300
_ABORT: Final = struct.pack("ii", 1, 0)
"""``SO_LINGER`` for a close that forgets what was not sent. The kernel would go on sending for minutes after one, and a
write of a leader that lost the network would arrive long after another has taken over.
"""
_PAGE: Final = 250
"""Objects of one answer: parsing JSON holds the interpreter, and another thread of this process may carry SIP."""
_MERGE: Final = "application/merge-patch+json"
_APPLY: Final = "application/apply-patch+yaml"
_RETRYABLE: Final = frozenset({429, 500, 502, 503, 504})


class KubeClient:
    """Implements ``ports.kube.KubeApi``, and listing and watching for the adapters.

    ``kubeconfig`` is a path; without it the pod's service account is used, or where there is none, what ``KUBECONFIG``
    or the home directory holds. ``request_timeout`` is how many seconds a request may take, watches excepted.
    """

    def __init__(self, kubeconfig: str = "", context: str = "", *, request_timeout: float = _REQUEST_SECONDS) -> None:
        self._kubeconfig = kubeconfig
        self._context = context
        connect = min(_CONNECT_SECONDS, request_timeout)
        self._timeout = aiohttp.ClientTimeout(total=request_timeout, sock_connect=connect)
        self._api: ApiClient | None = None
        self._opening = asyncio.Lock()

    async def close(self) -> None:
        """Close all connections; a later request opens new ones."""
        api, self._api = self._api, None
        if api is not None:
            await api.close()  # type: ignore[no-untyped-call]

    async def get(self, kind: Kind, namespace: str, name: str) -> Manifest | None:
        """Return the object, or None where there is none."""
        try:
            return await self._request("GET", kind.path(namespace, name))
        except KubeError as error:
            if error.is_missing:
                return None
            raise

    async def list_objects(self, kind: Kind, namespace: str, selector: str = "") -> list[Manifest]:
        """Return the objects of a namespace (empty: of all) that a label selector matches."""
        named = {"apiVersion": kind.api_version, "kind": kind.kind}  # which a list says once, of all its items
        return [{**named, **one} for one in (await self.list_with_version(kind, namespace, selector))[0]]

    async def list_with_version(self, kind: Kind, namespace: str, selector: str = "") -> tuple[list[Manifest], str]:
        """Return the objects, and the resource version to watch on from."""
        query = {"limit": str(_PAGE)} | ({"labelSelector": selector} if selector else {})
        items: list[Manifest] = []
        while True:
            answer = await self._request("GET", kind.path(namespace), query)
            items += answer.get("items") or ()
            metadata = answer["metadata"]
            if not metadata.get("continue"):
                return items, str(metadata["resourceVersion"])
            query["continue"] = metadata["continue"]

    async def create(self, kind: Kind, manifest: Manifest) -> Manifest:
        """Create the object that the manifest names."""
        namespace = manifest["metadata"]["namespace"]
        return await self._request("POST", kind.path(namespace), {"fieldManager": FIELD_MANAGER}, manifest)

    async def replace(self, kind: Kind, manifest: Manifest) -> Manifest:
        """Put the manifest in the place of the object; a conflict unless that has the manifest's resourceVersion."""
        metadata = manifest["metadata"]
        path = kind.path(metadata["namespace"], metadata["name"])
        return await self._request("PUT", path, {"fieldManager": FIELD_MANAGER}, manifest)

    async def apply(self, kind: Kind, manifest: Manifest, *, subresource: str = "") -> Manifest:
        """Make what the manifest says so by server-side apply, taking the fields from whoever has them."""
        metadata = manifest["metadata"]
        path = kind.path(metadata["namespace"], metadata["name"], subresource)
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return await self._request("PATCH", path, query, manifest, _APPLY)

    async def patch(self, kind: Kind, namespace: str, name: str, patch: Manifest) -> Manifest:
        """Merge ``patch`` into an object (not its status)."""
        query = {"fieldManager": FIELD_MANAGER}
        return await self._request("PATCH", kind.path(namespace, name), query, patch, _MERGE)

    async def patch_status(self, kind: Kind, namespace: str, name: str, status: Manifest) -> Manifest:
        """Merge ``status`` into an object's status."""
        path = kind.path(namespace, name, "status")
        return await self._request("PATCH", path, {"fieldManager": FIELD_MANAGER}, {"status": status}, _MERGE)

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str = "") -> bool:
        """Delete the object (where ``uid`` is given, only that one); return whether it was there."""
        options: Manifest = {"propagationPolicy": "Background"}
        if uid:
            options["preconditions"] = {"uid": uid}
        try:
            await self._request("DELETE", kind.path(namespace, name), {}, options)
        except KubeError as error:
            if error.is_missing:
                return False
            raise
        return True

    async def credentials(self) -> KubeCredentials:
        """Return how this client reaches the API server now; tokens are refreshed by asking again."""
        configuration = (await self._open()).configuration
        return KubeCredentials(
            server=configuration.host,
            ca_path=configuration.ssl_ca_cert or None,
            certificate_path=configuration.cert_file or None,
            private_key_path=configuration.key_file or None,
            authorization=await configuration.get_api_key_with_prefix("BearerToken", alias="authorization"),
            insecure=not configuration.verify_ssl,
        )

    async def watch(self, kind: Kind, namespace: str, selector: str, version: str) -> AsyncIterator[Manifest]:
        """Yield watch events from a resource version on, until the server ends the stream."""
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(_WATCH_SECONDS),
        }
        if selector:
            query["labelSelector"] = selector
        try:
            response = await self._send("GET", kind.path(namespace), query, timeout=_WATCH)
            try:
                if response.status >= 400:
                    raise _refusal(response.status, await response.read())
                async for line in _lines(response.content):
                    yield json.loads(line)
            finally:
                response.close()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise KubeUnavailableError(0, "Unavailable", str(error) or type(error).__name__) from error

    async def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Manifest | None = None,
        content_type: str = "application/json",
    ) -> Manifest:
        try:
            response = await self._send(method, path, query or {}, body, content_type)
            async with response:
                payload = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise KubeUnavailableError(0, "Unavailable", str(error) or type(error).__name__) from error
        if response.status >= 400:
            raise _refusal(response.status, payload)
        answer: Manifest = json.loads(payload)
        return answer

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Manifest | None = None,
        content_type: str = "application/json",
        timeout: aiohttp.ClientTimeout | None = None,  # noqa: ASYNC109 (aiohttp's own: it tells connecting from reading)
    ) -> aiohttp.ClientResponse:
        api = await self._open()
        headers = {"Accept": "application/json", "Content-Type": content_type}
        # The body passes by the serializer of models, which costs more than all the rest and has nothing to do here.
        method, url, headers, _, _ = await api.param_serialize(
            method, path, None, list(query.items()), headers, auth_settings=["BearerToken"]
        )
        answer = await api.call_api(method, url, headers, body, _request_timeout=timeout or self._timeout)
        response: aiohttp.ClientResponse = answer.response
        return response

    async def _open(self) -> ApiClient:
        if self._api is None:
            async with self._opening:
                if self._api is None:
                    api = ApiClient(await self._load())
                    api.rest_client = _Rest(api.configuration)
                    self._api = api
        return self._api

    async def _load(self) -> Configuration:
        configuration = Configuration()
        proxies = bool(getproxies_environment())  # to look for them costs two thread hops a request
        configuration.client_session_kwargs = {"trust_env": proxies, "response_class": _Response}
        try:
            if not self._kubeconfig:
                try:
                    kube_config.load_incluster_config(configuration)  # type: ignore[no-untyped-call]
                    return configuration
                except kube_config.ConfigException:
                    pass  # no pod: the person's own configuration
            await kube_config.load_kube_config(  # type: ignore[no-untyped-call]
                self._kubeconfig or None, self._context or None, configuration, persist_config=False
            )
        except (kube_config.ConfigException, OSError) as error:
            raise KubeUnavailableError(0, "NoConfiguration", str(error)) from error
        return configuration


class _Rest(RESTClientObject):
    """The library's, on sockets of ours."""

    def _create_connector(self) -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(limit=self.maxsize, ssl=self.ssl_context, socket_factory=_socket)


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
    return made


class _Response(aiohttp.ClientResponse):
    """The library's, but one that is given up ends its connection at once.

    A TLS farewell waits half a minute for the other side's, and all that time the kernel sends the request again.
    """

    def close(self) -> None:
        transport = self.connection.transport if self.connection is not None else None
        super().close()
        if transport is not None:
            transport.abort()


def _refusal(status: int, payload: bytes) -> KubeError:
    reason, message = "Refused", payload[:200].decode(errors="replace")
    try:
        answer: Any = json.loads(payload)
    except ValueError:
        answer = None  # a proxy in between, not the API server
    if isinstance(answer, dict) and answer.get("kind") == "Status":
        reason, message = str(answer.get("reason") or reason), str(answer.get("message") or message)
        causes = (answer.get("details") or {}).get("causes") or ()
        if any(one.get("reason") == NAMESPACE_ENDS for one in causes):
            reason = NAMESPACE_ENDS
    kind = KubeUnavailableError if status in _RETRYABLE else KubeError
    return kind(status, reason, message)


async def _lines(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Yield whole lines; aiohttp's own iteration gives up on one that is longer than its buffer."""
    rest = b""
    async for chunk in stream.iter_any():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            if line:
                yield line
