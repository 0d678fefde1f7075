"""A node: a network namespace with a containerd and a kubelet of its own, joined to the lab's bridge by one cable.

The cable is a veth pair. To take it down is a perfect loss of the node: pods live on, and nobody hears of them. Pods
sit on the node's bridge, in the same network as the lab, so everybody reaches them without a route.

The two daemons share a mount namespace too, in which the directories they write to whatever one sets are empty ones of
their own. So they meet no other kubelet or containerd, and all mounts of their pods vanish with the last process.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tests.lab import cgroups, machine
from tests.lab.binaries import Programs
from tests.lab.cleanup import PREFIX
from tests.lab.control_plane import PROXY, Credentials, node_user
from tests.lab.daemons import Daemon, wait_until
from tests.lab.errors import LabError
from tests.lab.images import PAUSE
from tests.lab.netns import Namespace

NETWORK: Final = ipaddress.ip_network("192.0.2.0/24")
"""TEST-NET-1 of RFC 5737: .1 is the lab, .11 and up are nodes, from .32 on each node has 32 addresses for pods."""
GATEWAY: Final = NETWORK[1]
LAB_BRIDGE: Final = "kn0"
MOST: Final = 6

_BRIDGE: Final = "cni0"
_PODS: Final = 32
_LETTERS: Final = "abcdef"
_APART: Final = 'for d in /run /var/lib /var/log; do mount -t tmpfs tmpfs "$d" || exit; done; exec "$@"'


class Node:
    """One node of the lab; ``index`` counts from 0."""

    def __init__(self, run: str, index: int, directory: Path, programs: Programs, lab: Namespace) -> None:
        letter = _LETTERS[index]
        self.name = f"node-{letter}"
        self.address = str(NETWORK[11 + index])
        self.netns = Namespace(f"{PREFIX}{run}-{letter}")
        self.directory = directory / letter
        self._cgroup = f"{PREFIX}{run}-{letter}"
        self._pods = (NETWORK[_PODS * (index + 1)], NETWORK[_PODS * (index + 2) - 1])
        self._mac = f"02:00:5e:00:53:{index + 16:02x}"
        self._lab, self._port = lab, f"veth-{letter}"
        self._programs = programs
        self._logs = directory / "log"
        self._socket = self.directory / "containerd.sock"
        apart = [*self.netns.enter, "unshare", "--mount", "sh", "-c", _APART, "sh"]
        self._containerd = Daemon(
            "containerd",
            [*apart, machine.program("containerd"), "--config", self.directory / "containerd.toml"],
            self._logs / f"containerd-{letter}.log",
        )
        self._others: list[Daemon] = []

    @property
    def daemons(self) -> list[Daemon]:
        """All that must live for the node to work."""
        return [self._containerd, *self._others]

    def create(self) -> None:
        """Make the namespace, the control groups and the network, and start containerd."""
        self.directory.mkdir()
        self.netns.create()
        self.netns.add_bridge(_BRIDGE, address=f"{self.address}/{NETWORK.prefixlen}", mac=self._mac)
        self._lab.join(LAB_BRIDGE, self._port, self.netns, _BRIDGE)
        self.netns.ip("route", "add", "default", "via", str(GATEWAY))
        self.netns.forward()
        cgroups.create(self._cgroup)
        self._write_network_config()
        (self.directory / "containerd.toml").write_text(self._containerd_config())
        self._containerd.start()

    def load_images(self, archives: Sequence[Path]) -> None:
        """Put the images of OCI archives into containerd, as soon as it serves.

        Raises:
            StartError: containerd did not come up.
            LabError: It refused an archive.
        """
        self._await_containerd()
        for archive in archives:
            self._ctr("images", "import", str(archive))

    def start_kubelet(self, credentials: Credentials) -> None:
        """Start the kubelet, once containerd serves; the node registers itself."""
        self._await_containerd()
        config = self.directory / "kubelet.json"
        config.write_text(json.dumps(self._kubelet_config(), indent=1))
        flags = [
            f"--config={config}",
            f"--kubeconfig={credentials.kubeconfig(node_user(self.name))}",
            f"--root-dir={self.directory}/kubelet",
            f"--cert-dir={self.directory}/kubelet/pki",
            f"--hostname-override={self.name}",
            f"--node-ip={self.address}",
            f"--node-labels=topology.kubernetes.io/zone=zone-{self.name[-1]}",
        ]
        self._start("kubelet", flags)

    def start_proxy(self, credentials: Credentials) -> None:
        """Start kube-proxy, so that pods reach Services."""
        config = self.directory / "kube-proxy.json"
        settings = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "clientConnection": {"kubeconfig": str(credentials.kubeconfig(PROXY))},
            "hostnameOverride": self.name,
            "clusterCIDR": str(NETWORK),
            "conntrack": {"maxPerCore": 0, "min": 0},
        }
        config.write_text(json.dumps(settings, indent=1))
        self._start("kube-proxy", [f"--config={config}"])

    def cut(self) -> None:
        """Pull the cable."""
        self._lab.ip("link", "set", self._port, "down")

    def join(self) -> None:
        """Plug it in again."""
        self._lab.ip("link", "set", self._port, "up")

    def container_pid(self, pod: str, container: str, *, namespace: str) -> int:
        """The process of a running container, on this machine. Asks containerd, so it works without the API.

        Raises:
            LabError: No such container runs here.
        """
        wanted = {"pod.namespace": namespace, "pod.name": pod, "container.name": container}
        labels = ",".join(f'labels."io.kubernetes.{key}"=={value}' for key, value in wanted.items())
        known = set(self._ctr("containers", "list", "--quiet", labels).split())
        tasks = [line.split() for line in self._ctr("tasks", "list").splitlines()]
        running = [
            int(pid) for name, pid, state in (task[:3] for task in tasks) if name in known and state == "RUNNING"
        ]
        if not running:
            raise LabError(f"no container {container} of pod {namespace}/{pod} runs on {self.name}")
        return running[0]

    def _start(self, program: str, flags: Sequence[str]) -> None:
        log = self._logs / f"{program}-{self.name[-1]}.log"
        enter = [*self.netns.enter, f"--mount=/proc/{self._containerd.pid}/ns/mnt"]
        daemon = Daemon(program, [*enter, self._programs[program], *flags], log)
        self._others.append(daemon)
        daemon.start()

    def _ctr(self, *arguments: str) -> str:
        command = [machine.program("ctr"), "--address", self._socket, "--namespace", "k8s.io", *arguments]
        done = subprocess.run([str(word) for word in command], check=False, capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise LabError(f"ctr {' '.join(arguments)} on {self.name}: {done.stderr.strip()}")
        return done.stdout

    def _await_containerd(self) -> None:
        wait_until(self._containerd_serves, f"containerd of {self.name} serves", timeout=30, daemons=[self._containerd])

    def _containerd_serves(self) -> bool:
        with contextlib.suppress(LabError):
            return self._socket.exists() and bool(self._ctr("version"))
        return False

    def _write_network_config(self) -> None:
        first, last = self._pods
        addresses = {"subnet": str(NETWORK), "rangeStart": str(first), "rangeEnd": str(last), "gateway": self.address}
        ipam = {
            "type": "host-local",
            "dataDir": str(self.directory / "addresses"),
            "ranges": [[addresses]],
            "routes": [{"dst": "0.0.0.0/0"}],
        }
        bridge = {"type": "bridge", "bridge": _BRIDGE, "hairpinMode": True, "ipam": ipam}
        directory = self.directory / "cni"
        directory.mkdir()
        config = {"cniVersion": "1.0.0", "name": self._cgroup, "plugins": [bridge]}
        (directory / "lab.conflist").write_text(json.dumps(config, indent=1))

    def _containerd_config(self) -> str:
        home = self.directory
        cri = "io.containerd.grpc.v1.cri"
        return f"""\
version = 2
root = "{home}/containerd"
state = "{home}/containerd-state"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = "{self._socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{home}/opt"
[plugins."{cri}"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
[plugins."{cri}".cni]
  bin_dir = "{machine.CNI_BIN}"
  conf_dir = "{home}/cni"
[plugins."{cri}".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."{cri}".containerd.runtimes.runc.options]
  Root = "{home}/runc"
  SystemdCgroup = false
"""

    def _kubelet_config(self) -> dict[str, Any]:
        """For a guest on a machine that is not its own: it must touch nothing outside its directory and cgroup."""
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "containerRuntimeEndpoint": f"unix://{self._socket}",
            "cgroupRoot": f"/{self._cgroup}",
            "cgroupDriver": "cgroupfs",
            "failCgroupV1": False,
            "failSwapOn": False,
            "enforceNodeAllocatable": [],
            "makeIPTablesUtilChains": False,
            "localStorageCapacityIsolation": False,
            "resolvConf": "",
            "podLogsDir": f"{self.directory}/pod-logs",
            "volumePluginDir": f"{self.directory}/volume-plugins",
            "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,
            "nodeStatusUpdateFrequency": "4s",
            "syncFrequency": "10s",
            "readOnlyPort": 0,
        }
