"""What the operator does long before a resync would, and that what a resync has found is not held against it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.unit.controller.leaping import FarKube, Running, run
from tests.unit.controller.worlds import pod, relay, relay_set_manifest, snapshot

from kedge.ports.records import SignalingSnapshot


class View:
    def __init__(self) -> None:
        self.now: tuple[SignalingSnapshot, ...] = (snapshot(relay("r1")),)

    async def snapshots(self) -> tuple[SignalingSnapshot, ...]:
        return self.now


class World:
    def __init__(self, *names: str) -> None:
        self.kube, self.view = FarKube(), View()
        for name in names or ("voice",):
            self.want(name, 1)
        self.kube.put({"kind": "Pod", **pod("r1")})

    def want(self, name: str, replicas: int) -> None:
        old = self.kube.objects.get(("RelaySet", "media", name), {})
        manifest = relay_set_manifest({"replicas": replicas}, old.get("status"))
        manifest["metadata"] |= {"name": name, "uid": f"uid-{name}"}
        self.kube.put(manifest)

    def replicas(self, name: str) -> int:
        wanted: int = self.kube.objects["Deployment", "media", f"{name}-relay"]["spec"]["replicas"]
        return wanted

    def state(self) -> str:
        told: str = self.kube.objects["RelaySet", "media", "voice"]["status"]["state"]
        return told


def lived(world: World, story: Callable[[Running], object], *, resync: float = 3600.0, seconds: float = 10.0) -> None:
    """Let the operator come to rest, something happen, and a few seconds pass."""

    async def live() -> None:
        async with Running(world.kube, world.view, resync=resync) as running:
            await asyncio.sleep(10.0)
            story(running)
            await asyncio.sleep(seconds)

    run(live())


def test_a_relay_that_is_lost_is_told_within_seconds() -> None:
    world = World()

    def lose(_: Running) -> None:
        world.view.now = (snapshot(relay("r1", "Down")),)

    lived(world, lose, seconds=2.0)

    assert world.state() == "Down"


def test_numbers_of_calls_are_told_within_the_interval_of_a_status() -> None:
    world = World()

    def more_calls(_: Running) -> None:
        world.view.now = (snapshot(replace(relay("r1"), sessions=7)),)

    lived(world, more_calls, seconds=7.0)

    assert world.kube.objects["RelaySet", "media", "voice"]["status"]["calls"] == 7


def test_packets_that_signaling_counts_make_no_work() -> None:
    world = World()
    asked: list[int] = []

    def count(_: Running) -> None:
        asked.append(world.kube.asked)
        world.view.now = (snapshot(relay("r1"), counters={"requests_received": 99}),)

    lived(world, count, seconds=60.0)

    assert [world.kube.asked] == asked


def test_what_failed_is_done_soon_after_the_api_server_is_back() -> None:
    world = World()

    def away(running: Running) -> None:
        world.want("voice", 5)
        world.kube.away = True
        running.watch.notify("media/voice")
        asyncio.get_running_loop().call_later(5.0, lambda: setattr(world.kube, "away", False))

    lived(world, away, seconds=20.0)

    assert world.replicas("voice") == 5


@pytest.mark.parametrize("kind", ["RelaySet", "Deployment", "Pod", "Call"])
def test_a_change_while_a_resync_makes_its_lists_is_not_undone_by_them(kind: str) -> None:
    world = World("alpha", "beta")

    def change_at_the_next_resync(running: Running) -> None:
        def listed(which: str) -> float:
            if which != kind or world.replicas("beta") != 1:
                return 0.05
            world.want("beta", 4)
            running.watch.notify("media/beta")
            return 3.0  # so that the change is carried out before the next list is made

        world.kube.listed = listed

    lived(world, change_at_the_next_resync, resync=100.0, seconds=120.0)

    assert world.replicas("beta") == 4
    assert world.kube.writes.count("apply Deployment/beta-relay") == 2


def test_a_change_after_the_lists_and_before_its_turn_is_seen() -> None:
    world = World("alpha", "beta")

    def slow_first(running: Running) -> None:
        del world.kube.objects["Deployment", "media", "alpha-relay"]  # alpha has its turn first, and takes a while

        def after_lists() -> None:
            world.want("beta", 4)
            running.watch.notify("media/beta")

        def listed(which: str) -> float:
            if which == "Call":
                asyncio.get_running_loop().call_later(0.12, after_lists)
            return 0.05

        world.kube.listed = listed
        world.kube.writes.clear()

    lived(world, slow_first, resync=100.0, seconds=93.0)

    assert world.kube.writes[0] == "apply Deployment/alpha-relay"
    assert world.replicas("beta") == 4


def test_what_is_being_done_while_a_resync_looks_is_not_done_twice() -> None:
    world = World()

    def change_just_before(running: Running) -> None:
        def change() -> None:
            world.want("voice", 4)
            running.watch.notify("media/voice")

        asyncio.get_running_loop().call_at(100.55, change)  # the resync begins at 100.6
        world.kube.writes.clear()

    lived(world, change_just_before, resync=100.0, seconds=120.0)

    assert world.kube.writes.count("apply Deployment/voice-relay") == 1
