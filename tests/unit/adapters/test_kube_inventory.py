from __future__ import annotations

from typing import Any

import pytest

from kedge.adapters.kube_inventory import PodFacts, describe, pod_facts, relay_set_facts, relays_of
from kedge.relay.model import Intent, RelayDescription


def pod(name: str = "r1", *, label: str = "voice", **changes: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "namespace": "media", "uid": f"uid-{name}"}
    metadata["labels"] = {"kedge.media/relayset": label, "topology.kubernetes.io/zone": "b"}
    metadata |= changes.pop("metadata", {})
    status = {"phase": "Running", "podIP": "192.0.2.1", "conditions": [{"type": "Ready", "status": "True"}]}
    return {"metadata": metadata, "spec": {"nodeName": "n1"}, "status": status | changes}


def relay_set(name: str = "voice", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "kedge.media/v1alpha1",
        "kind": "RelaySet",
        "metadata": {"name": name, "namespace": "media"},
        "spec": {"engine": "RTPEngine", **spec},
    }


@pytest.mark.parametrize(
    "changes",
    [{"phase": "Pending"}, {"podIP": None}, {"podIP": ""}, {"phase": "Failed"}, {"phase": "Succeeded"}],
    ids=str,
)
def test_a_pod_that_does_not_run_is_no_relay(changes: dict[str, Any]) -> None:
    assert pod_facts(pod(**changes)) is None


@pytest.mark.parametrize(
    ("metadata", "intent"),
    [
        ({}, Intent.SERVE),
        ({"annotations": {"kedge.media/drain": "true"}}, Intent.DRAIN),
        ({"annotations": {"kedge.media/drain": ""}}, Intent.DRAIN),
        ({"annotations": {"kedge.media/drain": "false"}}, Intent.SERVE),
        ({"annotations": {"kedge.media/cordon": "true"}}, Intent.CORDON),
        ({"annotations": {"kedge.media/cordon": "true", "kedge.media/drain": "true"}}, Intent.DRAIN),
        ({"annotations": {"kedge.media/scale-in": "2023-11-14T22:13:20Z"}}, Intent.DRAIN),
        ({"deletionTimestamp": "2023-11-14T22:13:20Z"}, Intent.DRAIN),
    ],
    ids=str,
)
def test_what_is_wanted_of_a_pod(metadata: dict[str, Any], intent: Intent) -> None:
    facts = pod_facts(pod(metadata=metadata))

    assert facts is not None
    assert facts.intent is intent


def test_a_pod_is_a_relay_of_the_set_that_its_label_names() -> None:
    facts = relay_set_facts(relay_set(replicas=1, control={"port": 2300}))
    ours, stray = pod_facts(pod()), pod_facts(pod("r2", label="another"))
    assert facts is not None
    assert ours is not None
    assert stray is not None

    relays = relays_of({"media/voice": facts}, [ours, stray], {})

    expected = RelayDescription(
        uid="uid-r1", name="r1", relay_set="media/voice", control=("192.0.2.1", 2300), node="n1", zone="b"
    )
    assert relays == [expected]


@pytest.mark.parametrize("make", ["pod-template-hash", "controller-revision-hash"])
def test_pods_of_another_make_than_the_newest_are_outgoing(make: str) -> None:
    def made(name: str, word: str, created: str) -> PodFacts:
        labels = {"kedge.media/relayset": "voice", make: word}
        facts = pod_facts(pod(name, metadata={"labels": labels, "creationTimestamp": f"2023-11-14T{created}Z"}))
        assert facts is not None
        return facts

    old = [made("r1", "x", "10:00:00"), made("r2", "x", "10:00:01")]
    new = made("r3", "y", "11:00:00")

    assert outgoing(*old) == []
    assert outgoing(*old, new) == ["r1", "r2"]
    assert outgoing(*old, new, made("r4", "x", "12:00:00")) == ["r3"], "the rollout was taken back"


def outgoing(*pods: PodFacts) -> list[str]:
    facts = relay_set_facts(relay_set(replicas=1))
    assert facts is not None
    return [one.name for one in relays_of({"media/voice": facts}, pods, {}) if one.outgoing]


def test_a_name_too_long_for_a_label_finds_its_pods() -> None:
    from kedge.api.convert import label_value

    name = "x" * 100
    facts = relay_set_facts(relay_set(name, replicas=1))
    ours = pod_facts(pod(label=label_value(name)))
    assert facts is not None
    assert ours is not None

    assert [one.relay_set for one in relays_of({f"media/{name}": facts}, [ours], {})] == [f"media/{name}"]


def test_a_relay_set_that_does_not_fit_its_schema_is_none() -> None:
    assert relay_set_facts(relay_set(replicas=-1)) is None


@pytest.mark.parametrize(
    ("families", "ips", "control"),
    [
        (["IPv4"], ["192.0.2.1", "fd00::1"], "192.0.2.1"),
        (["IPv6"], ["192.0.2.1", "fd00::1"], "fd00::1"),
        (["IPv6", "IPv4"], ["192.0.2.1", "fd00::1"], "fd00::1"),
        (["IPv4", "IPv6"], ["fd00::1", "192.0.2.1"], "192.0.2.1"),
        (["IPv6"], ["192.0.2.1"], "192.0.2.1"),
    ],
)
def test_a_relay_is_commanded_at_the_address_of_its_first_family(
    families: list[str], ips: list[str], control: str
) -> None:
    facts = relay_set_facts(relay_set(replicas=1, media={"families": families}))
    found = pod_facts(pod(podIP=ips[0], podIPs=[{"ip": one} for one in ips]))
    assert facts is not None
    assert found is not None

    assert describe(found, facts).control == (control, 2223)


def test_a_set_whose_engine_is_not_served_has_no_relays() -> None:
    endpoints = [{"name": "e1", "address": "192.0.2.1"}]

    served, other = (relay_set_facts(relay_set(engine=one, endpoints=endpoints)) for one in ("RTPEngine", "RTPProxy"))

    assert served is not None
    assert [one.name for one in served.endpoints] == ["e1"]
    assert other is None
