"""Kedge installed by Helm: from an empty namespace to a call, a relay lost, an upgrade, and away without a trace."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.installed import ADMIN_PORT, CHART, ECHO, RELEASE, SIP_PORT, HelmError, InstalledKedge
from tests.cluster.system import CALLEE, CALLER, ROOT
from tests.kit.phones import PhoneProcess
from tests.kit.sipp import Sipp
from tests.lab import Lab
from tests.wire.cases import SCENARIOS

MANIFESTS = ROOT / "manifests"
CALLS = 20
RELAYS = 2
CALLEE_PHONES = (CALLEE, 5070)
OTHER_PHONES = (CALLEE, 5071)


@pytest.fixture
def kedge(own_lab: Lab) -> Iterator[InstalledKedge]:
    """A namespace for a release; nothing is installed."""
    with InstalledKedge(own_lab, callee=CALLEE_PHONES) as kedge:
        yield kedge


@pytest.fixture
async def phones(own_lab: Lab, kedge: InstalledKedge) -> AsyncIterator[PhoneProcess]:
    """Phones in the lab's network; their proxy is the signaling pod of the first node."""
    with own_lab.inside():
        phones = PhoneProcess(proxy=(kedge.nodes()[0], SIP_PORT), caller=(CALLER, 0), callee=CALLEE_PHONES, prefix="49")
        await phones.start()
    yield phones
    await phones.stop()


def install(kedge: InstalledKedge, **values: Any) -> None:
    """Install the chart and apply a RelaySet at once, as a person in a hurry would; wait until relays are Ready."""
    kedge.helm("install", RELEASE, str(CHART), values=kedge.values(**values))
    kedge.relay_set(RELAYS)
    wait_for_relays(kedge)


def wait_for_relays(kedge: InstalledKedge) -> None:
    """Wait until each signaling pod has all relays as Ready."""

    def ready() -> bool:
        return all(kedge.ready_relays(address) == RELAYS for address in kedge.nodes())

    kedge.until(ready, "all relays are Ready in the eyes of each signaling pod")


def busiest(kedge: InstalledKedge) -> dict[str, Any]:
    """Return the relay with most calls of the signaling pod that the phones use."""
    relays: list[dict[str, Any]] = kedge.snapshot(kedge.nodes()[0])["relays"]
    return max(relays, key=lambda one: int(one["sessions"]))


async def longest_silence(kedge: InstalledKedge, phones: PhoneProcess, lost: dict[str, Any], since: float) -> float:
    """Wait until all calls have left a lost relay and have audio; return their longest silence, in seconds."""

    def moved() -> bool:
        return not any(one["relay"] == lost["name"] for one in kedge.snapshot(kedge.nodes()[0])["calls"])

    kedge.until(moved, "all calls have moved")
    assert await phones.wait_audio(time.monotonic(), within=5)
    report = await phones.report(since)
    assert report.talking() == CALLS
    return max(leg.gap for call in report.calls for leg in call.legs)


def knock(kedge: InstalledKedge, token: str) -> int:
    """Ask a signaling pod for its calls; return the status."""
    with kedge.lab.inside():
        connection = http.client.HTTPConnection(kedge.nodes()[0], ADMIN_PORT, timeout=5)
        try:
            connection.request("GET", "/v1/calls", headers={"Authorization": f"Bearer {token}"} if token else {})
            return connection.getresponse().status
        finally:
            connection.close()


async def test_from_helm_install_to_calls_and_relays_lost(
    own_lab: Lab, kedge: InstalledKedge, phones: PhoneProcess, record_property: Any
) -> None:
    began = time.monotonic()
    install(kedge)
    assert await phones.place_calls(1, rtp=True)
    record_property("seconds from helm install to the first call answered", time.monotonic() - began)
    assert len(await phones.place_calls(CALLS - 1, rtp=True)) == CALLS - 1
    assert await phones.wait_audio(time.monotonic(), within=5)

    assert knock(kedge, "") == 401
    assert knock(kedge, kedge.token("report")) == 403

    lost, since = busiest(kedge), time.monotonic()
    kedge.kubectl("delete", "pod", lost["name"], "--force", "--grace-period=0")
    record_property("longest silence, pod deleted by force", await longest_silence(kedge, phones, lost, since))
    wait_for_relays(kedge)

    lost, since = busiest(kedge), time.monotonic()
    node = kedge.get("pod", lost["name"])["spec"]["nodeName"]
    own_lab.kill_container(node, lost["name"], "relay", namespace=kedge.namespace)
    record_property("longest silence, relay killed", await longest_silence(kedge, phones, lost, since))

    def told() -> bool:
        last = kedge.get("relayset", "voice")["status"]["lastFailover"]
        return bool(last["relay"] == lost["name"] and last["moved"] == last["calls"] > 0 == last["failed"])

    kedge.until(told, "the operator has it from signaling")
    assert await phones.hang_up()
    told_by_all = everything_told(kedge)
    assert not [scope for scope in ("admin", "report") if kedge.token(scope) in told_by_all]


def everything_told(kedge: InstalledKedge) -> str:
    """Return the whole logs of Kedge's pods, and all objects that are no Secrets."""
    logs = kedge.kubectl("logs", "--selector=app.kubernetes.io/name=kedge", "--tail=-1")
    assert "SIP is served" in logs
    return logs + kedge.kubectl("get", "pods,deployments,configmaps,events,relaysets,calls,leases", "-o", "yaml")


def test_helm_test_places_a_call_through_a_relay(own_lab: Lab, kedge: InstalledKedge, tmp_path: Path) -> None:
    with own_lab.inside():
        echo = Sipp(SCENARIOS / "callee-basic.xml", tmp_path, local=ECHO, calls=1, rtp_echo=True, limit=90).start()
    try:
        install(kedge)
        kedge.helm("test", RELEASE, "--timeout=60s")
        assert echo.check().succeeded == 1
    finally:
        echo.stop()


def processes(kedge: InstalledKedge) -> dict[str, int]:
    """Return the pods of Kedge by name, with how often their container was restarted."""
    pods = [*kedge.pods("signaling"), *kedge.pods("operator")]
    return {one["metadata"]["name"]: one["status"]["containerStatuses"][0]["restartCount"] for one in pods}


def told(kedge: InstalledKedge, message: str) -> bool:
    """Say whether each process has told of other settings in these words: signaling by an event, all in their logs."""
    events = [[one["message"] for one in kedge.snapshot(address)["events"]] for address in kedge.nodes()]
    return all(message in each for each in events) and all(
        message in kedge.kubectl("logs", pod) for pod in processes(kedge)
    )


async def test_an_upgrade_of_settings_ends_no_call_and_rolls_no_pod_that_can_take_them(
    own_lab: Lab, kedge: InstalledKedge, phones: PhoneProcess, record_property: Any
) -> None:
    install(kedge)
    await phones.place_calls(CALLS, rtp=True)
    assert await phones.wait_audio(time.monotonic(), within=5)
    before, since = processes(kedge), time.monotonic()
    changed = kedge.values()
    changed["settings"]["sip"] = {"userAgent": "Changed"}
    changed["settings"]["routes"][0]["nextHops"][0]["port"] = OTHER_PHONES[1]

    kedge.helm("upgrade", RELEASE, str(CHART), "--wait", "--timeout=100s", values=changed)
    news = "settings in force now: sip.userAgent, routes"
    kedge.until(lambda: told(kedge, news), "each signaling pod has the new settings", within=150)
    record_property("seconds from helm upgrade to settings in force", time.monotonic() - since)

    with own_lab.inside():
        others = PhoneProcess(proxy=(kedge.nodes()[0], SIP_PORT), caller=(CALLER, 0), callee=OTHER_PHONES, prefix="49")
        await others.start()
    try:
        await others.place_calls(2, rtp=True)
        assert await others.wait_audio(time.monotonic(), within=5)
        assert (await others.report()).talking() == 2, "new calls follow the new route"
        assert await others.hang_up()
    finally:
        await others.stop()
    assert await phones.wait_audio(time.monotonic(), within=5)
    report = await phones.report(since)
    assert report.talking() == CALLS
    assert max(leg.gap for call in report.calls for leg in call.legs) < 1.0, "nobody was cut off"
    assert processes(kedge) == before
    assert await phones.hang_up()


def test_an_upgrade_rolls_signaling_one_by_one_where_it_must_and_an_uninstall_leaves_nothing(
    kedge: InstalledKedge,
) -> None:
    install(kedge)
    before = processes(kedge)
    tokens = [kedge.get("secret", f"{RELEASE}-{scope}-token")["data"] for scope in ("admin", "report")]
    changed = kedge.values()
    changed["settings"]["sip"] = {"receiveBufferBytes": 1048576}

    kedge.helm("upgrade", RELEASE, str(CHART), "--wait", "--timeout=100s", values=changed)

    assert tokens == [kedge.get("secret", f"{RELEASE}-{scope}-token")["data"] for scope in ("admin", "report")]
    assert not before.keys() & processes(kedge).keys(), "what a process takes at its start only: new processes"
    assert "receiveBufferBytes: 1048576" in kedge.get("configmap", "kedge-settings")["data"]["settings.yaml"]
    assert len(kedge.pods("operator")) == len(kedge.pods("signaling")) == 2

    kedge.kubectl("delete", "relayset", "voice")
    kedge.helm("uninstall", RELEASE, "--wait", "--timeout=60s")
    kinds = "deployments,services,secrets,networkpolicies,poddisruptionbudgets,roles,rolebindings,relaysets,calls"
    kedge.until(lambda: not kedge.kubectl("get", kinds, "-o", "name").strip(), "all of it is gone")
    kedge.until(lambda: not kedge.kubectl("get", "pods", "-o", "name").strip(), "its pods too")


def test_embedded_in_the_pod_network_it_runs_where_pods_are_restricted(own_lab: Lab) -> None:
    with InstalledKedge(own_lab, callee=CALLEE_PHONES, pod_security="restricted") as kedge:
        values = kedge.values(mode="embedded")
        values["signaling"]["hostNetwork"] = False
        kedge.helm("install", RELEASE, str(CHART), values=values)
        kedge.relay_set(1)

        kedge.until(lambda: bool(kedge.pods("signaling")[0]["status"]["podIP"]), "it has an address")
        address = kedge.pods("signaling")[0]["status"]["podIP"]
        kedge.until(lambda: kedge.ready_relays(address) == 1, "a relay is Ready")
        kedge.until(lambda: kedge.get("relayset", "voice")["status"]["readyReplicas"] == 1, "the status says so")
        assert len(kedge.pods("signaling")) == 1
        assert not kedge.pods("operator")


def test_a_wrong_value_is_told_by_its_field_before_anything_is_made(kedge: InstalledKedge) -> None:
    with pytest.raises(HelmError, match=r"/settings/peers/0.*netwroks"):
        kedge.helm(
            "install", RELEASE, str(CHART), values=kedge.values(settings={"peers": [{"name": "a", "netwroks": []}]})
        )

    assert not kedge.kubectl("get", "deployments,configmaps", "--field-selector=metadata.name!=kube-root-ca.crt",
                             "-o", "name").strip()  # fmt: skip


def test_kustomize_gives_the_same_without_helm(kedge: InstalledKedge, tmp_path: Path) -> None:
    name, _, tag = kedge.image.rpartition(":")
    container = {"name": "kedge", "env": [{"name": "KEDGE_AGENT_IMAGE", "value": kedge.image}]}
    patch = {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "kedge-operator"},
        "spec": {"template": {"spec": {"containers": [container]}}},
    }  # fmt: skip
    kustomization = {
        "resources": [os.path.relpath(MANIFESTS, tmp_path)],
        "namespace": kedge.namespace,
        "images": [{"name": "localhost/kedge", "newName": name, "newTag": tag}],
        "patches": [{"target": {"kind": "Deployment", "name": "kedge-operator"}, "patch": json.dumps(patch)}],
    }
    (tmp_path / "kustomization.yaml").write_text(json.dumps(kustomization))
    for scope in ("admin", "report"):
        literal = f"--from-literal=token={secrets.token_hex(32)}"
        kedge.kubectl("create", "secret", "generic", f"kedge-{scope}-token", literal)
    kedge.kubectl("apply", "--server-side", "-k", str(tmp_path))
    kedge.relay_set(1, image=kedge.relay_image)

    kedge.until(
        lambda: [kedge.ready_relays(one["status"]["podIP"]) for one in kedge.pods("signaling")] == [1, 1],
        "a relay is Ready in the eyes of each signaling pod",
    )
    kedge.until(lambda: kedge.get("relayset", "voice")["status"]["readyReplicas"] == 1, "the status says so")
