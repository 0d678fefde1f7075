"""The operator on a fake API server, which tells of changes when the test says so."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.controller.fake_kube import FakeKube
from tests.unit.controller.worlds import SETTINGS, event, pod, relay, relay_set_manifest, snapshot

from kedge.controller.manifests import ManifestSettings
from kedge.controller.operator import Operator, OperatorSettings
from kedge.ports.kube import KubeCredentials
from kedge.ports.records import SignalingSnapshot


class View:
    def __init__(self) -> None:
        self.now: tuple[SignalingSnapshot, ...] = (snapshot(),)

    async def snapshots(self) -> tuple[SignalingSnapshot, ...]:
        return self.now


class Watch:
    """Tells of a key when the test says so."""

    def __init__(
        self, *, namespace: str, notify: Callable[[str], None], login: Callable[[], Awaitable[KubeCredentials]]
    ) -> None:
        self.notify = notify
        self.running = False

    def start(self) -> None:
        self.running = True

    def stop(self) -> None:
        self.running = False

    def join(self, timeout: float = 0.0) -> bool:
        return True


@asynccontextmanager
async def running(
    kube: FakeKube, view: View, *, resync: float = 0.05, manifests: ManifestSettings = SETTINGS
) -> AsyncIterator[Operator]:
    settings = OperatorSettings(manifests=manifests, namespace="media", resync=resync, poll=0.02)
    operator = Operator(settings, kube, view, watching=Watch)
    task = asyncio.create_task(operator.run())
    try:
        yield operator
        assert not task.done()
    finally:
        operator.stop()
        async with asyncio.timeout(10):
            await task


async def several_looks(kube: FakeKube) -> None:
    """Wait for a few resyncs: whatever was to come has come."""
    asked = kube.asked
    await kube.until(lambda: kube.asked >= asked + 30)


def world(spec: dict[str, object] | None = None) -> tuple[FakeKube, View]:
    kube, view = FakeKube(), View()
    kube.put(relay_set_manifest(spec or {"replicas": 1}))
    kube.put({"kind": "Pod", **pod("r1")})
    return kube, view


def status_writes(kube: FakeKube) -> int:
    return sum(1 for one in kube.writes if one.startswith("status"))


async def test_all_is_applied_once_and_then_nothing_is_written() -> None:
    kube, view = world()

    async with running(kube, view):
        await kube.until(lambda: status_writes(kube) >= 2)  # the Deployment is told of in the second look
        await several_looks(kube)
        before = list(kube.writes)
        await several_looks(kube)

    assert kube.writes == before
    assert [one for one in before if one.startswith("apply")] == [
        "apply Deployment/voice-relay",
        "apply PodDisruptionBudget/voice-relay",
        "apply NetworkPolicy/voice-relay",
    ]
    assert kube.closed


async def test_a_change_of_state_is_written_at_once_and_an_event_only_once() -> None:
    kube, view = world()
    async with running(kube, view):
        await kube.until(lambda: status_writes(kube) >= 2)

        told = event(at=time.time())
        view.now = (snapshot(relay("r1", "Down"), events=(told,)), snapshot(relay("r1"), replica="b", events=(told,)))
        await kube.until(lambda: any(one.startswith("create Event") for one in kube.writes))
        await several_looks(kube)

    live = kube.objects["RelaySet", "media", "voice"]
    assert live["status"]["state"] == "Down"
    assert len([one for one in kube.writes if one.startswith("create Event")]) == 2
    about = sorted(one["regarding"]["kind"] for (kind, *_), one in kube.objects.items() if kind == "Event")
    assert about == ["Pod", "RelaySet"], "once on each, though two replicas tell of it"


EXTERNAL = {"replicas": 1, "media": {"hostNetwork": True, "advertise": {"type": "NodeExternalIP"}}}
AGENT = replace(SETTINGS, agent_image="kedge:1")


def node(*addresses: tuple[str, str]) -> dict[str, Any]:
    told = [{"type": kind, "address": address} for kind, address in addresses]
    return {"kind": "Node", "metadata": {"namespace": "", "name": "node-a"}, "status": {"addresses": told}}


async def test_a_pod_is_told_the_external_addresses_of_its_node_once() -> None:
    kube, view = world(EXTERNAL)
    kube.put(node(("InternalIP", "10.0.0.1"), ("ExternalIP", "198.51.100.7"), ("ExternalIP", "2001:db8::7")))

    async with running(kube, view, manifests=AGENT):
        await several_looks(kube)

    annotations = kube.objects["Pod", "media", "r1"]["metadata"]["annotations"]
    assert annotations["kedge.media/external-ip"] == "198.51.100.7,2001:db8::7"
    assert kube.writes.count("patch Pod/r1") == 1


@pytest.mark.parametrize("denied", [True, False])
async def test_an_address_that_cannot_be_told_is_said_in_the_status(denied: bool) -> None:
    kube, view = world(EXTERNAL)
    view.now = (snapshot(),)  # its agent waits, and so does the relay
    if denied:
        kube.denied.add("Node")
    else:
        kube.put(node(("InternalIP", "10.0.0.1")))

    async with running(kube, view, manifests=AGENT):
        await kube.until(lambda: status_writes(kube) > 0)
        await several_looks(kube)

    ready = kube.objects["RelaySet", "media", "voice"]["status"]["conditions"][0]
    told = "needs the right to read nodes" if denied else "node node-a has no ExternalIP"
    assert (ready["type"], ready["reason"], told in ready["message"]) == ("Ready", "NoRelayReady", True)
    assert "patch Pod/r1" not in kube.writes
    assert kube.writes.count("apply Deployment/voice-relay") == 1, "all the same, the pods are made"


async def test_an_event_that_is_there_already_is_not_an_error() -> None:
    kube, view = world()

    view.now = (snapshot(relay("r1"), events=(event(at=time.time()),)),)
    async with running(kube, view):
        await several_looks(kube)

    async with running(kube, view) as operator:
        await several_looks(kube)
        assert operator.alive

    assert len([one for one in kube.writes if one.startswith("create Event")]) == 2, "on the RelaySet and the pod"


async def test_it_outlives_an_api_server_that_is_away_from_the_start() -> None:
    kube, view = world()
    kube.away = True
    async with running(kube, view) as operator:
        await kube.until(lambda: kube.asked > 3)
        assert operator.alive

        kube.away = False
        await kube.until(lambda: "apply Deployment/voice-relay" in kube.writes)


async def test_a_relay_set_that_is_gone_or_going_is_left_alone() -> None:
    kube, view = world()
    manifest = relay_set_manifest({"replicas": 1})
    manifest["metadata"]["deletionTimestamp"] = "2023-11-14T22:13:20Z"
    kube.put(manifest)

    async with running(kube, view):
        await several_looks(kube)

    assert kube.writes == []


async def test_a_relay_set_that_does_not_fit_its_schema_harms_no_other() -> None:
    kube, view = world()
    broken = relay_set_manifest({"replicas": -1})
    broken["metadata"]["name"] = "broken"
    kube.put(broken)

    async with running(kube, view):
        await kube.until(lambda: status_writes(kube) >= 1)

    assert all("voice" in one for one in kube.writes)


async def test_a_set_that_shrinks_marks_its_victim_first_and_lowers_the_number_when_that_is_empty() -> None:
    kube, view = world({"replicas": 2})
    kube.put({"kind": "Pod", **pod("r2")})
    view.now = (snapshot(relay("r1", sessions=2), relay("r2", sessions=1)),)

    async with running(kube, view):
        await kube.until(lambda: ("Deployment", "media", "voice-relay") in kube.objects)
        kube.put(relay_set_manifest({"replicas": 1}))
        await kube.until(lambda: "patch Pod/r2" in kube.writes)
        await several_looks(kube)
        before = kube.objects["Deployment", "media", "voice-relay"]["spec"]["replicas"]
        view.now = (snapshot(relay("r1", sessions=3), relay("r2", intent="Drain")),)
        await kube.until(lambda: kube.objects["Deployment", "media", "voice-relay"]["spec"]["replicas"] == 1)

    assert before == 2
    assert [one for one in kube.writes if one.startswith("patch")] == ["patch Pod/r2"]


async def test_a_key_that_the_watch_tells_is_looked_at_long_before_the_resync() -> None:
    kube, view = world()
    watches: list[Watch] = []

    def watch(
        *, namespace: str, notify: Callable[[str], None], login: Callable[[], Awaitable[KubeCredentials]]
    ) -> Watch:
        watches.append(Watch(namespace=namespace, notify=notify, login=login))
        return watches[0]

    settings = OperatorSettings(manifests=SETTINGS, namespace="media", resync=3600.0, poll=3600.0)
    operator = Operator(settings, kube, view, watching=watch)
    task = asyncio.create_task(operator.run())
    await kube.until(lambda: status_writes(kube) == 1)

    kube.put(relay_set_manifest({"replicas": 5}))
    watches[0].notify("media/voice")

    await kube.until(lambda: kube.objects["Deployment", "media", "voice-relay"]["spec"]["replicas"] == 5)
    operator.stop()
    await task
    assert not watches[0].running


async def test_a_resync_lists_and_does_not_ask_for_each() -> None:
    kube, view = FakeKube(), View()
    for number in range(20):
        manifest = relay_set_manifest({"replicas": 0})
        manifest["metadata"] |= {"name": f"voice-{number}", "uid": f"uid-{number}"}
        kube.put(manifest)
    async with running(kube, view):
        await kube.until(lambda: status_writes(kube) >= 40)
        lists, others = kube.lists, kube.asked - kube.lists

        def only_lists() -> bool:
            """Say whether some resyncs have asked for nothing but lists; begun anew by whatever else is asked."""
            nonlocal lists, others
            if kube.asked - kube.lists != others:
                lists, others = kube.lists, kube.asked - kube.lists
            return kube.lists >= lists + 18

        await kube.until(only_lists)
