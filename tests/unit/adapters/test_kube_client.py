"""The client against a server of our own on loopback: what it sends, and what it makes of refusals."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from kedge.adapters.kube_client import KubeClient
from kedge.ports.kube import CALL_KIND, DEPLOYMENT_KIND, POD_KIND, KubeError, KubeUnavailableError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(handler: Handler, directory: Path, *, request_timeout: float = 10) -> AsyncIterator[KubeClient]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)  # some handlers never answer
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    client = KubeClient(kubeconfig(directory, runner.addresses[0][1]), request_timeout=request_timeout)
    try:
        yield client
    finally:
        await client.close()
        await runner.cleanup()


def kubeconfig(directory: Path, port: int) -> str:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "u", "user": {"token": "secret"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path = directory / "kubeconfig"
    path.write_text(json.dumps(config))
    return str(path)


def refusing(status: int, reason: str, **details: Any) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        body = {"kind": "Status", "status": "Failure", "code": status, "reason": reason, "message": "no"}
        return web.json_response(body | ({"details": details} if details else {}), status=status)

    return handler


async def test_apply_is_a_forced_server_side_apply_with_our_token(tmp_path: Path) -> None:
    seen: list[tuple[str, str, str | None, str | None, Any]] = []

    async def handler(request: web.Request) -> web.Response:
        headers = request.headers
        seen.append(
            (request.method, request.path_qs, headers["Content-Type"], headers["Authorization"], await request.json())
        )
        return web.json_response({})

    manifest = {"metadata": {"namespace": "media", "name": "x"}, "spec": {"replicas": 0}}
    async with serving(handler, tmp_path) as client:
        await client.apply(DEPLOYMENT_KIND, manifest)
        await client.patch_status(CALL_KIND, "media", "c1", {"anchors": 1})

    path = "/apis/apps/v1/namespaces/media/deployments/x?fieldManager=kedge&force=true"
    assert seen[0] == ("PATCH", path, "application/apply-patch+yaml", "Bearer secret", manifest)
    assert seen[1][1:3] == (
        "/apis/kedge.media/v1alpha1/namespaces/media/calls/c1/status?fieldManager=kedge",
        "application/merge-patch+json",
    )
    assert seen[1][4] == {"status": {"anchors": 1}}


async def test_a_long_list_comes_in_pages(tmp_path: Path) -> None:
    asked: list[dict[str, str]] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append(dict(request.query))
        more = {} if "continue" in request.query else {"continue": "next"}
        return web.json_response({"items": [{"n": len(asked)}], "metadata": {"resourceVersion": "7", **more}})

    async with serving(handler, tmp_path) as client:
        listed = await client.list_with_version(POD_KIND, "media", "a=b")

    assert listed == ([{"n": 1}, {"n": 2}], "7")
    assert asked == [
        {"limit": "250", "labelSelector": "a=b"},
        {"limit": "250", "labelSelector": "a=b", "continue": "next"},
    ]


async def test_what_is_listed_says_what_it_is_though_the_list_says_it_only_once(tmp_path: Path) -> None:
    async def handler(request: web.Request) -> web.Response:
        answer = {"kind": "DeploymentList", "items": [{"metadata": {}}], "metadata": {"resourceVersion": "7"}}
        return web.json_response(answer)

    async with serving(handler, tmp_path) as client:
        listed = await client.list_objects(DEPLOYMENT_KIND, "media")

    assert listed == [{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {}}]


async def test_what_is_not_there_is_none(tmp_path: Path) -> None:
    async with serving(refusing(404, "NotFound"), tmp_path) as client:
        assert await client.get(POD_KIND, "media", "x") is None
        assert not await client.delete(POD_KIND, "media", "x")


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_later_is_unavailable(status: int, tmp_path: Path) -> None:
    async with serving(refusing(status, "Later"), tmp_path) as client:
        with pytest.raises(KubeUnavailableError, match=f"{status} Later: no"):
            await client.list_objects(POD_KIND, "media")


async def test_a_refusal_has_status_reason_and_message(tmp_path: Path) -> None:
    async with serving(refusing(422, "Invalid"), tmp_path) as client:
        with pytest.raises(KubeError) as caught:
            await client.list_objects(POD_KIND, "media")

    assert not isinstance(caught.value, KubeUnavailableError)
    assert (caught.value.status, caught.value.reason, caught.value.is_denied) == (422, "Invalid", False)


async def test_a_namespace_that_ends_is_no_lack_of_rights(tmp_path: Path) -> None:
    ending = refusing(403, "Forbidden", causes=[{"reason": "NamespaceTerminating"}])
    async with serving(ending, tmp_path) as client:
        with pytest.raises(KubeError) as caught:
            await client.create(POD_KIND, {"metadata": {"namespace": "media"}})
    async with serving(refusing(403, "Forbidden"), tmp_path) as client:
        with pytest.raises(KubeError) as denied:
            await client.create(POD_KIND, {"metadata": {"namespace": "media"}})

    assert not caught.value.is_denied
    assert denied.value.is_denied


async def test_nobody_there_is_unavailable(tmp_path: Path) -> None:
    client = KubeClient(kubeconfig(tmp_path, 9))
    with pytest.raises(KubeUnavailableError):
        await client.list_objects(POD_KIND, "media")
    await client.close()


async def test_no_configuration_is_unavailable_and_says_so(tmp_path: Path) -> None:
    with pytest.raises(KubeUnavailableError, match="NoConfiguration"):
        await KubeClient(str(tmp_path / "none")).list_objects(POD_KIND, "media")


async def test_watch_events_are_whole_however_they_are_cut(tmp_path: Path) -> None:
    big = {"type": "ADDED", "object": {"metadata": {"name": "x" * 300_000}}}
    lines = b"".join(json.dumps(one).encode() + b"\n" for one in (big, {"type": "BOOKMARK", "object": {}}))

    async def handler(request: web.Request) -> web.StreamResponse:
        assert request.query["resourceVersion"] == "7"
        response = web.StreamResponse()
        await response.prepare(request)
        for start in range(0, len(lines), 65_537):
            await response.write(lines[start : start + 65_537])
        return response

    async with serving(handler, tmp_path) as client:
        events = [event async for event in client.watch(POD_KIND, "media", "", "7")]

    assert [event["type"] for event in events] == ["ADDED", "BOOKMARK"]
    assert events[0] == big


async def test_credentials_are_those_of_the_configuration(tmp_path: Path) -> None:
    client = KubeClient(kubeconfig(tmp_path, 9))
    credentials = await client.credentials()
    await client.close()

    assert (credentials.server, credentials.authorization) == ("http://127.0.0.1:9", "Bearer secret")


async def test_a_request_that_takes_too_long_is_unavailable(tmp_path: Path) -> None:
    asked = asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        asked.set()
        await asyncio.Event().wait()  # never
        return web.Response()

    async with serving(handler, tmp_path, request_timeout=0.3) as client:
        with pytest.raises(KubeUnavailableError):
            await asyncio.wait_for(client.list_objects(POD_KIND, "media"), 5)

    assert asked.is_set()


async def test_a_request_that_is_given_up_leaves_nothing_to_the_kernel(tmp_path: Path) -> None:
    """Its connection is reset: after an orderly end the kernel would go on sending what was not acknowledged."""
    ends: asyncio.Queue[Exception | bytes] = asyncio.Queue()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            ends.put_nowait(await reader.read())
        except OSError as error:
            ends.put_nowait(error)
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    client = KubeClient(kubeconfig(tmp_path, server.sockets[0].getsockname()[1]), request_timeout=0.3)
    with pytest.raises(KubeUnavailableError):
        await client.list_objects(POD_KIND, "media")
    end = await asyncio.wait_for(ends.get(), 5)
    await client.close()
    server.close()

    assert isinstance(end, ConnectionResetError)
