"""``kubectl kedge``, found and run by a real kubectl; the API server checks and stores what it writes."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
from tests.cluster.conftest import ROOT, Namespace

LABELS = {"kedge.media/relayset": "voice"}


class Plugin:
    """kubectl with the plugin in its path, and a kubeconfig by the environment, as people have it."""

    def __init__(self, namespace: Namespace, directory: Path) -> None:
        program = directory / "kubectl-kedge"
        run = "from kedge.cli.main import kubectl_plugin; kubectl_plugin()"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{run}" "$@"\n')
        program.chmod(0o755)
        self._kubectl = namespace.server.kubectl.command[0]
        self._namespace = namespace.name
        self._environment = {
            **os.environ, "PATH": f"{directory}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT / "operator"),
            "KUBECONFIG": str(namespace.server.kubeconfig),
        }  # fmt: skip

    def __call__(self, *words: str, status: int = 0) -> str:
        command = [self._kubectl, "kedge", *words, "-n", self._namespace]
        done = subprocess.run(command, capture_output=True, text=True, env=self._environment, timeout=60, check=False)
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr


@pytest.fixture
def kedge(namespace: Namespace, tmp_path: Path) -> Plugin:
    namespace.create(
        {
            "apiVersion": "kedge.media/v1alpha1",
            "kind": "RelaySet",
            "metadata": {"name": "voice"},
            "spec": {"engine": "RTPEngine", "replicas": 2},
        }
    )
    namespace.relay_pod("relay-a", LABELS, "10.0.0.1")
    return Plugin(namespace, tmp_path)


def test_a_relay_is_drained_and_cordoned_by_its_pod(namespace: Namespace, kedge: Plugin) -> None:
    def noted() -> dict[str, str]:
        found: dict[str, str] = namespace.get("pod", "relay-a")["metadata"].get("annotations", {})
        return found

    assert kedge("drain", "relay-a").startswith("relay-a is being drained")
    kedge("cordon", "relay-a")
    both = noted()
    kedge("uncordon", "relay-a")

    assert both == {"kedge.media/drain": "true", "kedge.media/cordon": "true"}
    assert noted() == {}
    assert "there is no relay relay-z" in kedge("drain", "relay-z", status=1)


def test_a_relay_by_address_is_drained_in_the_spec(namespace: Namespace, kedge: Plugin) -> None:
    racks = [{"name": f"rack-{n}", "address": f"192.0.2.{n}"} for n in (1, 2)]
    namespace.create(
        {
            "apiVersion": "kedge.media/v1alpha1",
            "kind": "RelaySet",
            "metadata": {"name": "metal"},
            "spec": {"engine": "RTPEngine", "endpoints": racks},
        }
    )

    def intents() -> list[str]:
        return [one["intent"] for one in namespace.get("relayset", "metal")["spec"]["endpoints"]]

    kedge("drain", "rack-2")
    drained = intents()
    kedge("drain", "rack-2", "--undo")

    assert drained == ["Serve", "Drain"]
    assert intents() == ["Serve", "Serve"]


def test_waiting_for_a_drain_reads_the_status(namespace: Namespace, kedge: Plugin) -> None:
    namespace.patch_status("relayset", "voice", {"relays": [{"name": "relay-a", "state": "Draining", "sessions": 0}]})

    assert kedge("drain", "relay-a", "--wait") == "relay relay-a is drained: it has no calls\n"
    assert "Draining" in kedge("relays")


def test_a_rebalance_is_a_time_on_the_set(namespace: Namespace, kedge: Plugin) -> None:
    assert kedge("rebalance", "voice").startswith(f"{namespace.name}/voice is being rebalanced")

    noted = namespace.get("relayset", "voice")["metadata"]["annotations"]["kedge.media/rebalance"]
    assert datetime.fromisoformat(noted).tzinfo is not None


def test_a_call_is_moved_by_its_object(namespace: Namespace, kedge: Plugin) -> None:
    namespace.create(
        {
            "apiVersion": "kedge.media/v1alpha1",
            "kind": "Call",
            "metadata": {"name": "call-1", "labels": {"kedge.media/relay": "relay-b"}},
            "spec": {"relaySet": "voice", "relay": "relay-b"},
        }
    )

    assert "call-1" in kedge("calls", "--relay", "relay-b")
    kedge("move", "call-1", "relay-a")
    kedge("terminate", "call-1")

    spec = namespace.get("call", "call-1")["spec"]
    assert (spec["relay"], spec["state"]) == ("relay-a", "Terminated")
