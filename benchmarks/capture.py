"""A capture of SIP on loopback while a benchmark runs, and what an independent reader, tshark, finds in it.

Needs the rights to capture (root), and Debian's tshark (``make bench-rebalance`` installs it).
"""

from __future__ import annotations

import subprocess
from collections import defaultdict
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.kit.processes import dying_with_parent, end

from kedge.base.address import Address

_READY: Final = b"Capturing on"


class SipCapture:
    """Captures what passes a SIP address on loopback into ``file``. A context manager; read it after its end."""

    def __init__(self, file: Path, sip: Address) -> None:
        self._file = file
        self._host, self._port = sip
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start, and wait until packets are seen.

        Raises:
            RuntimeError: it cannot capture here.
        """
        command = ["tshark", "-q", "-i", "lo", "-f", f"udp and host {self._host} and port {self._port}"]
        self._process = subprocess.Popen(
            dying_with_parent([*command, "-w", str(self._file)]), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        assert self._process.stderr is not None
        said = b""
        while _READY not in said:
            line = self._process.stderr.readline()
            if not line:
                raise RuntimeError(f"tshark cannot capture on lo: {said.decode(errors='replace')}")
            said += line
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it; what it has seen is in the file then."""
        if self._process is not None:
            end(self._process)

    def reinvites(self) -> dict[str, list[float]]:
        """Return when (seconds since 1970, sorted) re-INVITEs left Kedge for each address, repeats included."""
        found = subprocess.run(
            [
                "tshark", "-r", str(self._file), "-d", f"udp.port=={self._port},sip",
                "-Y", f'sip.Method == "INVITE" && sip.to.tag && ip.src == {self._host}',
                "-T", "fields", "-e", "frame.time_epoch", "-e", "ip.dst",
            ],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        times: defaultdict[str, list[float]] = defaultdict(list)
        for line in found.stdout.splitlines():
            at, _, peer = line.partition("\t")
            times[peer].append(float(at))
        return {peer: sorted(each) for peer, each in times.items()}
