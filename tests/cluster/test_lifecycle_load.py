"""Relays evicted, deleted by force and lost under 200 calls: none is lost; how long it takes is told as a figure."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.cluster.installed import InstalledKedge
from tests.cluster.stage import Stage, installed, stage
from tests.kit.phones import quantile
from tests.lab import Lab

CALLS = 200
RTP_EVERY = 4
"""Every fourth call has audio: 100 phones at 50 packets a second are what this machine plays beside all the rest."""


@pytest.fixture(scope="module")
def kedge(own_lab: Lab) -> Iterator[InstalledKedge]:
    """Kedge as Helm installs it, for all tests of this file."""
    with installed(own_lab) as kedge:
        yield kedge


async def test_a_relay_is_evicted_under_load(kedge: InstalledKedge, record_property: Any) -> None:
    async with stage(kedge, 3) as on_stage:
        await on_stage.call(CALLS, rtp_every=RTP_EVERY)
        victim = on_stage.busiest()
        left = until_left(on_stage, victim)

        on_stage.evict(victim)

        record_property("eviction to relay empty, seconds", left())
        await told(on_stage, "eviction", record_property)
        assert on_stage.reasons().keys() == {"Drain"}
        assert max(on_stage.anchors()) == 1


async def test_a_relay_is_deleted_by_force_under_load(kedge: InstalledKedge, record_property: Any) -> None:
    async with stage(kedge, 3) as on_stage:
        await on_stage.call(CALLS, rtp_every=RTP_EVERY)
        victim = on_stage.busiest()
        left = until_left(on_stage, victim)

        kedge.kubectl("delete", "pod", victim, "--force", "--grace-period=0")

        record_property("deletion by force to all moved, seconds", left())
        await told(on_stage, "deletion by force", record_property)


def until_left(on_stage: Stage, relay: str) -> Callable[[], float]:
    """Begin to count; what is returned waits until a relay is empty, and returns the seconds."""
    began = time.monotonic()

    def wait() -> float:
        while on_stage.on(relay):
            assert time.monotonic() - began < 60, on_stage.kedge.story()
            time.sleep(0.02)
        return time.monotonic() - began

    return wait


async def told(on_stage: Stage, what: str, record_property: Any) -> None:
    """Assert that no call was lost and all are heard, and tell the gaps."""
    await on_stage.all_heard()
    report = await on_stage.phones.report(on_stage.since)
    gaps = report.gaps()
    record_property(f"{what}, audio gap p50, seconds", quantile(gaps, 0.5))
    record_property(f"{what}, audio gap p99, seconds", quantile(gaps, 0.99))
    record_property(f"{what}, the phones' own share in the longest gap, seconds", report.send_late)


async def test_the_operator_is_killed_amid_a_failover(own_lab: Lab, kedge: InstalledKedge) -> None:
    slow = {"failover": {"rate": 60, "ratePerPeer": 30}, "rebalance": {"mode": "Manual"}}
    async with stage(kedge, 3, spec=slow) as on_stage:
        await on_stage.call(CALLS, rtp_every=10)
        lost, leader = on_stage.busiest(), kedge.leader()
        node = kedge.get("pod", lost)["spec"]["nodeName"]
        count = len(on_stage.on(lost))

        own_lab.kill_container(node, lost, "relay", namespace=kedge.namespace)
        kedge.until(lambda: on_stage.anchors()[1] > 0, "the first calls have moved", within=10)
        own_lab.kill_container(
            leader["spec"]["nodeName"], leader["metadata"]["name"], "kedge", namespace=kedge.namespace
        )
        assert on_stage.on(lost), "and others have not"

        kedge.until(lambda: not on_stage.on(lost), "all calls have moved")
        assert on_stage.anchors() == {0: CALLS - count, 1: count}
        on_stage.since = time.monotonic()  # they were silent as long as that slow pace made them wait
        await on_stage.all_heard()

        def caught_up() -> bool:
            status = kedge.get("relayset", "voice")["status"]
            last = status["lastFailover"]  # of the calls that were left when the relay was back, and had forgotten them
            told = last["relay"] == lost and 0 < last["moved"] == last["calls"] and not last["failed"]
            return bool(told and {one["name"]: one["sessions"] for one in status["relays"]} == on_stage.loads())

        kedge.until(caught_up, "the status tells of it, by whichever operator leads now")
