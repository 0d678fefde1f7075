"""What the cluster tests share."""

from __future__ import annotations

import gc
import json
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.lab.control_plane import ApiServer
from tests.lab.daemons import wait_until
from tests.lab.errors import KubectlError
from tests.lab.fixtures import apiserver, lab, own_lab, shared_lab

__all__ = ["apiserver", "lab", "own_lab", "shared_lab"]

BROKEN_TLS = pytest.mark.filterwarnings(
    r"ignore:Exception ignored in. <(function _(Selector|SSLProtocol)Transport.__del__|socket.socket)"
    ":pytest.PytestUnraisableExceptionWarning"
)
"""CPython 3.11 leaves the socket of a TLS connection to the garbage collector when the other side breaks off the
handshake, and when the loop ends before the farewell is answered; neither is in our hands where kopf is the client."""
ROOT = Path(__file__).parents[2]
CRDS, RBAC = ROOT / "crds", ROOT / "manifests" / "rbac.yaml"


class Namespace:
    """A namespace of one test's own in the lone API server, and kubectl in it."""

    def __init__(self, server: ApiServer) -> None:
        self.server = server
        self.name = f"test-{secrets.token_hex(4)}"

    def __call__(self, *args: str, stdin: str | None = None) -> str:
        return self.server.kubectl(f"--namespace={self.name}", *args, stdin=stdin)

    def kubeconfig(self, role: str, directory: Path) -> str:
        """Return the path of a kubeconfig with no more rights than ``manifests/rbac.yaml`` gives to a role."""
        config = json.loads(self.server.kubeconfig.read_text())
        config["users"][0]["user"] = {"token": self("create", "token", f"kedge-{role}")}
        path = directory / f"{role}.kubeconfig"
        path.write_text(json.dumps(config))
        return str(path)

    def create(self, manifest: dict[str, Any]) -> dict[str, Any]:
        created: dict[str, Any] = json.loads(self("create", "-f", "-", "-o", "json", stdin=json.dumps(manifest)))
        return created

    def get(self, kind: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self("get", kind, name, "-o", "json"))
        return found

    def list(self, kind: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = json.loads(self("get", kind, "-o", "json"))["items"]
        return items

    def patch(self, kind: str, name: str, patch: dict[str, Any], *flags: str) -> None:
        self("patch", kind, name, "--type=merge", "-p", json.dumps(patch), *flags)

    def patch_status(self, kind: str, name: str, status: dict[str, Any]) -> None:
        self.patch(kind, name, {"status": status}, "--subresource=status")

    def relay_pod(self, name: str, labels: dict[str, str], ip: str, *, ready: bool = True) -> dict[str, Any]:
        """A pod as a kubelet would have started it; there is none here."""
        self.create(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "labels": labels},
                "spec": {"nodeName": "node-a", "containers": [{"name": "relay", "image": "relay"}]},
            }
        )
        condition = {"type": "Ready", "status": "True" if ready else "False"}
        self.patch_status("pod", name, {"phase": "Running", "podIP": ip, "conditions": [condition]})
        return self.get("pod", name)

    def until(self, true: Callable[[], bool], what: str) -> None:
        """Wait until something is so; an object that is not there yet counts as no."""

        def holds() -> bool:
            try:
                return true()
            except (KubectlError, KeyError, IndexError):
                return False

        wait_until(holds, what, timeout=30)


@pytest.fixture(scope="session")
def crds(apiserver: ApiServer) -> ApiServer:
    """The lone API server with Kedge's kinds."""
    kubectl = apiserver.kubectl
    names = ("relaysets.kedge.media", "calls.kedge.media")
    kubectl("apply", "--server-side", "-f", str(CRDS))

    def served() -> bool:
        try:  # a CRD of this very moment has no conditions yet, which kubectl does not wait for
            kubectl("wait", "--for=condition=Established", "--timeout=30s", *(f"crd/{one}" for one in names))
            kubectl("get", "relaysets,calls", "--all-namespaces")
        except KubectlError:
            return False
        return True

    wait_until(served, "both kinds are served", timeout=30)
    return apiserver


@pytest.fixture
def namespace(crds: ApiServer) -> Iterator[Namespace]:
    """A namespace of the test's own."""
    made = Namespace(crds)
    crds.kubectl("create", "namespace", made.name)
    made("apply", "-f", str(RBAC))
    yield made
    gc.collect()  # what is left unclosed shall be told of this test, not of a later one
    crds.kubectl("delete", "relaysets,calls", "--all", f"--namespace={made.name}")
    crds.kubectl("delete", "namespace", made.name, "--wait=false")
