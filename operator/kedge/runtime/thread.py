"""The thread that carries SIP: a loop of its own, so that nothing slow shares it.

All else (HTTP, files, the API server) runs on other threads, and costs SIP only the interpreter lock, which ``tune``
has handed over soon. This thread is never restarted: with it go all calls' states, and a new process is cleaner.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import threading
from collections.abc import Callable
from typing import Final

from kedge.base.address import Address
from kedge.runtime.signaling import Signaling

THREAD_NAME: Final = "kedge-sip"
_SWITCH_INTERVAL: Final = 0.00005
"""Seconds after which a busy thread gives up the interpreter lock to one that waits; Python's own choice is 5 ms.

Each system call of the SIP thread gives the lock away and has to wait so long for it, while the other thread is busy.
"""
_GC_THRESHOLDS: Final = (5_000, 200, 1000)
"""Young collections are short, older ones come hardly ever: calls free themselves by reference counts."""
_log = logging.getLogger(__name__)


def tune() -> None:
    """Set up the interpreter for a thread that must not wait. For the start of a process, after all is loaded."""
    sys.setswitchinterval(_SWITCH_INTERVAL)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)


class SignalingThread:
    """Runs a ``Signaling`` on a thread of its own. ``ended`` is called there when the thread ends unasked."""

    def __init__(self, signaling: Signaling, ended: Callable[[], None]) -> None:
        self._signaling = signaling
        self._ended = ended
        self._thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
        self._started = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._address: Address | None = None
        self._error: OSError | None = None

    def start(self) -> Address:
        """Start it, and return the address that SIP is bound to.

        Raises:
            OSError: the address cannot be bound.
        """
        self._thread.start()
        self._started.wait()
        if self._error is not None:
            raise self._error
        if self._address is None:
            raise RuntimeError("the signaling thread did not start")
        return self._address

    def stop(self, timeout: float = 5.0) -> bool:
        """End it, from any thread; return whether it came to its end within ``timeout`` seconds."""
        loop, stop = self._loop, self._stop
        if loop is not None and stop is not None:
            loop.call_soon_threadsafe(stop.set)
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def alive(self) -> bool:
        """Whether SIP is served; from any thread."""
        return self._loop is not None and self._thread.is_alive()

    def _run(self) -> None:
        asked = False
        try:
            asked = asyncio.run(self._serve())
        except Exception:  # noqa: BLE001  told, and the process ends
            _log.exception("the signaling thread has ended by an error")
        finally:
            self._loop = None
            self._started.set()
            if not asked and self._error is None:
                self._ended()

    async def _serve(self) -> bool:
        """Serve until asked to end; return whether that was so."""
        self._stop = asyncio.Event()
        try:
            self._address = self._signaling.start()
        except OSError as error:
            self._error = error
            return False
        self._loop = asyncio.get_running_loop()
        self._started.set()
        try:
            await self._stop.wait()
        finally:
            self._loop = None
            self._signaling.stop()
        return True
