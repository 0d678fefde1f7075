from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import cast

import pytest

from kedge.agent.relay_sessions import RelayGoneError, RelaySessions, RelaySilentError, calls_in
from kedge.relay.bencode import encode

CANARY, PROBE, CALL = b"kedge-canary-1", b"kedge-probe-2", b"call-3"


def listing(*names: bytes) -> bytes:
    return encode({b"result": b"ok", b"calls": list(names)})


@pytest.mark.parametrize(
    ("names", "calls"),
    [((), 0), ((CANARY, PROBE), 0), ((CANARY, CALL), 1), ((CALL, CALL + b"b"), 2)],
)
def test_calls_are_counted_and_sessions_of_our_own_are_not(names: tuple[bytes, ...], calls: int) -> None:
    assert calls_in(listing(*names)) == calls


def test_a_full_list_of_our_own_may_hide_a_call() -> None:
    assert calls_in(listing(*[CANARY] * 63)) == 0
    assert calls_in(listing(*[CANARY] * 64)) == 1


@pytest.mark.parametrize("answer", [b"", b"nonsense", encode({b"result": b"error"}), encode({b"calls": 3})])
def test_an_answer_that_is_none_counts_as_silence(answer: bytes) -> None:
    with pytest.raises(RelaySilentError):
        calls_in(answer)


class Relay(asyncio.DatagramProtocol):
    """Answers each question with what ``answers`` makes of its cookie."""

    def __init__(self, answers: Callable[[bytes], list[bytes]]) -> None:
        self._answers = answers

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        assert b"7:command4:list" in data
        for one in self._answers(data.partition(b" ")[0]):
            self._transport.sendto(one, addr)


async def count(answers: Callable[[bytes], list[bytes]]) -> int:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: Relay(answers), ("127.0.0.1", 0))
    try:
        return await RelaySessions(transport.get_extra_info("sockname"), timeout=0.1).count()
    finally:
        transport.close()


async def test_the_relay_is_asked_and_a_stray_answer_is_passed_over() -> None:
    assert await count(lambda cookie: [b"other " + listing(CALL), cookie + b" " + listing(CALL, CALL)]) == 2


async def test_a_relay_that_does_not_answer_is_silent() -> None:
    with pytest.raises(RelaySilentError, match="no reply in time"):
        await count(lambda cookie: [])


async def test_a_port_where_nobody_listens_is_gone() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.77", 0))  # never the address that is asked from, or it might ask itself
        address = one.getsockname()

    with pytest.raises(RelayGoneError):
        await RelaySessions(address).count()
