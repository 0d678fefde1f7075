"""Reports of agents over real HTTP: what is taken, and what is refused with which words."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest

from kedge.adapters.evidence_http import EvidenceApi
from kedge.adapters.http_server import HttpServer
from kedge.relay.link_health import LinkReport, LinkState, ReportResult

GOOD: dict[str, Any] = {"relay": "uid-1", "state": "LinkDown", "interface": "eth0", "age": 0.004, "sequence": 12}


async def report(body: object, result: ReportResult = ReportResult.TAKEN) -> tuple[int, Any, list[LinkReport]]:
    taken: list[LinkReport] = []

    async def take(one: LinkReport) -> ReportResult:
        taken.append(one)
        return result

    server = HttpServer(("127.0.0.1", 0), EvidenceApi(take).routes())
    host, port = await server.start()
    try:
        async with aiohttp.ClientSession() as http:
            data, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
            async with http.post(f"http://{host}:{port}/v1/evidence", data=data, headers=headers) as response:
                return response.status, await response.json(), taken
    finally:
        await server.close()


async def test_a_report_is_taken_as_it_is_written() -> None:
    status, _, taken = await report(GOOD)

    assert status == 202
    assert taken == [
        LinkReport(relay="uid-1", state=LinkState.LINK_DOWN, interface="eth0", age=0.004, sequence=12)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("result", "status"),
    [(ReportResult.UNKNOWN, 404), (ReportResult.OVERTAKEN, 409), (ReportResult.TOO_OLD, 400)],
)
async def test_one_that_counts_for_nothing_is_refused(result: ReportResult, status: int) -> None:
    got, told, _ = await report(GOOD, result)

    assert got == status
    assert told["error"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"relay": None}, "relay"),
        ({"relay": ""}, "relay"),
        ({"relay": "uid 1"}, "relay"),
        ({"relay": "x" * 700}, "relay"),
        ({"state": "Down"}, "state"),
        ({"state": ["LinkDown"]}, "state"),
        ({"interface": "a name that is longer than Linux has"}, "interface"),
        ({"interface": "\x1b[2J"}, "interface"),
        ({"age": -0.1}, "age"),
        ({"age": float("nan")}, "age"),
        ({"age": True}, "age"),
        ({"age": "0"}, "age"),
        ({"sequence": -1}, "sequence"),
        ({"sequence": 1.5}, "sequence"),
        ({"sequence": True}, "sequence"),
        ({"sequence": 1 << 63}, "sequence"),
    ],
)
async def test_what_is_wrong_is_told_by_its_field(change: dict[str, Any], field: str) -> None:
    status, told, taken = await report(GOOD | change)

    assert (status, taken) == (400, [])
    assert told["error"].startswith(f"{field} must be ")
