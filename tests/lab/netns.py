"""Network namespaces: made, joined by veth pairs, entered and taken away.

They are entered with ``nsenter --net`` and never with ``ip netns exec``: that would also hide the control groups from
the kubelet.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from tests.lab import machine
from tests.lab.errors import LabError

NETNS = Path("/run/netns")

_CLONE_NEWNET = 0x40000000  # sched.h; os.setns comes with Python 3.12
_LIBC = ctypes.CDLL(None, use_errno=True)


def ip(*arguments: str) -> str:
    """Run ``ip``.

    Raises:
        LabError: It refused.
    """
    done = subprocess.run([machine.program("ip"), *arguments], check=False, capture_output=True, text=True, timeout=10)
    if done.returncode:
        raise LabError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


@contextmanager
def inside(path: Path) -> Iterator[None]:
    """Take the calling thread into the network namespace that a file stands for: ``/proc/PID/ns/net``, for instance."""
    with open("/proc/thread-self/ns/net") as home, path.open() as there:
        _set_namespace(there.fileno())
        try:
            yield
        finally:
            _set_namespace(home.fileno())


class Namespace:
    """A network namespace with a name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = NETNS / name

    @property
    def enter(self) -> list[str]:
        """The words to put before a command that shall run in it."""
        return [str(machine.program("nsenter")), f"--net={self.path}"]

    def inside(self) -> AbstractContextManager[None]:
        """Take the calling thread into it; sockets made meanwhile belong there for good."""
        return inside(self.path)

    def create(self) -> None:
        """Make it, with its loopback up."""
        ip("netns", "add", self.name)
        self.ip("link", "set", "lo", "up")

    def ip(self, *arguments: str) -> str:
        """Run ``ip`` in it."""
        return ip("-n", self.name, *arguments)

    def add_bridge(self, bridge: str, *, address: str, mac: str) -> None:
        """A bridge that is up and has ``address`` (with its prefix length).

        The MAC is fixed: else it changes with the ports that come and go, and neighbours lose it for a while.
        """
        self.ip("link", "add", bridge, "type", "bridge")
        self.ip("link", "set", bridge, "address", mac, "up")
        self.ip("address", "add", address, "dev", bridge)
        self._doubt_neighbours(bridge)

    def _doubt_neighbours(self, bridge: str) -> None:
        """Have it ask within a second or two whether a neighbour is still there.

        An address of a pod that has ended is given out again, to a pod with another MAC. By the kernel's defaults RTP,
        which nobody answers, would be sent to the old one for the better part of a minute.
        """
        times = {
            "base_reachable_time_ms": 1000,
            "delay_first_probe_time": 1,
            "ucast_solicit": 1,
            "retrans_time_ms": 200,
        }
        with self.inside():
            for name, value in times.items():
                Path(f"/proc/sys/net/ipv4/neigh/{bridge}/{name}").write_text(str(value))

    def join(self, bridge: str, port: str, other: Namespace, other_bridge: str) -> None:
        """Join a bridge here, by a veth named ``port``, with a bridge of ``other``."""
        self.ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", other.name)
        self.ip("link", "set", port, "master", bridge, "up")
        other.ip("link", "set", "eth0", "master", other_bridge, "up")

    def forward(self) -> None:
        """Let it route."""
        subprocess.run([*self.enter, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"], check=True, timeout=10)

    def delete(self) -> None:
        """Take it away; it lives on until the last process in it ends."""
        ip("netns", "delete", self.name)


def _set_namespace(descriptor: int) -> None:
    if _LIBC.setns(descriptor, _CLONE_NEWNET):
        error = ctypes.get_errno()
        raise OSError(error, f"setns: {os.strerror(error)}")
