"""NetworkPolicies in force on the lab's nodes, whose network plugin knows none.

Each node has an nft table where packets are forwarded, those between ports of its bridge too (br_netfilter), and it is
written anew when policies or pods have changed. As Kubernetes has it, replies pass, and so does what a node sends to
its own pods: probes and hooks of the kubelet. Unlike a real plugin, it lets anybody reach a new pod for a moment.

Ingress by podSelector, namespaceSelector, ipBlock and ports; what else a policy says is an error, and never ignored.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, Self

from tests.lab import machine
from tests.lab.errors import LabError, PolicyError
from tests.lab.lab import Lab
from tests.lab.netns import Namespace

_TABLE: Final = "ip kedge-lab-policies"
_INTERVAL: Final = 0.3
"""Seconds between two looks at policies and pods."""

Object = Mapping[str, Any]


class Policies:
    """All NetworkPolicies of a lab, in force until the end of a ``with`` block."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._nodes = {name: Namespace(netns) for name, netns in lab.node_netns.items()}
        self._written: dict[str, list[str]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread()
        self._error: Exception | None = None

    def __enter__(self) -> Self:
        """Put them in force."""
        self._stop.clear()
        self._enforce()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Let everything pass again.

        Raises:
            LabError: Some time ago they could not be enforced any more.
        """
        self._stop.set()
        self._thread.join(60)
        for name in self._nodes:
            self._write(name, [])
        if self._error is not None:
            raise self._error

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """Let everything pass for a while."""
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()

    def _run(self) -> None:
        try:
            while not self._stop.wait(_INTERVAL):
                self._enforce()
        except (LabError, OSError, LookupError) as error:  # told at the end, to whom it concerns
            self._error = error

    def _enforce(self) -> None:
        objects = self._lab.get("networkpolicies,pods,namespaces", "--all-namespaces")["items"]
        for name in self._nodes:
            self._write(name, list(rules(objects, name)))

    def _write(self, node: str, new: list[str]) -> None:
        if self._written.get(node, []) != new:
            load(self._nodes[node], new)
            self._written[node] = new


def load(node: Namespace, new: Iterable[str]) -> None:
    """Replace the rules of a node, all at once; without rules everything passes.

    Raises:
        PolicyError: nft refused them.
    """
    chain = "\n".join(["type filter hook forward priority filter", "ct state established,related accept", *new])
    table = f"table {_TABLE} {{\nchain forward {{\n{chain}\n}}\n}}"
    command = [*node.enter, str(machine.program("nft")), "-f", "-"]
    ruleset = f"add table {_TABLE}\ndelete table {_TABLE}\n{table}\n"
    done = subprocess.run(command, check=False, input=ruleset, capture_output=True, text=True, timeout=10)
    if done.returncode:
        raise PolicyError(f"nft in {node.name}: {done.stderr.strip()}\n{ruleset}")


def rules(objects: Sequence[Object], node: str) -> Iterator[str]:
    """What the policies among ``objects`` (policies, pods, namespaces) mean for the pods of a node, in nft's words."""
    policies = [one for one in objects if one["kind"] == "NetworkPolicy"]
    for pod in filter(_has_own_address, objects):
        selecting = [one for one in policies if _selects(one, pod)]
        if pod["spec"].get("nodeName") == node and selecting:
            to = f"ip daddr {pod['status']['podIP']}"
            for policy in selecting:
                yield from (f"{to} {allowed} accept" for allowed in _allowed(policy, objects))
            yield f"{to} drop"


def _has_own_address(one: Object) -> bool:
    """Whether it is a pod in the pod network, and runs."""
    if one["kind"] != "Pod" or one["spec"].get("hostNetwork") or not one["status"].get("podIP"):
        return False
    return one["status"]["phase"] not in ("Succeeded", "Failed")


def _selects(policy: Object, pod: Object) -> bool:
    same = policy["metadata"]["namespace"] == pod["metadata"]["namespace"]
    return same and _matches(policy["spec"]["podSelector"], pod)


def _allowed(policy: Object, objects: Sequence[Object]) -> Iterator[str]:
    if policy["spec"]["policyTypes"] != ["Ingress"]:
        raise PolicyError(f"policy {policy['metadata']['name']}: only ingress is enforced here")
    for rule in policy["spec"].get("ingress", ()):
        sources = [_source(peer, policy, objects) for peer in rule.get("from", ())]
        ports = [_port(one) for one in rule.get("ports", ())]
        yield from (f"{source} {port}" for source in sources or [""] for port in ports or [""] if source is not None)


def _source(peer: Object, policy: Object, objects: Sequence[Object]) -> str | None:
    """Who may send; None where there is nobody of that kind."""
    if block := peer.get("ipBlock"):
        excepted = " ".join(f"ip saddr != {one}" for one in block.get("except", ()))
        return f"ip saddr {block['cidr']} {excepted}"
    namespaces = {policy["metadata"]["namespace"]}
    if (selector := peer.get("namespaceSelector")) is not None:
        known = [one for one in objects if one["kind"] == "Namespace" and _matches(selector, one)]
        namespaces = {one["metadata"]["name"] for one in known}
    pods = [one for one in objects if _has_own_address(one) and one["metadata"]["namespace"] in namespaces]
    found = [one["status"]["podIP"] for one in pods if _matches(peer.get("podSelector", {}), one)]
    return f"ip saddr {{ {', '.join(found)} }}" if found else None


def _port(port: Object) -> str:
    protocol, first = port.get("protocol", "TCP").lower(), port.get("port")
    if first is None:
        return f"meta l4proto {protocol}"
    if isinstance(first, str):
        raise PolicyError(f"port {first}: ports by name are not enforced here")
    return f"{protocol} dport {first}-{port.get('endPort', first)}"


def _matches(selector: Object, one: Object) -> bool:
    labels: Mapping[str, str] = one["metadata"].get("labels", {})
    expressions = selector.get("matchExpressions", ())
    if any(expression["operator"] != "Exists" for expression in expressions):
        raise PolicyError(f"{expressions}: of matchExpressions only Exists is enforced here")
    given = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    return given and all(expression["key"] in labels for expression in expressions)
