"""One process of Kedge: the thread that carries SIP, and beside it on the main thread all that may be slow.

What runs beside SIP is supervised: a failure there is logged and begun again. The end of the SIP thread is the end of
the process, with an exit status that has it started anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from aiohttp import web

from kedge.adapters.admin_http import AdminApi, EventFeed
from kedge.adapters.evidence_http import EvidenceApi
from kedge.adapters.http_server import HttpServer, health_routes, metrics_routes
from kedge.adapters.log import event_logger
from kedge.adapters.metrics import registry_of
from kedge.adapters.steering_http import SteeringApi
from kedge.api.durations import format_duration
from kedge.api.settings import Settings
from kedge.base.address import Address, format_address
from kedge.base.errors import KedgeError
from kedge.cli.compose import routing_of, signaling_of, signaling_settings
from kedge.cli.reload import Reloader
from kedge.cli.tokens import guard_of
from kedge.controller.status import RECORDS_LIMITED_COUNTER
from kedge.ports.ports import CallStore, CallWish, RelayInventory
from kedge.ports.records import SignalingSnapshot
from kedge.relay.link_health import LinkReport, ReportResult
from kedge.relay.model import Intent, InventorySnapshot
from kedge.runtime.bookkeeper import Bookkeeper
from kedge.runtime.ending import Ending
from kedge.runtime.planner import Planner
from kedge.runtime.supervision import keep_running
from kedge.runtime.thread import SignalingThread, tune

_log = logging.getLogger(__name__)


class StartError(KedgeError):
    """The process cannot start as its settings say: an address that cannot be bound. For who runs it to mend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """Something that runs on the main thread's loop beside SIP, and is begun again when it fails."""

    name: str
    run: Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a signaling process is put together from, beside its settings."""

    inventory: RelayInventory
    namespace: str
    """Where RelaySets are that a route names without one."""
    replica: str
    store: CallStore | None = None
    limited: Callable[[], str] = str
    """Says what the store's budget holds back; empty while it suffices."""
    beside: Sequence[Callable[[Callable[[], SignalingSnapshot]], Beside]] = ()
    """Make what else runs here, given what tells all but the calls."""
    close: Sequence[Callable[[], Awaitable[None]]] = ()
    """Awaited at the very end."""


class Published:
    """What this process tells of itself: its books, and whether the budget of its store suffices."""

    def __init__(self, books: Bookkeeper, limited: Callable[[], str]) -> None:
        self._books = books
        self._limited = limited
        self.stats = books.stats
        self.parse_errors = books.parse_errors

    def snapshot(self, *, calls: bool = True) -> SignalingSnapshot:
        """Return what is known now; from any thread."""
        snapshot = self._books.snapshot(calls=calls)
        limited = {RECORDS_LIMITED_COUNTER: int(bool(self._limited()))}
        return replace(snapshot, counters=snapshot.counters | limited)

    def without_calls(self) -> SignalingSnapshot:
        """Return what is known now but for the calls, which may be many."""
        return self.snapshot(calls=False)


def replica_name(settings: Settings) -> str:
    """Return this process's name among replicas."""
    return settings.signaling.replica or socket.gethostname()


class SignalingProcess:
    """Runs signaling until it is told to end."""

    def __init__(self, reloader: Reloader, parts: Parts) -> None:
        settings = self._settings = reloader.settings
        self._reloader = reloader
        self._parts = parts
        self._books = Bookkeeper(parts.replica, parts.store)
        self._published = Published(self._books, parts.limited)
        self._signaling = signaling_of(settings, self._books, namespace=parts.namespace)
        self._planner = Planner(self._signaling, self._books)
        self._books.on_progress(self._planner.progress)
        self._inventory = InventorySnapshot()
        self._applied = False
        self._was_ready = False
        self._ends = False

    async def run(self) -> int:
        """Serve until SIGTERM or SIGINT, and then until calls have ended; return the exit status.

        Raises:
            StartError: an address cannot be bound.
            TokenFileError: a file with tokens cannot be used.
        """
        loop = asyncio.get_running_loop()
        end = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, end.set)
        loop.add_signal_handler(signal.SIGHUP, self._reloader.ask)
        events = EventFeed()
        self._books.on_event(events.put)
        self._books.on_event(event_logger(self._call_id))
        thread = SignalingThread(self._signaling, ended=lambda: _tell(loop, end))
        async with contextlib.AsyncExitStack() as stack:
            for close in self._parts.close:
                stack.push_async_callback(close)
            stack.callback(thread.stop)
            self._signaling.on_drain = lambda: loop.call_soon_threadsafe(self._planner.wake)
            _log.info("SIP is served on %s", format_address(self._bind(thread)))
            await self._open_http(thread, events, stack)
            stack.callback(events.close)
            tasks = await stack.enter_async_context(cancelled_at_end())
            for one in self._beside():
                tasks.append(asyncio.create_task(keep_running(one.name, one.run), name=one.name))
            tune()
            await end.wait()
            await self._end_calls(thread, end)
            status = 0 if thread.alive else 1
            _log.info("ending" if status == 0 else "the SIP thread is gone: ending")
        return status

    async def _end_calls(self, thread: SignalingThread, end: asyncio.Event) -> None:
        """Take no new calls, and wait for those that there are; ``end``, once more, shortens the wait."""
        loop, grace = asyncio.get_running_loop(), self._settings.signaling.shutdown_grace
        ending = Ending(self._signaling.b2bua, lambda: _tell(loop, end))
        self._ends = True
        calls = self._books.counters()["calls"]
        if calls:
            _log.info("no new calls; %d may go on for %s, or until the next signal", calls, format_duration(grace))
        self._signaling.post(lambda now: ending.begin(grace, now))
        end.clear()
        while thread.alive and not ending.over:
            await end.wait()
            end.clear()
            self._signaling.post(ending.hurry)
        if ending.hung_up:
            _log.warning("%d calls were hung up, as the process ends", ending.hung_up)

    def _bind(self, thread: SignalingThread) -> Address:
        listen = self._settings.sip.listen[0]
        try:
            return thread.start()
        except OSError as error:
            place = format_address((listen.address, listen.port))
            raise StartError(f"sip.listen: cannot bind UDP {place}: {error.strerror}") from None

    async def _open_http(self, thread: SignalingThread, events: EventFeed, stack: contextlib.AsyncExitStack) -> None:
        """Serve admin API and metrics: on one socket if both have the same address."""
        health = health_routes(lambda: thread.alive, self._readiness)
        routes: dict[str, Sequence[web.RouteDef]] = {}
        wanted: dict[str, Address] = {}
        if self._settings.admin is not None:
            wanted["admin"] = (self._settings.admin.address, self._settings.admin.port)
            routes["admin"] = AdminApi(self._published, self._wish, events).routes()
            routes["admin"] = [*routes["admin"], *SteeringApi(self._planner, self._wish_intent).routes()]
            routes["admin"] = [*routes["admin"], *EvidenceApi(self._report).routes()]
        if self._settings.metrics is not None:
            wanted["metrics"] = (self._settings.metrics.address, self._settings.metrics.port)
            routes["metrics"] = metrics_routes(registry_of(self._published))
        if len(set(wanted.values())) == 1 and len(wanted) == 2 and wanted["admin"][1]:
            del wanted["metrics"]
            routes["admin"] = [*routes["admin"], *routes["metrics"]]
        for name, address in wanted.items():
            guard = guard_of(self._settings.admin, self._books.stats) if name == "admin" else None
            server = HttpServer(address, [*routes[name], *health], guard=guard)
            try:
                bound = await server.start()
            except OSError as error:
                place = format_address(address)
                raise StartError(f"{name}: cannot bind TCP {place}: {error.strerror}") from None
            stack.push_async_callback(server.close)
            _log.info("%s on http://%s", name, format_address(bound))

    def _beside(self) -> list[Beside]:
        parts, signaling = self._parts, self._signaling
        found = [Beside(name="the inventory of relays", run=lambda: parts.inventory.run(self._apply))]
        store = parts.store
        if store is not None:

            def wish(one: CallWish) -> None:
                signaling.post(lambda now: self._keep_wish(one, now))

            found.append(Beside(name="the store of calls", run=lambda: store.run(wish)))
        found.append(Beside(name="the planner", run=self._planner.run))
        reloads = self._books.stats.reloads
        found.append(
            Beside(name="the watch of settings", run=lambda: self._reloader.run(self._take, self._tell, reloads))
        )
        return [*found, *(make(self._published.without_calls) for make in parts.beside)]

    async def _take(self, settings: Settings) -> None:
        """Put other settings in force; signaling takes them in one step."""
        made, routing = signaling_settings(settings), routing_of(settings, self._parts.namespace)
        await asyncio.to_thread(routing.learn_from, self._signaling.b2bua.routing)
        self._settings = settings
        share = self._inventory.share(settings.signaling.replicas)
        self._planner.apply(share)
        await self._signaling.call(lambda now: self._signaling.reload(made, routing, share, now))

    def _tell(self, *, warning: bool, reason: str, message: str) -> None:
        """Keep an event of this process, which is of no RelaySet."""
        event = partial(self._books.event, relay_set="", relay="", call="")
        self._signaling.post(lambda now: event(warning=warning, reason=reason, message=message))

    def _apply(self, snapshot: InventorySnapshot) -> None:
        self._inventory = snapshot
        share = snapshot.share(self._settings.signaling.replicas)
        self._signaling.apply(share)
        self._planner.apply(share)
        if not self._applied:
            self._signaling.post(self._note_applied)  # behind it: an inventory on its way is not yet known

    def _note_applied(self, now: float) -> None:
        self._applied = True

    async def _wish_intent(self, relay: str, relay_set: str, intent: Intent) -> str:
        trouble = await self._signaling.call(lambda now: self._signaling.wish_intent(relay, relay_set, intent, now))
        if not trouble:
            _log.info("asked to have relay %s in intent %s", relay, intent.value, extra={"relay": relay})
            self._planner.wake()
        return trouble

    async def _report(self, report: LinkReport) -> ReportResult:
        return await self._signaling.call(lambda now: self._signaling.report(report, now))

    async def _wish(self, wish: CallWish) -> str:
        return await self._signaling.call(lambda now: self._note(wish, self._signaling.wish(wish, now)))

    def _keep_wish(self, wish: CallWish, now: float) -> None:
        trouble = self._signaling.keep_wish(wish, now)
        if wish.terminate:  # of a move, those tell who keep at it
            self._note(wish, trouble)

    def _note(self, wish: CallWish, trouble: str) -> str:
        """Log what became of a wish; on the signaling thread."""
        what = "hang up" if wish.terminate else f"move to {wish.relay}"
        extra = {"call": wish.call, "call_id": self._call_id(wish.call), "relay": wish.relay}
        if trouble:
            _log.warning("cannot %s: %s", what, trouble, extra=extra)
        else:
            _log.info("asked to %s", what, extra=extra)
        return trouble

    def _call_id(self, call: str) -> str:
        """Return the SIP Call-ID of a call; on the signaling thread."""
        known = self._signaling.b2bua.calls.get(call)
        return known.caller.dialog.call_id if known is not None else ""

    def _readiness(self) -> str:
        """Ready once the first inventory was taken and each of its relays was judged, until the process is to end.

        Relays that are all down are no reason to take SIP away: calls that have media go on.
        """
        if self._ends:
            return "it is to end, and takes no new calls"
        if self._was_ready:
            return ""
        if not self._applied:
            return "no RelaySet is known yet"
        relays = self._books.snapshot(calls=False).relays
        waiting = [one.name for one in relays if one.reason == "NotProbedYet"]
        if waiting:
            return f"relays not probed yet: {', '.join(waiting)}"
        self._was_ready = True
        return ""


def _tell(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    """Set an event of ``loop`` from another thread."""
    loop.call_soon_threadsafe(event.set)


@contextlib.asynccontextmanager
async def cancelled_at_end() -> AsyncIterator[list[asyncio.Task[None]]]:
    """Give a list for tasks, that are cancelled and awaited at the end."""
    tasks: list[asyncio.Task[None]] = []
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
