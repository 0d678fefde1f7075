"""The kernel's links and addresses by netlink (rtnetlink(7)), with pyroute2.

One socket listens for changes, another reads the whole picture after each: the messages themselves are not believed,
so it does no harm when the kernel drops some (ENOBUFS) or several say the same. The first change is looked at at once;
on a node where much changes, looks are spaced out, so that they stay a small share of a processor.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from ipaddress import ip_address
from typing import Any, Final

from pyroute2 import AsyncIPRoute  # type: ignore[import-untyped]
from pyroute2.netlink.exceptions import NetlinkError  # type: ignore[import-untyped]

from kedge.agent.media_watch import Link, Picture
from kedge.base.errors import KedgeError

_GROUPS: Final = 0x1 | 0x10 | 0x100
"""RTMGRP_LINK, RTMGRP_IPV4_IFADDR and RTMGRP_IPV6_IFADDR: what is of interest, out of all that changes."""
_REST: Final = 0.05
"""Seconds between two looks at the least."""
_REST_SHARE: Final = 9.0
"""How many times as long as the last look took, at the least: a tenth of the time goes into looking then."""


class NetlinkFailedError(KedgeError):
    """The kernel could not be read: no rights, or netlink broke down."""


async def pictures(interval: float) -> AsyncIterator[Picture]:
    """Yield what the kernel has: now, after each change, and at the latest after ``interval`` seconds.

    Raises:
        NetlinkFailedError: the kernel cannot be read (any more).
    """
    try:
        async with AsyncIPRoute(groups=0) as reader, AsyncIPRoute(groups=_GROUPS) as listener:
            await listener.bind(groups=_GROUPS)  # before the first look: no change falls in between
            while True:
                began = time.monotonic()
                picture = await _picture(reader)
                took = time.monotonic() - began
                yield picture
                await asyncio.sleep(max(_REST, _REST_SHARE * took))
                await _change(listener, interval)
    except (OSError, NetlinkError) as error:
        raise NetlinkFailedError(f"netlink: {error}") from error


async def _change(listener: Any, timeout: float) -> None:  # noqa: ASYNC109 (its end is no error here)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout), contextlib.aclosing(listener.get()) as messages:
            await anext(messages)


async def _picture(reader: Any) -> Picture:
    links = {
        one["index"]: Link(name=str(one.get("ifname")), flags=one["flags"]) async for one in await reader.link("dump")
    }
    addresses: dict[str, int] = {}
    async for one in await reader.addr("dump"):
        text = one.get("local") or one.get("address")
        if text:
            addresses[str(ip_address(text))] = one["index"]
    return Picture(links=links, addresses=addresses)
