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
from tests.lab.daemons import Daemon, wait_until
from tests.unit.call.world import World

from kedge.adapters.kube_calls import KubeCallStore
from kedge.adapters.kube_client import KubeClient
from kedge.ports.ports import CallWish
from kedge.ports.records import AnchorRecord, CallRecord, CallState, Condition
from kedge.relay.model import Intent, RecordPolicy
from kedge.runtime.wishes import Wishes

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

    assert [(one.relay, one.terminate) for one in wishes] == [("r1", False), ("r1", True)]


class Talking:
    """A call on the real call layer, whose time passes as a test waits, and its object."""

    def __init__(self, namespace: Namespace, store: KubeCallStore, seen: list[CallWish]) -> None:
        self.namespace, self.store, self.seen = namespace, store, seen
        self.world = World(3)
        self.talk = self.world.call()
        self.id = self.talk.id
        self.wishes = Wishes(self.world.b2bua, self.world.fleet, lambda call, now: None)
        self.told: CallRecord | None = None
        self.others = sorted(set(self.world.daemons) - {self.talk.relay})

    def pass_on(self) -> None:
        """What signaling does in a second, between the store and the call."""
        while self.seen:
            self.wishes.put(self.seen.pop(0), self.world.now)
        for _ in range(10):
            self.world.run(0.1)
            self.wishes.look(self.world.now)
        base = self.told or record(self.namespace, self.id)
        now = replace(base, relay=self.talk.relay, anchors=self.talk.call.anchors, wish=self.wishes.record(self.id))
        if now != self.told:
            self.told = now
            self.store.put(now)

    def until(self, fulfilled: tuple[str, str] | None) -> dict[str, Any]:
        """Wait until the condition has this status and reason, or is not there; return the object."""
        found: dict[str, Any] = {}

        def so() -> bool:
            self.pass_on()
            found.update(self.namespace.get("call", self.id))
            one = condition(found, "Fulfilled")
            return (None if one is None else (one["status"], one["reason"])) == fulfilled

        self.namespace.until(so, f"Fulfilled is {fulfilled}")
        return found


def condition(manifest: dict[str, Any], kind: str) -> dict[str, Any] | None:
    return next((one for one in manifest["status"]["conditions"] if one["type"] == kind), None)


@contextmanager
def talking(namespace: Namespace, directory: Path) -> Iterator[Talking]:
    seen: list[CallWish] = []
    with storing(namespace, directory, wishes=seen) as store:
        call = Talking(namespace, store, seen)
        call.until(None)
        yield call


def test_a_wish_for_a_relay_that_is_not_ready_says_so_and_is_fulfilled_once_it_is(
    namespace: Namespace, tmp_path: Path
) -> None:
    with talking(namespace, tmp_path) as call:
        target = call.others[0]
        call.world.intend(target, Intent.CORDON)
        namespace.patch("call", call.id, {"spec": {"relay": target}})
        waiting = call.until(("False", "RelayNotReady"))

        call.world.intend(target, Intent.SERVE)
        there = call.until(("True", "Fulfilled"))

        namespace("wait", "call", call.id, "--for=condition=Fulfilled", "--timeout=10s")
        call.world.assert_anchored(call.talk, target)
    told = condition(waiting, "Fulfilled")
    assert told is not None
    assert f"relay {target} is Cordoned" in told["message"]
    assert told["observedGeneration"] == waiting["metadata"]["generation"]
    assert waiting["status"]["relay"] != waiting["spec"]["relay"] == target
    assert there["status"]["relay"] == there["spec"]["relay"] == target


def test_a_wish_that_is_set_back_leaves_no_condition(namespace: Namespace, tmp_path: Path) -> None:
    with talking(namespace, tmp_path) as call:
        home = call.talk.relay
        namespace.patch("call", call.id, {"spec": {"relay": "nowhere"}})
        call.until(("False", "NoSuchRelay"))
        wide = namespace("get", "calls", "-o", "wide")

        namespace.patch("call", call.id, {"spec": {"relay": home}})
        call.until(None)

        assert call.talk.relay == home
    assert "NoSuchRelay" in wide


def test_an_open_wish_stays_in_the_spec_when_the_call_loses_its_relay(namespace: Namespace, tmp_path: Path) -> None:
    with talking(namespace, tmp_path) as call:
        target, other = call.others
        call.world.intend(target, Intent.CORDON)
        namespace.patch("call", call.id, {"spec": {"relay": target}})
        call.until(("False", "RelayNotReady"))

        call.world.lose(call.talk)

        def labelled() -> bool:
            call.pass_on()
            return bool(namespace.get("call", call.id)["metadata"]["labels"]["kedge.media/relay"] == other)

        namespace.until(labelled, "its loss is told")
        assert namespace.get("call", call.id)["spec"]["relay"] == target
        call.world.intend(target, Intent.SERVE)
        call.until(("True", "Fulfilled"))


def test_a_leg_gets_the_transport_that_is_wished_and_what_cannot_be_changed_is_answered(
    namespace: Namespace, tmp_path: Path
) -> None:
    with talking(namespace, tmp_path) as call:
        callee = {"transport": "SRTP", "flags": ["x"]}
        namespace.patch("call", call.id, {"spec": {"legs": {"callee": callee}}})
        refused = condition(call.until(("False", "OfferFailed")), "Fulfilled")
        call.talk.callee.spare_key = "ofBob"
        namespace.patch("call", call.id, {"spec": {"legs": {"callee": callee | {"address": "192.0.2.9:4000"}}}})
        told = condition(call.until(("False", "NotSupported")), "Fulfilled")
        namespace.patch("call", call.id, {"spec": {"legs": {"callee": {"flags": None, "address": None}}}})
        call.until(("True", "Fulfilled"))
        namespace.patch("call", call.id, {"spec": {"legs": None}})
        call.until(None)

        assert b"RTP/SAVP" in call.talk.callee.local
        call.world.assert_anchored(call.talk)
    assert refused is not None
    assert refused["message"].startswith("right answered 488")
    assert told is not None
    assert told["message"].startswith("spec.legs.callee.address, spec.legs.callee.flags are not acted on")


def test_calls_are_watched_and_chosen_by_relay(namespace: Namespace, tmp_path: Path) -> None:
    command = [*namespace.server.kubectl.command, f"--namespace={namespace.name}", "get", "calls", "--watch"]
    watch = Daemon("watch", [*command, "--output-watch-events", "--no-headers"], tmp_path / "watch.log")
    chosen = Daemon("chosen", [*command, "-l", "kedge.media/relay=r2", "-o", "name"], tmp_path / "chosen.log")
    with storing(namespace, tmp_path) as store:
        watch.start()
        chosen.start()
        try:
            store.put(record(namespace))
            namespace.until(lambda: "ADDED" in watch.tail(), "its coming is seen")
            store.put(moved(record(namespace), "r2"))
            store.put(record(namespace, "c2", "r3"))
            namespace.until(lambda: "c2" in watch.tail(), "both are seen")
            namespace.until(lambda: "c1" in chosen.tail(), "its new relay is seen")
            by_label = namespace("get", "calls", "-l", "kedge.media/relay=r2", "-o", "name").split()
            store.remove("c1")
            namespace.until(lambda: "DELETED" in watch.tail(), "its end is seen")
        finally:
            watch.kill()
            chosen.kill()

    assert by_label == ["call.kedge.media/c1"]
    assert any("MODIFIED" in line and " r2 " in line for line in watch.tail(50).splitlines())
    assert "c2" not in chosen.tail()


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
