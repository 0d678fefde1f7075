"""The lab's network: an address that is given out again leads to the new pod, and NetworkPolicies can be in force."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from tests.lab import policies
from tests.lab.daemons import wait_until
from tests.lab.errors import PolicyError
from tests.lab.netns import Namespace

LAB, POD, PREFIX = "192.0.2.1", "192.0.2.40", 24
PORT = 5004
PODS = {"relay": POD, "signaling": "192.0.2.41", "namesake": "192.0.2.42", "stranger": "192.0.2.43"}
NODE, PHONE, EXCEPTED = "192.0.2.11", "192.0.2.2", "192.0.2.3"


class Wires:
    """A lab and a node, joined as those of a cluster are, and pods that come and go on the node."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._run = secrets.token_hex(3)
        self.lab, self.node = self._made("lab"), self._made("node")
        self.lab.add_bridge("kn0", address=f"{LAB}/{PREFIX}", mac="02:00:5e:00:53:01")
        self.node.add_bridge("cni0", address=f"{NODE}/{PREFIX}", mac="02:00:5e:00:53:10")
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

    def pod(self, name: str, address: str = POD) -> tuple[Namespace, socket.socket]:
        """A namespace with an address and a MAC of its own, and a socket in it."""
        pod = Namespace(f"wires-{self._run}-{name}")
        pod.create()
        self.node.ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", pod.name)
        self.node.ip("link", "set", name, "master", "cni0", "up")
        pod.ip("address", "add", f"{address}/{PREFIX}", "dev", "eth0")
        pod.ip("link", "set", "eth0", "up")
        return pod, self.bound(pod, address)


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


@pytest.fixture
def pods(wires: Wires) -> Iterator[dict[str, Namespace]]:
    """All pods of ``PODS``, with a network each."""
    made = {name: wires.pod(name, address) for name, address in PODS.items()}
    for _, unused in made.values():
        unused.close()
    yield {name: namespace for name, (namespace, _) in made.items()}
    for namespace, _ in made.values():
        namespace.delete()


def cluster(**spec: Any) -> list[dict[str, Any]]:
    """The pods, their namespaces, and one policy for the relay."""
    spec = {"podSelector": {"matchLabels": {"app": "relay"}}, "policyTypes": ["Ingress"], **spec}
    policy = {"kind": "NetworkPolicy", "metadata": {"name": "relay", "namespace": "voice"}, "spec": spec}
    return [*(pod_object(name) for name in PODS), *(namespace_object(name) for name in ("voice", "other")), policy]


def pod_object(name: str) -> dict[str, Any]:
    namespace, app = ("other", "signaling") if name == "namesake" else ("voice", name)
    metadata = {"name": name, "namespace": namespace, "labels": {"app": app}}
    status = {"phase": "Running", "podIP": PODS[name]}
    return {"kind": "Pod", "metadata": metadata, "spec": {"nodeName": "node"}, "status": status}


def namespace_object(name: str) -> dict[str, Any]:
    return {"kind": "Namespace", "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}}}


SIGNALING = {
    "podSelector": {"matchLabels": {"app": "signaling"}},
    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "voice"}},
}
PHONES = {"ipBlock": {"cidr": "192.0.2.0/29", "except": [f"{EXCEPTED}/32"]}}
CONTROL = {"from": [SIGNALING, PHONES], "ports": [{"protocol": "UDP", "port": 2223}]}
MEDIA = {"ports": [{"protocol": "UDP", "port": 6000, "endPort": 6002}]}


def is_heard(pods: dict[str, Namespace], sender: Namespace, address: str, port: int) -> bool:
    """Whether the relay hears what ``address`` sends to one of its ports, from a port that is new each time."""
    with ExitStack() as stack:
        with pods["relay"].inside():
            relay = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        with sender.inside():
            other = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        relay.bind((POD, port))
        other.bind((address, 0))
        relay.settimeout(0.3)
        other.sendto(b"sent", (POD, port))
        with suppress(TimeoutError):
            return relay.recv(16) == b"sent"
    return False


def test_a_policy_in_force_lets_in_whom_it_names_to_the_ports_it_names(
    wires: Wires, pods: dict[str, Namespace]
) -> None:
    for address in (PHONE, EXCEPTED):
        wires.lab.ip("address", "add", f"{address}/32", "dev", "lo")
    senders = [(pods[name], PODS[name]) for name in ("signaling", "namesake", "stranger")]
    senders += [(wires.lab, PHONE), (wires.lab, EXCEPTED), (wires.node, NODE)]

    def heard(port: int) -> list[bool]:
        return [is_heard(pods, *sender, port) for sender in senders]

    wait_until(lambda: heard(2223) == [True] * 6, "without a policy all are heard", timeout=10)
    policies.load(wires.node, policies.rules(cluster(ingress=[CONTROL, MEDIA]), "node"))

    assert heard(2223) == [True, False, False, True, False, True]
    assert heard(6000) == heard(6002) == [True] * 6
    assert heard(6003) == [False] * 5 + [True], "its own node is always let in"
    policies.load(wires.node, policies.rules(cluster(ingress=[CONTROL, MEDIA]), "another"))
    assert heard(2223) == [True] * 6, "another node's pods are that node's affair"


def test_replies_pass_a_policy_that_lets_nobody_in(wires: Wires, pods: dict[str, Namespace]) -> None:
    policies.load(wires.node, policies.rules(cluster(), "node"))
    relay, stranger = (wires.bound(pods[name], PODS[name]) for name in ("relay", "stranger"))
    relay.settimeout(5)
    stranger.settimeout(5)

    assert not is_heard(pods, pods["stranger"], PODS["stranger"], 6000)
    relay.sendto(b"asked", (PODS["stranger"], PORT))
    assert stranger.recv(16) == b"asked"
    stranger.sendto(b"answered", (POD, PORT))
    assert relay.recv(16) == b"answered"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"policyTypes": ["Egress"]}, "policy relay: only ingress"),
        ({"ingress": [{"ports": [{"port": "control"}]}]}, "port control: ports by name"),
        ({"podSelector": {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": []}]}}, "only Exists"),
    ],
)
def test_what_is_not_enforced_is_an_error(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(PolicyError, match=told):
        list(policies.rules(cluster(**wrong), "node"))
