from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import kopf
import pytest
from aiohttp import web

from kedge.base.backoff import Backoff
from kedge.controller.watching import EndlessBackoff, KopfThread, connection_info, operator_settings, owner_keys
from kedge.ports.kube import KubeCredentials


def test_kopf_leaves_no_trace_and_never_ends_the_process() -> None:
    settings = operator_settings()

    assert not settings.posting.enabled
    assert not settings.posting.loggers
    assert settings.scanning.disabled
    assert settings.process.ultimate_exiting_timeout is None
    assert isinstance(settings.watching.server_timeout, int), "the API server takes whole seconds only"


def test_kopf_never_runs_out_of_delays() -> None:
    settings = operator_settings()

    delays = list(itertools.islice(iter(settings.networking.error_backoffs), 1000))  # type: ignore[arg-type]

    assert min(delays) > 0
    assert max(delays) <= 30.0
    assert next(iter(EndlessBackoff())) <= 0.5, "each request begins with a short one"


@pytest.mark.parametrize(
    ("authorization", "scheme", "token"),
    [("Bearer abc", "Bearer", "abc"), ("bearer abc", "Bearer", "abc"), (None, None, None)],
)
def test_credentials_reach_kopf(authorization: str | None, scheme: str | None, token: str | None) -> None:
    made = connection_info(KubeCredentials(server="https://x", ca_path="/ca", authorization=authorization))

    assert (made.server, made.ca_path, made.scheme, made.token) == ("https://x", "/ca", scheme, token)


def test_owners_that_are_relay_sets_are_told() -> None:
    ours = {"apiVersion": "kedge.media/v1alpha1", "kind": "RelaySet", "name": "voice"}
    other = {"apiVersion": "apps/v1", "kind": "RelaySet", "name": "impostor"}

    assert owner_keys({"namespace": "media", "ownerReferences": [ours, other]}) == ["media/voice"]
    assert owner_keys({"namespace": "media"}) == []


RESOURCES = {
    "/api/v1": {"Pod": "pods", "Namespace": "namespaces", "Event": "events"},
    "/apis/apps/v1": {"Deployment": "deployments"},
    "/apis/apiextensions.k8s.io/v1": {"CustomResourceDefinition": "customresourcedefinitions"},
    "/apis/kedge.media/v1alpha1": {"RelaySet": "relaysets"},
}


def discovery(path: str) -> dict[str, Any] | None:
    """What an API server answers to those who ask for its kinds; None to any other question."""
    if path == "/api":
        return {"versions": ["v1"]}
    if path == "/apis":
        found = [one.removeprefix("/apis/").split("/") for one in RESOURCES if one.startswith("/apis/")]
        versions = [(group, {"groupVersion": f"{group}/{version}", "version": version}) for group, version in found]
        return {"groups": [{"name": group, "versions": [one], "preferredVersion": one} for group, one in versions]}
    if path in RESOURCES:
        common = {"namespaced": True, "verbs": ["list", "watch", "patch"], "singularName": ""}
        return {"resources": [{"name": plural, "kind": kind, **common} for kind, plural in RESOURCES[path].items()]}
    return None


class Server:
    """An API server with one RelaySet, ``voice``, and one more, ``later``, that a first watch of RelaySets has missed.

    ``lists`` are the statuses of the first lists of RelaySets, ``watch`` is what becomes of the first watch of them:
    an ERROR with this code, or None for silence. Other watches are silent.
    """

    def __init__(self, *, lists: tuple[int, ...] = (), watch: int | None = None) -> None:
        self._lists, self._watch = list(lists), watch
        self.starts = 0
        self.keys: list[str] = []
        self._watched = False
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._port = 0

    def notify(self, key: str) -> None:
        self.keys.append(key)
        self._loop.call_soon_threadsafe(self._news.set)

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not true():
                self._news.clear()
                await self._news.wait()

    async def login(self) -> KubeCredentials:
        return KubeCredentials(server=f"http://127.0.0.1:{self._port}")

    @asynccontextmanager
    async def watched(self, settings: Callable[[], kopf.OperatorSettings]) -> AsyncIterator[KopfThread]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self._port = runner.addresses[0][1]
        watching = KopfThread(
            namespace="media", notify=self.notify, login=self.login, backoff=Backoff(first=0.0), settings=settings
        )
        watching.start()
        try:
            yield watching
        finally:
            watching.stop()
            ended = await asyncio.to_thread(watching.join, 30)
            await runner.cleanup()
        assert ended

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self._news.set()
        if (known := discovery(request.path)) is not None:
            self.starts += request.path == "/api"
            return web.json_response(known)
        ours = request.path.endswith("relaysets")
        if "watch" in request.query:
            return await self._stream(request, ours=ours)
        if ours and self._lists:
            return web.json_response({"kind": "Status", "message": "not now"}, status=self._lists.pop(0))
        names = ["voice", *(["later"] if self._watched else [])] if ours else []
        items = [{"metadata": {"name": name, "namespace": "media"}} for name in names]
        return web.json_response({"items": items, "metadata": {"resourceVersion": "1"}})

    async def _stream(self, request: web.Request, *, ours: bool) -> web.StreamResponse:
        first, self._watched = ours and not self._watched, self._watched or ours
        if first and self._watch is not None:
            error = {"type": "ERROR", "object": {"kind": "Status", "code": self._watch, "message": "at sea"}}
            return web.json_response(error)
        stream = web.StreamResponse()
        await stream.prepare(request)
        if ours and not first:
            later = {"metadata": {"name": "later", "namespace": "media", "resourceVersion": "2"}}
            await stream.write(json.dumps({"type": "ADDED", "object": later}).encode() + b"\n")
        await asyncio.Event().wait()
        return stream


def impatient() -> kopf.OperatorSettings:
    settings = operator_settings()
    settings.watching.inactivity_timeout = 0.5
    settings.watching.reconnect_backoff = 0.1
    return settings


async def test_kopf_is_started_again_when_an_unknown_watch_error_has_ended_it() -> None:
    server = Server(watch=500)

    async with server.watched(operator_settings) as watching:
        await server.until(lambda: server.starts >= 2 and "media/later" in server.keys)
        assert not watching.join(0.0), "it goes on"

    assert set(server.keys) == {"media/voice", "media/later"}


@pytest.mark.parametrize("status", [403, 503])
async def test_refusals_are_outlived(status: int) -> None:
    server = Server(lists=(status,) * 4)

    async with server.watched(operator_settings) as watching:
        await server.until(lambda: "media/voice" in server.keys)
        assert not watching.join(0.0), "it goes on"


@pytest.mark.parametrize("watch", [410, None], ids=["a watch that is too old", "a dead watch"])
async def test_what_a_watch_has_missed_is_seen_all_the_same(watch: int | None) -> None:
    server = Server(watch=watch)

    async with server.watched(impatient) as watching:
        await server.until(lambda: "media/later" in server.keys)
        assert not watching.join(0.0), "it goes on"

    assert server.starts == 1, "kopf itself has seen to it"


def test_one_that_was_never_started_is_stopped_all_the_same() -> None:
    async def login() -> KubeCredentials:
        raise AssertionError

    watching = KopfThread(namespace="", notify=lambda key: None, login=login)
    watching.stop()

    assert watching.join(0.0)
