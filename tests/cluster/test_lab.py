"""The lab keeps its word: real nodes, real relays in them, real losses, and nothing left at the end."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.lab import (
    ApiServer,
    Cluster,
    ExternalCluster,
    KubectlError,
    Lab,
    LabOnlyError,
    StartError,
    binaries,
    cleanup,
    machine,
)
from tests.lab.daemons import wait_until
from tests.lab.netns import Namespace

NG_PORT = 2223
PING, PONG = b"lab1 d7:command4:pinge", b"lab1 d6:result4:ponge"


def relay_pod(node: str, image: str) -> dict[str, Any]:
    arguments = ["--config-file=none", "--foreground", "--log-stderr", "--table=-1", "--poller-per-thread"]
    arguments += ["--interface=$(POD_IP)", f"--listen-ng=$(POD_IP):{NG_PORT}", "--port-min=16384", "--port-max=16583"]
    container = {
        "name": "rtpengine",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": arguments,
        "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"relay-{node}", "labels": {"app": "lab-relay"}},
        "spec": {
            "nodeName": node,
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "tolerations": [{"operator": "Exists"}],
            "containers": [container],
        },
    }


def answers(cluster: Cluster, address: str, *, tries: int) -> bool:
    """Whether the relay at ``address`` answers one of ``tries`` pings, 0.2 s each."""
    with cluster.inside():
        ng = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with ng:
        ng.settimeout(0.2)
        return any(is_answered(ng, address) for _ in range(tries))


def is_answered(ng: socket.socket, address: str) -> bool:
    try:
        ng.sendto(PING, (address, NG_PORT))
        return ng.recv(2048) == PONG
    except OSError:  # no answer in time, or no way to the host
        return False


@pytest.fixture(scope="module")
def relays(own_lab: Lab) -> Iterator[dict[str, str]]:
    """A relay pod on each node: node -> the pod's address."""
    own_lab.apply(*(relay_pod(node, own_lab.relay_image) for node in own_lab.node_addresses))
    own_lab.kubectl("wait", "--for=condition=Ready", "--timeout=60s", "pod", "--selector=app=lab-relay")
    pods = own_lab.get("pods", "--selector=app=lab-relay")["items"]
    yield {pod["spec"]["nodeName"]: pod["status"]["podIP"] for pod in pods}
    own_lab.kubectl("delete", "pod", "--selector=app=lab-relay", "--wait")


def test_all_nodes_are_ready_in_zones_of_their_own(own_lab: Lab) -> None:
    nodes = own_lab.get("nodes")["items"]

    conditions = [c["status"] for node in nodes for c in node["status"]["conditions"] if c["type"] == "Ready"]
    assert conditions == ["True"] * len(own_lab.node_addresses)
    zones = {node["metadata"]["labels"]["topology.kubernetes.io/zone"] for node in nodes}
    assert len(zones) == len(own_lab.node_addresses) == 3


def test_a_relay_on_each_node_answers(own_lab: Lab, relays: dict[str, str]) -> None:
    assert sorted(relays) == sorted(own_lab.node_addresses)
    assert all(answers(own_lab, address, tries=25) for address in relays.values())


def test_a_relay_has_no_rights(own_lab: Lab, relays: dict[str, str]) -> None:
    node = min(relays)
    pid = own_lab.container_pid(node, f"relay-{node}", "rtpengine")

    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    assert status["Name"] == "rtpengine"
    assert set(status["Uid"].split()) == {"65532"}
    assert {status[key] for key in ("CapEff", "CapPrm", "CapBnd")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    mounts = [line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
    assert [mount[5].split(",")[0] for mount in mounts if mount[4] == "/"] == ["ro"]


def test_a_cut_node_takes_its_relay_along_until_it_is_joined_again(own_lab: Lab, relays: dict[str, str]) -> None:
    cut, other = sorted(relays)[:2]
    own_lab.cut_node(cut)
    try:
        assert not answers(own_lab, relays[cut], tries=3)
        assert answers(own_lab, relays[other], tries=25)
    finally:
        own_lab.join_node(cut)

    assert answers(own_lab, relays[cut], tries=50)


def test_a_killed_relay_is_started_again_as_another_process(own_lab: Lab, relays: dict[str, str]) -> None:
    node = min(relays)
    before = own_lab.container_pid(node, f"relay-{node}", "rtpengine")

    own_lab.kill_container(node, f"relay-{node}", "rtpengine", signal.SIGKILL)

    own_lab.kubectl("wait", f"pod/relay-{node}", "--for=jsonpath={.status.containerStatuses[0].restartCount}=1")
    own_lab.kubectl("wait", f"pod/relay-{node}", "--for=condition=Ready")
    assert answers(own_lab, relays[node], tries=50)
    assert own_lab.container_pid(node, f"relay-{node}", "rtpengine") != before


@pytest.mark.parametrize("frozen", [False, True])
def test_relays_outlive_the_api_server(own_lab: Lab, relays: dict[str, str], frozen: bool) -> None:
    own_lab.cut_apiserver(frozen=frozen)
    try:
        with pytest.raises(KubectlError):
            own_lab.kubectl("get", "nodes", timeout=2)
        assert all(answers(own_lab, address, tries=25) for address in relays.values())
    finally:
        own_lab.restore_apiserver()

    assert len(own_lab.get("pods", "--selector=app=lab-relay")["items"]) == len(relays)


def test_a_second_lab_comes_and_goes_beside_the_first(own_lab: Lab) -> None:
    second = Lab.start(nodes=1)
    try:
        second.apply(relay_pod("node-a", second.relay_image))
        second.kubectl("wait", "--for=condition=Ready", "--timeout=60s", "pod/relay-node-a")
        guest = second.run_in_lab_netns(["sleep", "1000"])
        assert traces(second.run) >= {"process", "network", "cgroup", "directory"}
    finally:
        second.stop()

    assert guest.wait(timeout=10) == -signal.SIGKILL
    assert traces(second.run) == set()
    assert len(own_lab.get("nodes")["items"]) == len(own_lab.node_addresses)


def test_nodes_reach_the_api_server_through_its_service() -> None:
    second = Lab.start(nodes=1, services=True)
    try:
        node = Namespace(second.node_netns["node-a"])

        def is_reached() -> bool:
            with node.inside(), contextlib.suppress(OSError):
                socket.create_connection(("10.96.0.1", 443), timeout=1).close()
                return True
            return False

        wait_until(is_reached, "10.96.0.1 leads to the API server", timeout=30)
    finally:
        second.stop()


def test_a_start_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    broken = tmp_path / "kubelet"
    broken.write_text("#!/bin/sh\necho no kubelet today: $*\nexit 1\n")
    broken.chmod(0o755)
    programs = {**binaries.provide(binaries.NODE_PROGRAMS), "kubelet": broken}

    with pytest.raises(StartError, match="no kubelet today"):
        Lab.start(nodes=1, programs=programs, logs=tmp_path / "logs")

    log = (tmp_path / "logs" / "kubelet-a.log").read_text()
    (run,) = set(re.findall(r"kedgelab-(\w+)", log))
    assert traces(run) == set()


def test_what_a_killed_run_left_is_swept() -> None:
    script = "import os; from tests.lab import Lab; print(Lab.start(nodes=0).run, flush=True); os.kill(os.getpid(), 9)"
    killed = subprocess.run(
        [sys.executable, "-c", script], check=False, cwd=machine.ROOT, capture_output=True, text=True, timeout=120
    )
    run = killed.stdout.strip()
    assert killed.returncode == -signal.SIGKILL
    assert run in cleanup.orphans()
    assert traces(run) >= {"process", "network", "directory"}

    cleanup.sweep()

    assert traces(run) == set()


def test_programs_and_threads_find_their_way_into_the_lab(own_lab: Lab) -> None:
    host, port = own_lab.apiserver_url.removeprefix("https://").split(":")
    connect = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 10).close()"
    network = Path("/proc/thread-self/ns/net")
    home = network.readlink()

    with own_lab.inside():
        assert network.readlink() != home
        socket.create_connection((host, int(port)), timeout=10).close()

    assert network.readlink() == home
    assert own_lab.run_in_lab_netns([sys.executable, "-c", connect, host, port]).wait(timeout=30) == 0


def test_the_lone_api_server_takes_resources(apiserver: ApiServer) -> None:
    apiserver.kubectl("create", "configmap", "lab", "--from-literal=anchor=up")

    assert apiserver.kubectl("get", "configmap", "lab", "-o", "jsonpath={.data.anchor}") == "up"


def test_a_cluster_of_others_says_what_only_the_lab_can(apiserver: ApiServer) -> None:
    external = ExternalCluster(apiserver.kubeconfig, "relay:latest")

    assert external.apiserver_url == apiserver.url
    with pytest.raises(LabOnlyError, match="cut_node needs the lab's own cluster; unset KUBECONFIG"):
        external.cut_node("node-a")


def test_programs_of_envtest_are_taken_when_all_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("kube-apiserver", "kubectl", "etcd"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))

    assert {path.parent for path in binaries.provide(binaries.API_PROGRAMS).values()} == {tmp_path}
    assert binaries.provide(binaries.NODE_PROGRAMS)["kube-apiserver"].parent != tmp_path


def traces(run: str) -> set[str]:
    """Kinds of things that carry the run's name, looked up apart from the lab's own cleaning."""
    found = set()
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if f"kedgelab-{run}" in cmdline.read_text(errors="replace"):
                found.add("process")
        except (FileNotFoundError, ProcessLookupError):
            continue
    if f"kedgelab-{run}" in Path("/proc/self/mountinfo").read_text().replace(f"/run/netns/kedgelab-{run}", ""):
        found.add("mount")
    if any(run in path.name for path in Path("/run/netns").glob("*")):
        found.add("network")
    if any(run in path.name for path in Path("/sys/fs/cgroup").glob("**/kedgelab-*")):
        found.add("cgroup")
    if any(run in path.name for path in Path(tempfile.gettempdir()).iterdir()):
        found.add("directory")
    return found


def test_waiting_ends_when_its_time_is_over() -> None:
    with pytest.raises(StartError, match="not within 0 s: the tide"):
        wait_until(lambda: False, "the tide", timeout=0)
