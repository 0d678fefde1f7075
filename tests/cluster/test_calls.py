"""Call objects in a real API server: they come and go with calls, and wishes in them are seen."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.background import Background
from tests.cluster.conftest import BROKEN_TLS, Namespace
from tests.lab.daemons import wait_until

from kedge.adapters.kube_calls import KubeCallStore
from kedge.adapters.kube_client import KubeClient
from kedge.ports.ports import CallWish
from kedge.ports.records import AnchorRecord, CallRecord, CallState, Condition
from kedge.relay.model import RecordPolicy

pytestmark = BROKEN_TLS


def record(namespace: Namespace, call: str = "c1", relay: str = "r1") -> CallRecord:
    return CallRecord(
        id=call,
        relay_set=f"{namespace.name}/voice",
        relay=relay,
        relay_uid=f"uid-{relay}",
        state=CallState.ACTIVE,
        caller="sip:alice@192.0.2.1",
        callee="sip:bob@192.0.2.2",
        caller_peer="trunk",
        callee_peer="pbx",
        call_id="abc@192.0.2.1",
        started=time.time() - 60,
        answered=time.time() - 55,
        anchors=0,
    )


def moved(before: CallRecord, relay: str) -> CallRecord:
    anchor = AnchorRecord(
        source=before.relay,
        target=relay,
        reason="RelayDown",
        result="Moved",
        at=time.time(),
        duration=0.05,
        gap=0.123,
    )
    return replace(before, relay=relay, anchors=before.anchors + 1, last_anchor=anchor)


@contextmanager
def storing(
    namespace: Namespace, directory: Path, policy: RecordPolicy | None = None, wishes: list[CallWish] | None = None
) -> Iterator[KubeCallStore]:
    client = KubeClient(namespace.kubeconfig("signaling", directory))
    chosen = policy or RecordPolicy(after=0.0)
    store = KubeCallStore(client, namespace=namespace.name, replica="sig-0", policies=lambda key: chosen)
    seen = wishes if wishes is not None else []
    with Background(lambda: store.run(seen.append), client.close):
        yield store


def status(namespace: Namespace, call: str = "c1") -> dict[str, Any]:
    found: dict[str, Any] = namespace.get("call", call)["status"]
    return found


def test_a_call_object_comes_and_goes_with_its_call(namespace: Namespace, tmp_path: Path) -> None:
    with storing(namespace, tmp_path) as store:
        store.put(record(namespace))
        namespace.until(lambda: status(namespace)["state"] == "Active", "it is there")
        first = namespace.get("call", "c1")
        store.put(moved(record(namespace), "r2"))
        namespace.until(lambda: status(namespace)["anchors"] == 1, "its move is told")
        second = namespace.get("call", "c1")
        store.remove("c1")
        namespace.until(lambda: not namespace.list("calls"), "it is gone")

    assert first["spec"]["relay"] == "r1"
    assert first["metadata"]["labels"]["kedge.media/relay"] == "r1"
    assert first["status"]["from"] == "sip:alice@192.0.2.1"
    assert {one["type"]: one["status"] for one in first["status"]["conditions"]} == {
        "Movable": "True",
        "Anchored": "True",
    }
    assert second["spec"]["relay"] == second["status"]["relay"] == "r2"
    assert second["metadata"]["labels"]["kedge.media/relay"] == "r2"
    last = second["status"]["lastReanchor"]
    assert (last["from"], last["to"], last["gap"]) == ("r1", "r2", "123ms")


def test_a_patched_relay_is_a_wish_and_the_calls_own_move_is_none(namespace: Namespace, tmp_path: Path) -> None:
    wishes: list[CallWish] = []
    with storing(namespace, tmp_path, wishes=wishes) as store:
        store.put(record(namespace))
        namespace.until(lambda: status(namespace)["state"] == "Active", "it is there")
        store.put(moved(record(namespace), "r2"))
        namespace.until(lambda: status(namespace)["anchors"] == 1, "its move is told")

        namespace.patch("call", "c1", {"spec": {"relay": "r1"}})
        wait_until(lambda: len(wishes) == 1, "the way back is a wish", timeout=30)
        namespace.patch("call", "c1", {"spec": {"state": "Terminated"}})
        wait_until(lambda: len(wishes) == 2, "the end is a wish", timeout=30)

    assert wishes == [CallWish(call="c1", relay="r1"), CallWish(call="c1", terminate=True)]


def test_deleting_an_object_is_no_wish_and_it_comes_back(namespace: Namespace, tmp_path: Path) -> None:
    wishes: list[CallWish] = []
    with storing(namespace, tmp_path, wishes=wishes) as store:
        store.put(record(namespace))
        namespace.until(lambda: status(namespace)["state"] == "Active", "it is there")
        before = namespace.get("call", "c1")["metadata"]["uid"]

        namespace("delete", "calls", "--all")
        namespace.until(lambda: namespace.get("call", "c1")["metadata"]["uid"] != before, "it is there again")

    assert wishes == []


def test_what_an_earlier_run_left_is_removed_and_what_others_have_stays(namespace: Namespace, tmp_path: Path) -> None:
    with storing(namespace, tmp_path) as store:
        store.put(record(namespace, "left"))
        namespace.until(lambda: status(namespace, "left")["state"] == "Active", "it is there")
    others = namespace.get("call", "left")
    others["metadata"] = {"name": "others", "labels": {"kedge.media/replica": "sig-1"}}
    namespace.create(others)

    with storing(namespace, tmp_path):
        namespace.until(lambda: len(namespace.list("calls")) == 1, "the leftover is removed")

    assert namespace.list("calls")[0]["metadata"]["name"] == "others"


def test_objects_stay_within_the_budget_and_the_rest_is_told(namespace: Namespace, tmp_path: Path) -> None:
    with storing(namespace, tmp_path, RecordPolicy(after=0.0, max_objects=2, writes_per_second=100)) as store:
        for number in range(5):
            store.put(record(namespace, f"c{number}"))
        namespace.until(lambda: bool(store.limited), "the limit is told")
        assert len(namespace.list("calls")) == 2
        assert "3 calls have no object" in store.limited

        store.remove("c0")
        namespace.until(lambda: status(namespace, "c2")["state"] == "Active", "the next has taken its place")


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "crashed"])
def test_it_catches_up_after_the_api_server_was_away(namespace: Namespace, tmp_path: Path, frozen: bool) -> None:
    wishes: list[CallWish] = []
    with storing(namespace, tmp_path, wishes=wishes) as store:
        store.put(record(namespace, "stays"))
        store.put(record(namespace, "ends"))
        namespace.until(lambda: status(namespace, "ends")["state"] == "Active", "both are there")

        namespace.server.cut(frozen=frozen)
        store.put(moved(record(namespace, "stays"), "r2"))
        busy = Condition(status=False, reason="Refused")
        store.put(replace(moved(record(namespace, "stays"), "r3"), anchors=2, movable=busy))
        store.put(record(namespace, "new"))
        store.remove("ends")
        namespace.server.restore()

        namespace.until(lambda: status(namespace, "new")["state"] == "Active", "the new one is there")
        namespace.until(lambda: status(namespace, "stays")["relay"] == "r3", "the newest is told")
        namespace.until(lambda: len(namespace.list("calls")) == 2, "the ended one is gone")

    assert wishes == []
