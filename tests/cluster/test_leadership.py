"""Two ``kedge operator`` processes against a real API server: one acts. Killed, frozen, told to end, cut off."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.conftest import ROOT, Namespace
from tests.kit.processes import dying_with_parent, end

LEASE = "kedge-operator"
TIMES = {"leaseDuration": "3s", "renewDeadline": "2s", "retry": "400ms"}


class OperatorProcess:
    """One ``kedge operator`` with the rights of its role and no more."""

    def __init__(self, namespace: Namespace, name: str, directory: Path) -> None:
        self.namespace, self.name = namespace, name
        self._log = directory / f"{name}.log"
        settings = directory / f"{name}.yaml"
        content = {"signaling": {"replica": name}, "metrics": None, "kube": {"leadership": TIMES}}
        settings.write_text(json.dumps(content))
        command = [
            sys.executable, "-m", "kedge.cli.main", "operator", "--settings", str(settings),
            "--kubeconfig", namespace.kubeconfig("operator", directory), "--namespace", namespace.name,
            "--relay-image", f"relay:{name}",
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "operator")}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                dying_with_parent(command), stdout=log, stderr=log, env=environment, cwd=ROOT
            )

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def leads(self) -> bool:
        return holder(self.namespace) == self.name


def lease(namespace: Namespace) -> dict[str, Any]:
    spec: dict[str, Any] = namespace.get("lease", LEASE)["spec"]
    return spec


def holder(namespace: Namespace) -> str:
    """The name of who holds the Lease, without what makes it unique."""
    return str(lease(namespace).get("holderIdentity") or "").partition("_")[0]


def relay_set(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "kedge.media/v1alpha1", "kind": "RelaySet", "metadata": {"name": name},
        "spec": {"engine": "RTPEngine", "replicas": 1},
    }  # fmt: skip


@pytest.fixture
def two(namespace: Namespace, tmp_path: Path) -> Iterator[tuple[OperatorProcess, OperatorProcess]]:
    """A leader, and another that stands by."""
    with contextlib.ExitStack() as stack:
        first = OperatorProcess(namespace, "op-a", tmp_path)
        stack.callback(end, first.process, patience=15.0)
        namespace.until(first.leads, "the first operator leads")
        second = OperatorProcess(namespace, "op-b", tmp_path)
        stack.callback(end, second.process, patience=15.0)
        namespace.until(lambda: "the operator serves namespace" in second.log, "the second operator stands by")
        yield first, second


def image(namespace: Namespace, name: str) -> str:
    spec = namespace.get("deployment", f"{name}-relay")["spec"]["template"]["spec"]
    return str(spec["containers"][0]["image"])


def took_over(namespace: Namespace, second: OperatorProcess) -> None:
    """Wait until the second leads, and has applied what a new RelaySet needs."""
    namespace.until(second.leads, "the second operator leads")
    namespace.create(relay_set("later"))
    namespace.until(lambda: image(namespace, "later") == "relay:op-b", "the second operator acts")


def test_the_other_acts_after_the_leader_was_killed(
    namespace: Namespace, two: tuple[OperatorProcess, OperatorProcess]
) -> None:
    first, second = two
    namespace.create(relay_set("voice"))
    namespace.until(lambda: image(namespace, "voice") == "relay:op-a", "the first operator acts")

    first.process.kill()
    took_over(namespace, second)

    assert lease(namespace)["leaseTransitions"] == 1
    assert "leading as op-b" in second.log


def test_the_other_leads_at_once_when_the_leader_ends_in_order(
    namespace: Namespace, two: tuple[OperatorProcess, OperatorProcess]
) -> None:
    first, second = two

    first.process.terminate()
    assert first.process.wait(20) == 0
    took_over(namespace, second)
    second.process.terminate()
    assert second.process.wait(20) == 0

    assert holder(namespace) == ""


def test_a_leader_that_was_frozen_finds_that_it_leads_no_more(
    namespace: Namespace, two: tuple[OperatorProcess, OperatorProcess]
) -> None:
    first, second = two
    first.process.send_signal(signal.SIGSTOP)
    took_over(namespace, second)

    first.process.send_signal(signal.SIGCONT)
    namespace.until(lambda: "no longer leading" in first.log, "the first operator has noticed")
    namespace.create(relay_set("latest"))
    namespace.until(lambda: image(namespace, "latest") == "relay:op-b", "the second operator still acts")

    assert holder(namespace) == "op-b"
    assert image(namespace, "later") == "relay:op-b"


def test_one_leads_again_after_the_api_server_was_away(
    namespace: Namespace, two: tuple[OperatorProcess, OperatorProcess]
) -> None:
    first, second = two

    namespace.server.cut(frozen=True)
    try:
        deadline = time.monotonic() + 30
        while "no longer leading" not in first.log:
            assert time.monotonic() < deadline, first.log
            time.sleep(0.05)
    finally:
        namespace.server.restore()
    namespace.until(lambda: holder(namespace) in ("op-a", "op-b"), "one holds the Lease")
    namespace.create(relay_set("later"))
    namespace.until(lambda: bool(image(namespace, "later")), "one acts")

    assert first.process.poll() is second.process.poll() is None
