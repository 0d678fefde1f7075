"""The agent with a real kernel, a real rtpengine, and in the pods of a real cluster."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pytest
from tests.cluster.background import Background
from tests.cluster.conftest import BROKEN_TLS, CRDS
from tests.kit.kedge import KedgeProcess
from tests.kit.ports import free_ports
from tests.kit.processes import dying_with_parent, end
from tests.kit.rtpengine import Rtpengine
from tests.lab import Lab, images
from tests.lab.daemons import wait_until
from tests.lab.errors import KubectlError
from tests.lab.netns import Namespace

from kedge.adapters.kube_client import KubeClient
from kedge.agent.agent import MediaWatcher
from kedge.agent.media_watch import MediaReport
from kedge.controller.manifests import ManifestSettings
from kedge.controller.operator import Operator, OperatorSettings
from kedge.ports.records import SignalingSnapshot
from kedge.relay.bencode import Value, encode

ROOT = Path(__file__).parents[2]
ADDRESS = "192.0.2.7"
OFFER = (
    b"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 40000 RTP/AVP 0\r\n"
    b"a=rtpmap:0 PCMU/8000\r\n"
)


def tell(control: tuple[str, int], command: bytes, call: bytes, **more: Value) -> bytes:
    """Give a relay an ng command, and wait for its answer."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.settimeout(5.0)
        fields: dict[bytes, Value] = {b"command": command, b"call-id": call, b"from-tag": b"a"}
        fields |= {name.replace("_", " ").encode(): value for name, value in more.items()}
        one.sendto(secrets.token_hex(8).encode() + b" " + encode(fields), control)
        answer = one.recv(65535)
        assert b"6:result2:ok" in answer
        return answer


class Node:
    """A network with one interface that has the media address; the veth's other end plays the switch."""

    def __init__(self) -> None:
        self.netns = Namespace(f"kedge-agent-{secrets.token_hex(3)}")

    def up(self) -> None:
        """Bring the interface up with its address, from whatever state."""
        self.netns.ip("link", "set", "media", "up")
        self.netns.ip("link", "set", "switch", "up")
        self.netns.ip("address", "replace", f"{ADDRESS}/24", "dev", "media")

    def restart(self) -> None:
        self.netns.ip("link", "add", "media", "type", "veth", "peer", "name", "switch")
        self.up()


@pytest.fixture
def node() -> Iterator[Node]:
    made = Node()
    made.netns.create()
    try:
        made.restart()
        yield made
    finally:
        made.netns.delete()


TROUBLES: list[tuple[str, tuple[str, ...], str]] = [
    ("switched off", ("link", "set", "media", "down"), "LinkDown"),
    ("no carrier", ("link", "set", "switch", "down"), "LinkDown"),
    ("address removed", ("address", "del", f"{ADDRESS}/24", "dev", "media"), "AddressRemoved"),
    ("interface gone", ("link", "del", "media"), "AddressRemoved"),
]


@contextmanager
def watching(node: Node) -> Iterator[list[tuple[float, MediaReport]]]:
    """Watch on a thread that is inside the namespace; give what is told, with the time."""
    told: list[tuple[float, MediaReport]] = []
    states: list[Callable[[], str]] = []
    loops: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]] = []

    async def work() -> None:
        watcher = MediaWatcher(ADDRESS, lambda report: told.append((time.monotonic(), report)))
        states.append(lambda: watcher.state)
        task = asyncio.create_task(watcher.run())
        loops.append((asyncio.get_running_loop(), task))
        await asyncio.wait((task,))

    def run() -> None:
        with node.netns.inside():
            asyncio.run(work())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        wait_until(lambda: bool(states) and states[0]() == "Well", "the address is seen well", timeout=10)
        yield told
    finally:
        loop, task = loops[0]
        loop.call_soon_threadsafe(task.cancel)
        thread.join(10)


@pytest.mark.parametrize(("command", "state"), [one[1:] for one in TROUBLES], ids=[one[0] for one in TROUBLES])
def test_the_kernel_tells_of_a_media_address_that_is_lost(node: Node, command: tuple[str, ...], state: str) -> None:
    with watching(node) as told:
        node.netns.ip(*command)
        wait_until(lambda: bool(told), "trouble is told", timeout=5)
        if state == "AddressRemoved" and "link" in command:
            node.restart()
        else:
            node.up()
        wait_until(lambda: told[-1][1].state.value == "Well", "its end is told", timeout=5)

    assert (told[0][1].state.value, told[0][1].interface) == (state, "media")


@contextmanager
def agent(*arguments: str, enter: tuple[str, ...] = ()) -> Iterator[tuple[subprocess.Popen[bytes], tuple[str, int]]]:
    """Run ``kedge agent``; give the process and where it listens."""
    listen = ("127.0.0.1", free_ports(1, "127.0.0.1"))
    command = [
        *enter, sys.executable, "-m", "kedge.cli.main", "agent", "--listen", f"{listen[0]}:{listen[1]}", *arguments
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "operator")}
    process = subprocess.Popen(dying_with_parent(command), env=environment, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        yield process, listen
    finally:
        end(process, patience=10.0)


def ask(address: tuple[str, int], path: str, *, timeout: float = 5.0) -> Any:
    connection = http.client.HTTPConnection(*address, timeout=timeout)
    try:
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())
    except OSError:
        return {}
    finally:
        connection.close()


class TwoNetworks:
    """A relay's node, and signaling: joined by a network for media and control, and by another for management."""

    RELAY, SIGNALING = "192.0.2.7", "192.0.2.1"
    MANAGED_RELAY, MANAGED_SIGNALING = "198.51.100.7", "198.51.100.1"

    def __init__(self) -> None:
        name = secrets.token_hex(3)
        self.node, self.signaling = Namespace(f"kedge-node-{name}"), Namespace(f"kedge-sig-{name}")

    def __enter__(self) -> Self:
        for one in (self.node, self.signaling):
            one.create()
        for link, here, there in (
            ("media", self.RELAY, self.SIGNALING),
            ("manage", self.MANAGED_RELAY, self.MANAGED_SIGNALING),
        ):
            self.node.ip("link", "add", link, "type", "veth", "peer", "name", link, "netns", self.signaling.name)
            for one, address in ((self.node, here), (self.signaling, there)):
                one.ip("address", "add", f"{address}/24", "dev", link)
                one.ip("link", "set", link, "up")
        return self

    def __exit__(self, *_: object) -> None:
        for one in (self.node, self.signaling):
            one.delete()


@pytest.fixture
def networks() -> Iterator[TwoNetworks]:
    with TwoNetworks() as made:
        yield made


@pytest.fixture
def relay(networks: TwoNetworks) -> Iterator[Rtpengine]:
    with networks.node.inside():
        made = Rtpengine(networks.RELAY, media_ports=20).start()
    yield made
    made.stop()


@pytest.fixture
def kedge(networks: TwoNetworks, relay: Rtpengine, tmp_path: Path) -> Iterator[KedgeProcess]:
    """Signaling, whose admin API is on the network for management and asks for tokens."""
    for scope in ("admin", "report"):
        (tmp_path / scope).write_text(secrets.token_hex(16))
    admin = {"address": networks.MANAGED_SIGNALING, "port": 8080}
    files = {"tokenFile": str(tmp_path / "admin"), "reportTokenFile": str(tmp_path / "report")}
    with networks.signaling.inside():
        made = KedgeProcess(
            folder=tmp_path, relays=[relay], routes=[], peers={}, settings={"admin": {**admin, **files}},
            health={"interval": "100ms", "timeout": "100ms", "threshold": 20},
        ).start()  # fmt: skip
    yield made
    made.stop()


def events_of(networks: TwoNetworks, folder: Path) -> list[dict[str, Any]]:
    """Return what signaling tells."""
    bearer = {"Authorization": f"Bearer {(folder / 'admin').read_text()}"}
    with networks.signaling.inside():
        connection = http.client.HTTPConnection(networks.MANAGED_SIGNALING, 8080, timeout=5)
        try:
            connection.request("GET", "/v1/events", headers=bearer)
            return list(json.loads(connection.getresponse().read()))
        finally:
            connection.close()


def test_signaling_knows_of_a_dead_link_by_the_agent_and_one_lost_probe(
    networks: TwoNetworks, relay: Rtpengine, kedge: KedgeProcess, tmp_path: Path, record_property: Any
) -> None:
    arguments = (
        "--control", f"{relay.ip}:{relay.ng[1]}", "--media-address", relay.ip, "--relay-uid", "default/voice/relay-1",
        "--signaling", f"{networks.MANAGED_SIGNALING}:8080", "--token-file", str(tmp_path / "report"),
    )  # fmt: skip

    def told(reason: str, since: float) -> list[dict[str, Any]]:
        return [one for one in events_of(networks, tmp_path) if one["reason"] == reason and one["at"] >= since]

    def seen() -> str:
        with networks.node.inside():
            return str(ask(listen, "/healthz").get("media"))

    with agent(*arguments, enter=tuple(networks.node.enter)) as (_, listen):
        wait_until(lambda: seen() == "Well", "the agent sees the address", timeout=20)
        wait_until(lambda: bool(told("RelayReady", 0.0)), "the relay is Ready", timeout=20)
        began = time.time()
        networks.node.ip("link", "set", "media", "down")
        cut = time.time()
        wait_until(lambda: bool(told("RelayDown", began)), "the relay is Down", timeout=20)
        (suspect,), (down,) = told("RelaySuspect", began), told("RelayDown", began)
        networks.node.ip("link", "set", "media", "up")
        wait_until(lambda: bool(told("RelayReady", began)), "the relay is Ready again", timeout=20)

    record_property("milliseconds that `ip link set down` took", round((cut - began) * 1000, 1))
    for name, event in (("Suspect", suspect), ("Down", down)):
        record_property(f"milliseconds from before it to {name} in signaling", round((event["at"] - began) * 1000, 1))
    assert "Suspect (LinkDown): its agent says that link media is down" in suspect["message"]
    assert "Down (LinkDown): " in down["message"], "not by twenty lost probes"
    assert all((tmp_path / scope).read_text() not in kedge.log for scope in ("admin", "report"))


def test_a_relay_is_held_until_its_last_call_has_left() -> None:
    answers: list[Any] = []
    with Rtpengine() as relay, agent("--control", f"{relay.ng[0]}:{relay.ng[1]}", "--deadline", "60s") as (_, listen):
        wait_until(lambda: ask(listen, "/healthz") != {}, "the agent answers", timeout=20)
        for name in (b"call-1", b"kedge-canary-1"):
            tell(relay.ng, b"offer", name, sdp=OFFER)
        asking = threading.Thread(target=lambda: answers.append(ask(listen, "/v1/hold", timeout=60)))
        asking.start()
        wait_until(lambda: ask(listen, "/healthz")["holding"], "the hold has begun", timeout=10)
        held = not answers

        tell(relay.ng, b"delete", b"call-1", delete_delay=0)
        asking.join(20)

    assert held
    assert (answers[0]["reason"], answers[0]["sessions"]) == ("Empty", 0)


def test_an_agent_that_is_told_to_end_amid_a_hold_ends_after_it() -> None:
    answers: list[Any] = []
    with Rtpengine() as relay, agent("--control", f"{relay.ng[0]}:{relay.ng[1]}", "--deadline", "2s") as (one, listen):
        wait_until(lambda: ask(listen, "/healthz") != {}, "the agent answers", timeout=20)
        tell(relay.ng, b"offer", b"call-1", sdp=OFFER)
        asking = threading.Thread(target=lambda: answers.append(ask(listen, "/v1/hold", timeout=60)))
        asking.start()
        wait_until(lambda: ask(listen, "/healthz")["holding"], "the hold has begun", timeout=10)

        one.send_signal(signal.SIGTERM)
        asking.join(20)
        status = one.wait(10)

    assert (answers[0]["reason"], answers[0]["sessions"]) == ("Deadline", 1)
    assert status == 0


class Held:
    """kubectl in a namespace of one test's own."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.namespace = f"held-{secrets.token_hex(3)}"

    def __call__(self, *args: str, stdin: str | None = None) -> str:
        return self._lab.kubectl(f"--namespace={self.namespace}", *args, stdin=stdin)


class Silent:
    """Signaling that has nothing to tell."""

    async def snapshots(self) -> tuple[SignalingSnapshot, ...]:
        return ()


@pytest.fixture
def held(own_lab: Lab) -> Iterator[Held]:
    """A namespace where an operator gives relays an agent, at first under the restricted standard."""
    own_lab.kubectl("apply", "--server-side", "-f", str(CRDS))
    own_lab.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd/relaysets.kedge.media")
    held = Held(own_lab)
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    own_lab.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": held.namespace, "labels": labels}})
    manifests = ManifestSettings(image=own_lab.relay_image, agent_image=images.KEDGE, signaling_labels={"app": "none"})
    settings = OperatorSettings(manifests=manifests, namespace=held.namespace)
    operator = Operator(settings, KubeClient(str(own_lab.kubeconfig)), Silent())
    with Background(operator.run, inside=own_lab.inside):
        yield held
        own_lab.kubectl("delete", "namespace", held.namespace, "--wait=false")


@BROKEN_TLS
def test_a_pod_lives_until_its_last_call_has_left(own_lab: Lab, held: Held) -> None:
    spec = {"engine": "RTPEngine", "replicas": 1, "media": {"portRange": {"min": 16384, "max": 16583}}}
    metadata = {"name": "voice"}
    relay_set = {"apiVersion": "kedge.media/v1alpha1", "kind": "RelaySet", "metadata": metadata, "spec": spec}
    own_lab.load_image(images.build(images.KEDGE))
    held("apply", "-f", "-", stdin=json.dumps(relay_set))
    wait_until(lambda: "1/1" in held("get", "deployment", "--no-headers"), "the relay is available", timeout=90)
    (pod,) = json.loads(held("get", "pods", "-o", "json"))["items"]
    name, control = pod["metadata"]["name"], (pod["status"]["podIP"], 2223)
    with own_lab.inside():
        tell(control, b"offer", b"call-1", sdp=OFFER)

    held("delete", "pod", name, "--wait=false")
    with pytest.raises(KubectlError, match="timed out"):  # longer than a relay without an agent is held
        held("wait", f"pod/{name}", "--for=delete", "--timeout=12s")
    with own_lab.inside():
        tell(control, b"delete", b"call-1", delete_delay=0)
    held("wait", f"pod/{name}", "--for=delete", "--timeout=40s")  # its grace period is over in ten minutes

    assert name not in held("get", "pods", "-o", "name")


EXTERNAL = "198.51.100.7"


@BROKEN_TLS
def test_a_relay_advertises_the_external_address_of_its_node(own_lab: Lab, held: Held) -> None:
    own_lab.kubectl(
        "label", "--overwrite", "namespace", held.namespace, "pod-security.kubernetes.io/enforce=privileged"
    )
    media = {
        "hostNetwork": True, "advertise": {"type": "NodeExternalIP"}, "portRange": {"min": 16384, "max": 16583},
    }  # fmt: skip
    spec = {"engine": "RTPEngine", "replicas": 1, "media": media}
    metadata = {"name": "outside"}
    relay_set = {"apiVersion": "kedge.media/v1alpha1", "kind": "RelaySet", "metadata": metadata, "spec": spec}
    own_lab.load_image(images.build(images.KEDGE))

    def available() -> bool:
        """Say whether the relay is; play the cloud provider meanwhile, whose address the kubelet here takes away."""
        for node, address in own_lab.node_addresses.items():
            addresses = [{"type": "InternalIP", "address": address}, {"type": "ExternalIP", "address": EXTERNAL}]
            patch = json.dumps({"status": {"addresses": addresses}})
            own_lab.kubectl("patch", "node", node, "--subresource=status", "--type=merge", f"--patch={patch}")
        return "1/1" in held("get", "deployment", "outside-relay", "--no-headers")

    held("apply", "-f", "-", stdin=json.dumps(relay_set))
    wait_until(lambda: "outside-relay" in held("get", "deployment", "-o", "name"), "it is made", timeout=30)
    wait_until(available, "the relay is available", timeout=90)

    (pod,) = json.loads(held("get", "pods", "-l", "kedge.media/relayset=outside", "-o", "json"))["items"]
    assert pod["metadata"]["annotations"]["kedge.media/external-ip"] == EXTERNAL
    with own_lab.inside():
        control = (pod["status"]["hostIP"], 2223)
        assert f"c=IN IP4 {EXTERNAL}".encode() in tell(control, b"offer", b"call-2", sdp=OFFER)
        tell(control, b"delete", b"call-2", delete_delay=0)
