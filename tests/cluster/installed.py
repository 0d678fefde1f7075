"""Kedge as a platform engineer has it: installed by Helm from the lab's images, in a namespace of its own."""

from __future__ import annotations

import base64
import http.client
import json
import math
import os
import secrets
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tests.cluster.system import CALLEE, CALLER, ROOT
from tests.lab import Lab, binaries, images
from tests.lab.errors import KubectlError

CHART: Final = ROOT / "charts" / "kedge"
RELEASE: Final = "kedge"
SIP_PORT: Final = 5060
ADMIN_PORT: Final = 8080
TEST_NUMBER: Final = "88100"
"""Calls to it go to a callee of their own, which sends audio back."""
ECHO: Final = (CALLEE, 5090)

SIGNALING_NODE: Final = "example.com/signaling"
"""Label of the nodes whose addresses trunks are pointed at."""

ARCHIVES: Final = "KEDGE_ARCHIVES"
"""A folder that `ARCHIVES=FOLDER scripts/images.sh` saved images to: they are installed instead of the lab's own."""

Values = dict[str, Any]


class HelmError(AssertionError):
    """Helm failed; what it wrote follows."""


class InstalledKedge:
    """A release of the chart, and questions to it. A context manager: leaving it deletes the namespace."""

    def __init__(self, lab: Lab, *, callee: tuple[str, int], pod_security: str = "privileged") -> None:
        self.lab = lab
        self.namespace = f"kedge-{secrets.token_hex(3)}"
        self._callee = callee
        self._pod_security = pod_security
        self._tokens: dict[str, str] = {}
        self._uninstalled = math.inf
        self._nodes = sorted(lab.node_addresses)[:2]
        built = ARCHIVES in os.environ
        self.image = "localhost/kedge:dev" if built else images.KEDGE
        self.relay_image = "localhost/kedge-rtpengine:dev" if built else lab.relay_image

    def __enter__(self) -> Self:
        """Create the namespace; give the lab the image, and the addresses of the phones."""
        self._provide_images()
        for address in (CALLER, CALLEE):
            assert self.lab.run_in_lab_netns(["ip", "addr", "replace", f"{address}/32", "dev", "lo"]).wait(10) == 0
        self.lab.kubectl("label", "--overwrite", "node", *self._nodes, f"{SIGNALING_NODE}=yes")
        labels = {"pod-security.kubernetes.io/enforce": self._pod_security}
        self.lab.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace, "labels": labels}}
        )
        return self

    def _provide_images(self) -> None:
        """Have the images on all nodes."""
        if ARCHIVES not in os.environ:
            self.lab.load_image(images.build(images.KEDGE))
            return
        for archive in sorted(Path(os.environ[ARCHIVES]).glob("*.tar")):
            self.lab.load_image(archive)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Delete the namespace, and wait until its pods have left the nodes; the rest goes by itself.

        First see that Kedge had a right to all that it asked of the API server.
        """
        refused = self.lab.refused(self.namespace, before=self._uninstalled)
        # Namespaces are emptied after some seconds only: what makes pods is deleted here.
        self.kubectl("delete", "relaysets,deployments,pods", "--all", "--wait=false")
        self.lab.kubectl("delete", "namespace", self.namespace, "--wait=false")
        self.until(lambda: not self.get("pods")["items"], "no pod is left", within=120)
        assert kind is not None or not refused, refused

    def helm(self, *words: str, values: Values | None = None, timeout: float = 120.0) -> str:
        """Run Helm on the release; ``values`` are given by standard input.

        Raises:
            HelmError: It failed.
        """
        command = [*self.lab.enter, str(binaries.helm()), f"--kubeconfig={self.lab.kubeconfig}"]
        command += [f"--namespace={self.namespace}", *words]
        if values is not None:
            command += ["--values=-"]
        if words[0] == "uninstall":
            self._uninstalled = time.time()  # its roles may be gone before its pods are
        # Its caches belong to nobody's home.
        places = {name: str(self.lab.directory / "helm") for name in ("HELM_CACHE_HOME", "HELM_CONFIG_HOME")}
        done = subprocess.run(
            command, check=False, input=json.dumps(values or {}), capture_output=True, text=True, timeout=timeout,
            env={**os.environ, **places},
        )  # fmt: skip
        if done.returncode:
            raise HelmError(f"helm {' '.join(words)}: {done.stderr}\n{self.story()}")
        return done.stdout

    def values(self, **more: Any) -> Values:
        """Return values for the lab: its images, its phones as peers, and what a small machine can give."""
        repository, _, tag = self.image.rpartition(":")
        small = {"resources": {"requests": {"cpu": "10m", "memory": "64Mi"}}}
        peers = [
            {"name": "callers", "networks": [f"{CALLER}/32"]},
            {"name": "callees", "networks": [f"{CALLEE}/32"]},
            {"name": "cluster", "networks": ["192.0.2.0/24"]},
        ]
        return {
            "image": {"repository": repository, "tag": tag},
            "relays": {"image": self.relay_image, "signalingNetworks": ["192.0.2.0/24"]},
            "settings": {
                "peers": peers,
                "signaling": {"shutdownGrace": "1s"},
                "routes": [self._route("callers", self._callee), self._route("cluster", ECHO)],
            },
            "operator": {**small},
            "signaling": {"nodeSelector": {SIGNALING_NODE: "yes"}},
            "test": {"host": self.nodes()[0], "call": {"number": TEST_NUMBER, "seconds": 1}},
            **more,
        }

    def _route(self, peer: str, to: tuple[str, int]) -> Values:
        return {
            "name": f"from-{peer}", "match": {"peer": peer}, "relaySet": "voice",
            "nextHops": [{"address": to[0], "port": to[1]}],
        }  # fmt: skip

    def leader(self) -> dict[str, Any]:
        """Return the pod of the operator that leads, by the Lease."""
        holder = self.get("lease", "kedge-operator")["spec"].get("holderIdentity") or ""
        found = [one for one in self.pods("operator") if holder.startswith(one["metadata"]["name"])]
        return found[0]

    def nodes(self) -> list[str]:
        """Return the addresses of the nodes for signaling; a signaling pod with host network has one of them."""
        return [self.lab.node_addresses[name] for name in self._nodes]

    def kubectl(self, *args: str, stdin: str | None = None) -> str:
        """Run kubectl in the namespace, as administrator."""
        return self.lab.kubectl(f"--namespace={self.namespace}", *args, stdin=stdin)

    def get(self, *args: str) -> Any:
        """Return what ``kubectl get`` says, as objects."""
        return json.loads(self.kubectl("get", *args, "-o", "json"))

    def relay_set(self, replicas: int, *, spec: Values | None = None, **template: Any) -> None:
        """Apply the RelaySet of the routes; ``template`` is what its pods shall have beside the operator's own."""
        manifest = {
            "apiVersion": "kedge.media/v1alpha1", "kind": "RelaySet", "metadata": {"name": "voice"},
            "spec": {
                "engine": "RTPEngine", "replicas": replicas, "template": template, "records": {"after": "1s"},
                "drain": {"deadline": "10s"},
                "media": {"portRange": {"min": 20000, "max": 22000}}, **(spec or {}),
            },
        }  # fmt: skip
        self.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))

    def pods(self, component: str) -> list[dict[str, Any]]:
        """Return the pods of a component that are not on their way out."""
        selector = f"--selector=app.kubernetes.io/name=kedge,app.kubernetes.io/component={component}"
        items: list[dict[str, Any]] = self.get("pods", selector)["items"]
        return [one for one in items if "deletionTimestamp" not in one["metadata"]]

    def snapshot(self, address: str) -> dict[str, Any]:
        """Return what the signaling pod at ``address`` knows; nothing while it does not answer."""
        try:
            return dict(self.ask(address, "/v1/snapshot"))
        except OSError:
            return {"relays": [], "calls": []}

    def ask(self, address: str, path: str) -> Any:
        """Return what the admin API of the signaling pod at ``address`` answers to a GET."""
        bearer = {"Authorization": f"Bearer {self.token('admin')}"}
        with self.lab.inside():
            connection = http.client.HTTPConnection(address, ADMIN_PORT, timeout=5)
            try:
                connection.request("GET", path, headers=bearer)
                response = connection.getresponse()
                text = response.read().decode()
                assert response.status == 200, text
                return json.loads(text)
            finally:
                connection.close()

    def token(self, scope: str) -> str:
        """Return the token of a scope, ``admin`` or ``report``, from its Secret."""
        if scope not in self._tokens:
            data = self.get("secret", f"{RELEASE}-{scope}-token")["data"]["token"]
            self._tokens[scope] = base64.b64decode(data).decode().strip()
        return self._tokens[scope]

    def ready_relays(self, address: str) -> int:
        """Return how many relays are Ready in the eyes of a signaling pod."""
        return sum(1 for one in self.snapshot(address)["relays"] if one["state"] == "Ready")

    def until(self, holds: Callable[[], bool], what: str, *, within: float = 60.0) -> None:
        """Look five times a second until something holds."""
        deadline = time.monotonic() + within
        while trouble := _trouble(holds):
            assert time.monotonic() < deadline, f"not within {within:g} s: {what} ({trouble})\n{self.story()}"
            time.sleep(0.2)

    def story(self) -> str:
        """Return what the pods are and what those of Kedge have logged."""
        parts = []
        for words in (
            ["get", "pods", "-o", "wide"],
            ["get", "relaysets", "-o", "yaml"],
            ["get", "events", "--sort-by=.lastTimestamp"],
            ["logs", "--selector=app.kubernetes.io/name=kedge", "--tail=40", "--prefix"],
        ):
            try:
                parts.append(self.kubectl(*words)[-6000:])
            except KubectlError as error:
                parts.append(str(error))
        return "\n".join(parts)


def _trouble(holds: Callable[[], bool]) -> str:
    """Why it does not hold, empty when it does; what is not there yet does not."""
    try:
        return "" if holds() else "no"
    except (KubectlError, KeyError, IndexError) as error:
        return repr(error)
