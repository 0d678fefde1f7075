"""Calls set up and ended at a rate: SIPp calls SIPp through Kedge, each call held for 2 seconds, media on real relays.

A call has failed when SIPp says so, as caller or as callee. Retransmissions are those of all three: a late answer shows
there first. The CPU is Kedge's, for a whole call with its BYE. Memory is first taken when as many transactions end as
begin (SIP keeps an ended one for up to 32 s, RFC 3261 and 6026), and again when the last call is over.

Usage: python benchmarks/setup.py [--rate R] [--seconds S] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import csv
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import CpuMeter, Figure, run_folder, show
from tests.e2e.harness import PREFIX, System
from tests.kit.ports import free_port
from tests.kit.processes import dying_with_parent, end

_HOLD = 2.0
"""Seconds from answer to BYE."""
_WARM_UP = 40.0
"""Seconds of load before memory is taken for the first time; two thirds of the load if that is shorter."""
_SAMPLE = 10.0
"""Seconds between two looks at the memory."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One SIPp."""

    name: str
    folder: Path
    arguments: list[str]

    def start(self) -> subprocess.Popen[bytes]:
        """Start it."""
        files = ["-trace_stat", "-fd", "1", "-stf", str(self._stem.with_suffix(".csv"))]
        errors = ["-trace_err", "-error_file", str(self._stem.with_suffix(".err"))]
        command = ["sipp", *self.arguments, *files, *errors, "-nostdin", "-buff_size", "4194304", "-bind_local"]
        with self._stem.with_suffix(".screen").open("wb") as screen:
            return subprocess.Popen(
                dying_with_parent(command), stdin=subprocess.DEVNULL, stdout=screen, stderr=screen, cwd=self.folder
            )

    @property
    def _stem(self) -> Path:
        return self.folder / self.name

    def counts(self) -> tuple[int, int, int]:
        """Return calls that succeeded, calls that failed, and retransmissions."""
        with self._stem.with_suffix(".csv").open() as file:
            last = list(csv.DictReader(file, delimiter=";"))[-1]
        return tuple(int(last[f"{name}(C)"]) for name in ("SuccessfulCall", "FailedCall", "Retransmissions"))  # type: ignore[return-value]

    def errors(self) -> str:
        """Return the end of its error log."""
        file = self._stem.with_suffix(".err")
        return file.read_text(errors="replace")[-1500:] if file.exists() else ""


async def run(rate: int, seconds: int, folder: Path) -> tuple[dict[str, Figure], dict[str, str]]:
    """Do one run; return the figures, and notes."""
    total = rate * seconds
    async with System(folder, media_ports=16000, relay_set={"health": {}}, phones=False) as system:
        caller_port = free_port(system.caller_ip)
        callee = Peer(
            "callee", folder, ["-sn", "uas", "-i", system.callee[0], "-p", str(system.callee[1]), "-m", str(total)]
        )
        caller = Peer("caller", folder, [
            f"{system.kedge.address[0]}:{system.kedge.address[1]}", "-sn", "uac", "-s", f"{PREFIX}00000001",
            "-i", system.caller_ip, "-p", str(caller_port), "-d", str(round(_HOLD * 1000)),
            "-r", str(rate), "-m", str(total), "-l", str(total),
        ])  # fmt: skip
        empty = system.kedge.rss_mb
        meter = CpuMeter(system.kedge.pid)
        await asyncio.sleep(2.0)  # the share of a process at rest is measured over this time
        meter.take_for_idle()
        answering = callee.start()
        calling = caller.start()
        try:
            looking = asyncio.create_task(_memory(system, seconds))
            exit_status = await asyncio.to_thread(calling.wait, seconds + 60)
            cpu = meter.used()
            left = await _left(system)
            rss = system.kedge.rss_mb
            start, curve = await looking
            counters = (await system.snapshot()).counters
            lag = system.kedge.metric("kedge_loop_lag_max_seconds")
            with contextlib.suppress(subprocess.TimeoutExpired):  # it ends with its last call, if none is missing
                await asyncio.to_thread(answering.wait, 10)
        finally:
            end(calling)
            end(answering)
    good, bad, repeats = caller.counts()
    callee_good, callee_bad, callee_repeats = callee.counts()
    figures: dict[str, Figure] = {
        "rate": rate,
        "calls": total,
        "failed": max(total - good, bad, total - callee_good, callee_bad) + sum(left),
        "retransmissions": repeats + callee_repeats + counters["retransmissions_sent"],
        "cpu_us_per_call": cpu / total * 1e6,
        "rss_mb_start": start,
        "rss_mb_end": rss,
    }
    notes = {
        "SIPp": f"exit status {exit_status}; retransmitted: caller {repeats}, callee {callee_repeats}, "
        f"Kedge {counters['retransmissions_sent']}",
        "memory": f"{empty:.0f} MB before the first call, then every {_SAMPLE:.0f} s: {curve}",
        "loop": f"latest tick {lag * 1000:.1f} ms late; {counters['internal_errors']} internal errors",
    }
    if any(left):
        notes["left"] = f"{left[0]} calls in Kedge, {left[1]} sessions at relays"
    if figures["failed"]:
        notes["errors"] = caller.errors() + callee.errors()
    return figures, notes


async def _memory(system: System, seconds: float) -> tuple[float, str]:
    """Return the memory after the warm-up in MB, and all that was seen on the way."""
    began = time.monotonic()
    warm_up, start = min(_WARM_UP, seconds * 2 / 3), 0.0
    seen: list[str] = []
    for when in sorted({warm_up, *(i * _SAMPLE for i in range(1, int(seconds / _SAMPLE)))}):
        await asyncio.sleep(began + when - time.monotonic())
        now = system.kedge.rss_mb
        start = now if when == warm_up else start
        seen.append(f"{now:.0f}")
    return start, " ".join(seen)


async def _left(system: System) -> tuple[int, int]:
    """Return the calls in Kedge and the sessions at relays that are left; patience is for those still being ended."""
    patience = time.monotonic() + 40
    while True:
        left = (await system.snapshot()).counters["calls"], sum(system.sessions())
        if left == (0, 0) or time.monotonic() > patience:
            return left
        await asyncio.sleep(0.2)


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=600, help="calls a second (default 600)")
    parser.add_argument("--seconds", type=int, default=60, help="how long (default 60)")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    arguments = parser.parse_args()
    with run_folder() as folder:
        started = time.monotonic()
        figures, notes = asyncio.run(run(arguments.rate, arguments.seconds, folder))
        notes["time"] = f"{time.monotonic() - started:.0f} s in all"
    show(figures, as_json=arguments.json, notes=notes)


if __name__ == "__main__":
    main()
