"""Keeps what others may know of signaling: records of calls and relays, failovers, events, figures.

The loop's thread writes here, in small portions between packets; other threads read whole, immutable values. A record
is made anew only for a call that has changed, a few hundred in one go, so that ten thousand calls delay no packet.
"""

from __future__ import annotations

import gc
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from kedge.base.address import format_address
from kedge.call.call import ACTIVE, ENDED, Call
from kedge.call.observer import Observer
from kedge.call.reports import DRAIN, FailoverReport
from kedge.ports.ports import CallStore
from kedge.ports.records import (
    AnchorRecord,
    CallRecord,
    CallState,
    Condition,
    EventRecord,
    FailoverRecord,
    ProgressRecord,
    RelayRecord,
    SignalingSnapshot,
    WishRecord,
    ZoneRecord,
)
from kedge.relay.model import RelayState
from kedge.runtime.stats import FAST_SECONDS, SECONDS, Histogram, Stats

if TYPE_CHECKING:
    from kedge.call.b2bua import B2bua
    from kedge.relay.fleet import Fleet, Relay
    from kedge.sip.transaction import TransactionLayer

_RECORDS_AT_ONCE: Final = 200
_EVENTS_KEPT: Final = 500
_MOVABLE: Final = Condition(status=True, reason="InDialog")
_NOT_MOVABLE: Final = Condition(status=False, reason="NotEstablished")
_FREEZE_EVERY: Final = 300
"""SIP messages after which the garbage collector is told to leave alone what lives."""
_THAW_EVERY: Final = 600.0
"""Seconds between two full collections at least; only while there is no call."""
_EARLY_STATUS: Final = {486: "busy", 600: "busy", 487: "cancelled"}


class Bookkeeper(Observer):
    """Implements ``call.observer.Observer``; one for each signaling process."""

    __slots__ = (
        "_b2bua",
        "_changed",
        "_events",
        "_fleet",
        "_frozen_at",
        "_layer",
        "_listeners",
        "_progress",
        "_records",
        "_relays",
        "_reports",
        "_store",
        "_thawed_at",
        "_wall",
        "_wish_of",
        "_zones",
        "replica",
        "stats",
    )

    _b2bua: B2bua
    _layer: TransactionLayer
    _fleet: Fleet

    def __init__(self, replica: str, store: CallStore | None = None) -> None:
        self.replica = replica
        self.stats = Stats()
        self._store = store
        self._wall = time.time() - time.monotonic()
        """What turns the monotonic clock into Unix time."""
        self._records: dict[str, CallRecord] = {}
        self._zones: dict[tuple[str, str], int] = {}
        """How many of the records have which zone, by set and zone."""
        self._relays: dict[str, RelayRecord] = {}
        self._changed: dict[str, Call] = {}
        self._reports: dict[str, FailoverRecord] = {}
        self._events: deque[EventRecord] = deque(maxlen=_EVENTS_KEPT)
        self._listeners: list[Callable[[EventRecord], None]] = []
        self._frozen_at = self._thawed_at = 0.0
        self._progress: Callable[[], tuple[ProgressRecord, ...]] = tuple
        self._wish_of: Callable[[str], WishRecord | None] = lambda call: None

    def attach(
        self, b2bua: B2bua, layer: TransactionLayer, fleet: Fleet, wish_of: Callable[[str], WishRecord | None]
    ) -> None:
        """Know whose books these are, and who knows of wishes for calls; called once, at start."""
        self._b2bua, self._layer, self._fleet, self._wish_of = b2bua, layer, fleet, wish_of

    def on_progress(self, progress: Callable[[], tuple[ProgressRecord, ...]]) -> None:
        """Have ``progress`` asked for how far drains and rebalances are, from any thread."""
        self._progress = progress

    def on_event(self, listener: Callable[[EventRecord], None]) -> None:
        """Have ``listener`` called with each event, on the signaling thread: it must return at once."""
        self._listeners.append(listener)

    # --- what happens to calls --------------------------------------------------------------------------------------

    def call_changed(self, call: Call, now: float) -> None:
        """Remember to make its record anew."""
        self._changed[call.id] = call

    def setup_ended(self, call: Call, status: int, seconds: float) -> None:
        """Count a set-up."""
        result = "answered" if status < 300 else _EARLY_STATUS.get(status, "rejected" if status < 500 else "failed")
        key = (call.relay_set, result)
        setups = self.stats.setups
        setups[key] = setups.get(key, 0) + 1
        if status < 300:
            self.stats.setup_seconds.observe(seconds)

    def call_ended(self, call: Call, now: float) -> None:
        """Count it."""
        self.stats.calls_ended += 1

    def leg_moved(self, call: Call, relay: Relay, seconds: float) -> None:
        """The move's end counts."""

    def move_ended(self, call: Call, reason: str, result: str, seconds: float, gap: float) -> None:
        """Count a re-anchoring."""
        stats = self.stats
        key = (call.relay_set, reason, result)
        stats.reanchors[key] = stats.reanchors.get(key, 0) + 1
        stats.reanchor_seconds.setdefault(reason, Histogram(SECONDS)).observe(seconds)
        if gap:
            stats.media_gap_seconds.setdefault(call.relay_set, Histogram(SECONDS)).observe(gap)

    def request_rejected(self, method: str, status: int) -> None:
        """Count it; a method that nobody knows is not a label."""
        key = (method if method in _METHODS else "other", status)
        self.stats.rejected[key] = self.stats.rejected.get(key, 0) + 1

    def failover_changed(self, report: FailoverReport, now: float) -> None:
        """Keep the newest figures of the newest loss; say so when one begins and when it has ended."""
        if not report.calls:
            return  # the loss of a relay without calls is no failover, and must not hide the last one
        key = report.relay.relay_set
        known = self._reports.get(key)
        done = report.pending == 0
        p50, p99 = (report.gap(0.5), report.gap(0.99)) if done else (0.0, 0.0)
        record = FailoverRecord(
            relay_set=key, relay=report.relay.name, reason=report.reason, started=report.started + self._wall,
            calls=report.calls, moved=report.moved, failed=report.failed, pending=report.pending,
            detection=report.detected, gap_p50=p50, gap_p99=p99,
        )  # fmt: skip
        if known is None or known.started <= record.started:  # of two losses at a time the later one is shown
            self._reports[key] = record
        if report.reason == DRAIN:
            return  # the planner tells of its beginning and end
        if done:
            self._failover_done(record, measured=bool(report.gaps))
        elif known is None or known.started < record.started:
            self.event(
                warning=True, reason="FailoverStarted", relay_set=key, relay=record.relay, call="",
                message=f"{report.calls} calls leave relay {record.relay} ({report.reason})",
            )  # fmt: skip

    def _failover_done(self, record: FailoverRecord, *, measured: bool) -> None:
        p50, p99 = record.gap_p50 * 1000, record.gap_p99 * 1000
        gaps = f"; media gap p50 {p50:.0f} ms, p99 {p99:.0f} ms" if measured else ""
        self.event(
            warning=record.failed > 0, reason="FailoverDone", relay_set=record.relay_set, relay=record.relay, call="",
            message=f"{record.moved} of {record.calls} calls moved off relay {record.relay} ({record.reason}), "
            f"{record.failed} failed{gaps}",
        )  # fmt: skip

    def orphans_deleted(self, relay: Relay, count: int) -> None:
        """Count them."""
        key = (relay.relay_set, relay.name)
        self.stats.orphans_deleted[key] = self.stats.orphans_deleted.get(key, 0) + count

    def event(self, *, warning: bool, reason: str, message: str, relay_set: str, relay: str, call: str) -> None:
        """Keep an event and tell the listeners."""
        record = EventRecord(
            at=time.time(), warning=warning, reason=reason, message=message, relay_set=relay_set, relay=relay, call=call
        )
        self._events.append(record)
        for listener in self._listeners:
            listener(record)

    # --- what happens to relays -------------------------------------------------------------------------------------

    def relay_added(self, relay: Relay, now: float) -> None:
        """Begin its record."""
        self._relays[relay.uid] = self._relay_record(relay)

    def relay_removed(self, relay: Relay, now: float) -> None:
        """End its record."""
        self._relays.pop(relay.uid, None)

    def relay_changed(self, relay: Relay) -> None:
        """Bring its record up to date: something else than its state has changed."""
        if relay.uid in self._relays:
            self._relays[relay.uid] = self._relay_record(relay)

    def relay_state(self, relay: Relay, old: RelayState, now: float) -> None:
        """Bring its record up to date, and say so."""
        self._relays[relay.uid] = self._relay_record(relay)
        bad = relay.state in (RelayState.DOWN, RelayState.SUSPECT) and relay.health.was_ready
        self.event(
            warning=bad, reason=f"Relay{relay.state.value}", relay_set=relay.relay_set, relay=relay.name, call="",
            message=f"relay {relay.name} is {relay.state.value} ({relay.reason}): {relay.message}",
        )  # fmt: skip

    def probe(self, relay: Relay, outcome: str, rtt: float) -> None:
        """Count a probe."""
        stats = self.stats
        key = (relay.relay_set, relay.name, outcome)
        stats.probes[key] = stats.probes.get(key, 0) + 1
        if outcome == "ok":
            stats.probe_seconds.setdefault(key[:2], Histogram(FAST_SECONDS)).observe(rtt)

    # --- between packets --------------------------------------------------------------------------------------------

    def tick(self, now: float, *, lag: float) -> None:
        """Do a portion of what has gathered. ``lag`` is how late the loop is, in seconds."""
        self.stats.loop_lag_seconds.observe(lag)
        self.stats.loop_lag_max = max(self.stats.loop_lag_max, lag)
        changed = self._changed
        for call_id in list(changed)[:_RECORDS_AT_ONCE]:
            self._refresh(changed.pop(call_id))
        for relay in self._fleet.relays.values():
            known = self._relays.get(relay.uid)
            if known is not None and (
                known.sessions != relay.sessions
                or known.media_ready is not relay.media_ready
                or known.reason != relay.reason
                or (known.zone, known.weight, known.outgoing) != _described(relay)
                or known.capacity != relay.policy.placement.max_sessions_per_relay
            ):
                self._relays[relay.uid] = self._relay_record(relay)
        self._collect_garbage(now)

    def _refresh(self, call: Call) -> None:
        if call.state == ENDED:
            gone = self._records.pop(call.id, None)
            if gone is not None and gone.zone:
                self._count_zone(gone, -1)
            if self._store is not None:
                self._store.remove(call.id)
            return
        if getattr(call, "callee", None) is None:
            return  # still on its way to the callee: not yet a call to show
        record = self._call_record(call)
        if record.zone and call.id not in self._records:
            self._count_zone(record, 1)
        self._records[call.id] = record
        if self._store is not None:
            self._store.put(record)

    def _count_zone(self, record: CallRecord, more: int) -> None:
        key = (record.relay_set, record.zone)
        self._zones[key] = self._zones.get(key, 0) + more

    def _collect_garbage(self, now: float) -> None:
        """Keep collections short: one over all that 10,000 calls are takes longer than a packet may wait.

        Calls and transactions free themselves by reference counts, so that looking at them is in vain. But the young
        are looked at once so many more were made than freed; with as many freed as made they gather until one
        collection takes 300 ms. So they are looked at early, by number of messages, and then never again. What HTTP
        leaves in cycles is mostly found young; the rest goes when there are no calls.
        """
        counters = self._layer.counters
        messages = counters.requests_received + counters.responses_received
        if messages >= self._frozen_at + _FREEZE_EVERY:
            self._frozen_at = messages
            gc.collect(0)
            gc.freeze()
        elif not self._b2bua.calls and not self._layer.servers and now >= self._thawed_at + _THAW_EVERY:
            self._thawed_at = now
            gc.unfreeze()
            gc.collect()
            gc.freeze()

    def _call_record(self, call: Call) -> CallRecord:
        relay, anchor = call.relay, call.last_anchor
        state = CallState.MOVING if call.move is not None else CallState.ACTIVE
        good = call.anchored_reason in ("Settled", "AnswersDiverge")
        return CallRecord(
            id=call.id, relay_set=call.relay_set, relay=relay.name if relay is not None else "",
            relay_uid=relay.uid if relay is not None else "",
            state=state if call.state == ACTIVE else CallState.SETTING_UP,
            caller=_uri(call.caller.dialog.remote), callee=_uri(call.callee.dialog.remote),
            caller_peer=call.caller.peer.name, callee_peer=call.callee.peer.name, call_id=call.caller.dialog.call_id,
            started=call.started + self._wall, answered=call.answered + self._wall if call.answered else None,
            anchors=call.anchors, emergency=call.emergency, zone=call.zone,
            last_anchor=None if anchor is None else AnchorRecord(
                source=anchor.source, target=anchor.target, reason=anchor.reason, result=anchor.result,
                at=anchor.at + self._wall, duration=anchor.duration, gap=anchor.gap,
            ),
            movable=_MOVABLE if call.state == ACTIVE else _NOT_MOVABLE,
            anchored=Condition(status=good, reason=call.anchored_reason, message=call.anchored_message),
            wish=self._wish_of(call.id),
        )  # fmt: skip

    def _relay_record(self, relay: Relay) -> RelayRecord:
        description = relay.description
        return RelayRecord(
            uid=relay.uid, name=relay.name, relay_set=relay.relay_set, address=format_address(description.control),
            state=relay.state.value, reason=relay.reason, message=relay.message, since=relay.since + self._wall,
            sessions=relay.sessions, instance=relay.instance, node=description.node, zone=description.zone,
            weight=description.weight, capacity=relay.policy.placement.max_sessions_per_relay,
            intent=relay.intent.value, media_ready=relay.media_ready, outgoing=description.outgoing,
        )  # fmt: skip

    # --- what others read -------------------------------------------------------------------------------------------

    def snapshot(self, *, calls: bool = True) -> SignalingSnapshot:
        """Return what is known now. From any thread: the values are immutable, the copies are made in one step."""
        return SignalingSnapshot(
            replica=self.replica, at=time.time(), relays=tuple(self._relays.values()),
            calls=tuple(self._records.values()) if calls else (), failovers=tuple(self._reports.values()),
            progress=self._progress(), zones=self._zone_records(), events=tuple(self._events), counters=self.counters(),
        )  # fmt: skip

    def _zone_records(self) -> tuple[ZoneRecord, ...]:
        counted = self._zones.copy()  # in one step: the signaling thread goes on counting
        return tuple(
            ZoneRecord(relay_set=relay_set, zone=zone, calls=calls)
            for (relay_set, zone), calls in counted.items()
            if calls
        )

    def record(self, call: str) -> CallRecord | None:
        """Return the record of one call, by Kedge's name of it; from any thread."""
        return self._records.get(call)

    def counters(self) -> dict[str, int]:
        """Return the counters of the transaction layer, and how many calls there are."""
        counters = self._layer.counters
        figures = {name: getattr(counters, name) for name in counters.__slots__ if name != "parse_errors"}
        figures["parse_errors"] = sum(counters.parse_errors.values())
        figures["calls"] = len(self._b2bua.calls)
        figures["setups"] = sum(self.stats.setups.values())
        figures["internal_errors"] = self.stats.internal_errors
        return figures

    def parse_errors(self) -> dict[str, int]:
        """Return unreadable datagrams by reason."""
        return dict(self._layer.counters.parse_errors)


_METHODS: Final = frozenset({
    "INVITE", "ACK", "BYE", "CANCEL", "OPTIONS", "REGISTER", "UPDATE", "INFO", "MESSAGE", "NOTIFY", "REFER",
    "SUBSCRIBE", "PUBLISH", "PRACK",
})  # fmt: skip


def _described(relay: Relay) -> tuple[str, int, bool]:
    description = relay.description
    return description.zone, description.weight, description.outgoing


def _uri(value: str) -> str:
    """Return the URI of a From or To value."""
    start = value.find("<")
    return value[start + 1 : value.find(">", start)] if start >= 0 else value.partition(";")[0]
