"""Drain a living relay of N calls: how much audio do phones miss, how long does it take, do other calls feel it?

Real rtpengines, ``kedge run`` as a process of its own, phones in two more: those with RTP share theirs with no others,
as phones that are busy with the re-INVITEs of a thousand would send late. All calls are placed on one relay; two more
join, bystanders talk through one of them, then the first is drained by the admin API, as ``kedge drain`` does it.

The relay lives until both phones have left it, so that there is no reason for a gap: what is shown above the 20 ms from
packet to packet is the jitter of the phones' process and of the machine.

On a machine that others use, ``--favoured`` has all of it go before them (needs root).

Usage: python benchmarks/drain.py [--calls N] [--rtp N] [--bystanders N] [--favoured] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import CpuMeter, Figure, run_folder, show
from benchmarks.witness import Witness
from tests.e2e.harness import System
from tests.kit.kedge import RouteRule
from tests.kit.phones import FarmReport, PhoneProcess, quantile
from tests.kit.ports import free_port

_RATE = 200.0
"""Calls placed a second."""
_TALKERS = "48"
"""What the numbers of calls with RTP begin with."""
_NICE = -15
"""What favoured processes are less nice to others by."""
_BEFORE = 3.0
"""Seconds that the bystanders, and the jitter of the phones, are measured before the drain."""
_AFTER = 1.0
"""Seconds that the phones are listened to after it."""


@dataclass(frozen=True, slots=True)
class Result:
    """One run."""

    figures: dict[str, Figure]
    notes: dict[str, str]


async def run(calls: int, rtp: int, bystanders: int, folder: Path) -> Result:
    """Do one run."""
    # No rebalance when the relays join: they are to be empty when the drain begins.
    system = System(folder, joined=1, media_ports=calls * 4 + 400, relay_set={"rebalance": {"mode": "Manual"}})
    phones = _talkers(system)
    async with phones, system:
        first, target = system.relays[0], system.relays[1]
        await _place(system, phones, calls, rtp)
        await system.join(*system.relays[1:])
        with Witness(target.ng, bystanders) as witness:
            meter = CpuMeter(system.kedge.pid)
            rest = time.monotonic() + 0.5
            await asyncio.sleep(0.5 + _BEFORE)
            meter.take_for_idle()
            quiet = await phones.report(rest)
            await asyncio.sleep(_AFTER)  # to report takes the phones a while, in which they do not talk

            asked = time.monotonic()
            await system.post("/v1/relays/relay-1/intent", {"intent": "Drain"})
            empty = await _empty(system)
            cpu = meter.used()
            await asyncio.sleep(_AFTER)
            report, silent = await phones.report(asked), await system.phones.report(asked)
            before, during = witness.delays(rest, rest + _BEFORE), witness.delays(asked, empty + 0.2)
        plan = (await system.snapshot()).progress
        left = first.sessions()
    moved = [*_acked_after(report, asked), *_acked_after(silent, asked)]
    gaps = [gap * 1000 for gap in report.gaps()]
    lost = _lost(report) - _lost(quiet)
    figures: dict[str, Figure] = {
        "calls": calls,
        "lost": calls - len(moved),
        "empty_ms": (empty - asked) * 1000,
        "last_ack_ms": max(moved, default=0.0) * 1000,
        "gap_p50_ms": quantile(gaps, 0.5),
        "gap_p99_ms": quantile(gaps, 0.99),
        "gap_max_ms": max(gaps, default=0.0),
        "packets_lost_per_call": lost / max(1, len(gaps) // 2),
        "others_delay_before_ms": before.p99,
        "others_delay_during_ms": during.p99,
        "others_delay_rise_ms": during.p99 - before.p99,
        "others_delay_max_rise_ms": during.most - before.most,
        "others_packets_lost": during.lost,
        "cpu_us_per_call": cpu / calls * 1e6,
    }
    calm = [gap * 1000 for gap in quiet.gaps()]
    notes = {
        "before": f"gaps without a drain: p50 {quantile(calm, 0.5):.0f} ms, p99 {quantile(calm, 0.99):.0f} ms, max "
        f"{max(calm, default=0):.0f} ms; phones sent up to {report.send_late * 1000:.0f} ms late",
        "audio": f"{lost} packets of {len(gaps)} phones were lost; {sum(leg.foreign for leg in report.legs())} strayed",
        "others": f"{bystanders} calls: p50 {before.p50:.2f} -> {during.p50:.2f} ms, p99 {before.p99:.2f} -> "
        f"{during.p99:.2f} ms, max {before.most:.1f} -> {during.most:.1f} ms, {during.packets} packets during it",
        "kedge says": "; ".join(f"{one.relay}: {one.moved} of {one.calls}, {one.failed} failed" for one in plan),
        "phones": f"{report.repeats_in + silent.repeats_in} retransmissions received, "
        f"refused: {report.refused | silent.refused}",
        "left behind": f"{left} sessions on the drained relay",
    }  # fmt: skip
    return Result(figures, notes)


def _talkers(system: System) -> PhoneProcess:
    """Return phones for the calls with RTP, and have Kedge know the way to them."""
    callee = (system.callee[0], free_port(system.callee[0]))
    system.kedge.routes = [*system.kedge.routes, RouteRule(prefix=_TALKERS, next_hops=[callee])]
    return PhoneProcess(proxy=system.kedge.address, caller=(system.caller_ip, 0), callee=callee, prefix=_TALKERS)


async def _place(system: System, talkers: PhoneProcess, calls: int, rtp: int) -> None:
    """Place all calls on the only relay; those with RTP among the others, so that they do not all move at once."""
    share = rtp / calls
    silent = system.phones.place_calls(calls - rtp, rate=_RATE * (1 - share), rtp=False, within=30)
    await asyncio.gather(talkers.place_calls(rtp, rate=_RATE * share, within=30), silent)

    async def there() -> bool:
        return (await system.snapshot()).relays[0].sessions == calls

    await system.until(there, f"{calls} calls are on the relay")


async def _empty(system: System) -> float:
    """Wait until the first relay has no call, and return the time."""

    async def none() -> bool:
        return not any(one["sessions"] for one in await system.get("/v1/relays") if one["name"] == "relay-1")

    await system.until(none, "the relay is empty", within=60)
    return time.monotonic()


def _lost(report: FarmReport) -> int:
    return sum(leg.lost for leg in report.legs())


def _acked_after(report: FarmReport, asked: float) -> list[float]:
    """Return the seconds from the wish to the last ACK of each call that both phones saw moved, and that lives."""
    times = []
    for call in report.calls:
        acked = [max((each.acked_at for each in leg.reinvites if each.status == 200), default=0.0) for leg in call.legs]
        if call.talking and min(acked) > asked:
            times.append(max(acked) - asked)
    return times


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1000, help="calls on the relay that is drained (default 1000)")
    parser.add_argument("--rtp", type=int, default=150, help="of them with RTP (default 150)")
    parser.add_argument("--bystanders", type=int, default=20, help="calls with RTP on a target (default 20)")
    parser.add_argument("--favoured", action="store_true", help="have it all go before what else runs on the machine")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    arguments = parser.parse_args()
    if not 2 <= arguments.calls <= 4000:
        parser.error("--calls must be from 2 to 4000: a relay needs four file descriptors for each")
    if not 1 <= arguments.rtp < arguments.calls:
        parser.error("--rtp must be at least 1 and below --calls")
    if arguments.favoured:
        os.nice(_NICE)
    with run_folder() as folder:
        result = asyncio.run(run(arguments.calls, arguments.rtp, arguments.bystanders, folder))
    show(result.figures, as_json=arguments.json, notes=result.notes)


if __name__ == "__main__":
    main()
