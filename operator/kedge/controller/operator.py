"""The operator: takes keys from the queue, looks, decides by ``reconcile``, and does what came out.

Three things fill the queue: kopf's watches, what signaling tells (asked every second), and a resync. No call depends
on any of it: the API server may be away for as long as it likes, and keys wait. Of several operators, one runs at a
time: the one that leads (``leading``), and its writes are fenced off as soon as it does not (``fenced``).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from kedge.api.convert import relay_set_key
from kedge.api.relayset import RelaySet
from kedge.base.backoff import Backoff
from kedge.controller.events import events_of
from kedge.controller.manifests import ManifestSettings
from kedge.controller.orphans import Orphans, others_than
from kedge.controller.queue import WorkQueue
from kedge.controller.reconcile import Outcome, reconcile
from kedge.controller.survey import Survey, observe, survey
from kedge.controller.told import Told, news, numbers
from kedge.controller.watching import KopfThread, StartWatching, across_loops
from kedge.ports.kube import (
    CALL_KIND,
    EVENT_KIND,
    POD_KIND,
    RELAY_SET_KIND,
    KubeApi,
    KubeCredentials,
    KubeError,
    KubeUnavailableError,
    Manifest,
)
from kedge.ports.ports import SignalingView

_EVENTS_AT_ONCE: Final = 20
_REMEMBERED_EVENTS: Final = 2000
_MORE_EVENTS: Final = 5.0
"""Seconds until Events that were held back are told."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorSettings:
    """What the operator needs to know. Read once, at start."""

    manifests: ManifestSettings
    namespace: str = ""
    """The namespace that it serves; empty for all."""
    resync: float = 30.0
    """Seconds between two looks at everything, whatever was told meanwhile."""
    status_interval: float = 5.0
    """Seconds, at least, between two writes of a status in which only numbers of calls differ."""
    poll: float = 1.0
    """Seconds between two questions to signaling."""


class Operator:
    """Keeps RelaySets' objects and status true.

    ``kube`` and ``view`` are used on the loop of ``run`` alone, and ``kube`` is closed at its end. ``start`` and
    ``stop`` are for a process whose main loop carries SIP: they run it on a thread of its own.
    """

    def __init__(
        self,
        settings: OperatorSettings,
        kube: KubeApi,
        view: SignalingView,
        *,
        watching: StartWatching = KopfThread,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._kube = kube
        self._view = view
        self._start_watching = watching
        self._clock = clock
        self._monotonic = monotonic
        self._queue = WorkQueue()
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._told = Told()
        self._written: dict[str, float] = {}
        self._looked: dict[str, float] = {}
        self._names: dict[str, str] = {}
        self._survey: dict[str, Survey] = {}
        """For a key that waits: what the last resync has found, until something tells of a change."""
        self._touched: set[str] = set()
        """Keys that something was told or done of since the resync began: what it finds may be older."""
        self._posted: dict[str, None] = {}
        self._orphans = Orphans()

    def start(self) -> None:
        """Run on a thread of its own."""
        self._thread = threading.Thread(target=lambda: asyncio.run(self.run()), name="kedge-operator", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 15.0) -> bool:
        """End what ``start`` began, or have ``run`` end; from any thread. Return whether the thread came to its end."""
        loop = self._loop
        if loop is None:
            self._stopping.set()  # not begun yet
        else:
            with contextlib.suppress(RuntimeError):  # it has ended by itself
                loop.call_soon_threadsafe(self._stopping.set)
        if self._thread is None:
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def alive(self) -> bool:
        """Whether ``run`` is under way; from any thread."""
        return self._loop is not None

    async def run(self) -> None:
        """Serve until stopped or cancelled."""
        self._loop = asyncio.get_running_loop()
        watching = self._start_watching(
            namespace=self._settings.namespace, notify=self._notify, login=self._credentials
        )
        try:
            async with asyncio.TaskGroup() as group:
                await self._poll()  # so that the first status does not deny what signaling would tell a moment later
                tasks = [group.create_task(one) for one in (self._poll_always(), self._resync(), self._work())]
                watching.start()
                await self._stopping.wait()
                for task in tasks:
                    task.cancel()
        finally:
            self._loop = None
            watching.stop()
            await asyncio.to_thread(watching.join)
            await self._kube.close()

    async def _credentials(self) -> KubeCredentials:
        """Ask the client on our loop; awaited on kopf's."""
        assert self._loop is not None
        credentials: KubeCredentials = await across_loops(self._kube.credentials, self._loop)
        return credentials

    # What fills the queue.

    def _notify(self, key: str) -> None:
        """Take a key from kopf's thread."""
        loop = self._loop
        if loop is not None:
            loop.call_soon_threadsafe(self._changed, key)

    def _changed(self, key: str) -> None:
        key = self._names.get(key, key)
        self._touch(key)
        self._put(key)

    def _put(self, key: str, delay: float = 0.0) -> None:
        self._queue.add(key, self._monotonic() + delay)
        self._wake.set()

    def _touch(self, key: str) -> None:
        self._touched.add(key)
        self._survey.pop(key, None)

    async def _resync(self) -> None:
        backoff = Backoff(first=1.0, most=self._settings.resync)
        while True:
            try:
                self._touched.clear()
                found = await survey(self._kube, self._settings.namespace)
            except KubeError as error:
                _log.warning("RelaySets cannot be listed: %s", error)
                await asyncio.sleep(backoff.next())
                continue
            backoff.reset()
            await self._remove_orphans()
            self._resynced(found)
            await asyncio.sleep(self._settings.resync)

    async def _remove_orphans(self) -> None:
        """Delete Call objects of signaling processes that are gone for good; a new pod has a new name."""
        replicas = self._told.replicas
        if not replicas:
            return  # nobody answers: that says nothing of anybody
        try:
            found = await self._kube.list_objects(CALL_KIND, self._settings.namespace, others_than(replicas))
            for call in self._orphans.take(found, self._monotonic()):
                metadata = call["metadata"]
                await self._kube.delete(CALL_KIND, metadata["namespace"], metadata["name"], uid=metadata["uid"])
        except KubeError as error:
            _log.warning("Call objects of signaling processes that are gone stay for now: %s", error)

    def _resynced(self, found: Survey) -> None:
        self._names = found.names
        for key in dict.fromkeys((*found.relay_sets, *self._looked)):
            if key in found.relay_sets and key not in self._touched:
                self._survey[key] = found
            self._put(key)

    async def _poll_always(self) -> None:
        while True:
            await asyncio.sleep(self._settings.poll)
            await self._poll()

    async def _poll(self) -> None:
        before, self._told = self._told, Told(await self._view.snapshots())
        for key, looked in self._looked.items():
            old, new = before.of(key), self._told.of(key)
            if news(old) != news(new):
                self._put(key)
            elif numbers(old) != numbers(new):
                self._put(key, max(0.0, looked + self._settings.status_interval - self._monotonic()))

    # What empties it.

    async def _work(self) -> None:
        while True:
            key = self._queue.take(self._monotonic())
            if key is None:
                await self._rest()
            else:
                await self._serve(key)

    async def _rest(self) -> None:
        deadline = self._queue.next_deadline()
        try:
            async with asyncio.timeout(None if deadline is None else max(0.0, deadline - self._monotonic())):
                await self._wake.wait()
        except TimeoutError:
            pass  # a key that was put off is due
        self._wake.clear()

    async def _serve(self, key: str) -> None:
        found = self._survey.pop(key, None)
        try:
            again_in = await self._reconcile(key, found)
        except KubeError as error:
            delay = self._queue.failed(key, self._monotonic())
            _log.warning("RelaySet %s is looked at again in %.1f s: %s", key, delay, error)
            return
        finally:
            self._touch(key)
        self._queue.succeeded(key)
        if again_in is not None:
            self._put(key, again_in)

    async def _reconcile(self, key: str, found: Survey | None) -> float | None:
        """Look at one RelaySet and do what it needs; return after how many seconds to look again, if so.

        ``found`` is what a resync has found, where nothing has happened to the RelaySet since.
        """
        manifest = await self._manifest(key, found)
        if manifest is None or "deletionTimestamp" in manifest["metadata"]:
            self._forget(key)  # what it owned is collected with it
            return None
        try:
            relay_set = RelaySet.from_api(manifest)
        except ValidationError as error:
            _log.error("RelaySet %s does not fit its schema and is left as it is: %s", key, error)
            return None
        self._looked[key] = self._monotonic()
        surveyed = found.of(relay_set) if found is not None else None
        observed = surveyed or await observe(self._kube, relay_set)
        outcome = reconcile(
            relay_set,
            observed,
            self._told.of(key),
            self._settings.manifests,
            now=self._clock(),
            written_at=self._written.get(key, float("-inf")),
            status_interval=self._settings.status_interval,
        )
        await self._act(key, outcome)
        held_back = await self._post_events(relay_set, observed.pods)
        waits = [one for one in (outcome.again_in, _MORE_EVENTS if held_back else None) if one is not None]
        return min(waits, default=None)

    async def _manifest(self, key: str, found: Survey | None) -> Manifest | None:
        if found is not None:
            return found.relay_sets[key]
        namespace, _, name = key.partition("/")
        return await self._kube.get(RELAY_SET_KIND, namespace, name)

    def _forget(self, key: str) -> None:
        self._written.pop(key, None)
        self._looked.pop(key, None)

    async def _act(self, key: str, outcome: Outcome) -> None:
        for patch in (*outcome.marks, *outcome.tells):
            await self._patch_pod(patch)
        for kind, manifest in outcome.applies:
            await self._kube.apply(kind, manifest)
            _log.info("applied %s %s", kind.kind, manifest["metadata"]["name"])
        for kind, live in outcome.deletes:
            metadata = live["metadata"]
            await self._kube.delete(kind, metadata["namespace"], metadata["name"], uid=metadata["uid"])
            _log.info("deleted %s %s", kind.kind, metadata["name"])
        for manifest in outcome.gates:
            await self._kube.apply(POD_KIND, manifest, subresource="status")
        if outcome.status is not None:
            namespace, _, name = key.partition("/")
            await self._kube.patch_status(RELAY_SET_KIND, namespace, name, outcome.status)
            self._written[key] = self._clock()

    async def _patch_pod(self, patch: Manifest) -> None:
        """Patch a relay pod; one that has gone meanwhile, or is another by now, needs nothing."""
        metadata = patch["metadata"]
        try:
            await self._kube.patch(POD_KIND, metadata["namespace"], metadata["name"], patch)
        except KubeError as error:
            if not error.is_missing and not error.is_conflict:
                raise

    async def _post_events(self, relay_set: RelaySet, pods: Sequence[Manifest]) -> bool:
        """Write Events that are not there yet; return whether some were held back."""
        events = events_of(relay_set, self._told.of(relay_set_key(relay_set)), self._clock(), pods)
        news = [event for name, event in events.items() if name not in self._posted]
        for event in news[:_EVENTS_AT_ONCE]:
            try:
                await self._kube.create(EVENT_KIND, event)
            except KubeUnavailableError:
                raise
            except KubeError as error:
                if not error.is_conflict:  # else an earlier run of the operator has told it
                    _log.warning("an Event is not told: %s", error)
            self._posted[event["metadata"]["name"]] = None
        while len(self._posted) > _REMEMBERED_EVENTS:
            del self._posted[next(iter(self._posted))]
        return len(news) > _EVENTS_AT_ONCE
