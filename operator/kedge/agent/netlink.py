"""The kernel's links and addresses by netlink (rtnetlink(7)), with pyroute2.

One socket listens for changes, another looks after each where the address is: the messages themselves are not believed,
so it does no harm when the kernel drops some (ENOBUFS) or several say the same. The first change is looked at at once;
on a node where much changes, looks are spaced out, so that they stay a small share of a processor.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
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


async def pictures(address: str, interval: float) -> AsyncIterator[Picture]:
    """Yield where ``address`` is: now, after each change, and at the latest after ``interval`` seconds.

    Raises:
        NetlinkFailedError: the kernel cannot be read (any more).
    """
    try:
        async with AsyncIPRoute(groups=0, strict_check=True) as reader, AsyncIPRoute(groups=_GROUPS) as listener:
            await listener.bind(groups=_GROUPS)  # before the first look: no change falls in between
            index: int | None = None
            while True:
                began = time.monotonic()
                picture = await _picture(reader, address, index)
                took = time.monotonic() - began
                index = picture.addresses.get(address, index)
                yield picture
                await asyncio.sleep(max(_REST, _REST_SHARE * took))
                await _change(listener, interval)
    except (OSError, NetlinkError) as error:
        raise NetlinkFailedError(f"netlink: {error}") from error


async def _change(listener: Any, timeout: float) -> None:  # noqa: ASYNC109 (its end is no error here)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout), contextlib.aclosing(listener.get()) as messages:
            await anext(messages)


async def _picture(reader: Any, address: str, index: int | None) -> Picture:
    """Look where the address was last, which is quick on a node with hundreds of links; else everywhere."""
    addresses = await _addresses(reader, index=index) if index is not None else {}
    if address not in addresses:
        addresses = await _addresses(reader)
    found = addresses.get(address)
    link = await _link(reader, found) if found is not None else None
    return Picture(links={} if found is None or link is None else {found: link}, addresses=addresses)


async def _link(reader: Any, index: int) -> Link | None:
    try:
        (found,) = await reader.link("get", index=index)
    except NetlinkError as error:
        if error.code == errno.ENODEV:
            return None
        raise
    return Link(name=str(found.get("ifname")), flags=found["flags"])


async def _addresses(reader: Any, **where: int) -> dict[str, int]:
    """Return addresses with the index of their link; none where the link is gone."""
    found: dict[str, int] = {}
    try:
        async for one in await reader.addr("dump", **where):
            text = one.get("local") or one.get("address")
            if text:
                found[str(ip_address(text))] = one["index"]
    except NetlinkError as error:
        if error.code != errno.ENODEV:
            raise
    return found
