from __future__ import annotations

import asyncio
import itertools
from typing import Any

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


async def test_kopf_is_started_again_when_an_unknown_watch_error_has_ended_it() -> None:
    starts: list[int] = []
    keys: list[str] = []
    again = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        if (known := discovery(request.path)) is not None:
            if request.path == "/api":
                starts.append(1)
                if len(starts) == 2:
                    again.set()
            return web.json_response(known)
        if "watch" in request.query and not request.path.endswith("relaysets"):
            stream = web.StreamResponse()
            await stream.prepare(request)
            await asyncio.Event().wait()  # one watch that fails is enough
        if "watch" in request.query:
            error = {"type": "ERROR", "object": {"kind": "Status", "code": 500, "message": "etcd is at sea"}}
            return web.json_response(error)
        items = [{"metadata": {"name": "voice", "namespace": "media"}}] if request.path.endswith("relaysets") else []
        return web.json_response({"items": items, "metadata": {"resourceVersion": "1"}})

    async def login() -> KubeCredentials:
        return KubeCredentials(server=f"http://127.0.0.1:{port}")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    watching = KopfThread(namespace="media", notify=keys.append, login=login, backoff=Backoff(first=0.0))
    watching.start()
    try:
        async with asyncio.timeout(60):
            await again.wait()
    finally:
        watching.stop()
        ended = await asyncio.to_thread(watching.join, 30)
        await runner.cleanup()

    assert ended
    assert set(keys) == {"media/voice"}


def test_one_that_was_never_started_is_stopped_all_the_same() -> None:
    async def login() -> KubeCredentials:
        raise AssertionError

    watching = KopfThread(namespace="", notify=lambda key: None, login=login)
    watching.stop()

    assert watching.join(0.0)
