"""The signaling thread: how it starts, ends, and fails. The Signaling here does nothing but that."""

from __future__ import annotations

import asyncio
import threading
from typing import cast

import pytest

from kedge.base.address import Address
from kedge.runtime.signaling import Signaling
from kedge.runtime.thread import THREAD_NAME, SignalingThread


class Stub:
    """As much of Signaling as the thread uses."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error
        self.threads: list[str] = []
        self.stopped = 0

    def start(self) -> Address:
        asyncio.get_running_loop()
        self.threads.append(threading.current_thread().name)
        if self._error is not None:
            raise self._error
        return "127.0.0.1", 5060

    def stop(self) -> None:
        self.threads.append(threading.current_thread().name)
        self.stopped += 1


class Made:
    def __init__(self, error: Exception | None = None) -> None:
        self.stub = Stub(error)
        self.ended = threading.Event()
        self.thread = SignalingThread(cast("Signaling", self.stub), self.ended.set)


def test_it_serves_on_a_thread_of_its_own_until_it_is_stopped() -> None:
    made = Made()

    address = made.thread.start()
    alive = made.thread.alive
    stopped = made.thread.stop()

    assert (address, alive, stopped, made.thread.alive) == (("127.0.0.1", 5060), True, True, False)
    assert made.stub.threads == [THREAD_NAME, THREAD_NAME]
    assert made.stub.stopped == 1
    assert not made.ended.is_set(), "it was asked to end"


def test_an_address_that_cannot_be_bound_is_told_to_who_starts_it() -> None:
    made = Made(OSError(98, "Address already in use"))

    with pytest.raises(OSError, match="already in use"):
        made.thread.start()

    assert made.thread.stop()
    assert not made.thread.alive
    assert not made.ended.is_set()


def test_an_end_that_nobody_asked_for_is_told(caplog: pytest.LogCaptureFixture) -> None:
    made = Made(ValueError("a bug"))

    with pytest.raises(RuntimeError):
        made.thread.start()

    assert made.ended.wait(10)
    assert "the signaling thread has ended by an error" in caplog.text


def test_one_that_was_never_started_can_be_stopped() -> None:
    assert Made().thread.stop()
