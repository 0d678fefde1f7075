"""The lab: a control plane and nodes of our own on one machine, for the length of a test run.

Start and end are all or nothing: a start that fails half-way takes everything away again, and ``stop`` raises when
something stayed.
"""

from __future__ import annotations

import math
import os
import secrets
import shutil
import signal
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, Self

from tests.lab import audit, binaries, cleanup, images, machine
from tests.lab.binaries import Programs
from tests.lab.cluster import Cluster
from tests.lab.control_plane import CONTROLLER_MANAGER, PROXY, SCHEDULER, ApiServer, Controllers, node_user
from tests.lab.daemons import Daemon, wait_until
from tests.lab.errors import KubectlError, LabError, StartError
from tests.lab.netns import Namespace
from tests.lab.node import GATEWAY, LAB_BRIDGE, MOST, NETWORK, Node

_MAC: Final = "02:00:5e:00:53:01"
_PORTS: Final = (6443, 2379, 2380)
_NODE_TIMEOUT: Final = 90.0
"""Seconds for the nodes to be Ready once their kubelets run."""
_EMPTY_TIMEOUT: Final = 90.0
"""Seconds for what tests delete to be gone."""
_NAMESPACES: Final = {f"namespace/{name}" for name in ("default", "kube-node-lease", "kube-public", "kube-system")}
"""Those of Kubernetes itself."""


class Lab(Cluster):
    """A running lab. ``netns`` is the name of its network namespace, ``directory`` holds files and logs."""

    relay_image = images.RTPENGINE

    def __init__(self, run: str, directory: Path, programs: Programs, *, nodes: int, services: bool) -> None:
        """Prepare it; ``start`` is the way to get a running one."""
        self.run, self.directory = run, directory
        self._namespace = Namespace(f"{cleanup.PREFIX}{run}")
        self._services = services
        self._away: list[tuple[float, float]] = []
        """From when until when (Unix seconds) the API server was away."""
        self._loaded: set[Path] = set()
        self._nodes = [Node(run, index, directory, programs, self._namespace) for index in range(nodes)]
        users = {CONTROLLER_MANAGER: "", SCHEDULER: "", PROXY: "system:node-proxier"}
        users |= {node_user(node.name): "system:nodes" for node in self._nodes}
        self._api = ApiServer(
            directory,
            programs,
            enter=self._namespace.enter,
            address=str(GATEWAY),
            ports=_PORTS,
            users=users if nodes else None,
        )
        self._controllers = (
            Controllers(directory, programs, self._api.credentials, enter=self._namespace.enter) if nodes else None
        )
        self.kubeconfig, self.apiserver_url = self._api.kubeconfig, self._api.url
        self._kubectl = self._api.kubectl
        self.netns = self._namespace.name
        self.node_netns = {node.name: node.netns.name for node in self._nodes}
        self.node_addresses = {node.name: node.address for node in self._nodes}

    @classmethod
    def start(
        cls, nodes: int = 2, *, services: bool = False, programs: Programs | None = None, logs: Path | None = None
    ) -> Self:
        """Start a lab: seconds without nodes, about half a minute with two.

        Args:
            nodes: How many; 0 gives etcd and API server alone.
            services: Run kube-proxy too, so that pods reach Services (10.96.0.1 is the API server).
            programs: What to run instead of what is found or built.
            logs: Where to save the logs if the start fails.

        Raises:
            PrerequisiteError: The machine lacks something; the message says what to do.
            StartError: A part did not come up; nothing is left of the lab.
        """
        if not 0 <= nodes <= MOST:
            raise LabError(f"a lab has 0 to {MOST} nodes, not {nodes}")
        machine.require_root()
        programs = programs or _provide(nodes, services=services)
        cleanup.sweep()
        run = secrets.token_hex(3)
        directory = cleanup.claim(run)
        try:
            lab = cls(run, directory, programs, nodes=nodes, services=services)
        except BaseException:
            cleanup.remove(run)
            raise
        try:
            lab._boot()
        except BaseException:
            if logs is not None:
                lab.save_logs(logs)
            lab.stop()
            raise
        return lab

    @property
    def enter(self) -> list[str]:
        """The words that lead into the lab's network namespace."""
        return self._namespace.enter

    def inside(self) -> AbstractContextManager[None]:
        """Take the calling thread into the lab's network namespace; sockets made meanwhile stay there for good."""
        return self._namespace.inside()

    @property
    def kubectl_command(self) -> list[str]:
        """What to put before kubectl's arguments, for a shell."""
        return self._kubectl.command

    def stop(self) -> None:
        """End it and take everything away.

        Raises:
            LeftoverError: Something stayed.
        """
        for daemon in self._daemons():
            daemon.signal(signal.SIGKILL)
        cleanup.remove(self.run)
        for daemon in self._daemons():
            daemon.kill()

    def disown(self) -> None:
        """Let it live on after this process; ``cleanup.remove(run)`` ends it then."""
        cleanup.disown(self.run)

    def cut_node(self, name: str) -> None:
        """Cut a node from the network; its pods live on unheard. NotReady 20 s later."""
        self._node(name).cut()

    def join_node(self, name: str) -> None:
        """Undo ``cut_node``."""
        self._node(name).join()

    def cut_apiserver(self, *, frozen: bool = False) -> None:
        """Take the API away as a crash does (connections are refused), or ``frozen`` (connections hang)."""
        self._away.append((time.time(), math.inf))
        self._api.cut(frozen=frozen)

    def restore_apiserver(self) -> None:
        """Undo ``cut_apiserver`` and wait until the API serves."""
        self._api.restore()
        began, _ = self._away.pop()
        self._away.append((began, time.time()))

    def load_image(self, archive: Path) -> None:
        """Put the image of an OCI or docker archive on each node, unless it is there."""
        self._load([archive])

    def container_pid(self, node: str, pod: str, container: str, *, namespace: str = "default") -> int:
        """The main process of a container, as a process of this machine. Needs no API server."""
        return self._node(node).container_pid(pod, container, namespace=namespace)

    def kill_container(
        self,
        node: str,
        pod: str,
        container: str,
        number: signal.Signals = signal.SIGKILL,
        *,
        namespace: str = "default",
    ) -> None:
        """Send a signal to the main process of a container, behind the back of its kubelet."""
        os.kill(self.container_pid(node, pod, container, namespace=namespace), number)

    def requests(self) -> list[audit.Request]:
        """What pods have asked of the API server, in the order of answers."""
        return list(audit.requests(self._api.audit_log))

    def refused(self, namespace: str, *, before: float = math.inf) -> list[audit.Request]:
        """What the service accounts of a namespace asked for without a right to it, ``before`` a Unix time.

        An API server that has just started refuses everything until it has read its roles: that does not count.
        """
        return [
            one
            for one in self.requests()
            if one.refused
            and one.received < before
            and one.account.startswith(f"{namespace}:")
            and not any(began <= one.received <= ended for began, ended in self._away)
        ]

    def await_nodes(self) -> None:
        """Wait until all nodes take pods.

        Raises:
            StartError: They do not in time.
        """
        wait_until(self._nodes_ready, "all nodes are Ready again", timeout=_NODE_TIMEOUT)
        wait_until(self._nodes_open, "no node is cordoned or tainted", timeout=_NODE_TIMEOUT)

    def await_empty(self) -> None:
        """Wait until nobody's namespaces and pods are left.

        Raises:
            LabError: Some are, after a minute and a half.
        """
        deadline = time.monotonic() + _EMPTY_TIMEOUT
        while left := self._left():
            if time.monotonic() > deadline:
                raise LabError(f"left in the lab after {_EMPTY_TIMEOUT:g} s: {', '.join(left)}")
            time.sleep(0.5)

    def _left(self) -> list[str]:
        left = set(self.kubectl("get", "namespaces", "-o", "name").split()) - _NAMESPACES
        return sorted(left | set(self.kubectl("get", "pods", "--namespace=default", "-o", "name").split()))

    def _nodes_open(self) -> bool:
        return not any("taints" in one["spec"] for one in self.get("nodes")["items"])

    def save_logs(self, target: Path) -> None:
        """Copy the logs of the lab's programs and of its pods."""
        shutil.copytree(self.directory / "log", target, dirs_exist_ok=True)
        for node in self._nodes:
            pods = node.directory / "pod-logs"
            if pods.is_dir():
                shutil.copytree(pods, target / f"pods-{node.name}", dirs_exist_ok=True)

    def _boot(self) -> None:
        self._namespace.create()
        self._namespace.add_bridge(LAB_BRIDGE, address=f"{GATEWAY}/{NETWORK.prefixlen}", mac=_MAC)
        # kubelet and API server want a default route, and nothing is behind this one.
        self._namespace.ip("route", "add", "default", "via", str(NETWORK[-2]))
        for node in self._nodes:
            node.create()
        with ThreadPoolExecutor(max_workers=1) as pool:
            loading = pool.submit(self._load, [images.build(name) for name in images.names()])
            self._api.boot()
            self._start_pods()
            loading.result()
        self._await_nodes()

    def _start_pods(self) -> None:
        if self._controllers is not None:
            self._controllers.start()
        for node in self._nodes:
            node.start_kubelet(self._api.credentials)
            if self._services:
                node.start_proxy(self._api.credentials)

    def _load(self, archives: Sequence[Path]) -> None:
        missing = [one for one in archives if one not in self._loaded]
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda node: node.load_images(missing), self._nodes))
        self._loaded |= set(missing)

    def _await_nodes(self) -> None:
        if not self._nodes:
            return
        wait_until(self._nodes_ready, "nodes are Ready", timeout=_NODE_TIMEOUT, daemons=self._daemons())
        try:
            self.kubectl("wait", "--for=create", "--timeout=30s", "serviceaccount/default")
        except KubectlError as error:
            raise StartError(f"pods cannot be made: {error}") from error

    def _nodes_ready(self) -> bool:
        ready = 'jsonpath={range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\\n"}{end}'
        return self.kubectl("get", "nodes", "-o", ready).split() == ["True"] * len(self._nodes)

    def _daemons(self) -> list[Daemon]:
        controllers = self._controllers.daemons if self._controllers is not None else []
        return [*self._api.daemons, *controllers, *(daemon for node in self._nodes for daemon in node.daemons)]

    def _node(self, name: str) -> Node:
        for node in self._nodes:
            if node.name == name:
                return node
        raise LabError(f"no node {name} in {sorted(self.node_addresses)}")


def _provide(nodes: int, *, services: bool) -> Programs:
    needed = [*machine.CONTROL_PLANE_PROGRAMS, "ip", "nsenter"]
    if nodes:
        needed += machine.NODE_PROGRAMS
    if services:
        needed += machine.SERVICE_PROGRAMS
    machine.provide(needed)
    if services:
        return binaries.provide(binaries.SERVICE_PROGRAMS)
    return binaries.provide(binaries.NODE_PROGRAMS if nodes else binaries.API_PROGRAMS)
