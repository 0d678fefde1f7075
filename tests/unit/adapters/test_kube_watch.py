"""The mirror against a scripted API server: what it does when the server breaks off, forgets or refuses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from kedge.adapters.kube_client import KubeClient
from kedge.adapters.kube_watch import Mirror
from kedge.base.backoff import Backoff
from kedge.ports.kube import POD_KIND, Kind, KubeError, KubeUnavailableError, Manifest


def pod(name: str, version: int, phase: str = "Running") -> Manifest:
    metadata = {"name": name, "namespace": "media", "resourceVersion": str(version)}
    return {"metadata": metadata, "status": {"phase": phase}}


def event(kind: str, item: Manifest) -> Manifest:
    return {"type": kind, "object": item}


Step = Any
"""What the server does next: a list of pods to list, a list of events to stream, or an error to raise."""


class Server(KubeClient):
    """Answers from a script; when it is at its end, the test is over."""

    def __init__(self, *steps: Step) -> None:
        super().__init__()
        self.steps = list(steps)
        self.asked: list[str] = []
        self.over = asyncio.Event()

    async def list_with_version(self, kind: Kind, namespace: str, selector: str = "") -> tuple[list[Manifest], str]:
        self.asked.append("list")
        return await self._next(), "100"

    async def watch(self, kind: Kind, namespace: str, selector: str, version: str) -> AsyncIterator[Manifest]:
        self.asked.append(f"watch {version}")
        for one in await self._next():
            if isinstance(one, Exception):
                raise one
            yield one

    async def _next(self) -> Any:
        if not self.steps:
            self.over.set()
            await asyncio.Event().wait()
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return step


Change = tuple[str, str | None, str | None]


async def follow(*steps: Step, project: Callable[[Manifest], str | None] | None = None) -> tuple[Server, list[Change]]:
    changes: list[Change] = []
    server = Server(*steps)
    mirror: Mirror[str] = Mirror(
        server,
        POD_KIND,
        namespace="media",
        project=project or (lambda item: str(item["status"]["phase"])),
        changed=lambda key, old, new: changes.append((key, old, new)),
        backoff=Backoff(first=0.0),
    )
    task = asyncio.create_task(mirror.run())
    async with asyncio.timeout(10):
        await server.over.wait()
    task.cancel()
    await asyncio.wait([task])
    return server, changes


async def test_differences_are_told_and_repetitions_are_not() -> None:
    _, changes = await follow(
        [pod("a", 1)],
        [
            event("ADDED", pod("b", 101)),
            event("MODIFIED", pod("a", 102)),
            event("MODIFIED", pod("a", 103, "Failed")),
            event("DELETED", pod("a", 104, "Failed")),
        ],
    )

    assert changes == [
        ("media/a", None, "Running"),
        ("media/b", None, "Running"),
        ("media/a", "Running", "Failed"),
        ("media/a", "Failed", None),
    ]


async def test_a_stream_that_ends_is_continued_where_it_was() -> None:
    server, _ = await follow([], [event("BOOKMARK", pod("", 150))], [event("ADDED", pod("a", 160))])

    assert server.asked == ["list", "watch 100", "watch 150", "watch 160"]


async def test_an_outage_tells_nothing_and_is_continued_where_it_was() -> None:
    server, changes = await follow(
        [pod("a", 1)],
        KubeUnavailableError(0, "Unavailable", "connection refused"),
        [event("MODIFIED", pod("a", 120)), KubeUnavailableError(0, "Unavailable", "reset")],
        KubeError(403, "Forbidden", "not yet"),
        [event("DELETED", pod("a", 130))],
    )

    assert server.asked == ["list", "watch 100", "watch 100", "watch 120", "watch 120", "watch 130"]
    assert changes == [("media/a", None, "Running"), ("media/a", "Running", None)]


async def test_a_version_that_is_too_old_leads_to_a_list_whose_differences_are_told() -> None:
    gone = event("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"})
    server, changes = await follow([pod("a", 1), pod("b", 2)], [gone], [pod("b", 2), pod("c", 3)])

    assert server.asked == ["list", "watch 100", "list", "watch 100"]
    assert changes[2:] == [("media/a", "Running", None), ("media/c", None, "Running")]


async def test_an_unknown_error_in_the_stream_is_an_outage() -> None:
    strange = event("ERROR", {"kind": "Status", "code": 500, "reason": "InternalError", "message": "etcd"})
    server, changes = await follow([pod("a", 1)], [strange])

    assert server.asked == ["list", "watch 100", "watch 100"]
    assert changes == [("media/a", None, "Running")]


async def test_a_list_that_fails_is_tried_again() -> None:
    server, changes = await follow(KubeUnavailableError(503, "ServiceUnavailable", "starting"), [pod("a", 1)])

    assert server.asked == ["list", "list", "watch 100"]
    assert changes == [("media/a", None, "Running")]
