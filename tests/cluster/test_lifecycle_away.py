"""Parts of the cluster are away for a minute: the API server, or a node with the operator that leads and a relay."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
from tests.cluster.installed import SIGNALING_NODE, InstalledKedge
from tests.cluster.stage import installed, stage
from tests.lab import Lab
from tests.lab.audit import Request
from tests.lab.netns import Namespace

from kedge.adapters.kube_client import KubeClient
from kedge.controller.leadership import LeaseTimes
from kedge.ports.kube import Kind, KubeUnavailableError

CALLS = 20
AWAY = 60.0
"""Seconds that the API server is away."""
KUBELET_BACK = 120.0
"""Seconds within which all kubelets hear of pods again after the API server was away: each waits up to a minute between
two tries then.
"""
NEIGHBOUR_QUEUE = 3.5
"""Seconds for which Linux may hold a packet while it asks for the link address (three times, each second). Nobody can
take it back; a leader stops so long before another takes over that it does not matter.
"""


@pytest.fixture(scope="module")
def kedge(own_lab: Lab) -> Iterator[InstalledKedge]:
    """Kedge as Helm installs it, with an operator on each of two nodes."""
    apart = {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule"}
    operator = {"nodeSelector": {SIGNALING_NODE: "yes"}, "topologySpreadConstraints": [apart]}
    with installed(own_lab, operator=operator) as kedge:
        yield kedge


async def test_a_relay_is_lost_while_the_api_server_is_away_for_a_minute(own_lab: Lab, kedge: InstalledKedge) -> None:
    """It hangs; in ``test_failover`` its port refuses."""
    async with stage(kedge, 3) as on_stage:
        await on_stage.call(CALLS)
        lost = on_stage.busiest()
        node = kedge.get("pod", lost)["spec"]["nodeName"]
        own_lab.cut_apiserver(frozen=True)
        began = time.monotonic()
        try:
            own_lab.kill_container(node, lost, "relay", namespace=kedge.namespace)
            kedge.until(lambda: not on_stage.on(lost), "all calls have moved", within=10)
            await on_stage.all_heard()
            while time.monotonic() - began < AWAY:
                await on_stage.call(1)
                await on_stage.all_heard()
                await asyncio.sleep(5)
        finally:
            own_lab.restore_apiserver()

        def caught_up() -> bool:
            status = kedge.get("relayset", "voice")["status"]
            calls = len(kedge.get("calls")["items"])
            told = status["lastFailover"]["relay"] == lost and status["calls"] == calls == len(on_stage.calls())
            return bool(told)

        kedge.until(caught_up, "status and Calls catch up")
        on_stage.ready(3)
        await on_stage.all_heard()
        assert max(on_stage.anchors()) == 1


async def test_a_node_with_the_leader_and_relays_returns(own_lab: Lab, kedge: InstalledKedge) -> None:
    second = sorted(own_lab.node_addresses)[1]
    async with stage(kedge, 3) as on_stage:
        lead_from(kedge, second)
        on_stage.have_relay_on(second)
        old = kedge.leader()["metadata"]["name"]
        await on_stage.call(CALLS)
        kedge.until(lambda: sum(on_stage.told_calls().values()) == CALLS, "that operator has written")
        gone = {name for name, one in on_stage.relays().items() if one["node"] == second}
        leaving = sum(len(on_stage.on(name)) for name in gone)
        own_lab.cut_node(second)
        try:
            kedge.until(lambda: not any(on_stage.on(name) for name in gone), "all calls have left", within=60)
            on_stage.since = time.monotonic()
            assert on_stage.reasons()["RelayDown"] == leaving > 0
            assert max(on_stage.anchors()) == 1
            kedge.until(lambda: kedge.leader()["spec"]["nodeName"] != second, "the other operator leads")
            new = kedge.leader()["metadata"]["name"]
            kedge.kubectl("annotate", "relayset", "voice", "example.com/touched=yes")

            def replaced() -> bool:
                states = {name: one["state"] for name, one in on_stage.relays().items() if name not in gone}
                return list(states.values()) == ["Ready"] * 3

            def shared() -> bool:
                loads = [count for name, count in on_stage.loads().items() if name not in gone]
                return max(loads) - min(loads) <= 1

            kedge.until(replaced, "other relays have come in their place", within=90)
            kedge.until(shared, "the calls are shared evenly again")
            await on_stage.all_heard()
            moved = on_stage.moved()
        finally:
            own_lab.join_node(second)

        on_stage.ready(3)
        kedge.until(lambda: len(kedge.pods("operator")) == 2, "two operators stand by each other again")
        await on_stage.all_heard()
        assert on_stage.moved() == moved, "the node's return has moved nothing"
        in_turn(writes(own_lab, kedge), old, new)


async def test_a_write_that_was_given_up_does_not_arrive_when_the_network_returns(own_lab: Lab) -> None:
    """Else an operator that led once would write after another has taken over, however well it keeps its deadline."""
    node = max(own_lab.node_addresses)
    kind = Kind("", "v1", "ConfigMap", "configmaps")
    client = KubeClient(str(own_lab.kubeconfig), request_timeout=LeaseTimes().request_timeout)
    with Namespace(own_lab.node_netns[node]).inside():
        await client.create(kind, {"metadata": {"namespace": "default", "name": "before"}})
        own_lab.cut_node(node)
        try:
            with pytest.raises(KubeUnavailableError):
                await client.create(kind, {"metadata": {"namespace": "default", "name": "too-late"}})
            await asyncio.sleep(NEIGHBOUR_QUEUE)
        finally:
            own_lab.join_node(node)
        await client.close()
    assert await arrivals(own_lab, "too-late", seconds=6) == 0, "the kernel would have sent it again by then"


async def arrivals(lab: Lab, name: str, *, seconds: float) -> int:
    """Return how many objects of a name there are after a while."""
    await asyncio.sleep(seconds)
    return lab.kubectl("get", "configmaps", "-o", "name").split().count(f"configmap/{name}")


def lead_from(kedge: InstalledKedge, node: str) -> None:
    """Have an operator on a node lead: the other one is deleted in order, and so hands over."""

    def leads() -> bool:
        leader = kedge.leader()
        if leader["spec"]["nodeName"] != node:
            kedge.kubectl("delete", "pod", leader["metadata"]["name"], "--wait=false")
        return bool(leader["spec"]["nodeName"] == node)

    kedge.until(leads, f"an operator on {node} leads", within=KUBELET_BACK)


def writes(lab: Lab, kedge: InstalledKedge) -> list[Request]:
    """Return what operators have written to what they own, by the API server's own trace."""
    return [
        one
        for one in lab.requests()
        if one.namespace == kedge.namespace
        and one.account.endswith(":kedge-operator")
        and one.verb in ("create", "update", "patch", "delete")
        and one.resource != "leases"
        and one.status < 400
    ]


def in_turn(trace: list[Request], old: str, new: str) -> None:
    """Assert that both have written, and that the old leader's last write was answered before the new one's first."""
    last = max(one.answered for one in trace if one.pod == old)
    first = min(one.received for one in trace if one.pod == new)
    assert last < first, [one for one in trace if one.pod in (old, new)]
