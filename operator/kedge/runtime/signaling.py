"""The signaling loop: sockets in, the I/O-free layers, sockets out, and one timer to wake it.

Everything here runs on one thread, the loop's. Others reach it by ``call`` only, and read what it publishes: nothing
in the way of a packet waits for them.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from kedge.base.address import Address
from kedge.base.ids import Ids
from kedge.base.timers import TimerHeap
from kedge.call.b2bua import B2bua
from kedge.call.call import Call
from kedge.call.routing import Routing
from kedge.call.settings import CallSettings
from kedge.call.sweep import Sweep
from kedge.ports.ports import CallWish
from kedge.ports.sockets import Batch, RelaySocket, RtpSockets, SipSocket, SocketFactory
from kedge.relay.fleet import Fleet, FleetListener, Relay
from kedge.relay.link_health import LinkReport, ReportResult
from kedge.relay.model import Intent, InventorySnapshot, RelayState
from kedge.relay.ng_client import NgSettings
from kedge.relay.probing import ProbeSettings
from kedge.runtime.bookkeeper import Bookkeeper
from kedge.runtime.wishes import Wishes
from kedge.sip.timers import TimerSettings
from kedge.sip.transaction import TransactionLayer

_T = TypeVar("_T")

_LOG: Final = logging.getLogger(__name__)
_TICK: Final = 0.1
"""Seconds between two rounds of bookkeeping (records, garbage, loop lag)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalingSettings:
    """What the signaling loop is told: at start, and all but the addresses also while it runs."""

    listen: Address = ("127.0.0.1", 5060)
    advertise: str = ""
    """The address for Via and Contact where it is not the bound one."""
    calls: CallSettings = field(default_factory=CallSettings)
    timers: TimerSettings = field(default_factory=TimerSettings)
    max_datagram_bytes: int = 65535
    """Longer datagrams are dropped and counted."""
    ng: NgSettings = field(default_factory=NgSettings)
    probes: ProbeSettings = field(default_factory=ProbeSettings)


class Signaling(FleetListener):
    """One signaling process: the B2BUA, its relays, and their sockets."""

    def __init__(
        self, settings: SignalingSettings, routing: Routing, sockets: SocketFactory, bookkeeper: Bookkeeper
    ) -> None:
        self._settings = settings
        self._routing = routing
        self._sockets = sockets
        self.bookkeeper = bookkeeper
        self._timers = TimerHeap()
        self._relay_sockets: dict[str, RelaySocket] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.TimerHandle | None = None
        self._wake_at = float("inf")
        self._sip: SipSocket | None = None
        self._rtp: RtpSockets | None = None
        self._tick_at = 0.0
        self.on_drain: Callable[[], object] | None = None
        """Called on the loop when a relay is to drain: the planner's wake-up."""
        self.b2bua: B2bua
        self.fleet: Fleet
        self.layer: TransactionLayer
        self.wishes: Wishes

    # --- start and stop ---------------------------------------------------------------------------------------------

    def start(self) -> Address:
        """Bind the SIP socket on the running loop; return its address.

        Raises:
            OSError: the address cannot be bound.
        """
        self._loop = asyncio.get_running_loop()
        self._sip = self._sockets.open_sip(self._settings.listen, self._on_sip)
        self._rtp = self._sockets.open_rtp(self._on_rtp)
        bound = self._sip.address
        address = (self._settings.advertise or bound[0], bound[1])
        ids, rng = Ids(), random.Random()
        calls = replace(self._settings.calls, address=address)
        self.b2bua = B2bua(calls, self._routing, self._timers, ids, rng, self.bookkeeper)
        self.layer = TransactionLayer(
            self._timers, self._settings.timers, ids, self.b2bua, max_bytes=self._settings.max_datagram_bytes
        )
        self.fleet = Fleet(self._timers, ids, self, rng, self._settings.ng, self._settings.probes)
        self.b2bua.sip, self.b2bua.fleet = self.layer, self.fleet
        self.wishes = Wishes(self.b2bua, self.fleet, self.bookkeeper.call_changed)
        self.bookkeeper.attach(self.b2bua, self.layer, self.fleet, self.wishes.record)
        Sweep(self.b2bua).start(self._loop.time())
        self._tick_at = self._loop.time() + _TICK
        self._loop.call_at(self._tick_at, self._tick)
        return bound

    def stop(self) -> None:
        """Close all sockets. Calls are left to themselves: media goes on, and so it does on a crash."""
        if self._wake is not None:
            self._wake.cancel()
        if self._sip is not None:
            self._end_canaries()
        for socket in self._relay_sockets.values():
            socket.close()
        self._relay_sockets.clear()
        if self._sip is not None:
            self._sip.close()
        if self._rtp is not None:
            self._rtp.close()
        self._loop = None

    def _end_canaries(self) -> None:
        """Delete our own sessions at the relays; nobody waits for the replies."""
        self.fleet.stop_canaries(time.monotonic())
        for relay in self.fleet.relays.values():
            if relay.client.out:
                self._send_to(relay)

    def call(self, function: Callable[[float], _T]) -> asyncio.Future[_T]:
        """Run ``function(now)`` on the signaling loop, from a coroutine of another one; await its result there."""
        result: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        waiting = asyncio.get_running_loop()

        def run() -> None:
            now = time.monotonic()
            try:
                value = function(now)
            except Exception as error:  # noqa: BLE001  it is raised where it was asked for
                waiting.call_soon_threadsafe(_fail, result, error)
            else:
                waiting.call_soon_threadsafe(_settle, result, value)
            self._flush(now)

        if self._loop is None:
            raise RuntimeError("the signaling loop is not running")
        self._loop.call_soon_threadsafe(run)
        return result

    def post(self, function: Callable[[float], object]) -> None:
        """Run ``function(now)`` on the signaling loop some time soon, from any thread."""

        def run() -> None:
            now = time.monotonic()
            try:
                function(now)
            except Exception:  # noqa: BLE001  as for SIP
                self._fault("news from another thread")
            self._flush(now)

        loop = self._loop
        if loop is not None:
            loop.call_soon_threadsafe(run)

    # --- packets and time -------------------------------------------------------------------------------------------

    def _on_sip(self, batch: Batch) -> None:
        now = time.monotonic()
        receive = self.layer.on_datagram
        for data, source in batch:
            try:
                receive(data, source, now)
            except Exception:  # noqa: BLE001  one packet must never end the loop that all calls depend on
                self._fault("a datagram")
        self._flush(now)

    def _on_rtp(self, batch: Batch) -> None:
        now = time.monotonic()
        for data, at in batch:
            try:
                self.fleet.canaries.on_packet(data, at, now)
            except Exception:  # noqa: BLE001  as for SIP
                self._fault("a canary")
        self._flush(now)

    def _fault(self, what: str) -> None:
        """Note an error of our own. It costs one call at most; the metric should be watched."""
        self.bookkeeper.stats.internal_errors += 1
        _LOG.exception("internal error while handling %s", what)

    def _flush(self, now: float) -> None:
        """Run what is due, send what is to be sent, and see to it that the loop wakes in time."""
        timers = self._timers
        try:
            timers.run_due(now)
        except Exception:  # noqa: BLE001  as above; the other deadlines fire in the next turn
            self._fault("a timer")
        out = self.layer.out
        if out and self._sip is not None:
            self._sip.send_all(out)
            out.clear()
        for relay in self.fleet.relays.values():
            if relay.client.out:
                self._send_to(relay)
        if self.fleet.canaries.out:
            self._send_canaries()
        deadline = timers.next_deadline()
        if deadline is not None and deadline < self._wake_at and self._loop is not None:
            if self._wake is not None:
                self._wake.cancel()
            self._wake_at = deadline
            self._wake = self._loop.call_at(deadline, self._on_wake)

    def _send_to(self, relay: Relay) -> None:
        socket = self._relay_sockets.get(relay.uid)
        if socket is not None:
            socket.send_all(relay.client.out)
        relay.client.out.clear()

    def _send_canaries(self) -> None:
        canaries = self.fleet.canaries
        for data, source, destination in canaries.out:
            if self._rtp is None or not self._rtp.send(data, source, destination):
                canaries.on_unsent(data)
        canaries.out.clear()

    def _on_wake(self) -> None:
        self._wake_at = float("inf")
        self._wake = None
        self._flush(time.monotonic())

    def _tick(self) -> None:
        loop = self._loop
        if loop is None:
            return
        now = time.monotonic()
        self._look_at_wishes(now)
        self.bookkeeper.tick(now, lag=max(0.0, now - self._tick_at))
        self._tick_at = now + _TICK
        loop.call_at(self._tick_at, self._tick)

    # --- the fleet --------------------------------------------------------------------------------------------------

    def apply(self, snapshot: InventorySnapshot) -> None:
        """Take a new inventory, from any thread."""
        self.post(lambda now: self.fleet.apply(snapshot, now))

    def reload(self, settings: SignalingSettings, routing: Routing, snapshot: InventorySnapshot, now: float) -> None:
        """Take other settings, and what they make of the inventory, in one step; on the loop.

        Calls go on as they began. Where SIP is served from stays: that is for the next start.
        """
        self.b2bua.reload(replace(settings.calls, address=self.b2bua.settings.address), routing)
        self.layer.settings = settings.timers
        self.fleet.reload(settings.ng, settings.probes)
        self.fleet.apply(snapshot, now)

    def on_relay_added(self, relay: Relay, now: float) -> None:
        """Open its control socket."""

        def receive(batch: list[bytes]) -> None:
            now = time.monotonic()
            for data in batch:
                try:
                    self.fleet.on_datagram(relay, data, now)
                except Exception:  # noqa: BLE001  as for SIP
                    self._fault("a relay's reply")
            self._flush(now)

        def refused() -> None:
            now = time.monotonic()
            self.fleet.on_refused(relay, now)
            self._flush(now)

        self._relay_sockets[relay.uid] = self._sockets.open_relay(relay.description.control, receive, refused)
        self.bookkeeper.relay_added(relay, now)

    def on_relay_removed(self, relay: Relay, now: float) -> None:
        """Close its control socket."""
        socket = self._relay_sockets.pop(relay.uid, None)
        if socket is not None:
            socket.close()
        self.b2bua.relay_gone(relay)
        self.bookkeeper.relay_removed(relay, now)

    def on_relay_lost(self, relay: Relay, reason: str, now: float) -> None:
        """Move its calls."""
        self.b2bua.failover.relay_lost(relay, "RelayDown", now)

    def on_relay_restarted(self, relay: Relay, now: float) -> None:
        """Move its calls, to it or elsewhere: their sessions are gone."""
        self.b2bua.failover.relay_lost(relay, "RelayRestarted", now)

    def on_relay_drain(self, relay: Relay, now: float) -> None:
        """Have a plan made that moves its calls while it lives; without a planner they go as those of a lost one."""
        self.bookkeeper.relay_changed(relay)
        if self.on_drain is not None:
            self.on_drain()
        else:
            self.b2bua.failover.relay_drains(relay, now)

    def on_relay_state(self, relay: Relay, old: RelayState, now: float) -> None:
        """Note it; calls that wait for a relay may have one now."""
        self.bookkeeper.relay_state(relay, old, now)
        if relay.state is RelayState.READY:
            self.b2bua.relay_ready(relay, now)

    def on_probe(self, relay: Relay, outcome: str, rtt: float, now: float) -> None:
        """Count it."""
        self.bookkeeper.probe(relay, outcome, rtt)

    def media_addresses(self, relay: Relay) -> tuple[Address, Address] | None:
        """Open sockets for its canary, where they are not."""
        if self._rtp is None:
            return None
        try:
            return self._rtp.addresses(relay.description.control)
        except OSError:
            return None  # no way there just now: asked again

    def wish_intent(self, name: str, relay_set: str, intent: Intent, now: float) -> str:
        """Take what a person wants of a relay, on the loop. Return an empty string, or why it cannot be."""
        found = [one for one in self.fleet.relays.values() if one.name == name and relay_set in ("", one.relay_set)]
        if len(found) != 1:
            return f"{len(found)} relays are called {name}" if found else f"there is no relay {name}"
        self.fleet.wish(found[0], intent, now)
        self.bookkeeper.relay_changed(found[0])
        return ""

    def report(self, report: LinkReport, now: float) -> ReportResult:
        """Take what the agent beside a relay says of its link, on the loop."""
        result = self.fleet.link_told(report, now)
        self.bookkeeper.stats.link_reports[(result.value,)] += 1
        return result

    # --- wishes -----------------------------------------------------------------------------------------------------

    def wish(self, wish: CallWish, now: float) -> str:
        """Act on a wish about a call, on the loop. Return an empty string, or why it cannot be fulfilled."""
        call = self.b2bua.calls.get(wish.call)
        if call is None:
            return f"there is no call {wish.call}"
        if wish.terminate:
            self.b2bua.hang_up(call, now, reason="Ended by an operator", cause=200)
            return ""
        return self._move(call, wish.relay, now) if wish.relay else ""

    def _move(self, call: Call, name: str, now: float) -> str:
        refusal = self.wishes.refusal(call, name)
        if refusal is not None:
            return refusal.message
        relay = self.fleet.find(call.relay_set, name)
        return self.b2bua.move_to(call, relay, now) if relay is not None else ""

    def keep_wish(self, wish: CallWish, now: float) -> str:
        """Take the newest wish of a call's object, on the loop, and keep at it. Return as ``wish`` does."""
        if wish.terminate:
            return self.wish(wish, now)
        self.wishes.put(wish, now)
        return ""

    def _look_at_wishes(self, now: float) -> None:
        try:
            if self.wishes.look(now):
                self._flush(now)
        except Exception:  # noqa: BLE001  as for SIP
            self._fault("a wish")


def _settle(future: asyncio.Future[_T], value: _T) -> None:
    if not future.done():
        future.set_result(value)


def _fail(future: asyncio.Future[_T], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
