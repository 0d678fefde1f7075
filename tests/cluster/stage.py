"""Calls with RTP through an installed Kedge, for tests that do to its relays what people do to pods.

One signaling pod carries all of them, on the first node: what happens to relays elsewhere is all that happens to them.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from tests.cluster.installed import CHART, RELEASE, SIP_PORT, InstalledKedge
from tests.cluster.system import CALLEE, CALLER
from tests.kit.phones import Behaviour, PhoneProcess
from tests.lab import Lab

PHONES = (CALLEE, 5070)
SILENCE = 1.0
"""Seconds without a packet that count as a pause of the audio; what is shorter is told as a figure."""


@contextmanager
def installed(lab: Lab, **values: Any) -> Iterator[InstalledKedge]:
    """Install the chart by Helm, with one signaling pod on the first node; there is no RelaySet yet."""
    with InstalledKedge(lab, callee=PHONES) as kedge:
        given = kedge.values(**values)
        given["signaling"] |= {
            "replicas": 1, "nodeSelector": {"kubernetes.io/hostname": min(lab.node_addresses)},
        }  # fmt: skip
        kedge.helm("install", RELEASE, str(CHART), values=given)
        yield kedge


class Stage:
    """An installed Kedge and phones whose proxy it is."""

    def __init__(self, kedge: InstalledKedge, phones: PhoneProcess) -> None:
        self.kedge, self.phones = kedge, phones
        self.since = 0.0
        """Monotonic seconds: when the calls were up."""
        self._count = 0
        self._moved_before: dict[str, int] = {}
        """Calls, and how often each had been moved when it was up."""

    async def call(
        self, count: int, *, rtp_every: int = 1, caller: Behaviour | None = None, callee: Behaviour | None = None
    ) -> None:
        """Place calls, and wait until signaling tells of all.

        A relay that does not answer in time while a call is set up is replaced by another, and the call may need a move
        of its own for that. From here on moves are counted.
        """
        await self.phones.place_calls(count, rtp=True, rtp_every=rtp_every, caller=caller, callee=callee)
        self._count += count

        def are_up() -> bool:
            return [one["state"] for one in self.calls()] == ["Active"] * self._count

        self.kedge.until(are_up, "all calls are told of, and none is on its way")
        self._moved_before |= {one["id"]: one["anchors"] for one in self.calls() if one["id"] not in self._moved_before}
        self.since = time.monotonic()

    async def left(self, count: int) -> None:
        """Take note that so many calls have been hung up, on purpose."""
        self._count -= count
        self.kedge.until(lambda: len(self.calls()) == self._count, "the others are told of")

    async def all_heard(self) -> float:
        """Assert that no call was lost, that all are heard, and that no audio has paused; return the longest gap."""
        assert await self.phones.wait_audio(time.monotonic(), within=5)
        report = await self.phones.report(self.since)
        assert report.talking() == self._count
        longest = max(leg.gap for call in report.calls if call.talking for leg in call.legs if leg.rtp)
        assert longest < SILENCE
        return longest

    def calls(self) -> list[dict[str, Any]]:
        """Return the calls, as signaling has them."""
        found: list[dict[str, Any]] = self.kedge.snapshot(self.kedge.nodes()[0])["calls"]
        return found

    def relays(self) -> dict[str, dict[str, Any]]:
        """Return the relays by name, as signaling has them."""
        return {one["name"]: one for one in self.kedge.snapshot(self.kedge.nodes()[0])["relays"]}

    def on(self, relay: str) -> list[str]:
        """Return the calls on a relay."""
        return [one["id"] for one in self.calls() if one["relay"] == relay]

    def state_of(self, relay: str) -> tuple[str, int]:
        """Return state and calls of a relay; cheap for signaling, which has calls to see to."""
        relays = self.kedge.ask(self.kedge.nodes()[0], "/v1/relays")
        return next(((one["state"], one["sessions"]) for one in relays if one["name"] == relay), ("Gone", 0))

    def loads(self) -> dict[str, int]:
        """Return how many calls each relay has."""
        counted = Counter(one["relay"] for one in self.calls())
        return {name: counted[name] for name in self.relays()}

    def told_calls(self) -> dict[str, int]:
        """Return how many calls each relay has by the status of the RelaySet, which is at most 5 s old."""
        relays = self.kedge.get("relayset", "voice")["status"]["relays"]
        return {one["name"]: one["sessions"] for one in relays}

    def busiest(self) -> str:
        """Return the relay with most calls."""
        return max(self.relays(), key=lambda name: len(self.on(name)))

    def anchors(self) -> Counter[int]:
        """Return how many calls were moved how often since they were up."""
        return Counter(self.moved().values())

    def moved(self) -> dict[str, int]:
        """Return how often each call was moved since it was up."""
        return {one["id"]: one["anchors"] - self._moved_before[one["id"]] for one in self.calls()}

    def reasons(self) -> Counter[str]:
        """Return why calls were moved last since they were up."""
        moved = [one for one in self.calls() if one["anchors"] > self._moved_before[one["id"]]]
        return Counter(one["last_anchor"]["reason"] for one in moved)

    def ready(self, count: int) -> None:
        """Wait until so many relays are Ready, and no other one is left."""

        def are_ready() -> bool:
            return [one["state"] for one in self.relays().values()] == ["Ready"] * count

        self.kedge.until(are_ready, f"{count} relays are Ready, and there is no other")

    def have_relay_on(self, node: str) -> None:
        """Delete relays of the fullest node until one has come up on this one: the scheduler spreads them if it can."""

        def is_there() -> bool:
            relays = self.relays()
            nodes = Counter(one["node"] for one in relays.values())
            if node not in nodes:
                fullest = max(relays, key=lambda name: nodes[relays[name]["node"]])
                self.kedge.kubectl("delete", "pod", fullest, "--wait=true")
                self.ready(len(relays))
            return node in nodes

        self.kedge.until(is_there, f"a relay is on {node}")

    def settled(self) -> None:
        """Wait until the operator has seen the RelaySet as it is, and nothing is under way any more."""

        def is_settled() -> bool:
            relay_set = self.kedge.get("relayset", "voice")
            seen = relay_set["status"]["observedGeneration"] == relay_set["metadata"]["generation"]
            return seen and self.condition("Progressing")[:2] == ("False", "Complete")

        self.kedge.until(is_settled, "the RelaySet is settled")

    def condition(self, kind: str) -> tuple[str, str, str]:
        """Return status, reason and message of a condition of the RelaySet."""
        conditions = self.kedge.get("relayset", "voice")["status"]["conditions"]
        found = next(one for one in conditions if one["type"] == kind)
        return found["status"], found["reason"], found["message"]

    def until_condition(self, kind: str, status: str, reason: str, *, within: float = 60.0) -> str:
        """Wait for a condition; return its message."""
        self.kedge.until(
            lambda: self.condition(kind)[:2] == (status, reason), f"{kind} is {status}: {reason}", within=within
        )
        return self.condition(kind)[2]

    def events(self) -> list[dict[str, Any]]:
        """Return the Events of the RelaySet."""
        found = self.kedge.get("events.events.k8s.io")["items"]
        return [one for one in found if one["regarding"]["kind"] == "RelaySet"]

    def evict(self, pod: str) -> None:
        """Evict a pod by the eviction API, as ``kubectl drain`` does."""
        path = f"/api/v1/namespaces/{self.kedge.namespace}/pods/{pod}/eviction"
        metadata = {"name": pod, "namespace": self.kedge.namespace}
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
        self.kedge.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))


@asynccontextmanager
async def stage(kedge: InstalledKedge, relays: int, **more: Any) -> AsyncIterator[Stage]:
    """Phones for one test, on a RelaySet of so many relays; calls that are left at its end are hung up."""
    kedge.relay_set(relays, **more)
    with kedge.lab.inside():
        proxy = (kedge.nodes()[0], SIP_PORT)
        phones = PhoneProcess(proxy=proxy, caller=(CALLER, 0), callee=PHONES, prefix="49", favoured=True)
        await phones.start()
    staged = Stage(kedge, phones)
    try:
        staged.settled()
        staged.ready(relays)
        yield staged
    except Exception as error:
        error.add_note(f"{staged.calls()}\n{kedge.story()}")
        raise
    finally:
        over = await phones.hang_up()  # whatever has failed: the next test shall find no calls
        await phones.stop()
    assert over
