"""What Prometheus gets: scraped over HTTP from a real server, and read by Prometheus's own parser."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import aiohttp
import pytest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open_metrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from kedge.adapters.http_server import HttpServer, metrics_routes
from kedge.adapters.metrics import operator_registry, registry_of
from kedge.ports.records import ProgressRecord, RelayRecord, SignalingSnapshot
from kedge.runtime.stats import SECONDS, Histogram, Reloads, Stats

SET = "default/voice"


def relay(name: str, state: str, sessions: int) -> RelayRecord:
    return RelayRecord(
        uid=name, name=name, relay_set=SET, address="127.0.0.1:2223", state=state, reason="Probed", message="",
        since=0.0, sessions=sessions, instance="i",
    )  # fmt: skip


class Books:
    """A bookkeeper with figures of the test's own."""

    def __init__(self) -> None:
        self.stats = Stats()
        self.relays = (relay("r1", "Ready", 7), relay("r2", "Down", 0))
        self.progress: tuple[ProgressRecord, ...] = ()
        self.counters = {"requests_received": 12, "retransmissions_sent": 3, "calls": 7}

    def snapshot(self, *, calls: bool = True) -> SignalingSnapshot:
        assert not calls, "a scrape does not walk the calls"
        return SignalingSnapshot(
            replica="r", at=0.0, relays=self.relays, counters=self.counters, progress=self.progress
        )

    def parse_errors(self) -> dict[str, int]:
        return {"no start line": 2}


async def scrape(books: Books, accept: str = "") -> tuple[str, str]:
    """Return content type and text of one scrape."""
    server = HttpServer(("127.0.0.1", 0), metrics_routes(registry_of(books)))
    host, port = await server.start()
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{host}:{port}/metrics", headers={"Accept": accept}) as response,
        ):
            assert response.status == 200
            return response.headers["Content-Type"], await response.text()
    finally:
        await server.close()


def values(families: Iterable[Metric]) -> dict[str, float]:
    return {f"{one.name}{labels(one.labels)}": one.value for family in families for one in family.samples}


def labels(given: Mapping[str, str]) -> str:
    return "".join(f" {name}={value}" for name, value in sorted(given.items()))


async def test_all_that_is_counted_is_told_with_its_labels() -> None:
    books = Books()
    stats = books.stats
    stats.setups[SET, "answered"] = 5
    stats.reanchors[SET, "RelayDown", "Moved"] = 4
    stats.rejected["REGISTER", 405] = 1
    stats.probes[SET, "r1", "ok"] = 100
    stats.admin_refused["wrong",] += 2
    stats.link_reports["overtaken",] += 3
    stats.calls_ended = 6
    stats.loop_lag_max = 0.004

    found = values(parse_text((await scrape(books))[1]))

    told = {name: value for name, value in found.items() if name.startswith("kedge_") and "_bucket" not in name}
    assert (
        told.items()
        >= {
            f"kedge_calls relay=r1 relay_set={SET}": 7,
            f"kedge_call_setups_total relay_set={SET} result=answered": 5,
            f"kedge_reanchors_total reason=RelayDown relay_set={SET} result=Moved": 4,
            f"kedge_relay_state relay=r2 relay_set={SET} state=Down": 1,
            f"kedge_relay_state relay=r2 relay_set={SET} state=Ready": 0,
            f"kedge_probes_total outcome=ok relay=r1 relay_set={SET}": 100,
            "kedge_rejected_requests_total method=REGISTER status=405": 1,
            "kedge_sip_requests_received_total": 12,
            "kedge_sip_retransmissions_sent_total": 3,
            "kedge_sip_parse_errors_total reason=no start line": 2,
            "kedge_admin_refused_requests_total reason=wrong": 2,
            "kedge_admin_refused_requests_total reason=missing": 0,
            "kedge_link_reports_total result=overtaken": 3,
            "kedge_calls_ended_total": 6,
            "kedge_loop_lag_max_seconds": 0.004,
        }.items()
    )


async def test_what_became_of_settings_files_is_told_also_by_an_operator_alone() -> None:
    books, registry = Books(), operator_registry(reloads := Reloads())
    for one in (books.stats.reloads, reloads):
        one.count("Refused", current=False)

    for found in (values(parse_text((await scrape(books))[1])), values(registry.collect())):
        assert found["kedge_settings_current"] == 0
        assert found["kedge_settings_reloads_total result=Refused"] == 1
        assert found["kedge_settings_reloads_total result=Applied"] == 0
        assert "process_cpu_seconds_total" in found


def progress(kind: str, calls: int, moved: int, failed: int, *, done: bool = False) -> ProgressRecord:
    return ProgressRecord(
        relay_set=SET, kind=kind, relay="r1", started=0.0, calls=calls, moved=moved, failed=failed,
        seconds_left=0.0 if done else calls / 10, done=done,
    )  # fmt: skip


async def test_plans_under_way_are_summed_and_hide_those_that_have_ended() -> None:
    books = Books()
    books.progress = (
        progress("Drain", 100, 100, 0, done=True), progress("Drain", 40, 12, 1), progress("Drain", 10, 5, 0),
        progress("Rebalance", 8, 7, 1, done=True),
    )  # fmt: skip

    found = values(parse_text((await scrape(books))[1]))

    name = "kedge_plan_calls"
    told = {key.removeprefix(f"{name} "): value for key, value in found.items() if key.startswith(name)}
    assert told == {
        f"kind=Drain relay_set={SET} state=to_move": 32, f"kind=Drain relay_set={SET} state=moved": 17,
        f"kind=Drain relay_set={SET} state=failed": 1, f"kind=Rebalance relay_set={SET} state=to_move": 0,
        f"kind=Rebalance relay_set={SET} state=moved": 7, f"kind=Rebalance relay_set={SET} state=failed": 1,
    }  # fmt: skip
    assert found[f"kedge_plan_seconds_left kind=Drain relay_set={SET}"] == 4.0
    assert found[f"kedge_plan_seconds_left kind=Rebalance relay_set={SET}"] == 0.0


@pytest.mark.parametrize(
    ("observed", "within"),
    [(0.005, 1.0), (0.00501, 0.0), (99.0, 0.0)],
    ids=["on the bound", "just past it", "past all"],
)
async def test_buckets_count_what_is_at_most_their_bound(observed: float, within: float) -> None:
    books = Books()
    gaps = books.stats.media_gap_seconds[SET] = Histogram(SECONDS)
    gaps.observe(observed)

    found = values(parse_text((await scrape(books))[1]))

    name = "kedge_media_gap_seconds"
    assert found[f"{name}_bucket le=0.005 relay_set={SET}"] == within
    assert found[f"{name}_bucket le=+Inf relay_set={SET}"] == found[f"{name}_count relay_set={SET}"] == 1
    assert found[f"{name}_sum relay_set={SET}"] == observed


async def test_names_and_help_are_as_prometheus_wants_them() -> None:
    _, text = await scrape(Books())

    families: Iterable[Metric] = parse_text(text)
    for family in families:
        if not family.name.startswith("kedge_"):
            continue
        assert family.documentation.endswith("."), family.name
        names = {one.name for one in family.samples}
        if family.type == "counter":
            assert all(name.endswith("_total") for name in names), family.name
        else:
            assert not any(name.endswith("_total") for name in names), family.name
        if family.type == "histogram":
            assert family.name.endswith("_seconds"), family.name


async def test_a_scraper_that_asks_for_open_metrics_gets_it() -> None:
    books = Books()
    books.stats.setups[SET, "busy"] = 2

    content_type, text = await scrape(books, accept="application/openmetrics-text; version=1.0.0")

    assert content_type.startswith("application/openmetrics-text")
    families: Iterable[Metric] = parse_open_metrics(text)  # type: ignore[no-untyped-call]
    assert values(families)[f"kedge_call_setups_total relay_set={SET} result=busy"] == 2


async def test_the_process_tells_of_itself_too() -> None:
    found = values(parse_text((await scrape(Books()))[1]))

    assert found["process_cpu_seconds_total"] > 0
    assert found["process_resident_memory_bytes"] > 1_000_000
