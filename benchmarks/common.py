"""What the benchmarks share: CPU time with resolution, a table, and a folder for the files of a run."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

Figure = float | int


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that all threads of a process have used, to the nanosecond (/proc/PID/task/*/schedstat)."""
    return sum(int(task.read_text().split()[0]) for task in Path(f"/proc/{pid}/task").glob("*/schedstat")) * 1e-9


class CpuMeter:
    """CPU time of a process over a stretch of time, without what it uses when idle."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._idle = 0.0
        self._at = self._used = 0.0
        self.start()

    def start(self) -> None:
        """Begin a stretch."""
        self._at, self._used = time.monotonic(), cpu_seconds(self._pid)

    def take_for_idle(self) -> None:
        """Hold the stretch since ``start`` for the process at rest, and begin another."""
        self._idle = (cpu_seconds(self._pid) - self._used) / (time.monotonic() - self._at)
        self.start()

    @property
    def idle_share(self) -> float:
        """CPU seconds a second at rest."""
        return self._idle

    def used(self) -> float:
        """Return the CPU seconds of this stretch beyond those of a process at rest."""
        elapsed, used = time.monotonic() - self._at, cpu_seconds(self._pid) - self._used
        return max(0.0, used - self._idle * elapsed)


def show(figures: Mapping[str, Figure], *, as_json: bool, notes: Mapping[str, str] | None = None) -> None:
    """Print figures, as one line of JSON or as a table with ``notes`` below."""
    rounded = {name: value if isinstance(value, int) else round(value, 1) for name, value in figures.items()}
    if as_json:
        print(json.dumps(rounded))
        return
    width = max(map(len, [*rounded, *(notes or {})]))
    for name, value in rounded.items():
        print(f"{name:<{width}}  {value:>10}")
    for name, text in (notes or {}).items():
        print(f"{name:<{width}}  {text}")


@contextmanager
def run_folder() -> Iterator[Path]:
    """Give a folder that vanishes with the run."""
    with tempfile.TemporaryDirectory(prefix="kedge-bench-") as name:
        yield Path(name)
