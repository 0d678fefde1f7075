"""The view of signaling pods, asked over HTTP on loopback."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from tests.unit.controller.fake_kube import FakeKube

from kedge.adapters.kube_view import HttpView, InProcessView
from kedge.ports.codec import to_json
from kedge.ports.records import SignalingSnapshot

SNAPSHOT = SignalingSnapshot(replica="sig-0", at=1.0, counters={"calls": 3})


def world(*addresses: str) -> FakeKube:
    kube = FakeKube()
    labels = {"app.kubernetes.io/name": "kedge", "app.kubernetes.io/component": "signaling"}
    for number, ip in enumerate(addresses):
        metadata = {"name": f"sig-{number}", "namespace": "media", "labels": labels}
        kube.put({"kind": "Pod", "metadata": metadata, "status": {"podIP": ip}})
    return kube


@asynccontextmanager
async def signaling(*, broken: bool = False, token: str = "") -> AsyncIterator[tuple[int, list[str]]]:
    """An admin API on 127.0.0.1; yields its port and the queries that came."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.query_string)
        if token and request.headers.get("Authorization") != f"Bearer {token}":
            return web.json_response({"error": "the token is not valid here"}, status=401)
        return web.json_response({"replica": 7} if broken else to_json(SNAPSHOT))

    app = web.Application()
    app.router.add_get("/v1/snapshot", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner.addresses[0][1], asked
    finally:
        await runner.cleanup()


async def test_replicas_that_answer_are_told_and_those_that_do_not_are_not() -> None:
    async with signaling() as (port, asked):
        view = HttpView(world("127.0.0.1", "127.0.0.99"), namespace="media", port=port)

        assert await view.snapshots() == (SNAPSHOT,)

    assert asked == ["calls=false"]


async def test_an_answer_that_does_not_fit_is_none() -> None:
    async with signaling(broken=True) as (port, _):
        assert await HttpView(world("127.0.0.1"), namespace="media", port=port).snapshots() == ()


async def test_a_token_is_sent_as_it_is_then_and_never_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    tokens = ["an-old-token-of-old", "the-token-of-today"]
    async with signaling(token=tokens[1]) as (port, _):
        view = HttpView(world("127.0.0.1"), namespace="media", port=port, token=lambda: tokens[0])
        refused = await view.snapshots()
        tokens.pop(0)

        assert await view.snapshots() == (SNAPSHOT,)

    assert refused == ()
    assert "401" in caplog.text
    assert "-token-of-" not in caplog.text


async def test_while_the_api_server_is_away_the_pods_known_last_are_asked() -> None:
    kube, now = world("127.0.0.1"), [0.0]
    async with signaling() as (port, _):
        view = HttpView(kube, namespace="media", port=port, clock=lambda: now[0])
        first = await view.snapshots()
        kube.away, now[0] = True, 60.0

        assert await view.snapshots() == first == (SNAPSHOT,)


async def test_in_process_it_is_only_taken() -> None:
    assert await InProcessView(lambda: SNAPSHOT).snapshots() == (SNAPSHOT,)
