"""Long-running programs with a log file each: start, watch, freeze, kill.

They run in sessions of their own, so that a Ctrl-C at the terminal reaches the lab and not its parts.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.lab.errors import LabError, StartError

_POLL = 0.05
"""Seconds between two looks at a condition."""


class Daemon:
    """One program. Its output goes to ``log``, restarts included."""

    def __init__(self, name: str, command: Sequence[str | Path], log: Path) -> None:
        self.name, self.log = name, log
        self._command = [str(part) for part in command]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, or start it again."""
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def alive(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its process, once it was started."""
        if self._process is None:
            raise LabError(f"{self.name} was not started")
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it is alive."""
        if self._process is not None and self.alive:
            self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once, and wait for its end."""
        self.signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(timeout=10)

    def tail(self, lines: int = 15) -> str:
        """The end of its log."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def wait_until(ready: Callable[[], bool], what: str, *, timeout: float, daemons: Sequence[Daemon] = ()) -> None:
    """Wait until ``ready()``, at most ``timeout`` seconds, as long as all ``daemons`` live.

    Raises:
        StartError: One of them ended, or the time is over; the ends of their logs are in the message.
    """
    deadline = time.monotonic() + timeout
    while not ready():
        dead = [daemon for daemon in daemons if not daemon.alive]
        if dead:
            raise StartError(f"{dead[0].name} ended before {what}; its log ends:\n{dead[0].tail()}")
        if time.monotonic() > deadline:
            logs = "\n".join(f"--- {daemon.name}\n{daemon.tail()}" for daemon in daemons)
            raise StartError(f"not within {timeout:g} s: {what}\n{logs}")
        time.sleep(_POLL)
