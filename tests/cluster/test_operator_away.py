"""The operator comes and goes under calls: they do not notice, and a failover does not wait for it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from tests.cluster.installed import CHART, RELEASE, SIP_PORT, InstalledKedge
from tests.cluster.system import CALLEE, CALLER
from tests.kit.phones import FarmReport, PhoneProcess
from tests.lab import Lab

CALLS = 10
PHONES = (CALLEE, 5070)


@pytest.fixture
def kedge(own_lab: Lab) -> Iterator[InstalledKedge]:
    """Kedge installed by Helm with two relays, operator and signaling as pods of their own."""
    with InstalledKedge(own_lab, callee=PHONES) as kedge:
        kedge.helm("install", RELEASE, str(CHART), values=kedge.values())
        kedge.relay_set(2)
        kedge.until(lambda: all(kedge.ready_relays(address) == 2 for address in kedge.nodes()), "all relays are Ready")
        yield kedge


@pytest.fixture
async def phones(own_lab: Lab, kedge: InstalledKedge) -> AsyncIterator[PhoneProcess]:
    """Phones in the lab's network, whose proxy is the signaling pod of the first node."""
    with own_lab.inside():
        phones = PhoneProcess(proxy=(kedge.nodes()[0], SIP_PORT), caller=(CALLER, 0), callee=PHONES, prefix="49")
        await phones.start()
    yield phones
    await phones.stop()


async def test_calls_and_failover_need_no_operator(own_lab: Lab, kedge: InstalledKedge, phones: PhoneProcess) -> None:
    await phones.place_calls(CALLS, rtp=True)

    kedge.kubectl("scale", "deployment", "kedge-operator", "--replicas=0")
    kedge.until(lambda: not kedge.pods("operator"), "the operator is gone")
    assert not any(one["anchors"] for one in calls(kedge)), "its end moved nothing"

    lost = max(relays(kedge), key=lambda one: int(one["sessions"]))
    node = kedge.get("pod", lost["name"])["spec"]["nodeName"]
    own_lab.kill_container(node, lost["name"], "relay", namespace=kedge.namespace)
    kedge.until(lambda: not any(one["relay"] == lost["name"] for one in calls(kedge)), "its calls have moved")
    assert await phones.wait_audio(time.monotonic(), within=5), silent(await phones.report()) + kedge.story()
    anchors = {one["id"]: one["anchors"] for one in calls(kedge)}

    kedge.kubectl("scale", "deployment", "kedge-operator", "--replicas=1")

    def told() -> bool:
        last = kedge.get("relayset", "voice").get("status", {}).get("lastFailover")
        return last is not None and last["relay"] == lost["name"] and last["failed"] == 0

    kedge.until(told, "the returned operator tells of the failover")
    assert (await phones.report()).talking() == CALLS
    assert await phones.wait_audio(time.monotonic(), within=5)
    spread = {one["id"]: one["anchors"] for one in calls(kedge)}
    assert spread.keys() == anchors.keys()
    assert all(spread[call] <= anchors[call] + 1 for call in spread), "at most spread again over the returned relay"
    assert await phones.hang_up()


def relays(kedge: InstalledKedge) -> list[dict[str, Any]]:
    """Return the relays as the phones' signaling pod has them."""
    found: list[dict[str, Any]] = kedge.snapshot(kedge.nodes()[0])["relays"]
    return found


def calls(kedge: InstalledKedge) -> list[dict[str, Any]]:
    """Return the calls of the phones' signaling pod."""
    found: list[dict[str, Any]] = kedge.snapshot(kedge.nodes()[0])["calls"]
    return found


def silent(report: FarmReport) -> str:
    """Return the calls, oldest news first: a failure must tell which phone heard nothing, and where it sends."""
    legs = sorted(report.legs(), key=lambda one: one.last_received)
    return "\n".join(f"{one.side} {one.state} {one.local_rtp} {one.remote_rtp} {one.last_received}" for one in legs)
