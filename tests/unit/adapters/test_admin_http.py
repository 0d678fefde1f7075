"""The admin API over real HTTP: what it tells, what it takes, and that it gives way while it tells much."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from kedge.adapters.admin_http import AdminApi, EventFeed
from kedge.adapters.http_server import HttpServer, health_routes
from kedge.ports.codec import from_json, to_json
from kedge.ports.ports import CallWish
from kedge.ports.records import AnchorRecord, CallRecord, CallState, EventRecord, RelayRecord, SignalingSnapshot


def call(name: str, relay: str = "r1", **more: Any) -> CallRecord:
    return CallRecord(
        id=name, relay_set="default/voice", relay=relay, relay_uid=relay, state=CallState.ACTIVE, caller="sip:a@x",
        callee="sip:b@x", caller_peer="trunk", callee_peer="pbx", call_id=f"{name}@x", started=1.0, answered=2.0,
        anchors=0, **more,
    )  # fmt: skip


def event(number: int) -> EventRecord:
    return EventRecord(at=float(number), warning=False, reason="RelayReady", message=f"event {number}")


RELAY = RelayRecord(
    uid="r1", name="r1", relay_set="default/voice", address="127.0.0.1:2223", state="Ready", reason="Probed",
    message="it answers", since=0.0, sessions=1, instance="i",
)  # fmt: skip
MOVED = AnchorRecord(source="r2", target="r1", reason="RelayDown", result="Moved", at=3.0, duration=0.01, gap=0.1)


class Books:
    """What the API reads."""

    def __init__(self) -> None:
        self.now = SignalingSnapshot(
            replica="sig-0", at=5.0, relays=(RELAY,), calls=(call("c1", last_anchor=MOVED), call("c2", "r2")),
            events=(event(1), event(2)), counters={"calls": 2},
        )  # fmt: skip

    def snapshot(self, *, calls: bool = True) -> SignalingSnapshot:
        if calls:
            return self.now
        return SignalingSnapshot(
            replica="sig-0", at=5.0, relays=self.now.relays, events=self.now.events, counters=self.now.counters
        )


class Api:
    """An admin API on loopback, and a client for it."""

    def __init__(self) -> None:
        self.books = Books()
        self.wishes: list[CallWish] = []
        self.answer = ""
        self.alive = True
        self.missing = ""
        self.events = EventFeed()
        routes = [
            *AdminApi(self.books, self.wish, self.events).routes(),
            *health_routes(lambda: self.alive, lambda: self.missing),
        ]
        self.server = HttpServer(("127.0.0.1", 0), routes)
        self.http: aiohttp.ClientSession

    async def wish(self, wish: CallWish) -> str:
        self.wishes.append(wish)
        return self.answer

    async def get(self, path: str) -> Any:
        async with self.http.get(path) as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def status(self, path: str) -> tuple[int, str]:
        async with self.http.get(path) as response:
            return response.status, (await response.text()).strip()

    async def post(self, path: str, data: Any = None, **headers: str) -> tuple[int, str]:
        async with self.http.post(path, data=data, headers={"Content-Type": "application/json", **headers}) as response:
            return response.status, await response.text()


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    made = Api()
    host, port = await made.server.start()
    async with aiohttp.ClientSession(f"http://{host}:{port}") as made.http:
        yield made
        made.events.close()
    await made.server.close()


async def test_the_snapshot_comes_back_as_it_was(api: Api) -> None:
    assert from_json(SignalingSnapshot, await api.get("/v1/snapshot")) == api.books.now


async def test_a_snapshot_can_be_had_without_its_calls(api: Api) -> None:
    found = from_json(SignalingSnapshot, await api.get("/v1/snapshot?calls=false"))

    assert found.calls == ()
    assert found.relays == (RELAY,)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["c1", "c2"]),
        ("?relay=r2", ["c2"]),
        ("?relay=r9", []),
        ("?relaySet=default/voice&relay=r1", ["c1"]),
        ("?relaySet=default/other", []),
        ("?limit=1", ["c1"]),
        ("?limit=0", []),
        ("?limit=many", ["c1", "c2"]),
        ("?limit=²", ["c1", "c2"]),
    ],
)
async def test_calls_can_be_chosen(api: Api, query: str, expected: list[str]) -> None:
    assert [one["id"] for one in await api.get(f"/v1/calls{query}")] == expected


async def test_relays_and_events_are_told(api: Api) -> None:
    assert await api.get("/v1/relays") == [to_json(RELAY)]
    assert [one["message"] for one in await api.get("/v1/events")] == ["event 1", "event 2"]


async def test_many_calls_are_sent_in_pieces_and_others_get_their_turn(api: Api) -> None:
    many = tuple(call(f"c{number}") for number in range(3000))
    api.books.now = SignalingSnapshot(replica="sig-0", at=5.0, calls=many)

    long = asyncio.create_task(api.get("/v1/calls"))
    meanwhile = 0
    while not long.done():
        await api.get("/v1/relays")
        meanwhile += 1

    assert len(long.result()) == 3000
    assert meanwhile > 1


async def test_a_follower_gets_the_past_and_then_what_comes_each_once(api: Api) -> None:
    async with api.http.get("/v1/events?follow=1") as response:
        first = [json.loads(await response.content.readline())["message"] for _ in range(2)]
        api.events.put(event(2))  # told before it was asked for: it is in the past already
        thread = threading.Thread(target=api.events.put, args=(event(3),))  # as the signaling thread does
        thread.start()
        third = json.loads(await response.content.readline())["message"]
        thread.join()
        api.events.close()
        rest = await response.content.read()

    assert (first, third, rest) == (["event 1", "event 2"], "event 3", b"")


async def test_a_follower_that_has_gone_is_forgotten(api: Api) -> None:
    async with api.http.get("/v1/events?follow=1") as response:
        await response.content.readline()
    async with asyncio.timeout(10):
        while api.events.followers:
            api.events.put(event(9))  # a write finds out
            await asyncio.sleep(0)
    assert api.events.followers == 0


async def test_a_follower_that_falls_far_behind_is_dropped() -> None:
    feed = EventFeed()
    follower = feed.follow()
    first = asyncio.ensure_future(anext(follower))
    await asyncio.sleep(0)
    for number in range(1200):
        feed.put(event(number))

    got = [await first, *[one async for one in follower]]

    assert [one.at for one in got] == [float(number) for number in range(1000)]
    assert feed.followers == 0


async def test_a_call_is_moved_or_hung_up_by_a_wish(api: Api) -> None:
    moved = await api.post("/v1/calls/c1/move", b'{"relay": "r2"}')
    ended = await api.post("/v1/calls/c2/terminate")

    assert (moved[0], ended[0]) == (202, 202)
    assert api.wishes == [CallWish(call="c1", relay="r2"), CallWish(call="c2", terminate=True)]


@pytest.mark.parametrize(
    ("trouble", "status"),
    [("there is no call c1", 404), ("relay r2 is Down: nothing listens", 409)],
)
async def test_a_wish_that_cannot_be_fulfilled_says_why(api: Api, trouble: str, status: int) -> None:
    api.answer = trouble

    got, text = await api.post("/v1/calls/c1/move", b'{"relay": "r2"}')

    assert (got, json.loads(text)) == (status, {"error": trouble})


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b'"r2"', b"{}", b'{"relay": 1}', b'{"relay": ""}', b"\xff", b"[" * 100_000]
)
async def test_a_body_that_says_nothing_is_refused(api: Api, body: bytes) -> None:
    status, _ = await api.post("/v1/calls/c1/move", body)

    assert status == 400
    assert api.wishes == []


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
async def test_a_form_of_a_foreign_web_page_is_refused(api: Api, content_type: str) -> None:
    status, _ = await api.post("/v1/calls/c1/move", b'{"relay": "r2"}', **{"Content-Type": content_type})

    assert status == 415
    assert api.wishes == []


async def test_health_is_that_of_sip_and_readiness_says_what_is_missing(api: Api) -> None:
    good = (await api.status("/healthz"), await api.status("/readyz"))
    api.missing = "no RelaySet is known yet"
    early = (await api.status("/healthz"), await api.status("/readyz"))
    api.alive = False
    dead = (await api.status("/healthz"), await api.status("/readyz"))

    assert good == ((200, "ok"), (200, "ok"))
    assert early == ((200, "ok"), (503, "no RelaySet is known yet"))
    assert dead == ((503, "SIP is not served"), (503, "SIP is not served"))


async def test_nothing_is_cached(api: Api) -> None:
    for path in ("/v1/snapshot", "/v1/calls", "/healthz"):
        async with api.http.get(path) as response:
            assert response.headers["Cache-Control"] == "no-store", path


async def test_an_address_in_use_is_told() -> None:
    first = HttpServer(("127.0.0.1", 0), [])
    address = await first.start()

    with pytest.raises(OSError, match="in use"):
        await HttpServer(address, []).start()
    await first.close()
