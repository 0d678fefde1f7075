from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from aiohttp import ClientSession, web

from kedge.adapters.http_server import HttpServer
from kedge.agent.agent import Holder, MediaWatcher, health_routes
from kedge.agent.hold import HoldTimes
from kedge.agent.media_watch import IFF_LOWER_UP, IFF_UP, Link, MediaReport, Picture
from kedge.agent.netlink import NetlinkFailedError
from kedge.agent.relay_sessions import RelayGoneError, RelaySilentError
from kedge.agent.reporting import Reporter
from kedge.base.backoff import Backoff
from kedge.relay.link_health import LinkState

ADDRESS = "192.0.2.7"
QUICK = HoldTimes(deadline=5.0, settle=0.02, interval=0.01)


def picture(flags: int) -> Picture:
    return Picture(links={4: Link(name="eth0", flags=flags)}, addresses={ADDRESS: 4})


WELL, DOWN = picture(IFF_UP | IFF_LOWER_UP), picture(IFF_UP)


class Sessions:
    """Says one after the other; the last for ever."""

    def __init__(self, *answers: int | Exception) -> None:
        self._answers = list(answers)
        self.asked = 0

    async def count(self) -> int:
        self.asked += 1
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


async def get(holder: Holder, path: str, *, times: int = 1) -> list[Any]:
    server = HttpServer(("127.0.0.1", 0), [*holder.routes(), *health_routes(holder, None)])
    host, port = await server.start()
    try:
        async with ClientSession() as session:

            async def one() -> Any:
                async with session.get(f"http://{host}:{port}{path}") as response:
                    assert response.status == 200
                    return await response.json()

            return await asyncio.gather(*(one() for _ in range(times)))
    finally:
        await server.close()
        await holder.close()


async def test_a_hold_is_answered_once_the_relay_is_empty_and_rides_out_its_silence() -> None:
    sessions = Sessions(2, RelaySilentError("busy"), 1, 0)

    answers = await get(Holder(sessions, QUICK), "/v1/hold")

    assert (answers[0]["reason"], answers[0]["sessions"]) == ("Empty", 0)
    assert sessions.asked > 4


async def test_whoever_asks_beside_gets_the_same_answer_from_the_same_hold() -> None:
    sessions = Sessions(RelayGoneError("gone"))

    answers = await get(Holder(sessions, QUICK), "/v1/hold", times=20)

    assert {one["reason"] for one in answers} == {"RelayGone"}
    assert sessions.asked < 20


async def test_a_relay_that_keeps_its_calls_is_let_go_at_the_deadline() -> None:
    answers = await get(Holder(Sessions(7), HoldTimes(deadline=0.05, settle=0.02, interval=0.01)), "/v1/hold")

    assert (answers[0]["reason"], answers[0]["sessions"]) == ("Deadline", 7)


async def test_health_tells_what_is_seen() -> None:
    assert await get(Holder(Sessions(0), QUICK), "/healthz") == [{"holding": False, "media": "NotWatched"}]


class Kernel:
    """Pictures one after the other; an error where there is one; then nothing more."""

    def __init__(self, *looks: Picture | Exception) -> None:
        self._looks: Iterator[Picture | Exception] = iter(looks)
        self.done = asyncio.Event()

    async def pictures(self, address: str, interval: float) -> AsyncIterator[Picture]:
        for one in self._looks:
            if isinstance(one, Exception):
                raise one
            yield one
        self.done.set()
        await asyncio.Event().wait()


async def told(*looks: Picture | Exception) -> tuple[list[LinkState], str]:
    kernel, reports = Kernel(*looks), list[MediaReport]()
    watcher = MediaWatcher(ADDRESS, reports.append, look=kernel.pictures, backoff=Backoff(first=0.001, most=0.002))
    task = asyncio.create_task(watcher.run())
    await asyncio.wait_for(kernel.done.wait(), 10)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return [one.state for one in reports], watcher.state


async def test_a_link_that_goes_down_is_told() -> None:
    assert await told(WELL, DOWN) == ([LinkState.LINK_DOWN], "LinkDown")


async def test_a_watch_that_broke_down_tells_nothing_until_it_sees_again() -> None:
    broken = NetlinkFailedError("netlink: gone")

    assert await told(WELL, broken, DOWN) == ([], "Unknown")
    assert await told(WELL, broken, WELL, DOWN) == ([LinkState.LINK_DOWN], "LinkDown")


class Signaling:
    """Takes reports."""

    def __init__(self, status: int = 202) -> None:
        self.status = status
        self.taken: list[dict[str, Any]] = []
        self.news = asyncio.Event()

    async def take(self, request: web.Request) -> web.Response:
        self.taken.append(await request.json())
        self.authorization = request.headers.get("Authorization")
        self.news.set()
        return web.json_response({}, status=self.status)

    async def report(self, *states: LinkState, until: Callable[[Reporter], bool], token: str = "") -> Reporter:
        server = HttpServer(("127.0.0.1", 0), [web.post("/v1/evidence", self.take)])
        address = await server.start()
        try:
            bearer = {"Authorization": f"Bearer {token}"} if token else {}
            async with Reporter("uid-1", address, authorization=lambda: bearer, clock=lambda: 10.0) as reporter:
                for state in states:
                    self.news.clear()
                    reporter.tell(MediaReport(state=state, interface="eth0", seen=9.75))
                    await asyncio.wait_for(self.news.wait(), 10)
                await asyncio.wait_for(asyncio.gather(*reporter.posts), 10)
                assert until(reporter)
                return reporter
        finally:
            await server.close()


async def test_signaling_is_told_which_relay_and_how_long_ago() -> None:
    signaling = Signaling()

    await signaling.report(LinkState.LINK_DOWN, LinkState.WELL, until=lambda one: one.delivered >= 1)

    first, second = signaling.taken
    assert first | {"sequence": 0} == {
        "relay": "uid-1", "state": "LinkDown", "interface": "eth0", "age": 0.25, "sequence": 0
    }  # fmt: skip
    assert second["state"] == "Well"
    assert second["sequence"] > first["sequence"]


async def test_a_report_that_is_refused_is_dropped_and_told_without_its_token(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    signaling = Signaling(403)

    reporter = await signaling.report(
        LinkState.LINK_DOWN, until=lambda one: one.dropped == 1, token="report-token-of-agents"
    )

    assert reporter.delivered == 0
    assert signaling.authorization == "Bearer report-token-of-agents"
    assert "it answers 403" in caplog.text
    assert "report-token-of-agents" not in caplog.text


async def test_a_report_that_reaches_nobody_is_dropped() -> None:
    server = HttpServer(("127.0.0.1", 0), [])
    address = await server.start()
    await server.close()

    async with Reporter("uid-1", address) as reporter:
        reporter.tell(MediaReport(state=LinkState.LINK_DOWN, interface="eth0", seen=0.0))
        await asyncio.wait_for(asyncio.gather(*reporter.posts), 10)

    assert (reporter.delivered, reporter.dropped) == (0, 1)
