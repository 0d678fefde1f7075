"""Whatever people and machines do to relays, in whatever order: no call is lost, and all are heard after each deed.

`make soak`, and no part of `make test`: deeds are drawn anew each time. ``KEDGE_SOAK`` says how many, ``KEDGE_SEED``
repeats those that have failed, as far as their order goes.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest
from tests.cluster.installed import InstalledKedge
from tests.cluster.stage import Stage, installed, stage
from tests.lab import Lab
from tests.lab.errors import LabError

CALLS: Final = 30
DEEDS: Final = int(os.environ.get("KEDGE_SOAK", "6"))
SPEC: Final = {"rebalance": {"rest": "5s"}}
SOON: Final = 4.0
"""Seconds until the next deed at most, where the relays are not given the time to be Ready again."""
MOST_KILLS: Final = 3
"""A container that has been killed more often is started after so long that calls give up before."""


@pytest.fixture
def kedge(own_lab: Lab) -> Iterator[InstalledKedge]:
    """Kedge as Helm installs it."""
    with installed(own_lab) as kedge:
        yield kedge


@contextmanager
def unless_gone(*words: str) -> Iterator[None]:
    """Let a deed whose victim has gone by itself be done, and one that is refused in these words."""
    try:
        yield
    except LabError as error:
        if not any(one in str(error) for one in ("NotFound", "not found", "no container", *words)):
            raise


class Deeds:
    """What can be done to the relays on a stage, and to the operator."""

    def __init__(self, lab: Lab, on_stage: Stage, rng: random.Random) -> None:
        self._lab, self._stage, self._rng = lab, on_stage, rng
        self._kedge = on_stage.kedge
        self.replicas = 3
        self._rollouts = 0
        self._kills: Counter[str] = Counter()

    def draw(self) -> Callable[[], None]:
        """Return one of them."""
        deeds = [
            self.kill_one, self.kill_two, self.delete_by_force, self.delete, self.evict, self.drain_for_a_while,
            self.scale, self.roll_out, self.kill_the_leader, self.drain_a_node,
        ]  # fmt: skip
        return self._rng.choice(deeds)

    def _some(self, count: int = 1) -> list[str]:
        """Return relays that are Ready, as many as there are up to ``count``."""
        ready = [name for name, one in self._stage.relays().items() if one["state"] == "Ready"]
        return self._rng.sample(ready, min(count, len(ready)))

    def _kill(self, pod: str, container: str) -> None:
        with unless_gone():
            node = self._kedge.get("pod", pod)["spec"]["nodeName"]
            self._lab.kill_container(node, pod, container, namespace=self._kedge.namespace)

    def kill_one(self) -> None:
        self._kill_relays(1)

    def kill_two(self) -> None:
        self._kill_relays(2)

    def _kill_relays(self, count: int) -> None:
        for name in self._some(count):
            self._kills[name] += 1
            if self._kills[name] <= MOST_KILLS:
                self._kill(name, "relay")

    def delete_by_force(self) -> None:
        for name in self._some():
            self._kedge.kubectl("delete", "pod", name, "--force", "--grace-period=0", "--ignore-not-found")

    def delete(self) -> None:
        for name in self._some():
            self._kedge.kubectl("delete", "pod", name, "--wait=false", "--ignore-not-found")

    def evict(self) -> None:
        for name in self._some():
            with unless_gone("disruption budget"):
                self._stage.evict(name)

    def drain_for_a_while(self) -> None:
        for name in self._some():
            with unless_gone():
                self._kedge.kubectl("annotate", "--overwrite", "pod", name, "kedge.media/drain=true")
                time.sleep(self._rng.uniform(0.0, 1.5))
                self._kedge.kubectl("annotate", "pod", name, "kedge.media/drain-")

    def scale(self) -> None:
        self.replicas = {2: 3, 3: self._rng.choice((2, 4)), 4: 3}[self.replicas]
        self._kedge.kubectl("scale", "relayset", "voice", f"--replicas={self.replicas}")

    def roll_out(self) -> None:
        self._rollouts += 1
        self._kedge.relay_set(self.replicas, spec=SPEC, annotations={"example.com/make": str(self._rollouts)})

    def kill_the_leader(self) -> None:
        self._kedge.until(lambda: bool(self._kedge.leader()), "an operator leads")
        self._kill(self._kedge.leader()["metadata"]["name"], "kedge")

    def drain_a_node(self) -> None:
        node = self._rng.choice(sorted(self._lab.node_addresses)[1:])  # signaling is on the first one
        try:
            self._lab.kubectl(
                "drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=150s", timeout=160
            )
        finally:
            self._lab.kubectl("uncordon", node)


async def test_any_deeds_in_any_order_lose_no_call(own_lab: Lab, kedge: InstalledKedge, record_property: Any) -> None:
    seed = os.environ.get("KEDGE_SEED") or secrets.token_hex(4)
    record_property("seed", seed)
    rng, done = random.Random(seed), []
    async with stage(kedge, 3, spec=SPEC) as on_stage:
        await on_stage.call(CALLS, rtp_every=2)
        deeds = Deeds(own_lab, on_stage, rng)
        for _ in range(DEEDS):
            deed = deeds.draw()
            done.append(deed.__name__)
            await asyncio.to_thread(deed)
            if rng.random() < 0.5:
                await asyncio.to_thread(on_stage.ready, deeds.replicas)
            else:
                await asyncio.sleep(rng.uniform(0.0, SOON))  # the next one comes in the midst of what follows from it
            heard = await on_stage.phones.wait_audio(time.monotonic(), within=20)
            talking = (await on_stage.phones.report()).talking()
            assert (heard, talking) == (True, CALLS), f"seed {seed}: {', '.join(done)}\n{kedge.story()}"

        on_stage.ready(deeds.replicas)
        on_stage.since = time.monotonic()  # a relay that is killed costs a pause, two at once a longer one
        await on_stage.all_heard()
