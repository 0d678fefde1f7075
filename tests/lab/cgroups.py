"""Control groups, version 1 and 2: what a kubelet wants to find, and who is left in them.

Version 1 has a tree for each controller; a group is the same path in all of them. Its cpuset starts empty, and
nothing runs in it until the parent's CPUs and memory nodes are copied.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.lab.errors import PrerequisiteError

_WANTED = ("cpu", "cpuset", "memory", "pids", "io", "hugetlb")


def create(name: str) -> None:
    """Make the group ``name`` below the root of each tree."""
    for tree in _trees():
        if (tree / "cgroup.subtree_control").exists():
            _enable(tree)
        group = tree / name
        group.mkdir()
        for file in ("cpuset.cpus", "cpuset.mems"):
            if (tree / file).exists() and not (group / "cgroup.controllers").exists():
                (group / file).write_text((tree / file).read_text())
        if (group / "cgroup.subtree_control").exists():
            _enable(group)


def names(prefix: str) -> set[str]:
    """The groups right below a root whose name starts with ``prefix``."""
    return {path.name for tree in _trees() for path in tree.glob(f"{prefix}*") if path.is_dir()}


def pids(name: str) -> set[int]:
    """The processes in the group ``name`` and below it."""
    found: set[int] = set()
    for group in _groups(name):
        with contextlib.suppress(FileNotFoundError, OSError):
            found.update(int(line) for line in (group / "cgroup.procs").read_text().split())
    return found


def remove(name: str) -> None:
    """Take the group away, and what is below it; a group that still holds processes stays."""
    for group in sorted(_groups(name), key=lambda path: len(path.parts), reverse=True):
        with contextlib.suppress(OSError):
            group.rmdir()


def _groups(name: str) -> Iterator[Path]:
    for tree in _trees():
        if (tree / name).is_dir():
            yield tree / name
            yield from (path for path in (tree / name).rglob("*") if path.is_dir())


def _trees() -> list[Path]:
    """Where the trees of both versions are mounted."""
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [Path(fields[4]) for fields in lines if fields[fields.index("-") + 1] in ("cgroup", "cgroup2")]


def _enable(group: Path) -> None:
    available = (group / "cgroup.controllers").read_text().split()
    given = (group / "cgroup.subtree_control").read_text().split()
    wanted = " ".join(f"+{name}" for name in _WANTED if name in available and name not in given)
    if not wanted:
        return
    try:
        (group / "cgroup.subtree_control").write_text(wanted)
    except OSError as error:
        raise PrerequisiteError(f"{group} gives no controllers to groups below it ({wanted}: {error})") from error
