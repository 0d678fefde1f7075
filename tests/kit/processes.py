"""Child processes that never outlive the test: the kernel kills them when their parent ends."""

import contextlib
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The top of the source tree: where ``python -m tests.kit...`` works."""


def dying_with_parent(command: Sequence[str]) -> list[str]:
    """Wrap a command so that its process is killed when its parent thread ends (prctl PR_SET_PDEATHSIG).

    Raises:
        FileNotFoundError: a program is not installed.
    """
    wrapper, program = shutil.which("setpriv"), shutil.which(command[0])
    if wrapper is None or program is None:
        raise FileNotFoundError(f"{'setpriv (util-linux)' if wrapper is None else command[0]} is not installed")
    return [wrapper, "--pdeathsig", "KILL", program, *command[1:]]


def end(process: subprocess.Popen[bytes], *, patience: float = 2.0) -> None:
    """Ask a process to end, wake it if it is stopped, kill it after ``patience`` seconds; then reap it."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
            process.terminate()
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()
