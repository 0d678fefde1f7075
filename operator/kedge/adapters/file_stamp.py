"""What tells that a file has changed, without reading it."""

from __future__ import annotations

from pathlib import Path

Stamp = tuple[int, int, int]
"""Time of the last change, size and inode."""


def stamp(file: Path) -> Stamp | None:
    """Return what changes with a file's content; None when it cannot be seen."""
    try:
        stat = file.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
