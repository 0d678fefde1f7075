"""A RelaySet in a cluster with nodes: real rtpengine pods, under the strictest of the pod security standards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.cluster.background import Background
from tests.cluster.conftest import BROKEN_TLS, CRDS
from tests.cluster.test_inventory import Published
from tests.cluster.test_lab import answers
from tests.lab import Cluster
from tests.lab.daemons import wait_until

from kedge.adapters.kube_client import KubeClient
from kedge.adapters.kube_inventory import KubeInventory
from kedge.controller.manifests import ManifestSettings
from kedge.controller.operator import Operator, OperatorSettings
from kedge.ports.records import SignalingSnapshot
from kedge.relay.model import Intent

pytestmark = BROKEN_TLS

NAMESPACE = "relay-pods"


class SilentView:
    """Signaling that has nothing to tell."""

    async def snapshots(self) -> tuple[SignalingSnapshot, ...]:
        return ()


class Pods:
    """The cluster, an operator and an inventory in it, and kubectl in the namespace of this module."""

    def __init__(self, cluster: Cluster, published: Published) -> None:
        self.cluster = cluster
        self.published = published

    def kubectl(self, *args: str, stdin: str | None = None) -> str:
        return self.cluster.kubectl(f"--namespace={NAMESPACE}", *args, stdin=stdin)

    def get(self, kind: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.cluster.get(f"--namespace={NAMESPACE}", kind, name)
        return found


@pytest.fixture(scope="module")
def pods(lab: Cluster) -> Iterator[Pods]:
    lab.kubectl("apply", "--server-side", "-f", str(CRDS))
    lab.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd/relaysets.kedge.media")
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    lab.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}})
    published = Published()
    inventory_client = KubeClient(str(lab.kubeconfig))
    inventory = KubeInventory(inventory_client, namespace=NAMESPACE)
    manifests = ManifestSettings(image=lab.relay_image, signaling_labels={"app": "none"})
    operator = Operator(
        OperatorSettings(manifests=manifests, namespace=NAMESPACE), KubeClient(str(lab.kubeconfig)), SilentView()
    )

    # Threads that are started inside stay there, kopf's too.
    watching = Background(lambda: inventory.run(published), inventory_client.close, inside=lab.inside)
    with watching, Background(operator.run, inside=lab.inside):
        yield Pods(lab, published)
        lab.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def apply(pods: Pods, replicas: int) -> None:
    spec = {
        "engine": "RTPEngine",
        "replicas": replicas,
        "template": {"imagePullPolicy": "IfNotPresent"},
        "media": {"portRange": {"min": 16384, "max": 16583}},
    }
    manifest = {
        "apiVersion": "kedge.media/v1alpha1",
        "kind": "RelaySet",
        "metadata": {"name": "voice"},
        "spec": spec,
    }
    pods.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))


def serving(pods: Pods) -> list[str]:
    """Names of the relays that the inventory has as serving."""
    relays = pods.published.all[-1].relays if pods.published.all else ()
    return [one.name for one in relays if one.intent is Intent.SERVE and one.backend_ready]


def test_a_relay_set_becomes_relays_that_answer_on_nodes_of_their_own(pods: Pods) -> None:
    apply(pods, 2)

    wait_until(lambda: len(serving(pods)) == 2, "two relays serve", timeout=60)

    relays = pods.published.all[-1].relays
    assert len({one.node for one in relays}) == 2
    assert all(answers(pods.cluster, one.control[0], tries=25) for one in relays)
    status = pods.get("relayset", "voice")["status"]
    assert status["replicas"] == 2


def test_a_deleted_pod_answers_on_while_it_is_drained_and_is_replaced(pods: Pods) -> None:
    wait_until(lambda: len(serving(pods)) == 2, "two relays serve", timeout=60)
    name = serving(pods)[0]

    pods.kubectl("delete", "pod", name, "--wait=false")

    def draining() -> bool:
        relay = pods.published.relay(name)
        return relay is not None and relay.intent is Intent.DRAIN

    wait_until(draining, "its end is told", timeout=30)
    relay = pods.published.relay(name)
    assert relay is not None
    assert relay.backend_ready, "it is told before the pod is gone"
    assert answers(pods.cluster, relay.control[0], tries=5), "and it relays on until its calls have left"
    wait_until(lambda: len(serving(pods)) == 2 and name not in serving(pods), "another takes its place", timeout=60)


def test_a_pod_that_is_taken_away_at_once_is_gone_at_once(pods: Pods) -> None:
    wait_until(lambda: len(serving(pods)) == 2, "two relays serve", timeout=60)
    name = serving(pods)[0]

    pods.kubectl("delete", "pod", name, "--force", "--grace-period=0")

    wait_until(lambda: pods.published.relay(name) is None, "it is gone", timeout=30)
    wait_until(lambda: len(serving(pods)) == 2, "another takes its place", timeout=60)


def test_a_set_is_scaled_by_its_scale(pods: Pods) -> None:
    wait_until(lambda: len(serving(pods)) == 2, "two relays serve", timeout=60)

    pods.kubectl("scale", "relayset", "voice", "--replicas=3")
    wait_until(lambda: len(serving(pods)) == 3, "a third one serves", timeout=60)
    pods.kubectl("scale", "relayset", "voice", "--replicas=1")
    wait_until(lambda: len(serving(pods)) == 1, "one serves", timeout=60)


def test_what_ran_the_relays_goes_with_their_set(pods: Pods) -> None:
    pods.kubectl("delete", "relayset", "voice")

    def gone() -> bool:
        left = pods.kubectl("get", "deployments,poddisruptionbudgets,networkpolicies", "-o", "name")
        return not left.strip()

    wait_until(gone, "all is collected", timeout=60)
