"""The lab's network: a pod's address that is given out again leads to the new pod, and at once."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from tests.lab.daemons import wait_until
from tests.lab.netns import Namespace

LAB, POD, PREFIX = "192.0.2.1", "192.0.2.40", 24
PORT = 5004


class Wires:
    """A lab and a node, joined as those of a cluster are, and pods that come and go on the node."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._run = secrets.token_hex(3)
        self.lab, self.node = self._made("lab"), self._made("node")
        self.lab.add_bridge("kn0", address=f"{LAB}/{PREFIX}", mac="02:00:5e:00:53:01")
        self.node.add_bridge("cni0", address=f"192.0.2.11/{PREFIX}", mac="02:00:5e:00:53:10")
        self.lab.join("kn0", "veth-a", self.node, "cni0")

    def _made(self, name: str) -> Namespace:
        namespace = Namespace(f"wires-{self._run}-{name}")
        namespace.create()
        self._stack.callback(namespace.delete)
        return namespace

    def bound(self, namespace: Namespace, address: str) -> socket.socket:
        with namespace.inside():
            made = self._stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        made.bind((address, PORT))
        made.setblocking(False)
        return made

    def pod(self, name: str) -> tuple[Namespace, socket.socket]:
        """A namespace with the one address and a MAC of its own, and a socket in it."""
        pod = Namespace(f"wires-{self._run}-{name}")
        pod.create()
        self.node.ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", pod.name)
        self.node.ip("link", "set", name, "master", "cni0", "up")
        pod.ip("address", "add", f"{POD}/{PREFIX}", "dev", "eth0")
        pod.ip("link", "set", "eth0", "up")
        return pod, self.bound(pod, POD)


@pytest.fixture
def wires() -> Iterator[Wires]:
    with ExitStack() as stack:
        yield Wires(stack)


def test_a_reused_address_is_heard_of_at_once(wires: Wires) -> None:
    phone = wires.bound(wires.lab, LAB)

    def heard(pod: socket.socket) -> bool:
        phone.sendto(b"rtp", (POD, PORT))  # one way, as RTP: no reply tells the sender that the other side lives
        try:
            return pod.recv(16) == b"rtp"
        except BlockingIOError:
            return False

    first, at_first = wires.pod("first")
    wait_until(lambda: heard(at_first), "the first pod hears the phone", timeout=10)
    at_first.close()
    first.delete()

    second, at_second = wires.pod("second")
    try:
        wait_until(lambda: heard(at_second), "the second pod hears it at the same address", timeout=10)
    finally:
        second.delete()
