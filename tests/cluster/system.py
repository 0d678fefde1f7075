"""A whole Kedge in a real cluster: RelaySet by kubectl, relay pods by the operator, calls through the host's network.

Kedge runs as ``kedge run`` in the lab's network namespace, as a pod with host networking would, and with the rights of
``manifests/rbac.yaml``; phones stand beside it. Everything is ended by process id.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.kit.processes import dying_with_parent, end
from tests.lab import Lab

ROOT = Path(__file__).parents[2]
HOST = "192.0.2.1"
"""The lab's own address: where signaling and phones are (TEST-NET-1, inside the namespace only)."""
CALLER, CALLEE = "192.0.2.2", "192.0.2.3"
"""Where phones are: further addresses of the lab, as relay pods must reach them."""


class KedgeInCluster:
    """``kedge run`` against the lab, in a namespace of its own. A context manager."""

    def __init__(self, lab: Lab, folder: Path, *, callee: tuple[str, int], sip_port: int) -> None:
        self.lab = lab
        self.folder = folder
        self.namespace = f"voice-{secrets.token_hex(3)}"
        self.sip = (HOST, sip_port)
        self.admin = (HOST, sip_port + 1)
        self._callee = callee
        self._token = secrets.token_hex(16)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Create the namespace with CRDs and rights, and start Kedge."""
        for address in (CALLER, CALLEE):
            self._ip("addr", "replace", f"{address}/32", "dev", "lo")
        self.lab.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
        self.lab.kubectl("create", "namespace", self.namespace)
        self.kubectl("apply", "-f", str(ROOT / "manifests" / "rbac.yaml"))
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End Kedge and delete the namespace with all that is in it; see that it had a right to all that it asked."""
        if error is not None:
            error.add_note(f"Kedge's log ends with:\n{self.log[-6000:]}")
        self.stop()
        refused = self.lab.refused(self.namespace)
        self.lab.kubectl("delete", "namespace", self.namespace, "--wait=false")
        assert error is not None or not refused, refused

    def _ip(self, *args: str) -> None:
        assert self.lab.run_in_lab_netns(["ip", *args]).wait(10) == 0, args

    def start(self) -> None:
        """Start ``kedge run`` and wait until it is ready."""
        (self.folder / "token").write_text(self._token)
        settings = self.folder / "settings.yaml"
        settings.write_text(json.dumps(self._settings()))
        command = [
            sys.executable, "-m", "kedge.cli.main", "run", "--settings", str(settings), "--kubeconfig",
            str(self._kubeconfig()), "--namespace", self.namespace, "--relay-image", self.lab.relay_image,
            "--signaling-network", f"{HOST}/32",
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "operator")}
        with (self.folder / "kedge.log").open("ab") as log:
            self._process = self.lab.run_in_lab_netns(
                dying_with_parent(command), stdout=log, stderr=log, env=environment, cwd=ROOT
            )
        self.until(lambda: self.ask("GET", "/healthz")[0] == 200, "kedge run is alive")

    def stop(self, *, kill: bool = False) -> None:
        """End it, in order or by SIGKILL."""
        if self._process is not None:
            if kill:
                self._process.kill()
            end(self._process, patience=15.0)
            self._process = None

    @property
    def log(self) -> str:
        """What it has logged."""
        path = self.folder / "kedge.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def kubectl(self, *args: str, stdin: str | None = None) -> str:
        """Run kubectl in Kedge's namespace."""
        return self.lab.kubectl(f"--namespace={self.namespace}", *args, stdin=stdin)

    def get(self, *args: str) -> Any:
        """Return what ``kubectl get`` says, as objects."""
        return json.loads(self.kubectl("get", *args, "-o", "json"))

    def apply(self, manifest: dict[str, Any]) -> None:
        """Apply a manifest as a person would."""
        self.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))

    def relay_set(self, name: str, replicas: int, **spec: Any) -> dict[str, Any]:
        """Return a RelaySet whose relays end quickly and are spread over the nodes."""
        return {
            "apiVersion": "kedge.media/v1alpha1", "kind": "RelaySet", "metadata": {"name": name},
            "spec": {
                "engine": "RTPEngine", "replicas": replicas, "records": {"after": "1s"},
                "media": {"portRange": {"min": 20000, "max": 22000}}, **spec,
            },
        }  # fmt: skip

    def status(self, name: str) -> dict[str, Any]:
        """Return a RelaySet's status."""
        status: dict[str, Any] = self.get("relayset", name).get("status", {})
        return status

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Ask Kedge's admin API; status 0 when it does not answer."""
        with self.lab.inside():
            connection = http.client.HTTPConnection(*self.admin, timeout=5)
            try:
                bearer = {"Authorization": f"Bearer {self._token}"}
                connection.request(method, path, None if body is None else json.dumps(body), bearer)
                response = connection.getresponse()
                data = response.read()
                kind = response.headers.get_content_type()
                return response.status, json.loads(data or b"null") if kind == "application/json" else data.decode()
            except OSError:
                return 0, None
            finally:
                connection.close()

    def snapshot(self) -> dict[str, Any]:
        """Return what signaling knows."""
        status, data = self.ask("GET", "/v1/snapshot")
        assert status == 200, (status, data)
        return dict(data)

    def until(self, holds: Callable[[], bool], what: str, *, within: float = 30.0) -> None:
        """Look ten times a second until something holds."""
        deadline = time.monotonic() + within
        while not holds():
            assert time.monotonic() < deadline, f"not within {within:g} s: {what}\n{self.log[-6000:]}"
            if self._process is not None:
                assert self._process.poll() is None, f"kedge run has ended: {self.log[-4000:]}"
            time.sleep(0.1)

    def wait_ready(self, name: str, relays: int) -> None:
        """Wait until this many relays are Ready, by signaling's word and by the status."""
        self.until(lambda: self.status(name).get("readyReplicas") == relays, f"{relays} ready replicas", within=60)

        def ready() -> bool:
            return sum(1 for one in self.snapshot()["relays"] if one["state"] == "Ready") == relays

        self.until(ready, f"{relays} relays are Ready for signaling")

    def _settings(self) -> dict[str, Any]:
        return {
            "sip": {"listen": [{"address": HOST, "port": self.sip[1]}]},
            "peers": [
                {"name": "callers", "networks": [f"{CALLER}/32"]},
                {"name": "callees", "networks": [f"{CALLEE}/32"]},
            ],
            "routes": [
                {
                    "name": "trunk", "match": {"peer": "callers"}, "relaySet": "voice",
                    "nextHops": [{"address": self._callee[0], "port": self._callee[1]}],
                }
            ],
            "admin": {
                "address": self.admin[0], "port": self.admin[1], "tokenFile": str(self.folder / "token"),
            },
            "metrics": {"address": self.admin[0], "port": self.admin[1]},
            "signaling": {"replica": "kedge-0", "shutdownGrace": "0s"},
        }  # fmt: skip

    def _kubeconfig(self) -> Path:
        """Return a kubeconfig with the rights of both roles and no more."""
        self.kubectl("apply", "-f", "-", stdin=json.dumps(self._binding()))
        config = json.loads(self.lab.kubectl("config", "view", "--raw", "-o", "json"))
        config["users"][0]["user"] = {"token": self.kubectl("create", "token", "kedge-operator").strip()}
        path = self.folder / "kubeconfig"
        path.write_text(json.dumps(config))
        return path

    def _binding(self) -> dict[str, Any]:
        """Give the operator's account signaling's role as well: ``kedge run`` is both."""
        return {
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "kedge-both"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "kedge-signaling"},
            "subjects": [{"kind": "ServiceAccount", "name": "kedge-operator", "namespace": self.namespace}],
        }  # fmt: skip
