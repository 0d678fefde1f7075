"""Does anything beside SIP delay SIP? OPTIONS are sent to a Kedge that holds many idle calls, and it is made to work.

One after the other: nothing but probe rounds; the whole snapshot read over the admin API again and again; only relays;
``/metrics`` scraped; calls that come and go, whose records are written and whose garbage is collected. The answers'
times are the kernel's, so that a late benchmark is no late Kedge. How late this machine is in itself, an echo shows
that does nothing else: what Kedge is to be blamed for is what goes beyond that.

On a machine that others use, ``--favoured`` gives Kedge, echo and probe real-time priority (needs root).

Usage: python benchmarks/idle.py [--calls N] [--seconds S] [--favoured] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import itertools
import math
import os
import re
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import Figure, run_folder, show
from tests.e2e.harness import System
from tests.kit.phones import quantile
from tests.kit.processes import dying_with_parent, end
from tests.kit.wire import Address

_EVERY = 0.004
"""Seconds between two OPTIONS."""
_RATE = 400.0
"""Idle calls placed a second."""
_PER_RELAY = 4500
"""Calls that one rtpengine can hold with 20,000 file descriptors."""
_PRIORITY = 10
"""Real-time priority of what is measured, where asked for."""
_SO_TIMESTAMPNS = 35
_ECHO = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], 0))
print(s.getsockname()[1], flush=True)
while True:
    data, source = s.recvfrom(65535)
    s.sendto(data, source)
"""


@dataclass(slots=True)
class Delays:
    """Round trips of one stretch, in seconds."""

    name: str
    sent: int = 0
    kedge: list[float] = field(default_factory=list)
    echo: list[float] = field(default_factory=list)
    work: int = 0
    """How often the work of this stretch was done."""

    def row(self) -> str:
        """Return a line for people, in milliseconds."""
        p50, p99, most, echo = (
            value * 1000
            for value in (
                quantile(self.kedge, 0.5), quantile(self.kedge, 0.99), max(self.kedge, default=math.inf),
                max(self.echo, default=math.inf),
            )
        )  # fmt: skip
        counts = f"{len(self.kedge)} answers, {self.sent - len(self.kedge)} missing, {self.work} times"
        return f"p50 {p50:5.2f}  p99 {p99:6.2f}  max {most:6.2f}  (echo {echo:6.2f})  {counts}"


class Probe(threading.Thread):
    """Sends OPTIONS to Kedge and a datagram to the echo at a steady pace, on a thread of its own."""

    def __init__(self, ip: str, kedge: Address, echo: Address) -> None:
        super().__init__(name="probe", daemon=True)
        self._kedge, self._echo = kedge, echo
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._socket.bind((ip, 0))
        self._numbers = itertools.count(1)
        self._waiting: dict[tuple[bytes, int], tuple[float, Delays]] = {}
        self.stretch = Delays("")
        self.ending = threading.Event()

    def run(self) -> None:
        """Probe until told to end."""
        due = time.monotonic()
        while not self.ending.is_set():
            self._send()
            due = max(due + _EVERY, time.monotonic() - _EVERY)
            while (left := due - time.monotonic()) > 0:
                if select.select([self._socket], [], [], left)[0]:
                    self._read()

    def _send(self) -> None:
        number, stretch = next(self._numbers), self.stretch
        for kind, data, address in ((b"K", self._options(number), self._kedge), (b"E", b"%d" % number, self._echo)):
            self._waiting[kind, number] = time.time(), stretch
            self._socket.sendto(data, address)
        stretch.sent += 1

    def _options(self, number: int) -> bytes:
        me = "{}:{}".format(*self._socket.getsockname())
        to = "{}:{}".format(*self._kedge)
        return (
            f"OPTIONS sip:{to} SIP/2.0\r\nVia: SIP/2.0/UDP {me};rport;branch=z9hG4bKidle{number}\r\n"
            f"Max-Forwards: 70\r\nFrom: <sip:probe@{me}>;tag=p{number}\r\nTo: <sip:{to}>\r\nCall-ID: idle-{number}\r\n"
            f"CSeq: {number} OPTIONS\r\nContact: <sip:{me}>\r\nContent-Length: 0\r\n\r\n"
        ).encode()

    def _read(self) -> None:
        while True:
            try:
                data, ancillary, _, _ = self._socket.recvmsg(4096, 64)
            except BlockingIOError:
                return
            seconds, nanoseconds = struct.unpack_from("qq", ancillary[0][2])
            at = seconds + nanoseconds * 1e-9
            match = re.search(rb"^CSeq: (\d+) ", data, re.MULTILINE | re.IGNORECASE)
            key = (b"K", int(match[1])) if match else (b"E", int(data))
            sent, stretch = self._waiting.pop(key, (math.nan, None))
            if stretch is not None:
                (stretch.kedge if key[0] == b"K" else stretch.echo).append(at - sent)

    def close(self) -> None:
        """End."""
        self.ending.set()
        self.join()
        self._socket.close()


async def measure(probe: Probe, name: str, seconds: float, work: Callable[[], Awaitable[object]]) -> Delays:
    """Do ``work`` again and again for some seconds, and return the delays meanwhile."""
    stretch = probe.stretch = Delays(name)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        await work()
        stretch.work += 1
    probe.stretch = Delays("between")
    await asyncio.sleep(0.3)  # for the last answers
    return stretch


def scrape(address: Address, path: str) -> int:
    """Read a page; return its length in bytes."""
    connection = http.client.HTTPConnection(*address, timeout=30)
    try:
        connection.request("GET", path)
        return len(connection.getresponse().read())
    finally:
        connection.close()


def favour(pid: int) -> None:
    """Let all threads of a process go before all that others run on this machine."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setscheduler(int(task.name), os.SCHED_RR, os.sched_param(_PRIORITY))


async def run(calls: int, seconds: float, folder: Path, *, favoured: bool) -> list[Delays]:
    """Do one run."""
    relays = max(3, -(-calls // _PER_RELAY))
    system = System(
        folder, relays=relays, media_ports=4 * _PER_RELAY + 400, forget_after=1.0,
        relay_set={"health": {}, "placement": {"maxSessionsPerRelay": _PER_RELAY}},
    )  # fmt: skip
    async with system:
        await system.phones.place_calls(calls, rate=_RATE, rtp=False, within=60)
        if not await system.phones.wait_talking(calls, within=10):
            raise SystemExit(f"not all calls came up:\n{system.kedge.log[-2000:]}")
        echo = start_echo(system.caller_ip)
        assert echo.stdout is not None
        probe = Probe(system.caller_ip, system.kedge.address, (system.caller_ip, int(echo.stdout.readline())))
        probe.start()
        for pid in (system.kedge.pid, echo.pid, os.getpid()) if favoured else ():
            favour(pid)
        try:
            return await stretches(system, probe, seconds)
        finally:
            probe.close()
            end(echo)


def start_echo(ip: str) -> subprocess.Popen[bytes]:
    """Start the echo; its first line is its port."""
    return subprocess.Popen(dying_with_parent([sys.executable, "-c", _ECHO, ip]), stdout=subprocess.PIPE)


async def stretches(system: System, probe: Probe, seconds: float) -> list[Delays]:
    """Measure every stretch."""
    kedge, phones = system.kedge, system.phones

    async def nothing() -> None:
        await asyncio.sleep(0.1)

    def reading(address: Address, path: str) -> Callable[[], Awaitable[object]]:
        return lambda: asyncio.to_thread(scrape, address, path)

    async def churn() -> None:
        await phones.place_calls(100, rate=200, rtp=False, hold=0.2)

    async def everything() -> None:
        await asyncio.gather(
            churn(), reading(kedge.admin, "/v1/snapshot")(), reading(kedge.metrics_address, "/metrics")()
        )

    works: dict[str, Callable[[], Awaitable[object]]] = {
        "probe rounds": nothing,
        "snapshot": reading(kedge.admin, "/v1/snapshot"),
        "relays": reading(kedge.admin, "/v1/relays"),
        "metrics": reading(kedge.metrics_address, "/metrics"),
        "200 calls/s": churn,
        "everything": everything,
    }
    return [await measure(probe, name, seconds, work) for name, work in works.items()]


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=10_000, help="idle calls (default 10000)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each stretch (default 5)")
    parser.add_argument("--favoured", action="store_true", help="give Kedge, echo and probe real-time priority")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    arguments = parser.parse_args()
    with run_folder() as folder:
        stretches = asyncio.run(run(arguments.calls, arguments.seconds, folder, favoured=arguments.favoured))
    worst = max(stretches, key=lambda one: max(one.kedge, default=math.inf))
    figures: dict[str, Figure] = {
        "calls": arguments.calls,
        "max_ms": max(worst.kedge, default=math.inf) * 1000,
        "p99_ms": max(quantile(one.kedge, 0.99) for one in stretches) * 1000,
        "echo_max_ms": max(max(one.echo, default=math.inf) for one in stretches) * 1000,
        "missing": sum(one.sent - len(one.kedge) for one in stretches),
    }
    show(figures, as_json=arguments.json, notes={**{one.name: one.row() for one in stretches}, "worst": worst.name})


if __name__ == "__main__":
    main()
