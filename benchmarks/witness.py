"""Bystanders: calls with RTP of their own on one relay, that measure how long it keeps each packet.

A process of its own, so that nothing but the relay and the machine can delay a packet between its two time stamps: it
carries the time of its sending, and the kernel stamps it on its arrival.

``python -m benchmarks.witness IP PORT CALLS`` prints a line when all talk. To each line ``FROM UNTIL`` (monotonic
seconds) on stdin it answers with a line of JSON; it ends with stdin.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.kit.processes import ROOT, dying_with_parent
from tests.kit.results import quantile

from kedge.relay.bencode import Value, decode, encode

_PACKET: Final = 0.02
_TIMESTAMPNS: Final = 35  # SO_TIMESTAMPNS in <asm-generic/socket.h>
_HEADER: Final = struct.Struct(">BBHIIq")
_STAMP: Final = struct.Struct("qq")


@dataclass(frozen=True, slots=True)
class Delays:
    """How long the relay kept packets that were sent in a stretch of time; milliseconds."""

    packets: int
    lost: int
    p50: float
    p99: float
    most: float


class Witness:
    """The process, seen from the benchmark; a context manager."""

    def __init__(self, relay: tuple[str, int], calls: int) -> None:
        self._command = [sys.executable, "-m", "benchmarks.witness", relay[0], str(relay[1]), str(calls)]
        self._process: subprocess.Popen[str]

    def __enter__(self) -> Self:
        """Start, and wait until all calls talk."""
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            dying_with_parent(self._command), stdin=pipe, stdout=pipe, text=True, cwd=ROOT, bufsize=1
        )
        if not self._line():
            raise RuntimeError("the bystanders did not start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self._process.communicate(timeout=5)

    def delays(self, since: float, until: float) -> Delays:
        """Return what was measured in a stretch of monotonic time that is over."""
        assert self._process.stdin is not None
        print(since, until, file=self._process.stdin, flush=True)
        return Delays(*json.loads(self._line()))

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


class _Phone:
    """One end of a call."""

    def __init__(self, ip: str) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.SOL_SOCKET, _TIMESTAMPNS, 1)
        self.sock.bind((ip, 0))
        self.remote = ("", 0)
        self._sequence = 0

    def sdp(self) -> bytes:
        ip, port = self.sock.getsockname()
        return f"v=0\r\no=- 1 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\nm=audio {port} RTP/AVP 0\r\n".encode()

    def take(self, sdp: bytes) -> None:
        lines = sdp.decode().split("\r\n")
        host = next(line.split()[-1] for line in lines if line.startswith("c="))
        self.remote = (host, next(int(line.split()[1]) for line in lines if line.startswith("m=audio")))

    def send(self) -> None:
        self._sequence = self._sequence + 1 & 0xFFFF
        head = _HEADER.pack(0x80, 0, self._sequence, self._sequence * 160, id(self) & 0xFFFFFFFF, time.time_ns())
        self.sock.sendto(head.ljust(172, b"\xff"), self.remote)

    def receive(self) -> list[tuple[int, int]]:
        """Return when each packet was sent, and when it came (Unix time, ns)."""
        found: list[tuple[int, int]] = []
        while True:
            try:
                data, ancillary, _, _ = self.sock.recvmsg(2048, 64)
            except BlockingIOError:
                return found
            seconds, nanoseconds = _STAMP.unpack(ancillary[0][2])
            found.append((_HEADER.unpack_from(data)[5], seconds * 1_000_000_000 + nanoseconds))


def _ask(relay: tuple[str, int], command: dict[bytes, Value]) -> dict[bytes, Value]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(2.0)
        sock.connect(relay)
        sock.send(b"w%s " % os.urandom(6).hex().encode() + encode(command))
        reply = decode(sock.recv(65535).partition(b" ")[2])
    if not isinstance(reply, dict) or reply.get(b"result") != b"ok":
        raise RuntimeError(f"the relay says {reply!r}")
    return reply


def _call(relay: tuple[str, int], number: int) -> list[_Phone]:
    caller, callee = _Phone(relay[0]), _Phone(relay[0])
    same: dict[bytes, Value] = {b"call-id": b"witness-%d-%d" % (os.getpid(), number), b"from-tag": b"a"}
    offered = _ask(relay, {b"command": b"offer", b"sdp": caller.sdp(), **same})
    answered = _ask(relay, {b"command": b"answer", b"sdp": callee.sdp(), b"to-tag": b"b", **same})
    for phone, reply in ((callee, offered), (caller, answered)):
        sdp = reply[b"sdp"]
        assert isinstance(sdp, bytes)
        phone.take(sdp)
    return [caller, callee]


class _Log:
    """What was sent when, and how long it took; ns."""

    def __init__(self) -> None:
        self.sent: list[int] = []
        self.arrived: list[tuple[int, int]] = []

    def between(self, since: float, until: float) -> Delays:
        offset = time.time_ns() - time.monotonic_ns()
        start, end = (int(at * 1e9) + offset for at in (since, until))
        sent = sum(start <= at < end for at in self.sent)
        took = [(came - at) * 1e-6 for at, came in self.arrived if start <= at < end]
        return Delays(sent, sent - len(took), quantile(took, 0.5), quantile(took, 0.99), max(took, default=0.0))


def _talk(phones: list[_Phone], log: _Log) -> None:
    """Send and receive until stdin ends."""
    ready = selectors.DefaultSelector()
    ready.register(sys.stdin, selectors.EVENT_READ)
    due, turn = time.monotonic(), 0
    while True:
        for _ in ready.select(max(0.0, due - time.monotonic())):
            line = sys.stdin.readline()
            if not line:
                return
            since, until = map(float, line.split())
            found = log.between(since, until)
            print(json.dumps([found.packets, found.lost, found.p50, found.p99, found.most]), flush=True)
        while due <= time.monotonic():
            phone = phones[turn % len(phones)]
            log.sent.append(time.time_ns())
            phone.send()
            log.arrived.extend(phone.receive())
            turn, due = turn + 1, due + _PACKET / len(phones)


def main() -> None:
    """Run as a program."""
    relay = (sys.argv[1], int(sys.argv[2]))
    phones = [phone for number in range(int(sys.argv[3])) for phone in _call(relay, number)]
    print("talking", flush=True)
    _talk(phones, _Log())


if __name__ == "__main__":
    main()
