"""SIPp as caller or callee: scenarios made of parts, results and logs.

A scenario may hold ``<part name="bye" cseq="3"/>``: the file ``parts/bye.xml`` beside it stands there then, with
``{cseq}`` filled in. What the element does not name has the part's own default: ``<!-- default cseq=2 -->``.
Options that a scenario needs stand in it: ``<!-- options: -nr -->`` switches SIPp's own retransmissions off, and lets
the scenario see those of the other side.
"""

import csv
import os
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.kit.ports import free_ports
from tests.kit.processes import dying_with_parent, end
from tests.kit.wire import Address

_PART = re.compile(r'<part\s+name="([\w-]+)"((?:\s+[\w-]+="[^"]*")*)\s*/>')
_ATTRIBUTE = re.compile(r'([\w-]+)="([^"]*)"')
_DEFAULT = re.compile(r"<!-- default ([\w-]+)=(.*?) -->\n?")
_OPTIONS = re.compile(r"<!-- options: (.*?) -->\n?")
_PLACEHOLDER = re.compile(r"\{([a-z][a-z-]*)\}")
_EXIT = {
    0: "all calls succeeded",
    1: "a call failed",
    97: "timed out",
    99: "ended without calls",
    253: "RTP check failed",
    254: "connection error",
    255: "fatal error",
}


class SippError(AssertionError):
    """A SIPp run did not go as its scenario says; its logs follow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SippResult:
    """How a run ended."""

    exit_status: int
    succeeded: int
    failed: int
    retransmissions: int
    """By SIPp itself."""
    errors: str
    """SIPp's error log."""
    messages: str
    """All messages, as sent and received."""

    def received(self, start: str) -> int:
        """Count received messages whose first line begins so, retransmissions included."""
        blocks = re.findall(r"message received \[\d+\] bytes :\n\n([^\n]*)", self.messages)
        return sum(block.startswith(start) for block in blocks)

    def sent(self, start: str) -> int:
        """Count sent messages whose first line begins so, retransmissions included."""
        blocks = re.findall(r"message sent \(\d+ bytes\):\n\n([^\n]*)", self.messages)
        return sum(block.startswith(start) for block in blocks)


def expand(scenario: Path, values: Mapping[str, str] | None = None) -> str:
    """Put the parts into a scenario, and ``values`` for the placeholders that it has itself.

    Raises:
        KeyError: a placeholder is filled by nobody: no value, no attribute of the element, no default.
        FileNotFoundError: there is no such part.
    """

    def fill(match: re.Match[str]) -> str:
        text = (scenario.parent / "parts" / f"{match[1]}.xml").read_text()
        return _PART.sub(fill, _filled(text, dict(_ATTRIBUTE.findall(match[2]))))

    return _PART.sub(fill, _filled(scenario.read_text(), values or {}))


def _filled(text: str, values: Mapping[str, str]) -> str:
    known = {**dict(_DEFAULT.findall(text)), **values}
    return _PLACEHOLDER.sub(lambda name: known[name[1]], _DEFAULT.sub("", text)).rstrip("\n")


class Sipp:
    """One SIPp process. ``start`` waits until its socket is open; ``wait`` until it has ended."""

    def __init__(
        self,
        scenario: Path,
        folder: Path,
        *,
        local: Address,
        remote: Address | None = None,
        number: str = "service",
        calls: int = 1,
        rate: float = 10.0,
        limit: float = 20.0,
        values: Mapping[str, str] | None = None,
        rows: Sequence[Sequence[str]] = (),
        media_port: int = 0,
        rtp_echo: bool = False,
        options: Sequence[str] = (),
    ) -> None:
        """Prepare a run.

        Args:
            scenario: the XML file, with parts.
            folder: where the run's files go; must exist.
            local: address of SIPp.
            remote: where a caller sends its requests; None: a callee.
            number: user part of the request-URI (``[service]``).
            calls: how many calls the run has; then it ends.
            rate: calls a second.
            limit: seconds after which the run counts as failed.
            values: for the placeholders of the scenario.
            rows: CSV rows for ``[field0]``..., one a call, used in turn.
            media_port: of the RTP that SIPp sends and echoes; 0 takes a free one.
            rtp_echo: send received RTP back to its sender.
            options: more of SIPp's own.
        """
        self.local = local
        self.media_port = media_port or free_ports(4, local[0])  # SIPp opens the next but one too, for video
        role = "caller" if remote else "callee"
        self._stem = folder / f"{role}-{scenario.stem}-{local[1]}"
        self._limit = limit
        self._process: subprocess.Popen[bytes] | None = None
        file = self._file("xml")
        file.write_text(expand(scenario, values))
        self._command = [
            "sipp", *([f"{remote[0]}:{remote[1]}"] if remote else []), "-sf", str(file),
            "-i", local[0], "-p", str(local[1]), "-bind_local",
            "-s", number, "-m", str(calls), "-r", f"{rate:g}", "-nostdin", "-default_behaviors",
            "abortunexp", "-timeout", f"{limit:g}s", "-timeout_error", "-fd", "1",
            "-cid_str", f"{os.urandom(4).hex()}-%u-%p@%s",
            "-trace_err", "-error_file", str(self._file("errors")), "-trace_msg", "-message_file",
            str(self._file("messages")), "-trace_stat", "-stf", str(self._file("csv")), "-mi", local[0],
            "-mp", str(self.media_port), *(["-rtp_echo"] if rtp_echo else []),
        ]  # fmt: skip
        if rows:
            self._file("inf").write_text("SEQUENTIAL\n" + "".join(";".join(row) + ";\n" for row in rows))
            self._command += ["-inf", str(self._file("inf"))]
        for given in _OPTIONS.findall(scenario.read_text()):
            self._command += given.split()
        self._command += options

    def start(self, *, within: float = 5.0) -> Self:
        """Start, and wait until the SIP socket is open.

        Raises:
            SippError: it ended first, or did not open its socket ``within`` seconds.
        """
        with self._file("screen").open("wb") as screen:
            self._process = subprocess.Popen(
                dying_with_parent(self._command), stdin=subprocess.DEVNULL, stdout=screen, stderr=screen,
                cwd=self._stem.parent,
            )  # fmt: skip
        deadline = time.monotonic() + within
        while not self._is_bound() and self._process.poll() is None:
            if time.monotonic() > deadline:
                self.stop()
                raise SippError(f"SIPp did not open {self.local}:\n{self._read('screen')}")
            time.sleep(0.01)
        if self._process.poll() not in (None, 0):
            raise SippError(self._story(self._result()))
        return self

    def wait(self) -> SippResult:
        """Wait until the run has ended, and return how."""
        assert self._process is not None
        try:
            self._process.wait(self._limit + 5)
        except subprocess.TimeoutExpired:
            self.stop()
        return self._result()

    def wait_sent(self, start: str, *, within: float = 10.0) -> None:
        """Wait until a message whose first line begins so has been sent.

        Raises:
            SippError: none was, or the run has ended.
        """
        deadline = time.monotonic() + within
        while not self._result().sent(start):
            if time.monotonic() > deadline or self._process is None or self._process.poll() is not None:
                raise SippError(f"no {start} was sent\n{self._story(self._result())}")
            time.sleep(0.02)

    def check(self) -> SippResult:
        """Wait until the run has ended.

        Raises:
            SippError: a call failed; SIPp's logs are in the message.
        """
        result = self.wait()
        if result.exit_status != 0:
            raise SippError(self._story(result))
        return result

    def stop(self) -> None:
        """End it, if it still runs."""
        if self._process is not None:
            end(self._process, patience=0.5)

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()

    def _file(self, kind: str) -> Path:
        return self._stem.with_name(f"{self._stem.name}.{kind}")

    def _read(self, kind: str) -> str:
        file = self._file(kind)
        return file.read_text(errors="replace") if file.exists() else ""

    def _is_bound(self) -> bool:
        ip, port = self.local
        wanted = "".join(f"{int(part):02X}" for part in reversed(ip.split("."))) + f":{port:04X}"
        return any(line.split()[1] == wanted for line in Path("/proc/net/udp").read_text().splitlines()[1:])

    def _result(self) -> SippResult:
        assert self._process is not None
        status = self._process.returncode
        with self._file("csv").open() if self._file("csv").exists() else open(os.devnull) as file:
            rows = list(csv.DictReader(file, delimiter=";"))
        last = rows[-1] if rows else {}
        return SippResult(
            exit_status=-1 if status is None else status,
            succeeded=int(last.get("SuccessfulCall(C)") or 0),
            failed=int(last.get("FailedCall(C)") or 0),
            retransmissions=int(last.get("Retransmissions(C)") or 0),
            errors=self._read("errors"),
            messages=self._read("messages"),
        )

    def _story(self, result: SippResult) -> str:
        meaning = _EXIT.get(result.exit_status, "killed")
        screen = "" if result.messages else self._read("screen")[-2000:]
        return (
            f"{self._stem.name}: exit status {result.exit_status} ({meaning}), {result.succeeded} calls good, "
            f"{result.failed} bad\n--- errors\n{result.errors[-3000:]}\n--- messages\n"
            f"{result.messages[-12000:]}{screen}"
        )


def run_pair(callee: Sipp, caller: Sipp) -> tuple[SippResult, SippResult]:
    """Run a callee and a caller, and return their results (callee, caller).

    Raises:
        SippError: one of them failed; both stories are in it.
    """
    with callee, caller:
        results = {"caller": caller.wait(), "callee": callee.wait()}
        failed = [each for each in (caller, callee) if each._result().exit_status != 0]
        if failed:
            raise SippError("\n\n".join(each._story(each._result()) for each in failed))
    return results["callee"], results["caller"]
