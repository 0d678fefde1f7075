"""The inventory against a real API server; the test plays the kubelet."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.background import Background
from tests.cluster.conftest import BROKEN_TLS, Namespace
from tests.lab.daemons import wait_until

from kedge.adapters.kube_client import KubeClient
from kedge.adapters.kube_inventory import KubeInventory
from kedge.relay.model import Intent, InventorySnapshot, RelayDescription

pytestmark = BROKEN_TLS

LABELS = {"kedge.media/relayset": "voice"}


class Published:
    """All snapshots that were published."""

    def __init__(self) -> None:
        self.all: list[InventorySnapshot] = []
        self._lock = threading.Lock()

    def __call__(self, snapshot: InventorySnapshot) -> None:
        with self._lock:
            self.all.append(snapshot)

    def relay(self, name: str) -> RelayDescription | None:
        return next((one for one in self.all[-1].relays if one.name == name), None) if self.all else None

    def until(self, true: Callable[[InventorySnapshot], bool], what: str) -> InventorySnapshot:
        wait_until(lambda: bool(self.all) and true(self.all[-1]), what, timeout=30)
        return self.all[-1]


@contextmanager
def watching(namespace: Namespace, directory: Path) -> Iterator[Published]:
    published = Published()
    client = KubeClient(namespace.kubeconfig("signaling", directory))
    inventory = KubeInventory(client, namespace=namespace.name)
    with Background(lambda: inventory.run(published), client.close):
        yield published


def create(namespace: Namespace, name: str = "voice", **spec: Any) -> None:
    namespace.create(
        {
            "apiVersion": "kedge.media/v1alpha1",
            "kind": "RelaySet",
            "metadata": {"name": name},
            "spec": {"engine": "RTPEngine", **spec},
        }
    )


def test_pods_of_a_relay_set_are_relays(namespace: Namespace, tmp_path: Path) -> None:
    create(namespace, replicas=2, control={"port": 2300}, health={"interval": "200ms"})
    pod = namespace.relay_pod("r1", LABELS, "192.0.2.11")

    with watching(namespace, tmp_path) as published:
        first = published.until(lambda one: len(one.relays) == 1, "the pod is told")
        namespace.relay_pod("r2", LABELS, "192.0.2.12", ready=False)
        second = published.until(lambda one: len(one.relays) == 2, "the other too")

    assert first.relay_sets[0].key == f"{namespace.name}/voice"
    assert first.relay_sets[0].health.interval == 0.2
    relay = first.relays[0]
    assert (relay.uid, relay.name, relay.node) == (pod["metadata"]["uid"], "r1", "node-a")
    assert relay.control == ("192.0.2.11", 2300)
    assert [one.backend_ready for one in second.relays] == [True, False]


def test_a_pod_that_is_deleted_is_to_be_drained_until_it_is_gone(namespace: Namespace, tmp_path: Path) -> None:
    create(namespace, replicas=2)
    namespace.relay_pod("r1", LABELS, "192.0.2.11")
    with watching(namespace, tmp_path) as published:
        published.until(lambda one: len(one.relays) == 1, "the pod is told")

        namespace("delete", "pod", "r1", "--wait=false", "--grace-period=60")
        deleted = published.until(lambda one: one.relays[0].intent is Intent.DRAIN, "its end is told")
        namespace("delete", "pod", "r1", "--force", "--grace-period=0")
        published.until(lambda one: one.relays == (), "it is gone")

    assert deleted.relays[0].backend_ready


@pytest.mark.parametrize(("annotation", "intent"), [("drain", Intent.DRAIN), ("cordon", Intent.CORDON)])
def test_an_annotation_is_an_intent(namespace: Namespace, tmp_path: Path, annotation: str, intent: Intent) -> None:
    create(namespace, replicas=1)
    namespace.relay_pod("r1", LABELS, "192.0.2.11")
    with watching(namespace, tmp_path) as published:
        published.until(lambda one: len(one.relays) == 1, "the pod is told")

        namespace("annotate", "pod", "r1", f"kedge.media/{annotation}=true")
        published.until(lambda one: one.relays[0].intent is intent, "the wish is told")
        namespace("annotate", "pod", "r1", f"kedge.media/{annotation}-")
        published.until(lambda one: one.relays[0].intent is Intent.SERVE, "and taken back")


def test_pods_of_others_and_endpoints_are_relays_too(namespace: Namespace, tmp_path: Path) -> None:
    namespace.relay_pod("theirs", {"app": "rtpengine"}, "192.0.2.21")
    with watching(namespace, tmp_path) as published:
        published.until(lambda one: one.relays == (), "nothing is there")

        create(namespace, "selected", selector={"matchLabels": {"app": "rtpengine"}})
        create(namespace, "outside", endpoints=[{"name": "e1", "address": "192.0.2.31", "port": 2225}])
        both = published.until(lambda one: len(one.relays) == 2, "both are told")
        namespace("delete", "relayset", "outside")
        published.until(lambda one: len(one.relay_sets) == 1, "one is gone")

    found = {one.name: (one.relay_set, one.control) for one in both.relays}
    assert found["theirs"] == (f"{namespace.name}/selected", ("192.0.2.21", 2223))
    assert found["e1"] == (f"{namespace.name}/outside", ("192.0.2.31", 2225))


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "crashed"])
def test_while_the_api_server_is_away_nothing_is_told_and_then_what_changed(
    namespace: Namespace, tmp_path: Path, frozen: bool
) -> None:
    create(namespace, replicas=2)
    namespace.relay_pod("r1", LABELS, "192.0.2.11")
    with watching(namespace, tmp_path) as published:
        published.until(lambda one: len(one.relays) == 1, "the pod is told")
        before = len(published.all)

        namespace.server.cut(frozen=frozen)
        namespace.server.restore()
        while_away = len(published.all)
        namespace.relay_pod("r2", LABELS, "192.0.2.12")
        after = published.until(lambda one: len(one.relays) == 2, "the new pod is told")

    assert while_away == before
    assert [one.name for one in after.relays] == ["r1", "r2"]
