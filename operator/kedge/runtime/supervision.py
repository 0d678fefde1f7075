"""Keeps what runs beside SIP running: whatever fails there is logged and begun again, and no call notices."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

from kedge.base.backoff import Backoff

_GOOD_AFTER: Final = 60.0
"""Seconds after which a run counts as a good one, so that the next failure is met with the shortest delay again."""
_log = logging.getLogger(__name__)


async def keep_running(name: str, run: Callable[[], Awaitable[None]], backoff: Backoff | None = None) -> None:
    """Await ``run()`` again and again, until cancelled: neither its end nor its error ends anything else."""
    backoff = backoff or Backoff(first=0.5, most=30.0)
    while True:
        began = time.monotonic()
        try:
            await run()
            _log.warning("%s has ended by itself, and is begun again", name)
        except Exception:  # noqa: BLE001  whatever it is, calls go on
            _log.exception("%s has failed, and is begun again", name)
        if time.monotonic() - began > _GOOD_AFTER:
            backoff.reset()
        await asyncio.sleep(backoff.next())
