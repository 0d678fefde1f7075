"""What the lab needs of the machine: rights, programs, and the packages that bring them.

Installs nothing by itself but what ``scripts/apt-install.sh`` may: as root or with sudo, else it says the command.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from tests.lab.errors import PrerequisiteError

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kedge"
CNI_BIN = Path("/usr/lib/cni")

_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/go/bin"])

_PACKAGES = {
    "etcd": "etcd-server",
    "openssl": "openssl",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "mount": "mount",
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "catatonit": "catatonit",
    "nft": "nftables",
    "conntrack": "conntrack",
    "rtpengine": "rtpengine-daemon",
    "go": "golang-go",
    str(CNI_BIN / "bridge"): "containernetworking-plugins",
}

CONTROL_PLANE_PROGRAMS = ("etcd", "openssl")
NODE_PROGRAMS = (
    "ip",
    "nsenter",
    "unshare",
    "mount",
    "containerd",
    "ctr",
    "runc",
    "catatonit",
    "rtpengine",
    str(CNI_BIN / "bridge"),
)
SERVICE_PROGRAMS = ("nft", "conntrack")


def find(program: str) -> Path | None:
    """Where ``program`` is, system directories included; None where it is missing."""
    found = shutil.which(program, path=_PATH)
    return Path(found) if found else None


def program(name: str) -> Path:
    """Where ``name`` is.

    Raises:
        PrerequisiteError: It is not installed.
    """
    found = find(name)
    if found is None:
        raise PrerequisiteError(f"{name} is missing (Debian package {_PACKAGES.get(name, name)})")
    return found


def provide(programs: Iterable[str]) -> None:
    """Install the packages of those ``programs`` that are missing.

    Raises:
        PrerequisiteError: That was not possible; the message says which command to run.
    """
    missing = sorted({_PACKAGES[name] for name in programs if find(name) is None})
    if not missing:
        return
    done = subprocess.run(
        [ROOT / "scripts" / "apt-install.sh", *missing], check=False, capture_output=True, text=True, timeout=600
    )
    if done.returncode:
        raise PrerequisiteError(done.stderr.strip() or f"could not install {' '.join(missing)}")


def require_root() -> None:
    """Refuse early where namespaces, mounts and cgroups cannot be made.

    Raises:
        PrerequisiteError: This is not root.
    """
    if os.geteuid() != 0:
        raise PrerequisiteError(
            "the lab makes network namespaces, mounts and cgroups and so needs root: run it with `sudo -E`, "
            "or set KUBECONFIG to a cluster of your own"
        )
