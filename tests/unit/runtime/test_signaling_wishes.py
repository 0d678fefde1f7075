"""A wish from a Call's object, through the signaling loop, to the record that goes back to the object."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from tests.unit.call.world import World

from kedge.base.address import Address
from kedge.call.routing import Routing
from kedge.ports.ports import CallWish
from kedge.ports.records import CallRecord
from kedge.ports.sockets import Batch, RelaySocket, RtpSockets, SipSocket
from kedge.runtime.bookkeeper import Bookkeeper
from kedge.runtime.signaling import Signaling, SignalingSettings


class Socket:
    """Any of the sockets; what is sent is lost."""

    address: Address = ("127.0.0.1", 5060)

    def send_all(self, batch: object) -> None:
        """It is lost."""

    def addresses(self, peer: Address) -> tuple[Address, Address]:
        raise OSError

    def send(self, data: bytes, source: Address, destination: Address) -> bool:
        return False

    def close(self) -> None:
        """Nothing is open."""


class Sockets:
    """Implements ``ports.sockets.SocketFactory``."""

    def open_sip(self, address: Address, receive: Callable[[Batch], None]) -> SipSocket:
        return Socket()

    def open_relay(
        self, address: Address, receive: Callable[[list[bytes]], None], refused: Callable[[], None]
    ) -> RelaySocket:
        return Socket()

    def open_rtp(self, receive: Callable[[Batch], None]) -> RtpSockets:
        return Socket()


class Store:
    """Implements ``ports.ports.CallStore``: keeps the newest record of each call."""

    def __init__(self) -> None:
        self.records: dict[str, CallRecord] = {}
        self._news = asyncio.Event()

    def put(self, record: CallRecord) -> None:
        self.records[record.id] = record
        self._news.set()

    def remove(self, call: str) -> None:
        self.records.pop(call, None)
        self._news.set()

    async def run(self, wish: Callable[[CallWish], None]) -> None:
        raise NotImplementedError

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not true():
                self._news.clear()
                await self._news.wait()


def with_a_call(story: Callable[[Signaling, Store, str], Awaitable[None]]) -> None:
    async def live() -> None:
        store = Store()
        signaling = Signaling(SignalingSettings(), Routing((), ()), Sockets(), Bookkeeper("one", store))
        signaling.start()
        talk = World(2).call()
        signaling.b2bua.register(talk.call)
        try:
            await story(signaling, store, talk.id)
        finally:
            signaling.stop()

    asyncio.run(live())


def test_what_became_of_a_wish_is_in_the_record_and_what_is_taken_back_is_not() -> None:
    async def story(signaling: Signaling, store: Store, call: str) -> None:
        def reason() -> str:
            wish = store.records[call].wish if call in store.records else None
            return wish.fulfilled.reason if wish is not None and wish.fulfilled is not None else ""

        assert signaling.keep_wish(CallWish(call=call, relay="r9", generation=2), time.monotonic()) == ""
        await store.until(lambda: reason() == "NoSuchRelay")

        signaling.keep_wish(CallWish(call=call, generation=3), time.monotonic())
        await store.until(lambda: reason() == "")

    with_a_call(story)


def test_who_asks_at_once_hears_the_same_and_nothing_is_kept() -> None:
    async def story(signaling: Signaling, store: Store, call: str) -> None:
        signaling.keep_wish(CallWish(call=call, relay="r9", generation=2), time.monotonic())
        kept = signaling.wishes.record(call)
        signaling.keep_wish(CallWish(call=call), time.monotonic())

        told = signaling.wish(CallWish(call=call, relay="r9"), time.monotonic())

        assert kept is not None
        assert kept.fulfilled is not None
        assert told == kept.fulfilled.message
        after = signaling.wishes.record(call)
        assert after is not None
        assert after.fulfilled is None

    with_a_call(story)


def test_the_wish_for_an_end_hangs_up() -> None:
    async def story(signaling: Signaling, store: Store, call: str) -> None:
        assert signaling.keep_wish(CallWish(call=call, terminate=True), time.monotonic()) == ""
        assert signaling.b2bua.calls == {}
        assert signaling.keep_wish(CallWish(call=call, terminate=True), time.monotonic()).startswith("there is no call")

    with_a_call(story)
