"""Relays are drained, added, deleted in order and taken back by kubectl, under calls with RTP: nobody is cut off.

Relays live while they are left, so audio goes on: a phone hears the other until it is told of the new relay, and from
then on through that. What is shown before, by ``GET /v1/plan``, is what happens.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.system import CALLEE, CALLER, KedgeInCluster
from tests.kit.phones import PhoneProcess
from tests.lab import Lab

CALLS = 20
SILENCE = 0.4
"""Seconds without a packet that count as a pause of the audio: twenty packets in a row, far past any jitter here."""
MANUAL = {"mode": "Manual", "rest": "0s"}
"""Load is evened out on demand only, and calls may move again at once."""
World = tuple[KedgeInCluster, PhoneProcess]
Start = Callable[..., AbstractAsyncContextManager[World]]


@pytest.fixture
def start(own_lab: Lab, tmp_path: Path) -> Start:
    """Start Kedge in the cluster with a RelaySet of three relay pods (and more in its spec), and calls through them."""

    @asynccontextmanager
    async def started(**spec: Any) -> AsyncIterator[World]:
        with KedgeInCluster(own_lab, tmp_path, callee=(CALLEE, 5070), sip_port=5060) as kedge:
            kedge.apply(kedge.relay_set("voice", 3, **spec))
            kedge.wait_ready("voice", 3)
            with own_lab.inside():
                phones = PhoneProcess(proxy=kedge.sip, caller=(CALLER, 0), callee=(CALLEE, 5070), prefix="49")
                await phones.start()
            try:
                await phones.place_calls(CALLS, rtp=True)
                kedge.until(lambda: len(kedge.snapshot()["calls"]) == CALLS, "all calls are told of")
                yield kedge, phones
                assert await phones.hang_up()
            finally:
                await phones.stop()

    return started


def sessions(kedge: KedgeInCluster) -> dict[str, int]:
    """Return how many calls each relay has."""
    return {one["name"]: one["sessions"] for one in kedge.snapshot()["relays"]}


def anchors(kedge: KedgeInCluster) -> dict[str, int]:
    """Return how often each call was moved."""
    return {one["id"]: one["anchors"] for one in kedge.snapshot()["calls"]}


def on(kedge: KedgeInCluster, relay: str) -> list[str]:
    """Return the calls on a relay."""
    return [one["id"] for one in kedge.snapshot()["calls"] if one["relay"] == relay]


def condition(kedge: KedgeInCluster, kind: str) -> tuple[str, str, str]:
    """Return status, reason and message of a condition of the RelaySet."""
    found = next(one for one in kedge.status("voice")["conditions"] if one["type"] == kind)
    return found["status"], found["reason"], found["message"]


def is_so(kedge: KedgeInCluster, kind: str, status: str, reason: str) -> Callable[[], bool]:
    return lambda: condition(kedge, kind)[:2] == (status, reason)


def events(kedge: KedgeInCluster) -> Counter[str]:
    """Return how often each reason is told of the RelaySet by an Event."""
    found = kedge.get("events.events.k8s.io")["items"]
    return Counter(one["reason"] for one in found if one["regarding"]["kind"] == "RelaySet")


async def all_heard(phones: PhoneProcess, since: float, calls: int = CALLS) -> None:
    """Assert that all calls live, that all hear each other now, and that no audio has paused since."""
    assert await phones.wait_audio(time.monotonic(), within=5)
    report = await phones.report(since)
    assert report.talking() == calls
    assert max(report.gaps()) < SILENCE
    assert sum(leg.lost for leg in report.legs()) < calls


def annotate(kedge: KedgeInCluster, what: str, *values: str) -> None:
    kedge.kubectl("annotate", "--overwrite", *what.split("/"), *values)


async def test_an_annotated_relay_is_emptied_and_taken_back_and_load_is_evened_out_on_demand(
    start: Start,
) -> None:
    async with start(rebalance=MANUAL) as (kedge, phones):
        since = time.monotonic()
        victim, count = max(sessions(kedge).items(), key=lambda item: item[1])
        plan = kedge.ask("GET", f"/v1/plan?kind=drain&relay={victim}")[1]
        assert (plan["moves"], plan["unplaced"], plan["unmovable"]) == (count, 0, 0)

        annotate(kedge, f"pod/{victim}", "kedge.media/drain=true")

        kedge.until(lambda: not on(kedge, victim), "the relay is empty")
        kedge.until(lambda: events(kedge)["DrainDone"] == 1, "its Event tells so")
        after = {one["name"]: one["after"] for one in plan["relays"]}
        assert sessions(kedge) == after, "what the plan had said"
        assert Counter(anchors(kedge).values()) == {0: CALLS - count, 1: count}
        await all_heard(phones, since)
        kedge.until(is_so(kedge, "Balanced", "True", "Even"), "the others share its calls")

        annotate(kedge, f"pod/{victim}", "kedge.media/drain-")
        kedge.until(is_so(kedge, "Balanced", "False", "Uneven"), "it is back, and empty")
        assert f"{victim} has 0 calls" in condition(kedge, "Balanced")[2]
        plan = kedge.ask("GET", "/v1/plan?kind=rebalance")[1]
        annotate(kedge, "relayset/voice", f"kedge.media/rebalance={time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}")

        kedge.until(is_so(kedge, "Balanced", "True", "Even"), "load is evened out")
        assert sessions(kedge) == {one["name"]: one["after"] for one in plan["relays"]}
        assert sum(anchors(kedge).values()) == count + plan["moves"]
        await all_heard(phones, since)


async def test_calls_spread_over_a_relay_that_joins_as_the_plan_had_said(start: Start) -> None:
    async with start() as (kedge, phones):
        since = time.monotonic()

        kedge.kubectl("scale", "relayset", "voice", "--replicas=4")

        def four_serve() -> bool:
            return [one["state"] for one in kedge.snapshot()["relays"]].count("Ready") == 4

        kedge.until(four_serve, "a fourth relay serves", within=60)
        status, plan = kedge.ask("GET", "/v1/plan?kind=rebalance")
        assert status == 200
        assert not any(anchors(kedge).values()), "it was asked in time"
        kedge.until(lambda: events(kedge)["RebalanceDone"] == 1, "an Event tells of the end")

        assert plan["moves"] > 0
        assert sessions(kedge) == {one["name"]: one["after"] for one in plan["relays"]}
        assert Counter(anchors(kedge).values()) == {0: CALLS - plan["moves"], 1: plan["moves"]}
        kedge.until(is_so(kedge, "Balanced", "True", "Even"), "the status tells of balance")
        kedge.until(is_so(kedge, "Progressing", "False", "Complete"), "and that it is over")
        await all_heard(phones, since)


async def test_a_pod_that_is_deleted_in_order_is_left_before_it_ends(start: Start) -> None:
    async with start(rebalance=MANUAL) as (kedge, phones):
        since = time.monotonic()
        victim, count = max(sessions(kedge).items(), key=lambda item: item[1])

        kedge.kubectl("delete", "pod", victim, "--wait=false")

        kedge.until(lambda: not on(kedge, victim), "all calls have left")
        pod = kedge.get("pod", victim)
        assert "deletionTimestamp" in pod["metadata"]
        assert "running" in pod["status"]["containerStatuses"][0]["state"], "it lived until it was empty"
        moved = [one["lastAnchor" if "lastAnchor" in one else "last_anchor"] for one in kedge.snapshot()["calls"]]
        assert Counter(one["reason"] for one in moved if one) == {"Drain": count}
        kedge.wait_ready("voice", 3)
        last = kedge.status("voice")["lastFailover"]
        told = [last[field] for field in ("relay", "reason", "calls", "moved", "failed")]
        assert told == [victim, "Drain", count, count, 0]
        await all_heard(phones, since)


async def test_a_second_drain_during_the_first_and_a_wish_that_is_taken_back(
    start: Start,
) -> None:
    slow = {"rate": 4, "ratePerPeer": 4}
    async with start(rebalance=MANUAL, failover=slow) as (kedge, phones):
        since = time.monotonic()
        first, second, third = sessions(kedge)
        had = {call: relay for relay in (first, second, third) for call in on(kedge, relay)}

        annotate(kedge, f"pod/{first}", "kedge.media/drain=true")
        kedge.until(is_so(kedge, "Progressing", "True", "Draining"), "the status tells of the drain")
        assert f"calls have left relay {first}" in condition(kedge, "Progressing")[2]
        annotate(kedge, f"pod/{second}", "kedge.media/drain=true")
        kedge.until(lambda: any(had[call] == second for call in on(kedge, third)), "calls leave the second one too")
        annotate(kedge, f"pod/{second}", "kedge.media/drain-")

        kedge.until(lambda: not on(kedge, first), "the first one is empty", within=60)
        kedge.until(is_so(kedge, "Progressing", "False", "Complete"), "the status tells of the end")
        left = sessions(kedge)
        assert left[second] > 0
        assert left[second] + left[third] == CALLS
        for call, moves in anchors(kedge).items():
            # Off the first, and off the second if it had come there before that was to be left as well.
            assert moves <= {first: 2, second: 1, third: 0}[had[call]], call
        await all_heard(phones, since)
