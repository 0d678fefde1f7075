"""Sockets for RTP of our own: a pair for each of our addresses, shared by all relays that see us at it.

Which address that is, the routing table says, as for the control sockets: a relay that can answer commands can send
there. It is not the address that SIP advertises, which may be that of a translator outside the cluster.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from kedge.base.address import Address
from kedge.ports.sockets import Batch

_MAX_DATAGRAM: Final = 2048
_BATCH: Final = 64
_DISCARD: Final = 9
"""A port to ask the routing table with; nothing is sent there."""


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def local_host(peer: str) -> str:
    """Return the address of ours that packets to ``peer`` leave from.

    Raises:
        OSError: there is no route.
    """
    with socket.socket(_family(peer), socket.SOCK_DGRAM) as probe:
        probe.connect((peer, _DISCARD))
        return str(probe.getsockname()[0])


class DrainedRtpSockets:
    """Implements ``ports.sockets.RtpSockets``."""

    def __init__(self, loop: asyncio.AbstractEventLoop, receive: Callable[[Batch], None]) -> None:
        self._loop = loop
        self._receive = receive
        self._pairs: dict[str, tuple[Address, Address]] = {}
        self._sockets: dict[Address, socket.socket] = {}

    def addresses(self, peer: Address) -> tuple[Address, Address]:
        """Return two addresses that ``peer`` can send to."""
        host = local_host(peer[0])
        pair = self._pairs.get(host)
        if pair is None:
            pair = self._pairs[host] = (self._open(host), self._open(host))
        return pair

    def _open(self, host: str) -> Address:
        opened = socket.socket(_family(host), socket.SOCK_DGRAM)
        try:
            opened.setblocking(False)
            opened.bind((host, 0))
        except OSError:
            opened.close()
            raise
        address: Address = (host, opened.getsockname()[1])
        self._sockets[address] = opened
        self._loop.add_reader(opened.fileno(), self._readable, opened, address)
        return address

    def _readable(self, opened: socket.socket, address: Address) -> None:
        batch: Batch = []
        try:
            for _ in range(_BATCH):
                batch.append((opened.recv(_MAX_DATAGRAM), address))
        except OSError:
            pass  # drained; or an error that the kernel kept for a datagram of before: what is lost is noticed
        if batch:
            self._receive(batch)

    def send(self, data: bytes, source: Address, destination: Address) -> bool:
        """Send one datagram; return whether it has left."""
        opened = self._sockets.get(source)
        if opened is None:
            return False
        try:
            opened.sendto(data, destination)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Stop reading and close."""
        for opened in self._sockets.values():
            self._loop.remove_reader(opened.fileno())
            opened.close()
        self._sockets.clear()
        self._pairs.clear()
