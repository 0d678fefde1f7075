"""A RelaySet by kubectl, real relay pods on two nodes, calls with RTP: pods and nodes go, and calls stay."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.system import CALLEE, CALLER, KedgeInCluster
from tests.kit.phones import PhoneProcess
from tests.lab import Lab

CALLS = 20


@pytest.fixture
async def phones(own_lab: Lab) -> AsyncIterator[PhoneProcess]:
    """Phones in the lab's network; their proxy is told when Kedge is there."""
    with own_lab.inside():
        phones = PhoneProcess(proxy=("192.0.2.1", 5060), caller=(CALLER, 0), callee=(CALLEE, 5070), prefix="49")
        await phones.start()
    yield phones
    await phones.stop()


@pytest.fixture
def kedge(own_lab: Lab, tmp_path: Path) -> Iterator[KedgeInCluster]:
    """Kedge in the cluster with a RelaySet of three relay pods."""
    with KedgeInCluster(own_lab, tmp_path, callee=(CALLEE, 5070), sip_port=5060) as kedge:
        kedge.apply(kedge.relay_set("voice", 3))
        kedge.wait_ready("voice", 3)
        yield kedge


def busiest(kedge: KedgeInCluster) -> dict[str, Any]:
    """Return the relay with most calls, as signaling has it."""
    return max(kedge.snapshot()["relays"], key=lambda one: one["sessions"])


async def test_a_pod_deleted_by_force_loses_no_call(kedge: KedgeInCluster, phones: PhoneProcess) -> None:
    numbers = await phones.place_calls(CALLS, rtp=True)
    assert len(numbers) == CALLS
    victim = busiest(kedge)
    kedge.until(lambda: len(kedge.get("calls")["items"]) == CALLS, "a Call object for each call")

    killed = time.monotonic()
    kedge.kubectl("delete", "pod", victim["name"], "--force", "--grace-period=0")

    kedge.until(
        lambda: not any(one["relay"] == victim["name"] for one in kedge.snapshot()["calls"]), "all calls have moved"
    )
    assert await phones.wait_audio(time.monotonic(), within=5)
    report = await phones.report(killed)
    assert report.talking() == CALLS
    moved = [one for one in kedge.snapshot()["calls"] if one["anchors"]]
    assert len(moved) == victim["sessions"]

    def told() -> bool:
        last = kedge.status("voice").get("lastFailover")
        return last is not None and last["relay"] == victim["name"] and last["moved"] == len(moved)

    kedge.until(told, "lastFailover tells what happened")
    name = moved[0]["id"]
    kedge.until(
        lambda: kedge.get("call", name)["status"].get("lastReanchor", {}).get("from") == victim["name"],
        "the Call tells of its move",
    )
    kedge.wait_ready("voice", 3)
    assert await phones.hang_up()
    kedge.until(lambda: not kedge.get("calls")["items"], "the Call objects vanish with their calls")
