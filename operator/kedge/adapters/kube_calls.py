"""Call objects: a view of calls in the API server, and the place where people wish something of them.

A Call's ``spec.relay`` follows the call: it is written at creation, and again after each move together with the label.
So a value that we did not write is a wish, and the way back to an earlier relay is one too. It stands until the call is
there or somebody takes it back, and the condition Fulfilled tells why it is not so yet. Deleting an object hangs up
nobody; it comes back after ``records.after``. Nothing waits for this module: while the API server is away the newest
record of each call waits in memory.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from kedge.adapters.kube_call_book import CallBook, SeenCall, Verb, Write
from kedge.adapters.kube_client import KubeClient
from kedge.adapters.kube_watch import Mirror
from kedge.api.convert import label_value
from kedge.api.durations import format_duration
from kedge.api.names import API_VERSION, RELAY_LABEL, RELAYSET_LABEL, REPLICA_LABEL
from kedge.base.backoff import Backoff
from kedge.ports.kube import CALL_KIND, KubeError, KubeUnavailableError, Manifest
from kedge.ports.ports import CallWish, LegWish
from kedge.ports.records import CallRecord, Condition
from kedge.relay.model import RecordPolicy

_SHORT: Final = 256
"""Characters of a short text in the Call's schema."""
_AT_ONCE: Final = 4
"""Requests that may be outstanding."""
_log = logging.getLogger(__name__)


class KubeCallStore:
    """Implements ``ports.CallStore``.

    ``policies`` gives the record policy of a RelaySet by key, or None where there is no such RelaySet; it is called on
    the store's loop. ``replica`` must be the same after a restart for leftovers to be recognised.
    """

    def __init__(
        self,
        client: KubeClient,
        *,
        namespace: str,
        replica: str,
        policies: Callable[[str], RecordPolicy | None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._replica = replica
        self._clock = clock
        self._book = CallBook(policies)
        self._inbox: deque[tuple[str, CallRecord | None]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken = False
        self._wake = asyncio.Event()
        self._wish: Callable[[CallWish], None] = lambda wish: None
        self._limited = ""
        self._backoff = Backoff()
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._conditions: dict[str, tuple[Manifest, ...]] = {}
        self._mirror: Mirror[SeenCall] = Mirror(
            client,
            CALL_KIND,
            namespace=namespace,
            project=seen_call,
            changed=self._seen,
            selector=f"{REPLICA_LABEL}={label_value(replica)}",
        )

    @property
    def limited(self) -> str:
        """What the budget holds back, in a few words; empty while it suffices. From any thread."""
        return self._limited

    def put(self, record: CallRecord) -> None:
        """Take the newest record of a call. Thread-safe, never blocks."""
        self._inbox.append((record.id, record))
        self._rouse()

    def remove(self, call: str) -> None:
        """Let the record of an ended call go. Thread-safe, never blocks."""
        self._inbox.append((call, None))
        self._rouse()

    async def run(self, wish: Callable[[CallWish], None]) -> None:
        """Write records within the budget, and call ``wish`` for each new one that is seen, until cancelled."""
        self._wish = wish
        self._loop = asyncio.get_running_loop()
        self._drain()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._mirror.run())
                tasks.create_task(self._write_all())
        finally:
            self._loop = None

    def _rouse(self) -> None:
        loop = self._loop
        if loop is not None and not self._woken:
            self._woken = True  # one wake-up for many records
            try:
                loop.call_soon_threadsafe(self._drain)
            except RuntimeError:
                self._loop = None  # the store's loop has just ended

    def _drain(self) -> None:
        self._woken = False
        now = self._clock()
        while self._inbox:
            call, record = self._inbox.popleft()
            if record is None:
                self._book.remove(call, now)
            else:
                self._book.put(record, now)
        self._wake.set()

    def _seen(self, key: str, old: SeenCall | None, new: SeenCall | None) -> None:
        wish = self._book.saw(key.partition("/")[2], new, self._clock())
        if wish is not None:
            self._wish(wish)
        self._wake.set()

    async def _write_all(self) -> None:
        while True:
            now = self._clock()
            writes = self._book.next_writes(now)
            self._limited = self._book.limited(now)
            if not writes:
                await self._rest()
            elif await self._perform(writes):
                self._backoff.reset()
            else:
                await asyncio.sleep(self._backoff.next())

    async def _rest(self) -> None:
        """Wait for news, or for the budget or a young call to come of age."""
        look = self._book.next_look(self._clock())
        timeout = None if look is None else max(0.0, look - self._clock())
        try:
            async with asyncio.timeout(timeout):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    async def _perform(self, writes: list[Write]) -> bool:
        """Carry out writes; return False where the API server was away."""
        return all(await asyncio.gather(*(self._carry_out(write) for write in writes)))

    async def _carry_out(self, write: Write) -> bool:
        async with self._slots:
            try:
                generation = await self._send(write)
            except KubeError as error:
                if isinstance(error, KubeUnavailableError) or error.is_denied:
                    self._book.failed(write, self._clock())
                    _log.warning("call %s is not recorded yet: %s", write.call, error)
                    return False
                self._refused(write, error)
            else:
                self._book.done(write, self._clock(), generation=generation)
        return True

    def _refused(self, write: Write, error: KubeError) -> None:
        missing = error.is_missing and write.verb is not Verb.CREATE
        exists = error.is_conflict and write.verb is Verb.CREATE and error.reason == "AlreadyExists"
        if error.is_conflict and write.verb is Verb.DELETE:
            self._book.done(write, self._clock())  # the object with that uid is gone
            return
        hopeless = not (missing or exists)
        if hopeless:
            _log.warning("call %s is not recorded: %s", write.call, error)
        self._book.failed(write, self._clock(), missing=missing, exists=exists, hopeless=hopeless)

    async def _send(self, write: Write) -> int:
        """Carry out a write; return the generation of the spec that it left, 0 where it left none."""
        namespace = write.relay_set.partition("/")[0]
        record = write.record
        if record is None:
            await self._client.delete(CALL_KIND, namespace, write.call, uid=write.uid)
            self._conditions.pop(write.call, None)
            return 0
        left: Manifest = {}
        if write.verb is Verb.CREATE:
            left = await self._client.create(CALL_KIND, call_manifest(record, self._replica))
        elif write.relocate:
            patch: Manifest = {"metadata": {"labels": {RELAY_LABEL: label_value(record.relay)}}}
            if write.follow:
                patch["spec"] = {"relay": record.relay}
            left = await self._client.patch(CALL_KIND, namespace, write.call, patch)
        conditions = conditions_of(record, self._conditions.get(write.call, ()), self._clock())
        self._conditions[write.call] = conditions
        await self._client.patch_status(
            CALL_KIND, namespace, write.call, call_status(record, self._replica, conditions)
        )
        return int(left.get("metadata", {}).get("generation", 0))


def seen_call(manifest: Manifest) -> SeenCall:
    """Read what matters of a Call object."""
    metadata, spec = manifest["metadata"], manifest.get("spec", {})
    return SeenCall(
        relay_set=f"{metadata['namespace']}/{spec.get('relaySet', '')}",
        relay=spec.get("relay", ""),
        terminate=spec.get("state") == "Terminated",
        uid=metadata["uid"],
        caller=_leg_wish(spec, "caller"),
        callee=_leg_wish(spec, "callee"),
        generation=metadata.get("generation", 0),
    )


def _leg_wish(spec: Manifest, name: str) -> LegWish:
    leg = spec.get("legs", {}).get(name, {})
    return LegWish(
        transport=leg.get("transport", ""), interface=leg.get("interface", ""), address=leg.get("address", ""),
        flags=tuple(leg.get("flags", ())),
    )  # fmt: skip


def call_manifest(record: CallRecord, replica: str) -> Manifest:
    """Return the Call object of a record as it is created; its status is written after."""
    namespace, _, relay_set = record.relay_set.partition("/")
    labels = {
        RELAYSET_LABEL: label_value(relay_set),
        RELAY_LABEL: label_value(record.relay),
        REPLICA_LABEL: label_value(replica),
    }
    return {
        "apiVersion": API_VERSION,
        "kind": CALL_KIND.kind,
        "metadata": {"name": record.id, "namespace": namespace, "labels": labels},
        "spec": {"relaySet": relay_set, "relay": record.relay},
    }


def call_status(record: CallRecord, replica: str, conditions: tuple[Manifest, ...]) -> Manifest:
    """Return the status of a record's Call object."""
    status: Manifest = {
        "state": record.state.value,
        "owner": replica[:_SHORT],
        "relay": record.relay,
        "from": record.caller[:_SHORT],
        "to": record.callee[:_SHORT],
        "callId": record.call_id[:_SHORT],
        "started": _rfc3339(record.started if record.answered is None else record.answered),
        "anchors": record.anchors,
        "conditions": list(conditions),
    }
    last = record.last_anchor
    if last is not None:
        status["lastReanchor"] = {
            "from": last.source or "unknown",
            "to": last.target or "unknown",
            "reason": last.reason,
            "result": last.result,
            "at": _rfc3339(last.at),
            "duration": format_duration(max(0.0, last.duration)),
            "gap": format_duration(max(0.0, last.gap)),
        }
    return status


def conditions_of(record: CallRecord, before: tuple[Manifest, ...], now: float) -> tuple[Manifest, ...]:
    """Return a record's conditions; each keeps the time at which its status changed last."""
    since = {(one["type"], one["status"]): one["lastTransitionTime"] for one in before}

    def condition(kind: str, one: Condition) -> Manifest:
        status = "True" if one.status else "False"
        return {
            "type": kind,
            "status": status,
            "reason": one.reason,
            "message": one.message[:4096],
            "lastTransitionTime": since.get((kind, status)) or _rfc3339(now),
        }

    found = condition("Movable", record.movable), condition("Anchored", record.anchored)
    wish = record.wish
    if wish is None or wish.fulfilled is None:
        return found
    return *found, condition("Fulfilled", wish.fulfilled) | {"observedGeneration": wish.generation}


def _rfc3339(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
