"""kopf, kept at arm's length: it watches, and its handlers put keys into our queue. Nothing else.

Only ``on.login`` and ``on.event`` are used: the other decorators leave annotations and finalizers on objects, and keep
state that a level-triggered queue does not need. kopf has a thread and a loop of its own, since it cancels whatever
tasks it finds on its loop when it ends; and it is started again whenever it ends by itself, since it does that on an
unknown watch error. What is missed meanwhile, the resync finds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final, Protocol

import kopf

from kedge.api.names import GROUP, RELAYSET_LABEL, RELAYSETS, VERSION
from kedge.base.backoff import Backoff
from kedge.controller.manifests import MANAGED_BY_LABEL, MANAGER
from kedge.ports.kube import RELAY_SET_KIND, KubeCredentials

_log = logging.getLogger(__name__)
_STOP_SECONDS: Final = 10.0
_CLOSING_SECONDS: Final = 0.1
"""TLS connections end in the background; a loop that ends before them leaves their sockets to the garbage collector."""


class EndlessBackoff:
    """Delays in seconds for kopf's requests: growing, jittered and without end, so that no outage makes it exit."""

    def __iter__(self) -> Iterator[float]:
        backoff = Backoff(first=0.5, most=30.0)
        while True:
            yield backoff.next()


class Watching(Protocol):
    """Something that tells of RelaySets that may have changed, on a thread of its own."""

    def start(self) -> None:
        """Begin."""

    def stop(self) -> None:
        """Ask it to end; from any thread, also before it began."""

    def join(self, timeout: float = _STOP_SECONDS) -> bool:
        """Wait at most ``timeout`` seconds for the end; return whether it came."""


class StartWatching(Protocol):
    """Makes a ``Watching``; ``KopfThread`` is one."""

    def __call__(
        self, *, namespace: str, notify: Callable[[str], None], login: Callable[[], Awaitable[KubeCredentials]]
    ) -> Watching:
        """Return one that is not started yet."""


class KopfThread:
    """Runs kopf on a thread of its own until stopped.

    ``notify`` is called on that thread with the key (``namespace/name``) of each RelaySet that may have changed;
    ``login`` is awaited on kopf's loop. ``namespace`` empty means all namespaces.
    """

    def __init__(
        self,
        *,
        namespace: str,
        notify: Callable[[str], None],
        login: Callable[[], Awaitable[KubeCredentials]],
        backoff: Backoff | None = None,
        settings: Callable[[], kopf.OperatorSettings] | None = None,
    ) -> None:
        self._backoff = backoff or Backoff(first=1.0, most=60.0)
        self._settings = settings or operator_settings
        self._namespace = namespace
        self._notify = notify
        self._login = login
        self._stop = threading.Event()
        self._current: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        self._thread = threading.Thread(target=self._supervise, name="kedge-kopf", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ask kopf to end; from any thread."""
        self._stop.set()
        run = self._current
        if run is not None:
            loop, flag = run
            with contextlib.suppress(RuntimeError):  # it has just ended by itself
                loop.call_soon_threadsafe(flag.set)

    def join(self, timeout: float = _STOP_SECONDS) -> bool:
        """Wait at most ``timeout`` seconds for the end; return whether it came."""
        if self._thread.ident is not None:  # else it never began
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _supervise(self) -> None:
        while not self._stop.is_set():
            try:
                self._run()
            except Exception as error:  # noqa: BLE001 (kopf's errors are private, and none of them may end the watch)
                _log.warning("kopf ended: %s: %s", type(error).__name__, error)
            if self._stop.wait(0 if self._stop.is_set() else self._backoff.next()):
                return
            _log.info("kopf is started again")

    def _run(self) -> None:
        asyncio.run(self._operate())

    async def _operate(self) -> None:
        # Not the threading event itself: kopf awaits that on an executor's thread, which the end of its loop waits for.
        flag = asyncio.Event()
        self._current = asyncio.get_running_loop(), flag
        try:
            if not self._stop.is_set():
                await self._kopf(flag)
        finally:
            self._current = None
            await asyncio.sleep(_CLOSING_SECONDS)

    async def _kopf(self, flag: asyncio.Event) -> None:
        await kopf.operator(
            registry=self._registry(),
            settings=self._settings(),
            standalone=True,
            clusterwide=not self._namespace,
            namespaces=[self._namespace] if self._namespace else [],
            stop_flag=flag,
        )

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()

        @kopf.on.login(registry=registry, backoff=5.0)
        async def login(**_: Any) -> kopf.ConnectionInfo:
            return connection_info(await self._login())

        @kopf.on.event(GROUP, VERSION, RELAYSETS, registry=registry)
        async def relay_set_changed(namespace: str | None, name: str | None, **_: Any) -> None:
            self._notify(f"{namespace}/{name}")

        @kopf.on.event("apps", "v1", "deployments", labels={MANAGED_BY_LABEL: MANAGER}, registry=registry)
        async def deployment_changed(body: kopf.Body, **_: Any) -> None:
            for key in owner_keys(dict(body["metadata"])):
                self._notify(key)

        @kopf.on.event("", "v1", "pods", labels={RELAYSET_LABEL: kopf.PRESENT}, registry=registry)
        async def relay_pod_changed(namespace: str | None, labels: kopf.Labels, **_: Any) -> None:
            self._notify(f"{namespace}/{labels[RELAYSET_LABEL]}")

        return registry


def operator_settings() -> kopf.OperatorSettings:
    """Return kopf's settings: no trace on objects, patient with the API server, harmless to the process around it."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.posting.loggers = False
    settings.scanning.disabled = True
    settings.networking.error_backoffs = EndlessBackoff()
    settings.networking.connect_timeout = 3.0
    settings.networking.request_timeout = 10.0
    settings.watching.connect_timeout = 3.0
    settings.watching.chunk_size = 250
    settings.watching.server_timeout = 300  # whole seconds: the API server takes no fraction
    settings.watching.inactivity_timeout = 75.0
    settings.watching.reconnect_backoff = 0.5 + random.random()
    settings.watching.label_selectors["apps", "v1", "deployments"] = f"{MANAGED_BY_LABEL}={MANAGER}"
    settings.watching.label_selectors["", "v1", "pods"] = RELAYSET_LABEL
    settings.process.ultimate_exiting_timeout = None  # it would kill a process that may be carrying calls
    return settings


def connection_info(credentials: KubeCredentials) -> kopf.ConnectionInfo:
    """Return credentials in kopf's form."""
    scheme, _, token = (credentials.authorization or "").partition(" ")
    return kopf.ConnectionInfo(
        server=credentials.server,
        ca_path=credentials.ca_path,
        insecure=credentials.insecure,
        certificate_path=credentials.certificate_path,
        private_key_path=credentials.private_key_path,
        scheme=scheme.capitalize() if token else None,
        token=token or None,
    )


def owner_keys(metadata: dict[str, Any]) -> list[str]:
    """Return the keys of the RelaySets that own an object."""
    owners = metadata.get("ownerReferences") or ()
    kind, api_version = RELAY_SET_KIND.kind, RELAY_SET_KIND.api_version
    return [
        f"{metadata.get('namespace')}/{one['name']}"
        for one in owners
        if one.get("kind") == kind and one.get("apiVersion") == api_version
    ]


async def across_loops(call: Callable[[], Any], loop: asyncio.AbstractEventLoop) -> Any:
    """Await a coroutine function's result on another loop."""
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(call(), loop))
