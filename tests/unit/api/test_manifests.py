"""Manifests in files: what is wrong is refused by its name, what is right is read as it was meant."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from tests.unit.api.wrong_manifests import CALL, ENDPOINTS, REPLICAS, SELECTOR, WRONG, Wrong, manifest

from kedge.api.call import Call, CallStatus, LastReanchor, ReanchorResult, WantedCallState
from kedge.api.errors import ManifestError, Problem
from kedge.api.load import check_together, load_manifests, load_settings
from kedge.api.meta import LabelSelector
from kedge.api.relayset import Engine, FailoverOrder, Health, RelaySet, RelaySetSpec, UpdateStrategy

ROOT = Path(__file__).parents[3]
VERSION = "apiVersion: kedge.media/v1alpha1\n"
SAMPLES = sorted((ROOT / "manifests" / "samples").glob("relayset-*.yaml"))


def _problems(text: str, name: str = "relayset.yaml") -> list[Problem]:
    with pytest.raises(ManifestError) as caught:
        load_manifests(text, name=name)
    return caught.value.problems


def _relay_set(spec: dict[str, Any]) -> RelaySet:
    (found,) = load_manifests(yaml.safe_dump(manifest(spec)))
    assert isinstance(found, RelaySet)
    return found


@pytest.mark.parametrize("wrong", WRONG, ids=[one.name for one in WRONG])
def test_wrong_manifest_is_refused_by_field_and_value(wrong: Wrong) -> None:
    (problem,) = _problems(yaml.safe_dump(manifest(wrong.spec, kind=wrong.kind)))

    assert problem.path == wrong.field
    assert (wrong.file_says or wrong.says) in problem.message
    if wrong.value:
        assert problem.message.startswith(f"{wrong.value} is not allowed")


def test_every_problem_is_told_with_file_and_line() -> None:
    text = """\
apiVersion: kedge.media/v1alpha1
kind: RelaySet
metadata: {name: a}
spec:
  engine: Asterisk
  replicas: 1
  health:
    threshold: 0
---
apiVersion: kedge.media/v1alpha1
kind: RelaySet
metadata: {name: b}
spec: {replicas: 1, engine: RTPEngine, drain: {deadline: 5}}
"""

    assert [str(one) for one in _problems(text)] == [
        "relayset.yaml:5: spec.engine: Asterisk is not allowed: must be RTPEngine or RTPProxy",
        "relayset.yaml:8: spec.health.threshold: 0 is not allowed: must be a whole number from 1 to 100",
        "relayset.yaml:13: spec.drain.deadline: 5 is not allowed: "
        "must be a duration with a unit, such as 200ms, 30s or 1h30m",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("kind: RelaySet\nkind: Call\n", "f:2: kind: is given twice, first in line 1"),
        ("a: {b: 1, c: 2, b: 3}\n", "f:1: a.b: is given twice, first in line 1"),
        ("a: [1, 2\n", "f:2: is not YAML: expected ',' or ']', but got '<stream end>'"),
        ("1: 2\n", "f:1: 1 is not allowed: names must be strings: put it in quotes"),
        ("a: !!binary aGFsbG8=\n", "f:1: a: the tag tag:yaml.org,2002:binary is not allowed"),
        (
            "a: !!python/object:os.system {}\n",
            "f:1: a: the tag tag:yaml.org,2002:python/object:os.system is not allowed",
        ),
        ("a: &x [*x]\n", "f:1: a[0]: must not hold itself"),
        ("- 1\n", "f: [1] is not allowed: must be a RelaySet or a Call"),
        ("a: " + "[" * 3000 + "]" * 3000, "f: is nested too deeply"),
        (
            "apiVersion: kedge.media/v1alpha1\nkind: RelaySets\n",
            "f:2: kind: RelaySets is not allowed: must be RelaySet or Call",
        ),
        (
            "apiVersion: kedge.media/v1\nkind: Call\n",
            "f:1: apiVersion: kedge.media/v1 is not allowed: must be kedge.media/v1alpha1",
        ),
        (VERSION, "f:1: kind: is missing: must be RelaySet or Call"),
    ],
)
def test_what_is_no_manifest_is_refused(text: str, line: str) -> None:
    assert [str(one) for one in _problems(text, "f")] == [line]


def test_numbers_without_end_are_refused() -> None:
    (problem,) = _problems("a: " + "9" * 5000, "f")

    assert problem.message.startswith("is not YAML: ")


def test_two_of_one_name_are_refused() -> None:
    text = yaml.safe_dump_all([manifest(REPLICAS), manifest(CALL, kind="Call"), manifest(ENDPOINTS)])

    (problem,) = _problems(text)

    assert str(problem) == "relayset.yaml: metadata.name: sample is not allowed: there is another RelaySet of that name"


def test_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"a: \xff")

    with pytest.raises(ManifestError, match=r"x\.yaml: must be UTF-8 text"):
        load_manifests(path)


def test_anchors_and_merges_are_read_as_kubectl_does() -> None:
    text = "a: &rates {rate: 100, ratePerPeer: 90}\n"
    spec = "spec: {engine: RTPEngine, replicas: 1, failover: {<<: *rates, rate: 95}}\n"
    head = "apiVersion: kedge.media/v1alpha1\nkind: RelaySet\nmetadata: {name: x}\n"

    (problem,) = _problems(head + text + spec)

    assert problem.message == "unknown field; known: apiVersion, kind, metadata, spec, status"
    loaded = load_manifests(head.replace("metadata:", "metadata: &m") + spec.replace("<<: *rates,", "ratePerPeer: 90,"))
    assert isinstance(loaded[0], RelaySet)
    assert (loaded[0].spec.failover.rate, loaded[0].spec.failover.rate_per_peer) == (95, 90)


def test_empty_documents_are_left_out() -> None:
    assert load_manifests("---\n# nothing\n---\n") == []


@pytest.mark.parametrize("path", SAMPLES, ids=[one.name for one in SAMPLES])
def test_samples_survive_a_round_trip(path: Path) -> None:
    (sample,) = load_manifests(path)

    assert isinstance(sample, RelaySet)
    assert load_manifests(yaml.safe_dump(sample.dump())) == [sample]


def test_samples_fit_together() -> None:
    settings = load_settings(ROOT / "manifests" / "samples" / "settings.yaml")

    for path in SAMPLES:
        problems = check_together(settings, [one for one in load_manifests(path) if isinstance(one, RelaySet)])
        assert bool(problems) == (path.name == "relayset-selector.yaml"), "that one has a name of its own"


def test_defaults_are_the_documented_ones() -> None:
    spec = _relay_set(REPLICAS).spec

    assert (spec.health.interval, spec.health.timeout, spec.health.threshold) == (0.1, 0.1, 3)
    assert (spec.failover.rate, spec.failover.rate_per_peer, spec.failover.retries) == (5000, 2500, 3)
    assert (spec.failover.mode, spec.failover.unmovable) == ("Automatic", "Hangup")
    assert spec.failover.order is FailoverOrder.EMERGENCY_FIRST
    assert (spec.media.port_range.min, spec.media.port_range.max) == (16384, 29999)
    assert (spec.drain.deadline, spec.placement.policy, spec.placement.max_sessions_per_relay) == (
        600,
        "LeastLoaded",
        4000,
    )
    assert (spec.records.policy, spec.records.after, spec.records.max, spec.records.writes_per_second) == (
        "All",
        10,
        5000,
        50,
    )
    assert (spec.rebalance.mode, spec.rebalance.imbalance_percent) == ("OnScaleOut", 10)
    assert (spec.rebalance.rate, spec.rebalance.rest) == (50, 60)
    assert (spec.update_strategy.max_surge, spec.update_strategy.max_unavailable) == (1, 0)


def test_durations_are_seconds_inside_and_text_outside() -> None:
    spec = _relay_set(
        REPLICAS | {"health": {"interval": "1s500ms", "timeout": "200ms"}, "drain": {"deadline": "1h30m"}}
    ).spec

    assert (spec.health.interval, spec.health.timeout, spec.drain.deadline) == (1.5, 0.2, 5400)
    assert spec.dump()["health"]["interval"] == "1s500ms"


def test_what_is_null_is_left_out() -> None:
    nothing = {
        "health": None,
        "replicas": None,
        "failover": {"rate": None},
        "endpoints": [{"name": "a", "address": "::1"}],
    }

    assert _relay_set({"engine": "RTPEngine"} | nothing).spec.health == Health()
    (problem,) = _problems(yaml.safe_dump(manifest({"engine": None, "replicas": 1})))
    assert (problem.path, problem.message) == ("spec.engine", "is missing: must be RTPEngine or RTPProxy")


def test_bounds_themselves_are_allowed() -> None:
    _relay_set(REPLICAS | {"health": {"interval": "50ms", "timeout": "50ms", "threshold": 1}})
    _relay_set(REPLICAS | {"health": {"interval": "30s", "timeout": "30s", "threshold": 100}})
    _relay_set(REPLICAS | {"media": {"portRange": {"min": 20000, "max": 20099}}})
    _relay_set(REPLICAS | {"media": {"hostNetwork": True, "portRange": {"min": 32768, "max": 40000}}})
    _relay_set(REPLICAS | {"failover": {"rate": 100, "ratePerPeer": 100}, "drain": {"deadline": "1s"}})


def test_ports_of_one_address_may_differ() -> None:
    endpoints = [{"name": "a", "address": "::1", "port": 1}, {"name": "b", "address": "::1", "port": 2}]

    assert [one.port for one in _relay_set({"engine": "RTPProxy", "endpoints": endpoints}).spec.endpoints] == [1, 2]


def test_models_are_frozen_and_python_names_are_no_yaml() -> None:
    spec = _relay_set(REPLICAS).spec

    with pytest.raises(ValidationError, match="frozen"):
        spec.replicas = 5
    with pytest.raises(ValidationError):
        UpdateStrategy.parse({"max_surge": 1})
    assert UpdateStrategy(max_surge=2).dump() == {"maxSurge": 2, "maxUnavailable": 0}


def test_code_gives_seconds_and_is_held_to_the_same_rules() -> None:
    assert Health(interval=0.2).interval == 0.2
    with pytest.raises(ValidationError, match="must not be longer"):
        Health(interval=0.06)
    with pytest.raises(ValidationError, match="is needed unless"):
        RelaySetSpec(engine=Engine.RTPENGINE)


def test_objects_of_the_api_server_may_know_more() -> None:
    newer = manifest(REPLICAS | {"novelty": 1}) | {"status": {"calls": 3, "novelty": {"x": 1}}}
    newer["metadata"] |= {"managedFields": [{}], "resourceVersion": "17", "creationTimestamp": "2026-01-31T12:00:00Z"}

    found = RelaySet.from_api(newer)

    assert found.status is not None
    assert (found.status.calls, found.metadata.resource_version) == (3, "17")
    with pytest.raises(ValidationError):
        RelaySet.parse(newer)


def test_selector_is_written_as_the_api_takes_it() -> None:
    selector = LabelSelector.parse(
        {
            "matchLabels": {"app": "rtpengine"},
            "matchExpressions": [
                {"key": "tier", "operator": "In", "values": ["a", "b"]},
                {"key": "env", "operator": "NotIn", "values": ["test"]},
                {"key": "media", "operator": "Exists"},
                {"key": "old", "operator": "DoesNotExist"},
            ],
        }
    )

    assert str(selector) == "app=rtpengine,tier in (a,b),env notin (test),media,!old"


def test_source_may_be_any_one() -> None:
    assert _relay_set(SELECTOR).spec.selector is not None
    assert _relay_set(ENDPOINTS).spec.endpoints[0].port == 2223
    assert (
        _relay_set(REPLICAS | {"template": {"image": "x", "resources": {"limits": {"cpu": 2}}}}).spec.template
        is not None
    )


def test_call_round_trip() -> None:
    at = "2026-01-31T12:00:00Z"
    status = CallStatus.parse(
        {
            "state": "Active",
            "from": "sip:a@example.org",
            "callId": "x@y",
            "anchors": 1,
            "lastReanchor": {
                "from": "voice-0",
                "to": "voice-1",
                "reason": "RelayDown",
                "result": "Moved",
                "duration": "120ms",
                "at": "2026-01-31T13:00:00.250+01:00",
            },
            "conditions": [
                {
                    "type": "Movable",
                    "status": "True",
                    "reason": "InDialog",
                    "lastTransitionTime": at,
                }
            ],
        }
    )
    (call,) = load_manifests(yaml.safe_dump(manifest(CALL | {"state": "Terminated"}, kind="Call")))

    assert isinstance(call, Call)
    assert call.spec.state is WantedCallState.TERMINATED
    assert isinstance(status.last_reanchor, LastReanchor)
    assert (status.last_reanchor.result, status.last_reanchor.duration) == (ReanchorResult.MOVED, 0.12)
    assert status.dump()["lastReanchor"]["at"] == "2026-01-31T12:00:00.250Z"
    assert CallStatus.parse(status.dump()) == status
