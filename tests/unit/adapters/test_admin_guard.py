"""Who may ask what, over real HTTP: with each token, at each door."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from kedge.adapters.admin_guard import AdminGuard
from kedge.adapters.http_server import HttpServer
from kedge.adapters.token_file import TokenFile
from kedge.runtime.stats import Stats

FULL, REPORT = "full-token-of-the-admin-api", "report-token-of-the-agents"
CALLS, MOVE, EVIDENCE = ("GET", "/v1/calls"), ("POST", "/v1/calls/c1/move"), ("POST", "/v1/evidence")
READ_EVIDENCE = ("GET", "/v1/evidence")
OPEN = [("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/metrics")]


class Door:
    """A server with routes that answer 200, behind a guard."""

    def __init__(self, folder: Path) -> None:
        self.full, self.report = folder / "full", folder / "report"
        self.full.write_text(FULL)
        self.report.write_text(REPORT)
        self.stats = Stats()
        self.http: aiohttp.ClientSession

    def server(self, *, reports: bool = True) -> HttpServer:
        full, report = (TokenFile(one, name="x").load() for one in (self.full, self.report))
        guard = AdminGuard(full, report if reports else None, self.stats)
        routes = [web.route(method, path, _well) for method, path in (CALLS, EVIDENCE, READ_EVIDENCE, *OPEN)]
        routes.append(web.post("/v1/calls/{call}/move", _well))
        return HttpServer(("127.0.0.1", 0), routes, guard=guard.middleware)

    async def knock(self, what: tuple[str, str], authorization: str | None = None) -> int:
        headers = {} if authorization is None else {"Authorization": authorization}
        async with self.http.request(*what, headers=headers) as response:
            self.told = await response.text()
            self.challenge = response.headers.get("WWW-Authenticate")
            return response.status

    @property
    def refused(self) -> dict[str, int]:
        return {reason: count for (reason,), count in self.stats.admin_refused.items() if count}


async def _well(_: web.Request) -> web.Response:
    return web.Response()


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    made = Door(tmp_path)
    server = made.server()
    host, port = await server.start()
    async with aiohttp.ClientSession(f"http://{host}:{port}") as made.http:
        yield made
    await server.close()


@pytest.mark.parametrize("what", [CALLS, MOVE, EVIDENCE])
async def test_the_full_token_opens_every_door(door: Door, what: tuple[str, str]) -> None:
    assert await door.knock(what, f"Bearer {FULL}") == 200
    assert await door.knock(what, f"bearer   {FULL}") == 200, "RFC 9110 11.1: a scheme in any case of letters"
    assert door.refused == {}


@pytest.mark.parametrize("what", OPEN)
async def test_health_and_metrics_need_none(door: Door, what: tuple[str, str]) -> None:
    assert await door.knock(what) == 200


@pytest.mark.parametrize("what", [CALLS, MOVE, EVIDENCE, ("GET", "/v1/nothing"), ("GET", "/healthz/../v1/calls")])
@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer  ", f"Basic {FULL}", FULL])
async def test_without_a_token_it_is_told_what_is_missing(door: Door, what: tuple[str, str], given: str | None) -> None:
    assert await door.knock(what, given) == 401
    assert "a bearer token is needed" in door.told
    assert door.challenge == "Bearer"
    assert door.refused == {"missing": 1}


@pytest.mark.parametrize("given", [FULL[:-1], FULL + "x", FULL.upper(), "x", "\u00e9" * 20, f"{FULL},{FULL}"])
async def test_a_wrong_token_is_told_to_be_wrong_and_not_told_back(door: Door, given: str) -> None:
    assert await door.knock(CALLS, f"Bearer {given}") == 401
    assert "not valid here" in door.told
    assert given not in door.told or given == "x"
    assert door.challenge == "Bearer"
    assert door.refused == {"wrong": 1}


async def test_the_report_token_opens_one_door(door: Door) -> None:
    bearer = f"Bearer {REPORT}"

    assert await door.knock(EVIDENCE, bearer) == 200
    for what in (CALLS, MOVE, READ_EVIDENCE, ("POST", "/v1/evidence/"), ("POST", "/v1/evidence/../calls")):
        assert await door.knock(what, bearer) == 403, what
    assert "for POST /v1/evidence alone" in door.told
    assert door.refused == {"scope": 5}


async def test_where_no_reports_are_taken_their_token_is_wrong(tmp_path: Path) -> None:
    door = Door(tmp_path)
    server = door.server(reports=False)
    host, port = await server.start()
    async with aiohttp.ClientSession(f"http://{host}:{port}") as door.http:
        assert await door.knock(EVIDENCE, f"Bearer {REPORT}") == 401
        assert await door.knock(EVIDENCE, f"Bearer {FULL}") == 200
    await server.close()


async def test_a_token_is_changed_without_a_gap(door: Door) -> None:
    new = "new-token-of-the-admin-api"
    found = []
    for lines in ((FULL,), (FULL, new), (new, FULL), (new,)):
        door.full.write_text("\n".join(lines))
        found.append([await door.knock(CALLS, f"Bearer {one}") for one in (FULL, new)])

    assert found == [[200, 401], [200, 200], [200, 200], [401, 200]]
