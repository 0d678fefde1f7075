"""Manifests against golden files. ``UPDATE_GOLDEN=1`` writes them anew: then read the difference."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from kedge.api.relayset import RelaySet
from kedge.controller.addressing import UnsupportedError
from kedge.controller.drift import drifted
from kedge.controller.manifests import ManifestSettings, owned_manifests, owned_name
from kedge.ports.kube import DEPLOYMENT_KIND, NETWORK_POLICY_KIND

GOLDEN = Path(__file__).parent / "golden"
SETTINGS = ManifestSettings(
    image="registry.example/rtpengine:1",
    signaling_labels={"app.kubernetes.io/name": "kedge", "app.kubernetes.io/component": "signaling"},
)
CASES: dict[str, tuple[dict[str, Any], ManifestSettings]] = {
    "plain": ({"replicas": 3}, SETTINGS),
    "host-network": (
        {
            "replicas": 2,
            "media": {"hostNetwork": True, "advertise": {"type": "NodeInternalIP"}},
            "control": {"port": 2300},
        },
        SETTINGS,
    ),
    "agent": (
        {"replicas": 2, "drain": {"deadline": "90500ms"}},
        replace(SETTINGS, agent_image="registry.example/kedge:1"),
    ),
    "agent-host-network": (
        {"replicas": 2, "media": {"hostNetwork": True, "families": ["IPv6"]}, "control": {"port": 2300}},
        replace(SETTINGS, agent_image="registry.example/kedge:1"),
    ),
    "agent-reports": (
        {"replicas": 2, "media": {"hostNetwork": True}},
        replace(
            SETTINGS,
            agent_image="registry.example/kedge:1",
            signaling_service="kedge-signaling",
            admin_port=8081,
            report_secret="kedge-report-token",
        ),
    ),
    "dual-stack": (
        {"replicas": 2, "media": {"families": ["IPv6", "IPv4"]}},
        replace(SETTINGS, agent_image="registry.example/kedge:1"),
    ),
    "dual-stack-host-network": (
        {
            "replicas": 2,
            "media": {
                "hostNetwork": True,
                "families": ["IPv4", "IPv6"],
                "advertise": {"type": "NodeInternalIP"},
            },
        },
        replace(SETTINGS, agent_image="registry.example/kedge:1"),
    ),
    "ipv6": ({"replicas": 2, "media": {"families": ["IPv6"]}}, SETTINGS),
    "node-external-ip": (
        {"replicas": 2, "media": {"hostNetwork": True, "advertise": {"type": "NodeExternalIP"}}},
        replace(SETTINGS, agent_image="registry.example/kedge:1"),
    ),
    "node-external-ip-reports": (
        {"replicas": 2, "media": {"hostNetwork": True, "advertise": {"type": "NodeExternalIP"}}},
        replace(
            SETTINGS,
            agent_image="registry.example/kedge:1",
            signaling_service="kedge-signaling",
            admin_port=8081,
            report_secret="kedge-report-token",
        ),
    ),
    "static": (
        {
            "replicas": 2,
            "media": {"families": ["IPv4", "IPv6"], "advertise": {"type": "Static", "address": "198.51.100.7"}},
        },
        replace(SETTINGS, agent_image="registry.example/kedge:1"),
    ),
    "static-without-agent": (
        {"replicas": 2, "media": {"advertise": {"type": "Static", "address": "198.51.100.7"}}},
        SETTINGS,
    ),
    "full": (
        {
            "replicas": 4,
            "template": {
                "image": "registry.example/own:2",
                "imagePullPolicy": "Never",
                "args": ["--log-level=5"],
                "resources": {"requests": {"cpu": "500m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}},
                "nodeSelector": {"media": "yes"},
                "priorityClassName": "voice",
                "tolerations": [
                    {"key": "media", "operator": "Exists", "effect": "NoSchedule"},
                    {"key": "node.kubernetes.io/not-ready", "effect": "NoExecute", "tolerationSeconds": 15},
                ],
                "topologySpreadConstraints": [
                    {"topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule"}
                ],
                "labels": {"team": "voice"},
                "annotations": {"public-ip": "198.51.100.7"},
            },
            "media": {
                "portRange": {"min": 20000, "max": 21999},
                "advertise": {"type": "Annotation", "annotation": "public-ip"},
            },
            "updateStrategy": {"maxSurge": 2, "maxUnavailable": 1},
        },
        ManifestSettings(
            image="unused",
            signaling_labels={"app": "sip"},
            signaling_namespace="kedge-system",
            signaling_networks=("10.0.0.0/8",),
        ),
    ),
}


IN_POD_NETWORK = [case for case, (spec, _) in CASES.items() if not spec.get("media", {}).get("hostNetwork")]


def relay_set(spec: dict[str, Any], name: str = "voice") -> RelaySet:
    metadata = {"name": name, "namespace": "media", "uid": "11111111-2222-3333-4444-555555555555", "generation": 1}
    return RelaySet.from_api(
        {
            "apiVersion": "kedge.media/v1alpha1",
            "kind": "RelaySet",
            "metadata": metadata,
            "spec": {"engine": "RTPEngine", **spec},
        }
    )


@pytest.mark.parametrize("case", CASES)
def test_manifests_are_as_in_the_golden_file(case: str) -> None:
    spec, settings = CASES[case]
    made = [manifest for _, manifest in owned_manifests(relay_set(spec), settings)]
    path = GOLDEN / f"{case}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(yaml.safe_dump_all(made, sort_keys=False))

    assert made == list(yaml.safe_load_all(path.read_text()))


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ({}, {"requests": {"cpu": "250m", "memory": "128Mi"}}),
        ({"requests": {"cpu": "2"}}, {"requests": {"cpu": "2", "memory": "128Mi"}}),
        ({"limits": {"memory": "64Mi"}}, {"requests": {"cpu": "250m"}, "limits": {"memory": "64Mi"}}),
    ],
)
def test_a_relay_requests_cpu_whatever_the_set_says_of_the_rest(asked: dict[str, Any], given: dict[str, Any]) -> None:
    made = relay_set({"replicas": 1, "template": {"resources": asked}})
    (deployment,) = (one for kind, one in owned_manifests(made, SETTINGS) if kind is DEPLOYMENT_KIND)

    assert deployment["spec"]["template"]["spec"]["containers"][0]["resources"] == given


def network_policies(case: str) -> list[dict[str, Any]]:
    spec, settings = CASES[case]
    return [one for kind, one in owned_manifests(relay_set(spec), settings) if kind is NETWORK_POLICY_KIND]


def test_the_control_port_is_open_to_signaling_and_nobody_else() -> None:
    (policy,) = (one["spec"] for one in network_policies("full"))
    control, media = policy["ingress"]

    assert policy["podSelector"] == {"matchLabels": {"kedge.media/relayset": "voice"}}
    assert policy["policyTypes"] == ["Ingress"], "what is not named below is closed; a pod always reaches itself"
    assert control["ports"] == [{"protocol": "UDP", "port": 2223}]
    assert control["from"] == [
        {
            "podSelector": {"matchLabels": {"app": "sip"}},
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kedge-system"}},
        },
        {"ipBlock": {"cidr": "10.0.0.0/8"}},
    ]
    assert media == {"ports": [{"protocol": "UDP", "port": 20000, "endPort": 21999}]}
    assert not 20000 <= 2223 <= 21999


@pytest.mark.parametrize("case", IN_POD_NETWORK)
def test_no_rule_of_a_policy_lets_everybody_at_the_control_port(case: str) -> None:
    (policy,) = network_policies(case)

    for rule in policy["spec"]["ingress"]:
        ports = [range(one["port"], one.get("endPort", one["port"]) + 1) for one in rule["ports"]]
        assert rule.get("from") or not any(2223 in one for one in ports)
        assert all(one["protocol"] == "UDP" for one in rule["ports"])


def agent_of(spec: dict[str, Any], **settings: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return pod and agent."""
    given = replace(SETTINGS, agent_image="kedge:1", **settings)
    pod = owned_manifests(relay_set({"replicas": 1, **spec}), given)[0][1]["spec"]["template"]["spec"]
    return pod, pod["initContainers"][0]


@pytest.mark.parametrize(
    ("host_network", "settings"),
    [
        (False, {"signaling_service": "sig", "admin_port": 8080, "report_secret": "s"}),
        (True, {"admin_port": 8080, "report_secret": "s"}),
        (True, {"signaling_service": "sig", "report_secret": "s"}),
    ],
    ids=["in the pod network", "no service", "no admin API"],
)
def test_an_agent_that_can_tell_nothing_is_given_nothing(host_network: bool, settings: dict[str, Any]) -> None:
    pod, agent = agent_of({"media": {"hostNetwork": host_network}}, **settings)

    assert "volumes" not in pod
    assert "volumeMounts" not in agent
    assert not [one for one in agent["args"] if "signaling" in one or "token" in one]


def test_the_token_for_reports_is_a_file_of_the_agent_alone() -> None:
    pod, agent = agent_of(
        {"media": {"hostNetwork": True}}, signaling_service="sig", admin_port=8080, report_secret="reports"
    )

    (volume,) = pod["volumes"]
    assert volume["secret"] == {"secretName": "reports", "optional": True}
    (mount,) = agent["volumeMounts"]
    assert f"--token-file={mount['mountPath']}/token" in agent["args"]
    assert "volumeMounts" not in pod["containers"][0], "the relay itself has none"
    assert pod["automountServiceAccountToken"] is False


def test_relays_of_others_need_nothing() -> None:
    assert owned_manifests(relay_set({"endpoints": [{"name": "e1", "address": "192.0.2.1"}]}), SETTINGS) == []
    assert owned_manifests(relay_set({"selector": {"matchLabels": {"app": "x"}}}), SETTINGS) == []


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"engine": "RTPProxy", "replicas": 1}, "RTPProxy"),
        ({"engine": "RTPProxy", "endpoints": [{"name": "e1", "address": "192.0.2.1"}]}, "RTPProxy"),
        (
            {"replicas": 1, "media": {"hostNetwork": True, "advertise": {"type": "NodeExternalIP"}}},
            "NodeExternalIP needs the agent",
        ),
        ({"replicas": 1, "media": {"families": ["IPv4", "IPv6"]}}, "two media.families need the agent"),
    ],
)
def test_what_cannot_be_made_is_refused_by_name(spec: dict[str, Any], says: str) -> None:
    with pytest.raises(UnsupportedError, match=says):
        owned_manifests(relay_set(spec), SETTINGS)


def test_long_names_fit_and_differ() -> None:
    one, other = (owned_name(relay_set({"replicas": 1}, name="x" * 200 + end)) for end in "ab")

    assert len(one) <= 46
    assert one != other
    labels = owned_manifests(relay_set({"replicas": 1}, name="x" * 200), SETTINGS)[0][1]["metadata"]["labels"]
    assert all(len(value) <= 63 for value in labels.values())


@pytest.mark.parametrize(
    ("live", "wanted", "expected"),
    [
        ({"a": 1, "b": 2}, {"a": 1}, False),
        ({"a": 1}, {"a": 2}, True),
        ({}, {"a": {"b": 1}}, True),
        ({"args": ["x", "y"]}, {"args": ["x", "y"]}, False),
        ({"args": ["x", "y", "z"]}, {"args": ["x", "y"]}, True),
        ({"args": ["y", "x"]}, {"args": ["x", "y"]}, True),
        ({"c": [{"name": "mesh"}, {"name": "relay", "image": "1", "more": 2}]}, {"c": [{"name": "relay"}]}, False),
        ({"c": [{"name": "relay", "image": "2"}]}, {"c": [{"name": "relay", "image": "1"}]}, True),
        ({"cpu": "1"}, {"cpu": "1000m"}, False),
        ({"memory": "1Gi"}, {"memory": "1024Mi"}, False),
        ({"cpu": "1"}, {"cpu": "1001m"}, True),
        ({"ip": "192.0.2.1"}, {"ip": "192.0.2.2"}, True),
    ],
)
def test_drift(live: dict[str, Any], wanted: dict[str, Any], expected: bool) -> None:
    assert drifted(live, wanted) is expected
