"""Level-triggered: however events of the watch are lost, repeated, delayed and mixed up, the end is the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.controller.leaping import FarKube, Running, run
from tests.unit.controller.worlds import pod, relay, relay_set_manifest, snapshot

from kedge.ports.kube import Manifest
from kedge.ports.records import SignalingSnapshot

NAMES = ("alpha", "beta", "gamma")


class View:
    """What signaling tells: relays by pod."""

    def __init__(self) -> None:
        self.states: dict[tuple[str, str], str] = {}
        self.silent = False

    async def snapshots(self) -> tuple[SignalingSnapshot, ...]:
        if self.silent:
            return ()
        found = (
            relay(f"{name}-{number}", state, relay_set=f"media/{name}")
            for (name, number), state in sorted(self.states.items())
        )
        return (snapshot(*found),)


class World:
    """An API server and signaling, and what people and nodes do to them."""

    def __init__(self) -> None:
        self.kube, self.view = FarKube(), View()

    def want(self, name: str, replicas: int) -> None:
        """Somebody makes or changes a RelaySet."""
        old = self.kube.objects.get(("RelaySet", "media", name))
        manifest = relay_set_manifest({"replicas": replicas}, old.get("status") if old else None)
        generation = old["metadata"]["generation"] + 1 if old else 1
        manifest["metadata"] |= {"name": name, "uid": f"uid-{name}", "generation": generation}
        self.kube.put(manifest)

    def drop(self, name: str, _: int) -> None:
        """Somebody deletes a RelaySet; what it owned is collected."""
        self.kube.objects.pop(("RelaySet", "media", name), None)
        for kind in ("Deployment", "PodDisruptionBudget", "NetworkPolicy"):
            self.kube.objects.pop((kind, "media", f"{name}-relay"), None)

    def meddle(self, name: str, number: int) -> None:
        """Somebody changes or deletes what the operator has made."""
        kind = ("Deployment", "PodDisruptionBudget", "NetworkPolicy")[number % 3]
        found = self.kube.objects.get((kind, "media", f"{name}-relay"))
        if found is not None and number > 2:
            del self.kube.objects[kind, "media", f"{name}-relay"]
        elif found is not None:
            found["spec"] = {}

    def pod_comes(self, name: str, number: int) -> None:
        made: Manifest = {"kind": "Pod", **pod(f"{name}-{number}")}
        made["metadata"]["labels"] = {"kedge.media/relayset": name}
        self.kube.put(made)
        self.view.states[name, str(number)] = "Ready"

    def pod_goes(self, name: str, number: int) -> None:
        self.kube.objects.pop(("Pod", "media", f"{name}-{number}"), None)
        self.view.states.pop((name, str(number)), None)

    def relay_fails(self, name: str, number: int) -> None:
        if (name, str(number)) in self.view.states:
            self.view.states[name, str(number)] = "Down"

    def silence(self, _: str, number: int) -> None:
        """Signaling is away, or back."""
        self.view.silent = number % 2 == 0

    def outage(self, _: str, number: int) -> None:
        """The API server is away, or back."""
        self.kube.away = number % 2 == 0

    def state(self) -> dict[str, Any]:
        """What the operator has made of it, without what tells of the way there."""
        made = {
            f"{kind}/{name}": one["spec"]
            for (kind, _, name), one in self.kube.objects.items()
            if kind in ("Deployment", "PodDisruptionBudget", "NetworkPolicy")
            and ("RelaySet", "media", name.removesuffix("-relay")) in self.kube.objects
        }
        told = {
            f"status/{name}": _gist(one.get("status", {}))
            for (kind, _, name), one in self.kube.objects.items()
            if kind == "RelaySet"
        }
        return made | told


def _gist(status: Manifest) -> Manifest:
    conditions = [(one["type"], one["status"], one["reason"], one["message"]) for one in status.get("conditions", ())]
    relays = [(one["name"], one["state"], one["reason"]) for one in status.get("relays", ())]
    numbers = {name: status.get(name) for name in ("observedGeneration", "replicas", "readyReplicas", "calls", "state")}
    return {"conditions": conditions, "relays": relays, **numbers}


@dataclass(frozen=True)
class Act:
    """Something happens to a RelaySet, and is told after each of ``told`` seconds, or not at all."""

    what: Callable[[World, str, int], None]
    name: str
    number: int
    told: tuple[float, ...]
    pause: float
    """Seconds until the next act."""


DELAYS = st.sampled_from((0.0, 0.07, 0.3, 1.0, 7.0, 29.9, 40.0))
ACTS = st.builds(
    Act,
    what=st.sampled_from((
        World.want, World.want, World.drop, World.meddle, World.pod_comes, World.pod_comes, World.pod_goes,
        World.relay_fails, World.silence, World.outage,
    )),
    name=st.sampled_from(NAMES),
    number=st.integers(0, 5),
    told=st.lists(DELAYS, max_size=3).map(tuple),
    pause=DELAYS,
)  # fmt: skip


async def lived_through(acts: list[Act]) -> tuple[dict[str, Any], World, list[str]]:
    """Return the state after all this, the world, and what a further resync has written."""
    world = World()
    loop = asyncio.get_running_loop()
    async with Running(world.kube, world.view) as running:
        for act in acts:
            act.what(world, act.name, act.number)
            for delay in act.told:
                loop.call_later(delay, running.watch.notify, f"media/{act.name}")
            if act.pause:
                await asyncio.sleep(act.pause)
        world.kube.away = world.view.silent = False
        await running.settled()
        await running.settled()
        state, written = world.state(), len(world.kube.writes)
        await running.settled()
        return state, world, world.kube.writes[written:]


async def seen_for_the_first_time(world: World) -> dict[str, Any]:
    """Return what an operator makes of that world that has seen nothing of how it came to be."""
    other = World()
    other.view.states = world.view.states
    for (kind, *_), one in world.kube.objects.items():
        if kind in ("RelaySet", "Pod"):
            other.kube.put({key: value for key, value in one.items() if kind == "Pod" or key != "status"})
    async with Running(other.kube, other.view) as running:
        await running.settled()
        return other.state()


@settings(max_examples=60, deadline=None)
@given(st.lists(ACTS, max_size=14))
def test_any_order_loss_and_repetition_of_events_ends_in_the_same_state(acts: list[Act]) -> None:
    state, world, written = run(lived_through(acts))

    assert state == run(seen_for_the_first_time(world))
    assert written == [], "nothing has changed, so nothing is written"


def test_the_end_is_what_the_last_spec_says_though_nobody_told_of_it() -> None:
    acts = [
        Act(World.want, "alpha", 1, (), 40.0),
        Act(World.want, "alpha", 3, (), 0.0),
        Act(World.meddle, "alpha", 4, (), 0.0),
    ]

    state, *_ = run(lived_through(acts))

    assert state["Deployment/alpha-relay"]["replicas"] == 3
    assert "PodDisruptionBudget/alpha-relay" in state
