"""What a test may ask of a cluster, whoever started it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, Any

from tests.lab import binaries
from tests.lab.control_plane import Kubectl
from tests.lab.errors import LabOnlyError


class Cluster(ABC):
    """A cluster with nodes. Abilities below "lab only" need the lab; elsewhere they raise ``LabOnlyError``."""

    kubeconfig: Path
    """An administrator's."""
    apiserver_url: str
    node_addresses: Mapping[str, str]
    """Name of each node -> its address."""
    relay_image: str
    """An image with rtpengine as its entrypoint, for pods with ``imagePullPolicy: IfNotPresent``."""

    _kubectl: Kubectl

    def kubectl(self, *args: str, stdin: str | None = None, timeout: float = 60.0) -> str:
        """Run kubectl as administrator and return what it writes.

        Raises:
            KubectlError: It failed, or did not end within ``timeout`` seconds.
        """
        return self._kubectl(*args, stdin=stdin, timeout=timeout)

    def get(self, *args: str, timeout: float = 60.0) -> Any:
        """What ``kubectl get ARGS -o json`` gives, parsed."""
        return json.loads(self.kubectl("get", *args, "-o", "json", timeout=timeout))

    def apply(self, *manifests: Mapping[str, Any]) -> None:
        """Server-side apply of manifests, of any kinds."""
        items = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(items))

    @property
    @abstractmethod
    def enter(self) -> list[str]:
        """The words to put before a command that shall reach pods; none where this machine reaches them."""

    @abstractmethod
    def inside(self) -> AbstractContextManager[None]:
        """Take the calling thread where it reaches pods and API server; sockets made meanwhile stay there for good."""

    def run_in_lab_netns(
        self,
        command: Sequence[str | Path],
        *,
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a program where it reaches pods and API server. The caller ends it."""
        words = [*self.enter, *(str(word) for word in command)]
        return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env=env, cwd=cwd)

    # Lab only.

    def cut_node(self, name: str) -> None:
        """Cut a node from the network; its pods live on unheard. NotReady 20 s later."""
        raise LabOnlyError("cut_node")

    def join_node(self, name: str) -> None:
        """Undo ``cut_node``."""
        raise LabOnlyError("join_node")

    def cut_apiserver(self, *, frozen: bool = False) -> None:
        """Take the API away: connections are refused, or with ``frozen`` they hang."""
        raise LabOnlyError("cut_apiserver")

    def restore_apiserver(self) -> None:
        """Undo ``cut_apiserver`` and wait until the API serves."""
        raise LabOnlyError("restore_apiserver")

    def load_image(self, archive: Path) -> None:
        """Put the image of an OCI or docker archive on each node."""
        raise LabOnlyError("load_image")

    def container_pid(self, node: str, pod: str, container: str, *, namespace: str = "default") -> int:
        """The main process of a container, as a process of this machine."""
        raise LabOnlyError("container_pid")

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
        raise LabOnlyError("kill_container")

    def save_logs(self, target: Path) -> None:
        """Copy the logs of the cluster's programs, for someone who looks at a failure."""
        raise LabOnlyError("save_logs")


class ExternalCluster(Cluster):
    """The cluster that ``KUBECONFIG`` names. Pods must be reachable from this machine."""

    def __init__(self, kubeconfig: Path, relay_image: str) -> None:
        self.kubeconfig, self.relay_image = kubeconfig, relay_image
        found = shutil.which("kubectl")
        program = Path(found) if found else binaries.provide(["kubectl"])["kubectl"]
        self._kubectl = Kubectl(program, kubeconfig)
        self.apiserver_url = self.kubectl("config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}")
        self.node_addresses = {
            node["metadata"]["name"]: address["address"]
            for node in self.get("nodes")["items"]
            for address in node["status"]["addresses"]
            if address["type"] == "InternalIP"
        }

    @classmethod
    def from_environment(cls) -> ExternalCluster | None:
        """The cluster of ``KUBECONFIG``; None where it is not set. ``KEDGE_RELAY_IMAGE`` names the relay's image."""
        named = os.environ.get("KUBECONFIG")
        if not named:
            return None
        return cls(Path(named), os.environ.get("KEDGE_RELAY_IMAGE", "kedge-rtpengine:latest"))

    @property
    def enter(self) -> list[str]:
        """Nothing: this machine is where it reaches pods."""
        return []

    def inside(self) -> AbstractContextManager[None]:
        """Stay here: this machine reaches pods."""
        return nullcontext()
