"""What Prometheus scrapes, declared in one place.

A scrape reads what the signaling thread counts (``runtime.stats``) without a lock: it copies each table in one step of
the interpreter, and never walks the calls. Labels have closed sets of values: no Call-ID, no address.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Protocol, TypeVar

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from kedge.ports.records import ProgressRecord, SignalingSnapshot
from kedge.relay.model import RelayState
from kedge.runtime.stats import Histogram, Reloads, Stats

_Key = TypeVar("_Key", bound=tuple[str, ...])
_STATES: Final = tuple(state.value for state in RelayState)
_SIP_COUNTERS: Final = {
    "requests_received": "SIP requests that began a transaction, and ACKs.",
    "responses_received": "SIP responses that a transaction awaited.",
    "requests_sent": "SIP requests, each counted once.",
    "responses_sent": "SIP responses, each counted once.",
    "retransmissions_sent": "SIP messages sent again.",
    "retransmissions_received": "SIP requests and final responses that came again.",
    "stray_responses": "SIP responses that no transaction awaited.",
    "timeouts": "SIP requests of ours without a final response.",
    "acks_missing": "Final responses to INVITE without an ACK.",
    "keepalives": "Datagrams without a message.",
    "dropped": "New SIP requests that were dropped: source not admitted, or too many transactions.",
    "refused": "SIP requests that were answered without a transaction.",
    "unanswered": "SIP requests that the call layer never answered.",
}
"""What the transaction layer counts."""


class Books(Protocol):
    """What is read of ``runtime.bookkeeper.Bookkeeper``."""

    stats: Stats

    def snapshot(self, *, calls: bool = True) -> SignalingSnapshot:
        """Return what is known now."""

    def parse_errors(self) -> dict[str, int]:
        """Return unreadable datagrams by reason."""


def registry_of(books: Books) -> CollectorRegistry:
    """Return a registry with Kedge's metrics, and those of the process and of Python."""
    return _registry(SignalingCollector(books))


def operator_registry(reloads: Reloads) -> CollectorRegistry:
    """Return a registry for an operator without signaling: its settings, and the process and Python."""
    return _registry(_ReloadCollector(reloads))


def _registry(ours: Collector) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ours)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry


class _ReloadCollector(Collector):
    """The metrics of settings alone."""

    def __init__(self, reloads: Reloads) -> None:
        self._reloads = reloads

    def collect(self) -> Iterator[Metric]:
        """Read everything once."""
        yield from _settings(self._reloads)


class SignalingCollector(Collector):
    """Kedge's own metrics."""

    def __init__(self, books: Books) -> None:
        self._books = books

    def describe(self) -> Iterable[Metric]:
        """Nothing: names are known without a first scrape."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Read everything once."""
        snapshot, stats = self._books.snapshot(calls=False), self._books.stats
        yield from _calls(snapshot, stats)
        yield from _reanchors(stats)
        yield from _plans(snapshot.progress)
        yield from _relays(snapshot, stats)
        yield from _sip(snapshot, stats, self._books.parse_errors())
        yield from _loop(stats)
        yield from _settings(stats.reloads)


def _calls(snapshot: SignalingSnapshot, stats: Stats) -> Iterator[Metric]:
    calls = GaugeMetricFamily("kedge_calls", "Calls by their relay.", labels=("relay_set", "relay"))
    for relay in snapshot.relays:
        calls.add_metric((relay.relay_set, relay.name), relay.sessions)
    yield calls
    yield _counter(
        "kedge_call_setups", "Call set-ups by result: answered, busy, cancelled, rejected or failed.",
        ("relay_set", "result"), stats.setups.copy(),
    )  # fmt: skip
    yield _histogram(
        "kedge_call_setup_seconds", "From the INVITE to the answer, of calls that were answered.", (),
        {(): stats.setup_seconds},
    )  # fmt: skip
    yield CounterMetricFamily("kedge_calls_ended", "Answered calls that have ended.", value=stats.calls_ended)


def _reanchors(stats: Stats) -> Iterator[Metric]:
    yield _counter(
        "kedge_reanchors", "Re-anchorings of calls by reason and result.", ("relay_set", "reason", "result"),
        stats.reanchors.copy(),
    )  # fmt: skip
    yield _histogram(
        "kedge_reanchor_seconds", "From the decision to move a call to the last ACK.", ("reason",),
        {(reason,): one for reason, one in stats.reanchor_seconds.copy().items()},
    )  # fmt: skip
    yield _histogram(
        "kedge_media_gap_seconds",
        "Silence of a call at most: from the last sign of life of its relay to the last ACK.", ("relay_set",),
        {(relay_set,): one for relay_set, one in stats.media_gap_seconds.copy().items()},
    )  # fmt: skip


def _plans(progress: Iterable[ProgressRecord]) -> Iterator[Metric]:
    calls = GaugeMetricFamily(
        "kedge_plan_calls",
        "Calls of the drains and rebalances under way, of the last one where none is: to_move, moved or failed.",
        labels=("relay_set", "kind", "state"),
    )
    seconds = GaugeMetricFamily(
        "kedge_plan_seconds_left", "Until all calls of a drain or rebalance have moved, at the pace that is allowed.",
        labels=("relay_set", "kind"),
    )  # fmt: skip
    for (relay_set, kind), records in _by_kind(progress).items():
        totals = [(one.calls - one.moved - one.failed, one.moved, one.failed) for one in records]
        for state, counts in zip(("to_move", "moved", "failed"), zip(*totals, strict=True), strict=True):
            calls.add_metric((relay_set, kind, state), max(0, sum(counts)))
        seconds.add_metric((relay_set, kind), max(one.seconds_left for one in records))
    yield calls
    yield seconds


def _by_kind(progress: Iterable[ProgressRecord]) -> dict[tuple[str, str], list[ProgressRecord]]:
    """Return by set and kind what is under way, or what ended last where nothing is."""
    found: dict[tuple[str, str], list[ProgressRecord]] = {}
    for one in sorted(progress, key=lambda one: one.done):
        group = found.setdefault((one.relay_set, one.kind), [])
        if not (one.done and group):
            group.append(one)
    return found


def _relays(snapshot: SignalingSnapshot, stats: Stats) -> Iterator[Metric]:
    states = GaugeMetricFamily(
        "kedge_relay_state", "1 for the state that a relay is in, 0 for the others.",
        labels=("relay_set", "relay", "state"),
    )  # fmt: skip
    for relay in snapshot.relays:
        for state in _STATES:
            states.add_metric((relay.relay_set, relay.name, state), float(relay.state == state))
    yield states
    yield _counter(
        "kedge_probes", "Probes of relays by outcome: ok, timeout, refused, media_ok or media_lost.",
        ("relay_set", "relay", "outcome"), stats.probes.copy(),
    )  # fmt: skip
    yield _counter(
        "kedge_link_reports",
        "Reports of agents on the links of relays: taken, overtaken by a newer one, too_old, or of an unknown relay.",
        ("result",), stats.link_reports,
    )  # fmt: skip
    yield _counter(
        "kedge_orphans_deleted", "Sessions at relays that no call had, found by the sweep and deleted.",
        ("relay_set", "relay"), stats.orphans_deleted.copy(),
    )  # fmt: skip
    yield _histogram(
        "kedge_probe_seconds", "Round trip of probes that were answered.", ("relay_set", "relay"),
        stats.probe_seconds.copy(),
    )  # fmt: skip


def _sip(snapshot: SignalingSnapshot, stats: Stats, parse_errors: dict[str, int]) -> Iterator[Metric]:
    for name, text in _SIP_COUNTERS.items():
        if name in snapshot.counters:
            yield CounterMetricFamily(f"kedge_sip_{name}", text, value=snapshot.counters[name])
    yield _counter(
        "kedge_sip_parse_errors", "Datagrams that are no SIP message, by reason.", ("reason",),
        {(reason,): count for reason, count in parse_errors.items()},
    )  # fmt: skip
    yield _counter(
        "kedge_rejected_requests", "Requests that Kedge itself refused.", ("method", "status"),
        {(method, str(status)): count for (method, status), count in stats.rejected.copy().items()},
    )  # fmt: skip


def _loop(stats: Stats) -> Iterator[Metric]:
    yield CounterMetricFamily(
        "kedge_internal_errors", "Errors of Kedge itself, caught where a packet or timer ends; each is a bug.",
        value=stats.internal_errors,
    )  # fmt: skip
    yield _histogram(
        "kedge_loop_lag_seconds", "How late the signaling loop came to its tick, ten times a second.", (),
        {(): stats.loop_lag_seconds},
    )  # fmt: skip
    yield GaugeMetricFamily(
        "kedge_loop_lag_max_seconds", "The latest that the signaling loop came to a tick.", value=stats.loop_lag_max
    )
    yield _counter(
        "kedge_admin_refused_requests",
        "Requests to the admin API that were refused: token missing, wrong, or for another scope.", ("reason",),
        stats.admin_refused,
    )  # fmt: skip


def _settings(reloads: Reloads) -> Iterator[Metric]:
    yield _counter(
        "kedge_settings_reloads",
        "Changed settings files by result: Applied, RestartNeeded (all but some fields are applied) or Refused.",
        ("result",), {(result,): count for result, count in reloads.results.copy().items()},
    )  # fmt: skip
    yield GaugeMetricFamily(
        "kedge_settings_current",
        "1 while all that the settings file says is in force, 0 if it is refused or waits for a restart.",
        value=float(reloads.current),
    )


def _counter(name: str, text: str, labels: tuple[str, ...], values: Mapping[_Key, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _histogram(name: str, text: str, labels: tuple[str, ...], values: Mapping[_Key, Histogram]) -> Metric:
    family = HistogramMetricFamily(name, text, labels=labels)
    for key, histogram in values.items():
        family.add_metric(key, *_cumulative(histogram))
    return family


def _cumulative(histogram: Histogram) -> tuple[list[tuple[str, float]], float]:
    """Return Prometheus's buckets (observations at most each bound), and the sum."""
    counts, total = histogram.counts.copy(), 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip([*map(str, histogram.bounds), "+Inf"], counts, strict=True):
        total += count
        buckets.append((bound, total))
    return buckets, histogram.total
