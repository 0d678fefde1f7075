"""What people do to relay pods every day: rollouts, bad images, node drains, scaling. Under calls with RTP, none lost.

Relays live while they are left, so a phone hears the other all the time; that is what sets these apart from failovers.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from tests.cluster.installed import InstalledKedge
from tests.cluster.stage import Stage, installed, stage
from tests.cluster.system import ROOT
from tests.kit.phones import Behaviour, quantile
from tests.lab import Lab

CALLS = 20
MANY, RTP_EVERY = 200, 4
"""Calls under load; every fourth has audio: 100 phones are what this machine plays beside all the rest."""
UNEVEN = {"rebalance": {"imbalancePercent": 100}, "health": {"threshold": 10}}
"""No call moves only to even out load, or because its relay had no CPU for 300 ms, on two cores that it shares with
nodes, phones and other tests: who moved, and why, is counted.
"""
HOST_NETWORK = {"media": {"hostNetwork": True, "portRange": {"min": 20000, "max": 22000}}}
NEWER = {"example.com/make": "2"}
"""Annotations of relay pods that are not what they were."""


@pytest.fixture(scope="module")
def kedge(own_lab: Lab) -> Iterator[InstalledKedge]:
    """Kedge as Helm installs it, for all tests of this file."""
    with installed(own_lab) as kedge:
        yield kedge


async def test_two_nodes_are_drained_at_once(own_lab: Lab, kedge: InstalledKedge, record_property: Any) -> None:
    first, *others = sorted(own_lab.node_addresses)
    fewest, evicted = 3, set[str]()
    try:
        async with stage(kedge, 3, spec=UNEVEN) as on_stage:
            for node in others:
                on_stage.have_relay_on(node)
            await on_stage.call(CALLS)
            left = {name for name, one in on_stage.relays().items() if one["node"] in others}
            assert {on_stage.relays()[name]["node"] for name in left} == set(others), "one relay on each node at least"
            moving = sum(len(on_stage.on(name)) for name in left)
            began = time.monotonic()

            drains = [asyncio.create_task(asyncio.to_thread(drain, own_lab, node)) for node in others]
            while not all(one.done() for one in drains):
                # One that is Ready to Kubernetes, and so counts for the budget, may have yet to be probed by signaling.
                relays = on_stage.relays()
                evicted |= {name for name, one in relays.items() if one["state"] == "Draining"}
                fewest = min(fewest, len(relays.keys() - evicted))
                await asyncio.sleep(0.1)
            await asyncio.gather(*drains)
            record_property("two nodes drained at once, seconds", time.monotonic() - began)

            on_stage.ready(3)
            assert {one["node"] for one in on_stage.relays().values()} == {first}
            assert fewest >= 2, "the budget lets one go after the other"
            assert on_stage.reasons().keys() == {"Drain"}
            assert on_stage.anchors()[0] <= CALLS - moving
            assert max(on_stage.anchors()) <= 2
            record_property("two nodes drained at once, longest gap", await on_stage.all_heard())
    finally:
        own_lab.kubectl("uncordon", *own_lab.node_addresses)


def drain(lab: Lab, node: str) -> None:
    """Drain a node as a person does."""
    lab.kubectl("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=150s", timeout=160)


async def test_the_relay_with_the_fewest_calls_goes_when_a_set_shrinks(kedge: InstalledKedge) -> None:
    async with stage(kedge, 3, spec=UNEVEN) as on_stage:
        await on_stage.call(CALLS)
        victim = on_stage.busiest()
        address = kedge.get("pod", victim)["status"]["podIP"]
        there = [one.number for one in (await on_stage.phones.report()).calls if one.relay == address]
        await on_stage.phones.hang_up(there[1:])
        await on_stage.left(len(there) - 1)
        (last,) = on_stage.on(victim)
        kedge.until(lambda: on_stage.told_calls()[victim] == 1, "the operator knows")
        others = len(on_stage.calls()) - 1

        kedge.kubectl("scale", "relayset", "voice", "--replicas=2")

        kedge.until(
            lambda: kedge.get("deployment", "voice-relay")["spec"]["replicas"] == 2, "the Deployment is lowered"
        )
        assert not on_stage.on(victim), "not before the relay was empty"
        kedge.until(lambda: victim not in on_stage.relays(), "it has gone")
        on_stage.ready(2)
        moved = {one["id"]: one["anchors"] for one in on_stage.calls() if one["anchors"]}
        assert moved == {last: 1}
        assert on_stage.anchors()[0] == others
        kedge.until(lambda: pods(kedge) == sorted(on_stage.relays()), "its pod too")
        kept = kedge.get("pods", "--selector=kedge.media/relayset=voice")["items"]
        assert not any("kedge.media/scale-in" in one["metadata"].get("annotations", {}) for one in kept)
        await on_stage.all_heard()


async def test_a_new_relay_gets_the_calls_that_the_plan_had_said(kedge: InstalledKedge) -> None:
    async with stage(kedge, 2) as on_stage:

        def spread() -> int:
            return [one["reason"] for one in on_stage.events()].count("RebalanceDone")

        await on_stage.call(CALLS)
        before = spread()

        kedge.kubectl("scale", "relayset", "voice", "--replicas=3")

        def serve() -> bool:
            return [one["state"] for one in on_stage.relays().values()] == ["Ready"] * 3

        kedge.until(serve, "a third relay serves")
        plan = kedge.ask(kedge.nodes()[0], "/v1/plan?kind=rebalance")
        assert on_stage.anchors() == {0: CALLS}, "it was asked in time"
        kedge.until(lambda: spread() == before + 1, "an Event tells of the end")
        assert plan["moves"] > 0
        assert on_stage.anchors() == {0: CALLS - plan["moves"], 1: plan["moves"]}
        assert on_stage.loads() == {one["name"]: one["after"] for one in plan["relays"]}
        await on_stage.all_heard()


async def test_the_scale_of_a_set_picks_its_pods_and_is_driven_as_an_autoscaler_does(kedge: InstalledKedge) -> None:
    path = f"/apis/kedge.media/v1alpha1/namespaces/{kedge.namespace}/relaysets/voice/scale"
    async with stage(kedge, 2) as on_stage:
        await on_stage.call(CALLS)
        scale = json.loads(kedge.kubectl("get", "--raw", path))
        assert (scale["spec"]["replicas"], scale["status"]["replicas"]) == (2, 2)
        picked = kedge.get("pods", f"--selector={scale['status']['selector']}")["items"]
        there = {one["metadata"]["name"] for one in picked if "deletionTimestamp" not in one["metadata"]}
        assert there == set(on_stage.relays())

        hpa = ROOT / "manifests" / "samples" / "autoscale" / "hpa.yaml"
        kedge.kubectl("create", "--dry-run=server", "-f", str(hpa))

        def put(replicas: int) -> bool:
            scale = json.loads(kedge.kubectl("get", "--raw", path))
            scale["spec"]["replicas"] = replicas
            return bool(kedge.kubectl("replace", "--raw", path, "-f", "-", stdin=json.dumps(scale)))

        for replicas in (3, 2):
            kedge.until(partial(put, replicas), "no status was written in between")
            on_stage.ready(replicas)
        await on_stage.all_heard()


async def test_an_image_that_does_not_exist_is_told_and_moves_no_call(kedge: InstalledKedge) -> None:
    async with stage(kedge, 2) as on_stage:
        await on_stage.call(CALLS)
        before = set(on_stage.relays())

        kedge.relay_set(2, image="localhost/no-such-relay:1")

        told = on_stage.until_condition("Degraded", "True", "PodsFailing")
        assert "does not start: " in told
        assert "localhost/no-such-relay:1" in told
        status, reason, message = on_stage.condition("Progressing")
        assert (status, reason) == ("True", "RollingOut")
        assert message.startswith("1 of 2 pods are up to date, 2 available; pod voice-relay-")
        assert set(on_stage.relays()) == before
        await on_stage.call(2)

        kedge.relay_set(2)
        on_stage.until_condition("Progressing", "False", "Complete")
        on_stage.until_condition("Degraded", "False", "RelaysHealthy")
        assert set(on_stage.relays()) == before
        assert on_stage.anchors() == {0: CALLS + 2}
        await on_stage.all_heard()


async def test_a_call_that_refuses_to_move_is_named_and_has_until_the_deadline(kedge: InstalledKedge) -> None:
    """With the network of nodes: a kubelet calls hooks of such pods in a way of its own."""
    async with stage(kedge, 2, spec=HOST_NETWORK) as on_stage:
        await on_stage.call(1, callee=Behaviour(reinvite_status=488))
        (refusing,) = on_stage.calls()
        await on_stage.call(CALLS)
        began = time.monotonic()

        kedge.kubectl("delete", "pod", refusing["relay"], "--wait=false")

        kedge.until(told(on_stage, refusing["id"], "stays on relay", "488"), "an Event names call and reason", within=9)
        assert on_stage.on(refusing["relay"]) == [refusing["id"]]
        await on_stage.all_heard()
        await on_stage.left(1)
        kedge.until(told(on_stage, refusing["id"], "hung up", "488"), "and what became of it")
        events = kedge.get("events", f"--field-selector=involvedObject.name={refusing['relay']}")["items"]
        assert "FailedPreStopHook" not in {one["reason"] for one in events}
        held = time.monotonic() - began
        assert 9 < held < 30, "drain.deadline of 10 s, and what it takes to see that it is lost"
        await on_stage.all_heard()


def told(on_stage: Stage, call: str, *words: str) -> Callable[[], bool]:
    """Whether an Event names a call, and has all these words."""
    return lambda: any(all(word in one["note"] for word in (call, *words)) for one in on_stage.events())


async def test_calls_without_another_relay_are_named_in_time_to_be_helped(own_lab: Lab, kedge: InstalledKedge) -> None:
    async with stage(kedge, 1) as on_stage:
        await on_stage.call(3)
        (only,) = on_stage.relays()
        calls = on_stage.on(only)
        own_lab.kubectl("cordon", *own_lab.node_addresses)
        try:
            on_stage.evict(only)
            for call in calls:
                kedge.until(told(on_stage, call, "NoRelay"), "an Event names each call and the reason", within=30)
            assert "has no node" in on_stage.condition("Ready")[2]
        finally:
            own_lab.kubectl("uncordon", *own_lab.node_addresses)
        kedge.until(lambda: not on_stage.on(only), "somebody has helped, and they have left")
        on_stage.since = time.monotonic()  # where the help came after the deadline, they were silent
        await on_stage.all_heard()


async def test_a_rollout_moves_each_call_once(kedge: InstalledKedge, record_property: Any) -> None:
    async with stage(kedge, 2) as on_stage:
        await on_stage.call(CALLS)
        old = set(on_stage.relays())
        began = time.monotonic()

        kedge.relay_set(2, annotations=NEWER)

        kedge.until(lambda: not old & set(on_stage.relays()), "all old relays have gone", within=90)
        record_property("rollout of 2 relays under 20 calls, seconds", time.monotonic() - began)
        on_stage.ready(2)
        on_stage.until_condition("Progressing", "False", "Complete")
        assert on_stage.anchors() == {1: CALLS}, "from an old relay to a new one, and never to another old one"
        assert on_stage.reasons() == {"Drain": CALLS}, "each relay lived until it was empty"
        record_property("rollout, longest gap", await on_stage.all_heard())


async def test_a_deleted_set_keeps_its_calls_until_they_end_or_the_deadline(kedge: InstalledKedge) -> None:
    async with stage(kedge, 2, annotations=NEWER) as on_stage:
        await on_stage.call(CALLS)
        first, second = on_stage.relays()
        address = kedge.get("pod", first)["status"]["podIP"]
        there = [one.number for one in (await on_stage.phones.report()).calls if one.relay == address]

        kedge.kubectl("delete", "relayset", "voice")
        began = time.monotonic()
        await on_stage.all_heard()
        await on_stage.phones.hang_up(there)
        await on_stage.left(len(there))
        kedge.until(lambda: first not in pods(kedge), "a pod ends when its calls have", within=9)
        assert second in pods(kedge)
        await on_stage.all_heard()
        kedge.until(lambda: not pods(kedge), "the other ends at the deadline", within=30)
        assert time.monotonic() - began > 9
        assert await on_stage.phones.hang_up(), "Kedge would end them too, when no relay has come for a while"
        await on_stage.left(CALLS - len(there))


def pods(kedge: InstalledKedge) -> list[str]:
    """Return the names of the relay pods, those included that are on their way out."""
    found = kedge.get("pods", "--selector=kedge.media/relayset=voice")["items"]
    return [one["metadata"]["name"] for one in found]


async def test_a_node_is_drained_under_load(own_lab: Lab, kedge: InstalledKedge, record_property: Any) -> None:
    async with stage(kedge, 3, spec=UNEVEN) as on_stage:
        await on_stage.call(MANY, rtp_every=RTP_EVERY)
        elsewhere = [one for one in on_stage.relays().values() if one["node"] != min(own_lab.node_addresses)]
        node = max(elsewhere, key=lambda one: int(one["sessions"]))["node"]  # signaling is on the first one
        there = sorted(name for name, one in on_stage.relays().items() if one["node"] == node)
        moving = sum(len(on_stage.on(name)) for name in there)

        emptied = [asyncio.create_task(asyncio.to_thread(until_left, on_stage, name)) for name in there]
        drained = asyncio.create_task(asyncio.to_thread(drain, own_lab, node))
        try:
            record_property("evictions seen to relays empty, seconds", await asyncio.gather(*emptied))
            await figures(on_stage, "node drained", record_property)
        finally:
            await drained
            own_lab.kubectl("uncordon", node)
        assert moving > MANY / 10
        assert on_stage.reasons().keys() == {"Drain"}
        assert on_stage.anchors()[0] == MANY - moving
        assert max(on_stage.anchors()) <= len(there), "from one relay of the node to the next at most"


async def test_a_relay_is_deleted_by_force_under_load(kedge: InstalledKedge, record_property: Any) -> None:
    async with stage(kedge, 3, spec=UNEVEN) as on_stage:
        await on_stage.call(MANY, rtp_every=RTP_EVERY)
        victim = on_stage.busiest()
        emptied = asyncio.create_task(asyncio.to_thread(until_left, on_stage, victim))

        kedge.kubectl("delete", "pod", victim, "--force", "--grace-period=0")

        record_property("deletion by force seen to all moved, seconds", await emptied)
        await figures(on_stage, "deletion by force", record_property)


def until_left(on_stage: Stage, relay: str) -> float:
    """Wait until signaling knows that a relay is to be left, and until it has been; return the seconds in between."""
    began, left = time.monotonic(), math.inf
    while True:
        now, (state, sessions) = time.monotonic(), on_stage.state_of(relay)
        left = min(left, math.inf if state == "Ready" else now)
        if not sessions:
            return now - left
        assert now - began < 60, on_stage.kedge.story()
        time.sleep(0.05)


async def figures(on_stage: Stage, what: str, record_property: Any) -> None:
    """Assert that no call was lost and all are heard, and tell the gaps."""
    report = await on_stage.phones.report(on_stage.since)  # first: to report takes the phones a while themselves
    gaps = report.gaps()
    await on_stage.all_heard()
    record_property(f"{what}, audio gap p50, seconds", quantile(gaps, 0.5))
    record_property(f"{what}, audio gap p99, seconds", quantile(gaps, 0.99))
    record_property(f"{what}, the phones' own share in the longest gap, seconds", report.send_late)


async def test_the_operator_is_killed_amid_a_failover(own_lab: Lab, kedge: InstalledKedge) -> None:
    slow = {"failover": {"rate": 60, "ratePerPeer": 30}, **UNEVEN}
    async with stage(kedge, 3, spec=slow) as on_stage:
        await on_stage.call(MANY, rtp_every=10)
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
        assert on_stage.anchors() == {0: MANY - count, 1: count}
        on_stage.since = time.monotonic()  # they were silent as long as that slow pace made them wait
        await on_stage.all_heard()

        def caught_up() -> bool:
            status = kedge.get("relayset", "voice")["status"]
            last = status["lastFailover"]  # of the calls that were left when the relay was back, and had forgotten them
            told = last["relay"] == lost and 0 < last["moved"] == last["calls"] and not last["failed"]
            return bool(told and {one["name"]: one["sessions"] for one in status["relays"]} == on_stage.loads())

        kedge.until(caught_up, "the status tells of it, by whichever operator leads now")
