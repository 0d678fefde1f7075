"""A coroutine on a thread and loop of its own, as adapters run in production; the test stays plain."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, Self


class Background:
    """Runs ``work`` until the end of a ``with`` block, then ``close``; the thread is ``inside`` for its whole life."""

    def __init__(
        self,
        work: Callable[[], Coroutine[Any, Any, None]],
        close: Callable[[], Awaitable[None]] | None = None,
        *,
        inside: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._work = work
        self._close = close
        self._inside = inside
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._task: asyncio.Task[None] | None = None
        self._started = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(self, *error: object) -> None:
        assert self._task is not None
        ended_by_itself = self._task.done()
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(20)
        assert not self._thread.is_alive()
        assert not ended_by_itself, self._task

    def _run(self) -> None:
        with self._inside(), asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._main())

    async def _main(self) -> None:
        self._task = asyncio.ensure_future(self._work())
        self._started.set()
        with suppress(asyncio.CancelledError):
            await self._task
        if self._close is not None:
            await self._close()
