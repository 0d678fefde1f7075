"""What runs beside SIP is begun again, whatever becomes of it."""

from __future__ import annotations

import asyncio

import pytest

from kedge.base.backoff import Backoff
from kedge.runtime.supervision import keep_running


def at_once() -> Backoff:
    return Backoff(first=0.0, most=0.0)


class Worker:
    """Ends in each of the given ways, then stays until cancelled."""

    def __init__(self, *ends: Exception | None) -> None:
        self._ends = list(ends)
        self.runs = 0
        self.staying = asyncio.Event()

    async def run(self) -> None:
        self.runs += 1
        if not self._ends:
            self.staying.set()
            await asyncio.Event().wait()
        end = self._ends.pop(0)
        if end is not None:
            raise end


async def test_neither_an_error_nor_an_end_ends_it(caplog: pytest.LogCaptureFixture) -> None:
    worker = Worker(RuntimeError("boom"), None, ExceptionGroup("all", [OSError("gone")]))

    task = asyncio.create_task(keep_running("the worker", worker.run, at_once()))
    async with asyncio.timeout(10):
        await worker.staying.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert worker.runs == 4
    assert [one.getMessage() for one in caplog.records] == [
        "the worker has failed, and is begun again",
        "the worker has ended by itself, and is begun again",
        "the worker has failed, and is begun again",
    ]
    assert [one.exc_info is not None for one in caplog.records] == [True, False, True]
