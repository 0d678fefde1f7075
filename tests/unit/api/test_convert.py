from __future__ import annotations

from typing import Any

import pytest

from kedge.api.convert import endpoints_of, label_value, policy_of, relay_set_key
from kedge.api.meta import ObjectMeta
from kedge.api.relayset import RelaySet
from kedge.relay.model import (
    Engine,
    FailoverPolicy,
    HealthPolicy,
    Intent,
    InventorySnapshot,
    PlacementPolicy,
    RecordPolicy,
    RelayDescription,
    RelaySetPolicy,
)


def relay_set(namespace: str | None = "media", **spec: Any) -> RelaySet:
    metadata = {"name": "voice"} | ({"namespace": namespace} if namespace else {})
    return RelaySet.parse(
        {
            "apiVersion": "kedge.media/v1alpha1",
            "kind": "RelaySet",
            "metadata": metadata,
            "spec": {"engine": "RTPEngine", **spec},
        }
    )


def test_what_is_left_out_is_alike_in_both_layers() -> None:
    assert policy_of(relay_set(endpoints=[{"name": "e1", "address": "192.0.2.1"}])) == RelaySetPolicy(key="media/voice")


@pytest.mark.parametrize(
    ("ports", "most", "sessions"),
    [({"min": 20000, "max": 20399}, 4000, 100), ({"min": 20000, "max": 20399}, 99, 99), ({}, 9999, 3404)],
)
def test_a_relay_pod_is_full_when_its_ports_are(ports: dict[str, int], most: int, sessions: int) -> None:
    spec: dict[str, Any] = {"media": {"portRange": ports}, "placement": {"maxSessionsPerRelay": most}}

    assert policy_of(relay_set(replicas=1, **spec)).placement.max_sessions_per_relay == sessions
    elsewhere = policy_of(relay_set(selector={"matchLabels": {"app": "relay"}}, **spec))
    assert elsewhere.placement.max_sessions_per_relay == most, "their ports are not ours"


def test_every_wish_arrives() -> None:
    made = policy_of(
        relay_set(
            replicas=1,
            health={"interval": "200ms", "timeout": "150ms", "threshold": 5},
            failover={"mode": "Manual", "rate": 100, "ratePerPeer": 50, "retries": 7, "unmovable": "Keep"},
            placement={"maxSessionsPerRelay": 10, "zones": "Ignore"},
            records={"policy": "Moved", "after": "1m", "max": 9, "writesPerSecond": 8},
        )
    )

    assert made == RelaySetPolicy(
        key="media/voice",
        engine=Engine.RTPENGINE,
        health=HealthPolicy(interval=0.2, timeout=0.15, threshold=5),
        failover=FailoverPolicy(automatic=False, rate=100, rate_per_peer=50, retries=7, hang_up_unmovable=False),
        placement=PlacementPolicy(max_sessions_per_relay=10, zones=False),
        records=RecordPolicy(all_calls=False, moved_calls=True, after=60.0, max_objects=9, writes_per_second=8.0),
    )


def test_no_records_are_none_at_all() -> None:
    records = policy_of(relay_set(replicas=1, records={"policy": "None"})).records

    assert (records.all_calls, records.moved_calls) == (False, False)


def test_endpoints_are_relays() -> None:
    made = endpoints_of(relay_set(endpoints=[{"name": "e1", "address": "192.0.2.1", "zone": "b", "weight": 7}]))

    expected = RelayDescription(
        uid="media/voice/e1",
        name="e1",
        relay_set="media/voice",
        control=("192.0.2.1", 2223),
        zone="b",
        weight=7,
    )
    assert made == (expected,)


@pytest.mark.parametrize("intent", ["Serve", "Cordon", "Drain"])
def test_what_is_wanted_of_an_endpoint_arrives(intent: str) -> None:
    made = endpoints_of(relay_set(endpoints=[{"name": "e1", "address": "192.0.2.1", "intent": intent}]))

    assert [one.intent for one in made] == [Intent(intent)]


def test_the_wish_for_a_rebalance_arrives() -> None:
    asked = relay_set(replicas=1).model_copy(
        update={"metadata": ObjectMeta(name="voice", annotations={"kedge.media/rebalance": "2026-01-02T03:04:05Z"})}
    )

    assert policy_of(asked).rebalance_at == "2026-01-02T03:04:05Z"


def test_each_signaling_process_may_use_its_share() -> None:
    whole = policy_of(
        relay_set(
            replicas=1,
            failover={"rate": 90, "ratePerPeer": 30},
            placement={"maxSessionsPerRelay": 10},
            rebalance={"rate": 60},
        )
    )

    (share,) = InventorySnapshot(relay_sets=(whole,)).share(3).relay_sets

    assert (share.failover.rate, share.failover.rate_per_peer, share.rebalance.rate) == (30, 10, 20)
    assert share.placement.max_sessions_per_relay == 3
    assert whole.share(1) == whole
    assert whole.share(64).placement.max_sessions_per_relay == 1


def test_a_file_without_a_namespace_has_the_default_one() -> None:
    assert relay_set_key(relay_set(namespace=None, replicas=1)) == "default/voice"


def test_long_names_are_cut_for_labels_and_stay_apart() -> None:
    one, other = label_value("x" * 100 + "a"), label_value("x" * 100 + "b")

    assert len(one) <= 63
    assert one != other
    assert label_value("voice") == "voice"
    assert label_value("y" * 53 + "." + "z" * 40)[53] != "."
