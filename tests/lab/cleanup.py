"""Taking a run away: its processes, mounts, namespaces, control groups and files, found by the run's name alone.

So it works as well after a start that failed half-way, and after a run that was killed. All that a run makes is
named ``kedgelab-RUN``, or lies in its directory; mounts live in the mount namespaces of its processes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.lab import cgroups, machine, netns
from tests.lab.errors import LabError, LeftoverError

PREFIX = "kedgelab-"

log = logging.getLogger(__name__)

_DAEMONS = frozenset(
    {
        "etcd",
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "kube-proxy",
        "kubelet",
        "containerd",
        "containerd-shim-runc-v2",
        "ctr",
        "kubectl",
    }
)
_OWNER = "owner"
_NOBODY = "nobody"
_DEADLINE = 15.0
"""Seconds for killed processes to vanish."""


def directory(run: str) -> Path:
    """Where the run keeps its files."""
    return Path(tempfile.gettempdir()) / f"{PREFIX}{run}"


def claim(run: str) -> Path:
    """Make the run's directory, owned by this process until ``disown``."""
    pid = os.getpid()
    new = Path(tempfile.mkdtemp(prefix=f".{PREFIX}"))
    (new / _OWNER).write_text(f"{pid} {_started(pid)}")
    return new.rename(directory(run))  # never seen without its owner, so never swept by another run


def disown(run: str) -> None:
    """Let the run live on after this process, until someone removes it."""
    (directory(run) / _OWNER).write_text(_NOBODY)


def runs() -> set[str]:
    """All runs of which something is there."""
    found = {path.name for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*")} | cgroups.names(PREFIX)
    if netns.NETNS.is_dir():
        found |= {path.name for path in netns.NETNS.glob(f"{PREFIX}*")}
    return {name.removeprefix(PREFIX).split("-")[0] for name in found}


def orphans() -> set[str]:
    """The runs whose owner is no more: killed before it could clean up. Only root sees those of other users."""
    return {run for run in runs() if not _owned(run) and _ours(run)}


def disowned() -> set[str]:
    """The runs that were left alive on purpose."""
    return {run for run in runs() if _owner(run) == [_NOBODY]}


def sweep() -> None:
    """Take away what killed runs left; what will not go, or is swept by another process as well, stops nobody."""
    for run in orphans():
        try:
            remove(run)
        except LeftoverError as error:
            log.warning("%s", error)


def remove(run: str) -> None:
    """Take all of a run away.

    Raises:
        LeftoverError: Some of it is still there.
    """
    _kill(run)
    for name in _namespaces(run):
        with contextlib.suppress(LabError):
            netns.Namespace(name).delete()
    for name in _groups(run):
        cgroups.remove(name)
    shutil.rmtree(directory(run), ignore_errors=True)
    left = leftovers(run)
    if left:
        raise LeftoverError(run, left)


def leftovers(run: str) -> list[str]:
    """What is still there of a run, in words."""
    return [
        *(f"process {pid} ({_name(pid)})" for pid in sorted(_processes(run))),
        *(f"mount {path}" for path in _mounts(run)),
        *(f"network namespace {name}" for name in _namespaces(run)),
        *(f"cgroup {name}" for name in _groups(run)),
        *(f"directory {path}" for path in [directory(run)] if path.exists()),
    ]


def _owner(run: str) -> list[str]:
    """Process and start time of who cleans up after the run; empty where that is unknown."""
    try:
        return (directory(run) / _OWNER).read_text().split()
    except (FileNotFoundError, PermissionError):
        return []


def _ours(run: str) -> bool:
    if os.geteuid() == 0:
        return True
    path = directory(run)
    return path.exists() and path.stat().st_uid == os.geteuid()


def _owned(run: str) -> bool:
    owner = _owner(run)
    return owner == [_NOBODY] or (bool(owner) and _started(int(owner[0])) == owner[1])


def _kill(run: str) -> None:
    """Kill again and again, for one that dies may have started another meanwhile."""
    deadline = time.monotonic() + _DEADLINE
    while (left := _processes(run)) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _processes(run: str) -> set[int]:
    in_groups = {pid for name in _groups(run) for pid in cgroups.pids(name)}
    return {pid for pid in in_groups | set(_daemons(run)) | set(_inhabitants(run)) if _started(pid)}


def _daemons(run: str) -> Iterator[int]:
    """The lab's programs that have the run's directory in their command line."""
    mark = f"{directory(run)}/"
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            words = path.read_bytes().decode(errors="replace").split("\0")
            if Path(words[0]).name in _DAEMONS and any(mark in word for word in words):
                yield int(path.parent.name)


def _inhabitants(run: str) -> Iterator[int]:
    for name in _namespaces(run):
        with contextlib.suppress(LabError):
            yield from (int(line) for line in netns.ip("netns", "pids", name).split())


def _started(pid: int) -> str:
    """When the process began, in the kernel's ticks; empty where it is gone or only awaits its parent."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _name(pid: int) -> str:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return "gone"


def _mounts(run: str) -> list[str]:
    mark = str(directory(run))
    paths = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return [path for path in paths if path == mark or path.startswith(f"{mark}/")]


def _namespaces(run: str) -> list[str]:
    if not netns.NETNS.is_dir() or machine.find("ip") is None:
        return []
    name = f"{PREFIX}{run}"
    return sorted(path.name for path in netns.NETNS.iterdir() if path.name == name or path.name.startswith(f"{name}-"))


def _groups(run: str) -> list[str]:
    return sorted(cgroups.names(f"{PREFIX}{run}-"))
