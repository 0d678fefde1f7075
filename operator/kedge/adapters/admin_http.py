"""The local admin API: what signaling knows as JSON, events as they come, and wishes about calls.

Who may ask is for ``admin_guard``. A POST needs ``Content-Type: application/json``, which a foreign web page cannot
send without asking first. Long answers are encoded record by record, so that the interpreter lock is never held long
enough to delay a SIP packet.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, Protocol

from aiohttp import web

from kedge.ports.codec import to_json
from kedge.ports.ports import CallWish
from kedge.ports.records import CallRecord, EventRecord, SignalingSnapshot

_AT_ONCE: Final = 100
"""Records encoded before the loop gets its turn."""
_BEHIND: Final = 1000
"""Events that a follower may be behind before it is dropped."""


class Books(Protocol):
    """What is read of ``runtime.bookkeeper.Bookkeeper``."""

    def snapshot(self, *, calls: bool = True) -> SignalingSnapshot:
        """Return what is known now."""


class EventFeed:
    """Hands events from the signaling thread to followers on the loop that made the feed."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._followers: set[asyncio.Queue[EventRecord | None]] = set()

    @property
    def followers(self) -> int:
        """How many follow now."""
        return len(self._followers)

    def put(self, event: EventRecord) -> None:
        """Take an event; for ``Bookkeeper.on_event``, from any thread."""
        if self._followers:
            with contextlib.suppress(RuntimeError):  # the loop has just ended
                self._loop.call_soon_threadsafe(self._tell, event)

    def close(self) -> None:
        """End all followers' streams."""
        for follower in tuple(self._followers):
            self._end(follower)

    async def follow(self) -> AsyncIterator[EventRecord]:
        """Yield events as they come, until the feed is closed or the reader falls far behind."""
        news: asyncio.Queue[EventRecord | None] = asyncio.Queue(_BEHIND + 1)
        self._followers.add(news)
        try:
            while (event := await news.get()) is not None:
                yield event
        finally:
            self._followers.discard(news)

    def _tell(self, event: EventRecord) -> None:
        for follower in tuple(self._followers):
            if follower.qsize() < _BEHIND:
                follower.put_nowait(event)
            else:
                self._end(follower)

    def _end(self, follower: asyncio.Queue[EventRecord | None]) -> None:
        self._followers.discard(follower)
        follower.put_nowait(None)


class AdminApi:
    """The routes below ``/v1``. ``wish`` returns an empty string, or why the wish cannot be fulfilled."""

    def __init__(self, books: Books, wish: Callable[[CallWish], Awaitable[str]], events: EventFeed) -> None:
        self._books = books
        self._wish = wish
        self._events = events

    def routes(self) -> Sequence[web.RouteDef]:
        """Return the routes."""
        return [
            web.get("/v1/snapshot", self._snapshot),
            web.get("/v1/calls", self._calls),
            web.get("/v1/relays", self._relays),
            web.get("/v1/events", self._event_list),
            web.post("/v1/calls/{call}/move", self._move),
            web.post("/v1/calls/{call}/terminate", self._terminate),
        ]

    async def _snapshot(self, request: web.Request) -> web.StreamResponse:
        """All that is known; ``?calls=false`` leaves out the calls, which may be many."""
        snapshot = self._books.snapshot(calls=request.query.get("calls") != "false")
        return await _send(request, _encoded_snapshot(snapshot))

    async def _calls(self, request: web.Request) -> web.StreamResponse:
        """All calls; ``?relay=NAME``, ``?relaySet=NAMESPACE/NAME`` and ``?limit=N`` choose."""
        calls = list(_chosen(self._books.snapshot().calls, request))
        return await _send(request, _encoded_list(calls))

    async def _relays(self, request: web.Request) -> web.StreamResponse:
        return await _send(request, _encoded_list(self._books.snapshot(calls=False).relays))

    async def _event_list(self, request: web.Request) -> web.StreamResponse:
        """Events of late; with ``?follow=1`` also those to come, one JSON object a line."""
        if request.query.get("follow", "") in ("", "0", "false"):
            return await _send(request, _encoded_list(self._books.snapshot(calls=False).events))
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"})
        follower = self._events.follow()
        to_come = asyncio.ensure_future(anext(follower))  # it listens before the past is read: none is missed
        await asyncio.sleep(0)
        try:
            await self._stream_events(request, response, follower, to_come)
        except ConnectionError:
            pass  # the reader has gone
        finally:
            to_come.cancel()
            with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration):
                await to_come
            await follower.aclose()  # type: ignore[attr-defined]
        return response

    async def _stream_events(
        self,
        request: web.Request,
        response: web.StreamResponse,
        follower: AsyncIterator[EventRecord],
        to_come: asyncio.Future[EventRecord],
    ) -> None:
        past = self._books.snapshot(calls=False).events
        await response.prepare(request)
        await response.write(b"".join(_line(one) for one in past))
        known = set(past)
        with contextlib.suppress(StopAsyncIteration):
            event = await to_come
            while True:
                if event not in known:
                    await response.write(_line(event))
                event = await anext(follower)

    async def _move(self, request: web.Request) -> web.Response:
        """Move a call: ``{"relay": NAME}``."""
        body = await body_of(request)
        relay = body.get("relay")
        if not isinstance(relay, str) or not relay:
            return problem(400, 'the body must be {"relay": NAME}')
        return await self._fulfil(CallWish(call=request.match_info["call"], relay=relay))

    async def _terminate(self, request: web.Request) -> web.Response:
        """Hang a call up."""
        await body_of(request)
        return await self._fulfil(CallWish(call=request.match_info["call"], terminate=True))

    async def _fulfil(self, wish: CallWish) -> web.Response:
        trouble = await self._wish(wish)
        if trouble:
            return problem(404 if trouble.startswith("there is no call") else 409, trouble)
        return web.json_response({"accepted": True}, status=202)


def _chosen(calls: Iterable[CallRecord], request: web.Request) -> Iterable[CallRecord]:
    relay, relay_set = request.query.get("relay"), request.query.get("relaySet")
    limit = request.query.get("limit", "")
    left = int(limit) if limit.isascii() and limit.isdigit() else -1
    for call in calls:
        if left == 0:
            return
        if relay in (None, call.relay) and relay_set in (None, call.relay_set):
            left -= 1
            yield call


async def body_of(request: web.Request) -> dict[str, Any]:
    """Return the object that a POST carries; an empty body is an empty object."""
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="Content-Type must be application/json\n")
    body = await request.read()
    try:
        data = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise web.HTTPBadRequest(text="the body is not JSON\n") from None
    if not isinstance(data, dict):
        raise web.HTTPBadRequest(text="the body must be a JSON object\n")
    return data


def problem(status: int, text: str) -> web.Response:
    """Return a response that says what is wrong, in plain words."""
    return web.json_response({"error": text}, status=status)


def _line(record: object) -> bytes:
    return _encode(record) + b"\n"


def _encode(record: object) -> bytes:
    return json.dumps(to_json(record), ensure_ascii=False, separators=(",", ":")).encode()


def _encoded_list(records: Sequence[object]) -> Iterable[bytes]:
    yield b"["
    for index, record in enumerate(records):
        yield (b"," if index else b"") + _encode(record)
    yield b"]\n"


def _encoded_snapshot(snapshot: SignalingSnapshot) -> Iterable[bytes]:
    """Yield the same JSON as ``to_json`` of the whole, in small pieces."""
    yield b"{"
    for index, name in enumerate(SignalingSnapshot.__slots__):
        yield (b"," if index else b"") + json.dumps(name).encode() + b":"
        value = getattr(snapshot, name)
        if isinstance(value, tuple):
            yield from _encoded_list(value)
        else:
            yield _encode(value)
    yield b"}\n"


async def _send(request: web.Request, parts: Iterable[bytes]) -> web.StreamResponse:
    """Send ``parts``, giving way after every few of them."""
    response = web.StreamResponse(headers={"Content-Type": "application/json; charset=utf-8"})
    response.headers["Cache-Control"] = "no-store"
    await response.prepare(request)
    gathered: list[bytes] = []
    for part in parts:
        gathered.append(part)
        if len(gathered) >= _AT_ONCE:
            await response.write(b"".join(gathered))
            gathered.clear()
            await asyncio.sleep(0)
    await response.write(b"".join(gathered))
    await response.write_eof()
    return response
