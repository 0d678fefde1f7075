"""Kill a relay under N calls: how fast are they on others, at what cost, and is any lost?

Real rtpengines, ``kedge run`` as a process of its own, phones in another; what counts is what the phones saw. All calls
are placed on one relay, two more join the RelaySet, then the first is killed with SIGKILL.

Usage: python benchmarks/reanchor.py [--calls N] [--rate-per-peer R] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import CpuMeter, Figure, run_folder, show
from tests.e2e.harness import System
from tests.kit.phones import FarmReport, quantile

_WITH_AUDIO = 20
"""Calls that have RTP: enough to see the gap, few enough to leave the machine to the signaling."""
_RATE = 300.0
"""Calls placed a second."""
_ROOM = 4000
"""Calls on a relay at most, unless the RelaySet says otherwise."""
_DEFAULTS: dict[str, object] = {"health": {}, "rebalance": {"mode": "Manual"}}
"""The RelaySet as users write it who tune nothing, but that the relays which join get no calls before the kill."""


@dataclass(frozen=True, slots=True)
class Result:
    """One run."""

    figures: dict[str, Figure]
    notes: dict[str, str]


async def run(calls: int, rate_per_peer: int, folder: Path) -> Result:
    """Do one run."""
    relay_set = dict(_DEFAULTS)
    if calls > _ROOM:
        relay_set["placement"] = {"maxSessionsPerRelay": calls}
    if rate_per_peer:
        relay_set["failover"] = {"rate": 2 * rate_per_peer, "ratePerPeer": rate_per_peer}
    system = System(folder, joined=1, media_ports=calls * 4 + 400, relay_set=relay_set)
    async with system:
        phones, first = system.phones, system.relays[0]
        await phones.place_calls(calls, rate=_RATE, rtp_every=max(1, calls // _WITH_AUDIO), within=30)
        talking = (await phones.report()).talking()
        if talking != calls or (await system.snapshot()).relays[0].sessions != calls:
            raise SystemExit(f"only {talking} of {calls} calls came up:\n{system.kedge.log[-2000:]}")
        await system.join(*system.relays[1:])
        meter = CpuMeter(system.kedge.pid)
        await asyncio.sleep(2.0)  # the share of a process at rest is measured over this time
        meter.take_for_idle()

        clock = time.time() - time.monotonic()
        killed = first.kill()
        await phones.wait_reanchored(killed, within=30)
        failover = await system.failover()
        cpu = meter.used()
        await phones.wait_audio(time.monotonic(), within=5)
        down = (await system.events("RelayDown"))[0].at - clock - killed
        report = await phones.report(killed)
    moved = _moved_after(report, killed)
    figures: dict[str, Figure] = {
        "calls": calls,
        "lost": calls - sum(call.talking for call in report.calls if call.number in moved),
        "detected_ms": down * 1000,
        "last_ack_ms": max(moved.values(), default=0.0) * 1000,
        "p50_ms": quantile(list(moved.values()), 0.5) * 1000,
        "p99_ms": quantile(list(moved.values()), 0.99) * 1000,
        "cpu_us_per_call": cpu / calls * 1e6,
    }
    gaps = [gap * 1000 for gap in report.gaps()]
    notes = {
        "audio": f"gap p50 {quantile(gaps, 0.5):.0f} ms, max {max(gaps, default=0):.0f} ms at {len(gaps)} phones",
        "kedge says": f"{failover.moved} of {failover.calls} moved, {failover.failed} failed, "
        f"gap p50 {failover.gap_p50 * 1000:.0f} ms, p99 {failover.gap_p99 * 1000:.0f} ms",
        "phones": f"{report.repeats_in} retransmissions received, {report.repeats_out} sent, refused: {report.refused}",
        "idle": f"{meter.idle_share * 100:.1f} % of a core with {calls} calls",
    }
    return Result(figures, notes)


def _moved_after(report: FarmReport, killed: float) -> dict[int, float]:
    """Return, by number, the seconds from the kill to the last ACK of each call that both phones saw moved."""
    times = {}
    for call in report.calls:
        acked = [max((each.acked_at for each in leg.reinvites if each.status == 200), default=0.0) for leg in call.legs]
        if len(acked) == 2 and min(acked) > killed:
            times[call.number] = max(acked) - killed
    return times


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1000, help="calls on the relay that is killed (default 1000)")
    parser.add_argument("--rate-per-peer", type=int, default=0, help="re-INVITEs a second to a peer; 0: the default")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    arguments = parser.parse_args()
    if not 1 <= arguments.calls < 5000:
        parser.error("--calls must be from 1 to 4999: a relay needs four file descriptors for each")
    with run_folder() as folder:
        result = asyncio.run(run(arguments.calls, arguments.rate_per_peer, folder))
    show(result.figures, as_json=arguments.json, notes=result.notes)


if __name__ == "__main__":
    main()
