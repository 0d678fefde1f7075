"""A RelaySet by kubectl, real relay pods on two nodes, calls with RTP: pods and nodes go, and calls stay."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.system import CALLEE, CALLER, KedgeInCluster
from tests.kit.phones import PhoneProcess
from tests.kit.rtp import TONE
from tests.kit.sipp import Sipp
from tests.lab import Lab
from tests.wire.cases import SCENARIOS

CALLS = 20
SIPP_CALLS = 10


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
        # A pod that takes another's place must not be given calls meanwhile: who moved, and why, is counted.
        kedge.apply(kedge.relay_set("voice", 3, rebalance={"mode": "Manual"}))
        kedge.wait_ready("voice", 3)
        yield kedge


def busiest(kedge: KedgeInCluster) -> dict[str, Any]:
    """Return the relay with most calls, as signaling has it."""
    return max(kedge.snapshot()["relays"], key=lambda one: one["sessions"])


async def test_a_pod_deleted_by_force_loses_no_call(kedge: KedgeInCluster, phones: PhoneProcess) -> None:
    numbers = await phones.place_calls(CALLS, rtp=True)
    assert len(numbers) == CALLS
    kedge.until(lambda: len(kedge.get("calls")["items"]) == CALLS, "a Call object for each call")
    victim = busiest(kedge)  # only now: its count of sessions follows the calls within a tick

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


def pod_of(kedge: KedgeInCluster, relay: dict[str, Any]) -> dict[str, Any]:
    """Return the pod of a relay."""
    pod: dict[str, Any] = kedge.get("pod", relay["name"])
    return pod


async def all_hear(kedge: KedgeInCluster, phones: PhoneProcess, calls: int = CALLS) -> None:
    """Assert that all calls live, and that both parties of each hear the other from now on."""
    assert await phones.wait_audio(time.monotonic(), within=5), kedge.log[-3000:]
    assert (await phones.report()).talking() == calls


async def test_a_killed_container_loses_no_call(own_lab: Lab, kedge: KedgeInCluster, phones: PhoneProcess) -> None:
    await phones.place_calls(CALLS, rtp=True)
    victim = busiest(kedge)
    pod = pod_of(kedge, victim)

    own_lab.kill_container(pod["spec"]["nodeName"], victim["name"], "relay", namespace=kedge.namespace)

    kedge.until(lambda: not any(one["relay"] == victim["name"] for one in kedge.snapshot()["calls"]), "all have moved")
    await all_hear(kedge, phones)

    def is_back() -> bool:
        """The same pod, another instance: the API shows one restart, and signaling that it is Ready again."""
        found = next(one for one in kedge.snapshot()["relays"] if one["name"] == victim["name"])
        return bool(found["state"] == "Ready" and found["instance"] != victim["instance"])

    kedge.until(is_back, "the restarted relay is Ready")
    assert (await phones.report()).talking() == CALLS
    assert await phones.hang_up()


async def test_a_node_cut_off_loses_no_call(own_lab: Lab, kedge: KedgeInCluster, phones: PhoneProcess) -> None:
    await phones.place_calls(CALLS, rtp=True)
    victim = busiest(kedge)
    node = pod_of(kedge, victim)["spec"]["nodeName"]
    gone = {one["name"] for one in kedge.snapshot()["relays"] if pod_of(kedge, one)["spec"]["nodeName"] == node}
    # Most of the relays of a set that vanish at once let Kedge suspect its own network first. The API confirms the loss
    # when the node is NotReady: the slowest witness.
    within = 60.0 if len(gone) == 2 else 10.0
    own_lab.cut_node(node)
    try:
        kedge.until(
            lambda: not any(one["relay"] in gone for one in kedge.snapshot()["calls"]), "all have moved", within=within
        )
        await all_hear(kedge, phones)
        anchors = {one["id"]: one["anchors"] for one in kedge.snapshot()["calls"]}
    finally:
        own_lab.join_node(node)

    kedge.wait_ready("voice", 3)
    assert max(anchors.values()) == 1
    # Others may be on their way to the relay that is back.
    now = {one["id"]: one["anchors"] for one in kedge.snapshot()["calls"]}
    assert all(now[call] == 1 for call, moves in anchors.items() if moves), "nothing moved twice"
    assert await phones.hang_up()


async def test_a_relay_is_lost_while_the_api_server_is_away(
    own_lab: Lab, kedge: KedgeInCluster, phones: PhoneProcess
) -> None:
    await phones.place_calls(CALLS, rtp=True)
    victim = busiest(kedge)
    node = pod_of(kedge, victim)["spec"]["nodeName"]
    own_lab.cut_apiserver()
    try:
        own_lab.kill_container(node, victim["name"], "relay", namespace=kedge.namespace)
        kedge.until(
            lambda: not any(one["relay"] == victim["name"] for one in kedge.snapshot()["calls"]), "all have moved"
        )
        await phones.place_calls(5, rtp=True)
        await all_hear(kedge, phones, CALLS + 5)
        assert kedge.ask("GET", "/healthz")[0] == 200, "an outage of the API fails no liveness"
    finally:
        own_lab.restore_apiserver()

    def caught_up() -> bool:
        last = kedge.status("voice").get("lastFailover")
        return last is not None and last["relay"] == victim["name"] and last["failed"] == 0

    kedge.until(caught_up, "the status tells of the failover", within=60)
    kedge.until(lambda: len(kedge.get("calls")["items"]) == CALLS + 5, "Call objects catch up", within=60)
    assert await phones.hang_up()


async def test_a_call_is_moved_by_kubectl_patch_and_hung_up_by_its_state(
    kedge: KedgeInCluster, phones: PhoneProcess
) -> None:
    await phones.place_calls(2, rtp=True)
    kedge.until(lambda: len(kedge.get("calls")["items"]) == 2, "a Call object for each call")
    first, second = kedge.snapshot()["calls"]
    other = next(one["name"] for one in kedge.snapshot()["relays"] if one["name"] != first["relay"])

    kedge.kubectl("patch", "call", first["id"], "--type=merge", "-p", f'{{"spec": {{"relay": "{other}"}}}}')

    kedge.until(
        lambda: kedge.get("call", first["id"])["status"].get("relay") == other, "the call is on the relay wished for"
    )
    await all_hear(kedge, phones, 2)
    kedge.kubectl("delete", "calls", "--all")
    await all_hear(kedge, phones, 2)  # a Call object is a view: deleting it hangs up nobody
    kedge.until(lambda: len(kedge.get("calls")["items"]) == 2, "the views come back")
    kedge.kubectl("patch", "call", second["id"], "--type=merge", "-p", '{"spec": {"state": "Terminated"}}')
    assert await phones.wait_talking(1)
    kedge.until(lambda: len(kedge.get("calls")["items"]) == 1, "its object vanishes")
    assert await phones.hang_up()


async def test_sipp_calls_with_rtp_are_moved_off_a_deleted_pod(
    own_lab: Lab, kedge: KedgeInCluster, tmp_path: Path
) -> None:
    (tmp_path / "tone.ulaw").write_bytes(TONE * 50)
    kedge.kubectl("scale", "relayset", "voice", "--replicas=1")
    kedge.until(lambda: len(kedge.snapshot()["relays"]) == 1, "one relay is left", within=60)
    with own_lab.inside():
        callee = Sipp(
            SCENARIOS / "callee-moved.xml", tmp_path, local=(CALLEE, 5070), calls=SIPP_CALLS, rtp_echo=True, limit=60
        ).start()
        caller = Sipp(
            SCENARIOS / "caller-talks-on.xml", tmp_path, local=(CALLER, 5080), remote=kedge.sip, number="49100",
            calls=SIPP_CALLS, limit=60,
        ).start()  # fmt: skip
    try:
        kedge.until(lambda: len(kedge.snapshot()["calls"]) == SIPP_CALLS, "all SIPp calls are up")
        kedge.kubectl("scale", "relayset", "voice", "--replicas=3")
        kedge.wait_ready("voice", 3)
        victim = busiest(kedge)
        assert victim["sessions"] == SIPP_CALLS
        kedge.kubectl("delete", "pod", victim["name"], "--force", "--grace-period=0")

        kedge.until(lambda: all(one["anchors"] == 1 for one in kedge.snapshot()["calls"]), "all have moved once")
        # 50 packets a second and call from the caller, and as many back from the callee, who echoes them.
        kedge.until(
            lambda: sum(packet_rate(own_lab, pod_of(kedge, one)) for one in others(kedge, victim)) > SIPP_CALLS * 90,
            "the other relays carry the audio of all calls in both directions",
            within=6,
        )
        assert caller.check().succeeded == callee.check().succeeded == SIPP_CALLS
        rows = kedge.kubectl("get", "rly,calls")
        assert "voice" in rows
    finally:
        caller.stop()
        callee.stop()


def others(kedge: KedgeInCluster, victim: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the Ready relays that are not ``victim``."""
    return [one for one in kedge.snapshot()["relays"] if one["uid"] != victim["uid"] and one["state"] == "Ready"]


def packet_rate(lab: Lab, pod: dict[str, Any]) -> int:
    """Return how many packets a second a relay forwards, by its own word."""
    with lab.inside(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.connect((pod["status"]["podIP"], 2223))
        sock.send(b"rate-%d d7:command10:statisticse" % time.monotonic_ns())
        found = re.search(rb"10:packetratei(\d+)e", sock.recv(65535))
        assert found is not None
        return int(found[1])
