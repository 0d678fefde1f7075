"""NetworkPolicies in force: what Kedge's own let through is enough for Kedge, and a stranger beside it gets no more."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from tests.cluster.installed import ADMIN_PORT, CHART, RELEASE, SIP_PORT, InstalledKedge
from tests.cluster.stage import SILENCE
from tests.cluster.system import CALLEE, CALLER
from tests.kit.phones import PhoneProcess
from tests.lab import Lab, images, netns
from tests.lab.policies import Policies

CALLS = 6
RELAYS = 2
PHONES = (CALLEE, 5070)
CONTROL_PORT, METRICS_PORT = 2223, 9090
NODE_NETWORK = "192.0.2.8/29"
"""The addresses of the lab's nodes, of none of its pods, and not the lab's own."""
PING, PONG = b"test1 d7:command4:pinge", b"test1 d6:result4:ponge"
STRANGER: Final = "stranger"


@pytest.fixture(scope="module")
def policies(own_lab: Lab) -> Iterator[Policies]:
    """The policies of all namespaces, in force."""
    with Policies(own_lab) as policies:
        yield policies


@pytest.fixture(scope="module")
def kedge(own_lab: Lab, policies: Policies) -> Iterator[InstalledKedge]:
    """Kedge in the pod network, with relays that are Ready, and a stranger's pod, which takes calls of the cluster."""
    with InstalledKedge(own_lab, callee=PHONES, pod_security="restricted") as kedge:
        start_stranger(kedge)
        values = kedge.values()
        for component in ("operator", "signaling"):
            values[component]["replicas"] = 1
        values["signaling"]["hostNetwork"] = False
        values["relays"]["signalingNetworks"] = [NODE_NETWORK]
        values["settings"]["routes"][1]["nextHops"] = [{"address": address_of(kedge, STRANGER), "port": PHONES[1]}]
        kedge.helm("install", RELEASE, str(CHART), values=values)
        kedge.relay_set(RELAYS)
        wait_for_relays(kedge)
        yield kedge


def wait_for_relays(kedge: InstalledKedge) -> None:
    """Wait until the operator has it from signaling that all relays are Ready: two hops, with a policy on either."""

    def ready() -> bool:
        return [one["state"] for one in told_of(kedge)] == ["Ready"] * RELAYS

    kedge.until(ready, "all relays are Ready by the status of the RelaySet")


def told_of(kedge: InstalledKedge) -> list[dict[str, Any]]:
    """Return the relays, by the status of the RelaySet."""
    relays: list[dict[str, Any]] = kedge.get("relayset", "voice")["status"]["relays"]
    return relays


def start_stranger(kedge: InstalledKedge) -> None:
    """Start somebody else's pod in Kedge's namespace."""
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    pod = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": STRANGER, "namespace": kedge.namespace},
        "spec": {
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": STRANGER, "image": images.PAUSE, "securityContext": security}],
        },
    }  # fmt: skip
    kedge.lab.apply(pod)
    kedge.kubectl("wait", "--for=condition=Ready", "--timeout=30s", f"pod/{STRANGER}")


def address_of(kedge: InstalledKedge, pod: str) -> str:
    return str(kedge.get("pod", pod)["status"]["podIP"])


def inside(kedge: InstalledKedge, pod: str) -> AbstractContextManager[None]:
    """Take the calling thread into the network of a pod."""
    found = kedge.get("pod", pod)
    node, container = found["spec"]["nodeName"], found["spec"]["containers"][0]["name"]
    pid = kedge.lab.container_pid(node, pod, container, namespace=kedge.namespace)
    return netns.inside(Path(f"/proc/{pid}/ns/net"))


def reached_from(kedge: InstalledKedge, place: AbstractContextManager[None], relay: str) -> set[str]:
    """Say what answers of a relay and of signaling; all are asked at once, each by a socket of its own."""
    signaling = kedge.pods("signaling")[0]["status"]["podIP"]
    doors = {
        "ng": (socket.SOCK_DGRAM, (relay, CONTROL_PORT)),
        "agent": (socket.SOCK_STREAM, (relay, CONTROL_PORT)),
        "admin": (socket.SOCK_STREAM, (signaling, ADMIN_PORT)),
        "metrics": (socket.SOCK_STREAM, (signaling, METRICS_PORT)),
    }
    with ExitStack() as stack, ThreadPoolExecutor() as pool:
        with place:
            sockets = {name: stack.enter_context(socket.socket(type=kind)) for name, (kind, _) in doors.items()}
        asked = {name: pool.submit(answers, sockets[name], address) for name, (_, address) in doors.items()}
        return {name for name, answer in asked.items() if answer.result()}


def answers(door: socket.socket, address: tuple[str, int]) -> bool:
    """Whether an address takes a connection within a second, or answers a ping."""
    door.settimeout(1.0)
    try:
        door.connect(address)
        if door.type == socket.SOCK_DGRAM:
            door.send(PING)
            return door.recv(64) == PONG
    except TimeoutError:
        return False
    return True


ALL: Final = {"ng", "agent", "admin", "metrics"}
STRANGERS: Final = {"metrics"}
"""What the chart opens to everyone, unless ``networkPolicy.metricsFrom`` says to whom."""


def relay_pods(kedge: InstalledKedge) -> list[str]:
    """Return the names of the relay pods."""
    return [one["metadata"]["name"] for one in kedge.get("pods", "--selector=kedge.media/relayset=voice")["items"]]


@asynccontextmanager
async def phones(
    kedge: InstalledKedge, place: AbstractContextManager[None], *, caller: str, callee: tuple[str, int]
) -> AsyncIterator[PhoneProcess]:
    """Phones in a network, with calls that have audio both ways."""
    proxy = (kedge.pods("signaling")[0]["status"]["podIP"], SIP_PORT)
    with place:
        made = PhoneProcess(proxy=proxy, caller=(caller, 0), callee=callee, prefix="49")
        await made.start()
    try:
        await made.place_calls(CALLS, rtp=True)
        assert await made.wait_audio(time.monotonic(), within=5)
        yield made
    finally:
        over = await made.hang_up()  # whatever has failed: signaling does not end while it has calls
        await made.stop()
    assert over


def test_a_stranger_reaches_neither_a_relays_control_nor_the_admin_api(
    kedge: InstalledKedge, policies: Policies
) -> None:
    relay = address_of(kedge, relay_pods(kedge)[0])

    assert reached_from(kedge, inside(kedge, STRANGER), relay) == STRANGERS
    with policies.lifted():
        assert reached_from(kedge, inside(kedge, STRANGER), relay) == ALL, "nothing else is in its way"


def test_a_relay_reaches_no_more_than_a_stranger(kedge: InstalledKedge) -> None:
    one, other = relay_pods(kedge)

    assert reached_from(kedge, inside(kedge, one), address_of(kedge, other)) == STRANGERS


def test_the_nodes_of_signaling_reach_a_relays_control_and_other_machines_do_not(kedge: InstalledKedge) -> None:
    relay = relay_pods(kedge)[0]
    host = kedge.get("pod", relay)["spec"]["nodeName"]
    other = next(name for name in kedge.lab.node_netns if name != host)

    assert "ng" in reached_from(kedge, netns.Namespace(kedge.lab.node_netns[other]).inside(), address_of(kedge, relay))
    assert reached_from(kedge, kedge.lab.inside(), address_of(kedge, relay)) == STRANGERS


async def test_a_strangers_media_passes_through_a_relay(kedge: InstalledKedge) -> None:
    address = address_of(kedge, STRANGER)
    async with phones(kedge, inside(kedge, STRANGER), caller=address, callee=(address, PHONES[1])) as strangers:
        assert (await strangers.report()).talking() == CALLS


async def test_the_kubelet_holds_a_relays_end_until_its_calls_have_left(kedge: InstalledKedge) -> None:
    async with phones(kedge, kedge.lab.inside(), caller=CALLER, callee=PHONES) as callers:
        since = time.monotonic()
        kedge.until(lambda: sum(one["sessions"] for one in told_of(kedge)) == CALLS, "the status tells of all calls")
        ends = max(told_of(kedge), key=lambda one: int(one["sessions"]))

        kedge.kubectl("delete", "pod", ends["name"], "--timeout=30s")

        assert await callers.wait_audio(time.monotonic(), within=5)
        report = await callers.report(since)
        assert report.talking() == CALLS
        assert max(report.gaps()) < SILENCE, "they left before it ended"
        failed = [one["message"] for one in kedge.get("events")["items"] if one["reason"] == "FailedPreStopHook"]
        assert not failed
