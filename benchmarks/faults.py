"""What each loss of a relay costs a call: the pause of the audio, as the phones hear it.

Real rtpengines, ``kedge run`` as a process of its own, phones with RTP in another. Each fault gets a Kedge of its own,
with all calls on one of three relays when it strikes:

    kill      the relay's process is killed
    freeze    it is stopped, as by a host that hangs
    restart   it is killed and started again at once: it answers, and has lost its sessions
    twice     it is killed, and 0.1 s later another one, to which half of the calls were on their way
    all       all three are killed, and one is started again after 2 s
    drain     it is drained: it lives until the last call has left it
    mute      its media is dead, and it goes on answering commands; canaries are enabled. Not unless asked for: needs
              root, as all of it runs in a network of its own

Usage: python benchmarks/faults.py [FAULT ...] [--calls N] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import Figure, run_folder, show
from tests.e2e.harness import System
from tests.kit.network import Network
from tests.kit.phones import quantile

_BETWEEN: Final = 0.1
"""Seconds between two losses."""
_AWAY: Final = 2.0
"""Seconds until one of all relays returns."""


async def _kill(system: System) -> None:
    system.relays[0].kill()


async def _freeze(system: System) -> None:
    system.relays[0].freeze()


async def _restart(system: System) -> None:
    system.relays[0].restart()


async def _twice(system: System) -> None:
    system.relays[0].kill()
    await asyncio.sleep(_BETWEEN)
    system.relays[1].kill()


async def _all(system: System) -> None:
    for relay in system.relays:
        relay.kill()
    await asyncio.sleep(_AWAY)
    system.relays[1].start()


async def _drain(system: System) -> None:
    await system.post("/v1/relays/relay-1/intent", {"intent": "Drain"})


_FAULTS: Final[dict[str, Callable[[System], Awaitable[None]]]] = {
    "kill": _kill, "freeze": _freeze, "restart": _restart, "twice": _twice, "all": _all, "drain": _drain,
}  # fmt: skip
_MUTE: Final = "mute"


def strike(fault: str, calls: int, folder: Path) -> dict[str, Figure]:
    """Have one fault strike."""
    if fault != _MUTE:
        return asyncio.run(run(fault, _FAULTS[fault], calls, folder))
    with Network() as network:

        async def mute(system: System) -> None:
            network.drop_media(system.relays[0])

        return asyncio.run(run(fault, mute, calls, folder, canary=True))


async def run(
    fault: str, act: Callable[[System], Awaitable[None]], calls: int, folder: Path, *, canary: bool = False
) -> dict[str, Figure]:
    """Do ``act`` to a system, and hear what becomes of its calls."""
    # No rebalance when the relays join: all calls are to be on one of them.
    health = {"canary": {"mode": "Enabled" if canary else "Disabled"}}
    relay_set = {"rebalance": {"mode": "Manual"}, "health": health}
    async with System(folder, joined=1, media_ports=calls * 4 + 100, relay_set=relay_set) as system:
        await system.phones.place_calls(calls, rate=100, within=30)
        await system.join(*system.relays[1:])
        assert await system.phones.wait_audio(time.monotonic())
        struck = time.monotonic()
        await act(system)
        assert await system.phones.wait_reanchored(struck, within=30)
        assert await system.phones.wait_audio(time.monotonic())
        report = await system.phones.report(struck)
        if fault == "freeze":
            system.relays[0].thaw()
    gaps = [gap * 1000 for gap in report.gaps()]
    return {
        f"{fault}_lost": calls - report.talking(),
        f"{fault}_gap_p50_ms": quantile(gaps, 0.5),
        f"{fault}_gap_p99_ms": quantile(gaps, 0.99),
        f"{fault}_gap_max_ms": max(gaps, default=0.0),
    }


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faults", nargs="*", help="which (default: all but mute, one after the other)")
    parser.add_argument("--calls", type=int, default=100, help="calls with RTP (default 100)")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    arguments = parser.parse_args()
    if unknown := set(arguments.faults) - {*_FAULTS, _MUTE}:
        parser.error(f"no such fault: {', '.join(sorted(unknown))}; there are {', '.join((*_FAULTS, _MUTE))}")
    if not 2 <= arguments.calls <= 500:
        parser.error("--calls must be from 2 to 500: all of them have RTP")
    figures: dict[str, Figure] = {"calls": arguments.calls}
    with run_folder() as folder:
        for fault in arguments.faults or _FAULTS:
            (folder / fault).mkdir()
            figures |= strike(fault, arguments.calls, folder / fault)
    show(figures, as_json=arguments.json)


if __name__ == "__main__":
    main()
