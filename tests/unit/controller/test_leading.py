from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from tests.unit.controller.elections import Server
from tests.unit.controller.fake_kube import FakeKube

from kedge.controller.fenced import FencedKube
from kedge.controller.leadership import Elector, LeaseTimes
from kedge.controller.leading import Leadership
from kedge.ports.kube import DEPLOYMENT_KIND, KubeError, KubeUnavailableError
from kedge.ports.lease import LeaseRecord, SeenLease

TIMES = LeaseTimes(duration=0.6, renew_deadline=0.3, retry=0.02)


class Trace(list[str]):
    """What is told, and a way to await it; looked at after each telling and each request."""

    def __init__(self) -> None:
        self._news = asyncio.Event()

    def tell(self, what: str = "") -> None:
        if what:
            self.append(what)
        self._news.set()

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not true():
                self._news.clear()
                await self._news.wait()


class Store:
    """Implements ``ports.lease.LeaseStore`` on a server that several share."""

    def __init__(self, server: Server, trace: Trace) -> None:
        self.server = server
        self._trace = trace
        self.away = False
        self.frozen = False
        self.closed = False

    async def read(self) -> SeenLease | None:
        await self._pass()
        return self.server.lease

    async def write(self, record: LeaseRecord, version: str | None) -> SeenLease:
        await self._pass()
        written = self.server.write(record, version)
        if written is None:
            raise KubeError(409, "Conflict", "changed")
        return written

    async def close(self) -> None:
        self.closed = True

    async def _pass(self) -> None:
        await asyncio.sleep(0)
        self._trace.tell()
        if self.frozen:
            await asyncio.Event().wait()
        if self.away:
            raise KubeUnavailableError(503, "ServiceUnavailable", "away")


@dataclass
class Worker:
    """Something that works while it leads, and tells what it does."""

    name: str
    store: Store
    trace: Trace
    leadership: Leadership = field(init=False)
    fails: bool = False

    def __post_init__(self) -> None:
        self.leadership = Leadership(Elector(self.name, TIMES), self.store)

    async def work(self) -> None:
        self.trace.tell(f"{self.name} begins")
        try:
            if self.fails:
                raise RuntimeError("broken")
            await asyncio.Event().wait()
        finally:
            self.trace.tell(f"{self.name} ends, leading: {self.leadership.leads}")

    async def run(self) -> None:
        await self.leadership.run(self.work)


async def stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait((task,))


@pytest.fixture
def trace() -> Trace:
    return Trace()


@pytest.fixture
def server() -> Server:
    return Server()


async def test_the_next_leads_when_the_first_is_told_to_end(server: Server, trace: Trace) -> None:
    one, two = (Worker(name, Store(server, trace), trace) for name in "ab")
    first = asyncio.create_task(one.run())
    await trace.until(lambda: trace == ["a begins"])
    second = asyncio.create_task(two.run())
    await trace.until(lambda: two.leadership.holder == "a")

    await stop(first)
    await trace.until(lambda: "b begins" in trace)

    assert trace == ["a begins", "a ends, leading: True", "b begins"]
    assert one.store.closed
    await stop(second)
    assert server.lease is not None
    assert server.lease.record.holder == ""


@pytest.mark.parametrize("trouble", ["away", "frozen"])
async def test_the_work_ends_when_the_lease_cannot_be_renewed_and_begins_again(
    server: Server, trace: Trace, trouble: str
) -> None:
    worker = Worker("a", Store(server, trace), trace)
    task = asyncio.create_task(worker.run())
    await trace.until(lambda: trace == ["a begins"])

    setattr(worker.store, trouble, True)
    await trace.until(lambda: len(trace) == 2)
    setattr(worker.store, trouble, False)
    await trace.until(lambda: len(trace) == 3)

    assert trace == ["a begins", "a ends, leading: False", "a begins"]
    await stop(task)


async def test_a_leader_that_was_robbed_stops_at_once(server: Server, trace: Trace) -> None:
    worker = Worker("a", Store(server, trace), trace)
    task = asyncio.create_task(worker.run())
    await trace.until(lambda: trace == ["a begins"])
    assert server.lease is not None

    thief = LeaseRecord(holder="thief", duration=3600, acquired=1, renewed=1, transitions=9)
    server.write(thief, server.lease.version)
    await trace.until(lambda: len(trace) == 2)

    assert trace[-1] == "a ends, leading: False"
    await stop(task)
    assert server.lease.record == thief


async def test_work_that_fails_frees_the_lease_and_tells(server: Server, trace: Trace) -> None:
    worker = Worker("a", Store(server, trace), trace, fails=True)

    with pytest.raises(RuntimeError, match="broken"):
        await worker.run()

    assert server.lease is not None
    assert server.lease.record.holder == ""


async def test_the_lease_is_held_until_the_work_has_ended_however_often_it_is_cancelled(
    server: Server, trace: Trace
) -> None:
    leadership = Leadership(Elector("a", TIMES), Store(server, trace))
    begun, may_end = asyncio.Event(), asyncio.Event()
    holders: list[str] = []

    async def stubborn() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await may_end.wait()
            assert server.lease is not None
            holders.append(server.lease.record.holder)

    task = asyncio.create_task(leadership.run(stubborn))
    await begun.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.01)
    assert not task.done()
    may_end.set()
    await asyncio.wait((task,))

    assert task.cancelled()
    assert holders == ["a"]


async def test_writes_of_one_that_does_not_lead_are_refused_before_they_leave() -> None:
    kube, leads = FakeKube(), True
    fenced = FencedKube(kube, lambda: leads)
    manifest = {"kind": "Deployment", "metadata": {"namespace": "media", "name": "voice"}}
    await fenced.apply(DEPLOYMENT_KIND, manifest)

    leads = False

    for write in (
        fenced.apply(DEPLOYMENT_KIND, manifest),
        fenced.create(DEPLOYMENT_KIND, manifest),
        fenced.patch(DEPLOYMENT_KIND, "media", "voice", {}),
        fenced.patch_status(DEPLOYMENT_KIND, "media", "voice", {}),
        fenced.delete(DEPLOYMENT_KIND, "media", "voice"),
    ):
        with pytest.raises(KubeUnavailableError, match="NotLeading"):
            await write
    assert kube.writes == ["apply Deployment/voice"]
    assert await fenced.get(DEPLOYMENT_KIND, "media", "voice") == manifest
