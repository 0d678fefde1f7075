"""Spread N calls from three relays over four: the fewest moves, none twice, and no burst for anybody.

Real rtpengines, ``kedge run`` as a process of its own, phones in another. A fourth relay joins the RelaySet, which
allows no imbalance; all else is as users write it who tune nothing. Callers are one peer of Kedge, callees the other.
Re-INVITEs are counted twice: by the phones as they arrive, and in a capture of the wire, which tshark reads.

Usage: python benchmarks/rebalance.py [--calls N] [--favoured] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.capture import SipCapture
from benchmarks.common import CpuMeter, Figure, run_folder, show
from tests.e2e.harness import System
from tests.kit.phones import FarmReport

from kedge.relay.model import FailoverPolicy, RebalancePolicy

_RATE = 300.0
"""Calls placed a second."""
_NICE = -15
"""What favoured processes are less nice to others by."""


@dataclass(frozen=True, slots=True)
class Result:
    """One run."""

    figures: dict[str, Figure]
    notes: dict[str, str]


async def run(calls: int, folder: Path) -> Result:
    """Do one run."""
    system = System(
        folder, relays=4, joined=3, media_ports=calls * 2 + 400, relay_set={"rebalance": {"imbalancePercent": 0}}
    )
    async with system:
        phones = system.phones
        await phones.place_calls(calls, rate=_RATE, rtp=False, within=30)
        await _settled(system, calls)
        before = await _loads(system)
        newcomer = system.relays[3]
        plan_moves = calls // 4
        meter = CpuMeter(system.kedge.pid)
        await asyncio.sleep(2.0)  # the share of a process at rest is measured over this time
        meter.take_for_idle()
        joined = time.monotonic()
        with SipCapture(folder / "rebalance.pcapng", system.kedge.address) as capture:
            await system.join(newcomer)
            await _spread(system, within=30 + plan_moves / 10)
        cpu = meter.used()
        report = await phones.report(joined)
        after = await _loads(system)
        (progress,) = (await system.snapshot()).progress
        sessions = system.sessions()
        errors = await system.internal_errors()
    moved = Counter(call.number for call in report.calls for leg in call.legs for _ in leg.reinvites)
    by_peer = {side: _arrivals(report, side) for side in ("caller", "callee")}
    on_wire = capture.reinvites()
    first, last = (pick(pick(times, default=joined) for times in by_peer.values()) for pick in (min, max))
    figures: dict[str, Figure] = {
        "calls": calls,
        "lost": calls - report.talking(),
        "moves": len(moved),
        "moved_twice": sum(count > 2 for count in moved.values()),
        "most_reinvites_per_peer_and_second": max(busiest(times) for times in by_peer.values()),
        "captured_reinvites": sum(map(len, on_wire.values())),
        "captured_most_per_peer_and_second": max(map(busiest, on_wire.values()), default=0),
        "budget_per_peer_and_second": int(FailoverPolicy().rate_per_peer),
        "rebalance_rate": int(RebalancePolicy().rate),
        "begins_after_s": first - joined,
        "seconds": last - first,
        "cpu_us_per_move": cpu / max(1, len(moved)) * 1e6,
        "internal_errors": errors,
    }
    notes = {
        "relays": f"{before} -> {after}; sessions by their own word {sessions}",
        "kedge says": f"{progress.kind}: {progress.moved} of {progress.calls}, {progress.failed} failed",
        **{f"{side}s": f"re-INVITEs in each second: {_histogram(times, first)}" for side, times in by_peer.items()},
        "phones": f"{report.repeats_in} retransmissions received, {report.repeats_out} sent, refused: {report.refused}",
    }
    return Result(figures, notes)


async def _loads(system: System) -> list[int]:
    return [one["sessions"] for one in await system.get("/v1/relays")]


async def _settled(system: System, calls: int) -> None:
    async def there() -> bool:
        return sum(await _loads(system)) == calls

    await system.until(there, f"{calls} calls are on relays")


async def _spread(system: System, *, within: float) -> None:
    async def done() -> bool:
        await asyncio.sleep(0.5)  # to ask costs CPU time as well
        snapshot = await system.get("/v1/snapshot?calls=false")
        return any(one["kind"] == "Rebalance" and one["done"] for one in snapshot["progress"])

    await system.until(done, "calls are spread", within=within)


def _arrivals(report: FarmReport, side: str) -> list[float]:
    return sorted(each.received_at for leg in report.legs() if leg.side == side for each in leg.reinvites)


def busiest(times: Sequence[float]) -> int:
    """Return how many of the sorted ``times`` lie within one second at most, wherever that second begins."""
    return max((bisect_left(times, start + 1.0) - index for index, start in enumerate(times)), default=0)


def _histogram(times: Sequence[float], first: float) -> str:
    counts = Counter(int(at - first) for at in times)
    return " ".join(str(counts[second]) for second in range(max(counts, default=-1) + 1))


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=3000, help="calls on three relays (default 3000)")
    parser.add_argument("--favoured", action="store_true", help="have it all go before what else runs on the machine")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    arguments = parser.parse_args()
    if not 4 <= arguments.calls <= 9000:
        parser.error("--calls must be from 4 to 9000: a relay needs four file descriptors for each")
    if arguments.favoured:
        os.nice(_NICE)
    with run_folder() as folder:
        result = asyncio.run(run(arguments.calls, folder))
    show(result.figures, as_json=arguments.json, notes=result.notes)


if __name__ == "__main__":
    main()
