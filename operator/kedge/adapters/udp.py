"""UDP sockets that are drained: read until nothing is left, hand over all at once, then send all at once.

asyncio's datagram transports cost ten times as much a packet; ``benchmarks/`` has the figures.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from kedge.adapters.rtp import DrainedRtpSockets
from kedge.base.address import Address
from kedge.ports.sockets import Batch

_MAX_DATAGRAM: Final = 65535
_BATCH: Final = 128
"""Datagrams read before what they caused is sent: more would only add delay."""


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


class DrainedSipSocket:
    """Implements ``ports.sockets.SipSocket``."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, address: Address, receive: Callable[[Batch], None], buffer_bytes: int
    ) -> None:
        self._loop = loop
        self._receive = receive
        self.send_errors = 0
        self._socket = socket.socket(_family(address[0]), socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
            self._socket.bind(address)
        except OSError:
            self._socket.close()
            raise
        loop.add_reader(self._socket.fileno(), self._readable)

    @property
    def address(self) -> Address:
        """Where it is bound."""
        name = self._socket.getsockname()
        return name[0], name[1]

    def _readable(self) -> None:
        batch: Batch = []
        receive = self._socket.recvfrom
        try:
            for _ in range(_BATCH):
                data, source = receive(_MAX_DATAGRAM)
                batch.append((data, source[:2]))
        except BlockingIOError:
            pass  # drained
        except OSError:
            self.send_errors += 1  # an ICMP error for something we sent: SIP's timers deal with it
        if batch:
            self._receive(batch)

    def send_all(self, batch: Batch) -> None:
        """Send; what the kernel refuses is counted."""
        send = self._socket.sendto
        for data, address in batch:
            try:
                send(data, address)
            except OSError:
                self.send_errors += 1

    def close(self) -> None:
        """Stop reading and close."""
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()


class DrainedRelaySocket:
    """Implements ``ports.sockets.RelaySocket``."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        address: Address,
        receive: Callable[[list[bytes]], None],
        refused: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._receive = receive
        self._refused = refused
        self._closed = False
        self.errors = 0
        """Errors other than refusals."""
        self._socket = socket.socket(_family(address[0]), socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        try:
            self._socket.connect(address)
        except OSError:
            # No route just now, say. It is connected when something is to be sent: probes go on.
            self._address: Address | None = address
        else:
            self._address = None
        loop.add_reader(self._socket.fileno(), self._readable)

    def _readable(self) -> None:
        batch: list[bytes] = []
        receive = self._socket.recv
        refused = False
        for _ in range(_BATCH):
            try:
                batch.append(receive(_MAX_DATAGRAM))
            except BlockingIOError:
                break
            except ConnectionRefusedError:
                refused = True
            except OSError:
                # Host or network unreachable may come from our own kernel, and is no evidence against the relay: its
                # probes are lost then, and the guard against a network of our own that failed can weigh that.
                self.errors += 1
        if batch:
            self._receive(batch)
        if refused and not self._closed:
            self._refused()

    def send_all(self, batch: list[bytes]) -> None:
        """Send. A refusal that the kernel remembers from before is told, and the datagram sent after it."""
        refused = False
        for data in batch:
            try:
                refused |= self._send(data)
            except BlockingIOError:
                break  # the send buffer is full: commands are sent again
            except OSError:
                self.errors += 1
        if refused:
            self._loop.call_soon(self._refuse_if_open)

    def _send(self, data: bytes) -> bool:
        """Send one datagram; return whether a refusal was pending: send() reports it instead of sending."""
        if self._address is not None:
            self._socket.connect(self._address)
            self._address = None
        try:
            self._socket.send(data)
        except ConnectionRefusedError:
            self._socket.send(data)
            return True
        return False

    def _refuse_if_open(self) -> None:
        if not self._closed:
            self._refused()

    def close(self) -> None:
        """Stop reading and close."""
        self._closed = True
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()


class DrainedSockets:
    """Implements ``ports.sockets.SocketFactory``; to be used on the loop that runs."""

    def __init__(self, *, receive_buffer_bytes: int) -> None:
        self._buffer_bytes = receive_buffer_bytes

    def open_sip(self, address: Address, receive: Callable[[Batch], None]) -> DrainedSipSocket:
        """Bind a socket for SIP."""
        return DrainedSipSocket(asyncio.get_running_loop(), address, receive, self._buffer_bytes)

    def open_relay(
        self, address: Address, receive: Callable[[list[bytes]], None], refused: Callable[[], None]
    ) -> DrainedRelaySocket:
        """Connect a socket to a relay."""
        return DrainedRelaySocket(asyncio.get_running_loop(), address, receive, refused)

    def open_rtp(self, receive: Callable[[Batch], None]) -> DrainedRtpSockets:
        """Make ready for RTP of our own; sockets are opened when an address is asked for."""
        return DrainedRtpSockets(asyncio.get_running_loop(), receive)
