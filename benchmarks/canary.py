"""What canaries cost: CPU a round (two packets through the relay), in Kedge and in the relay, beside a probe's.

Rounds leave ten times as often as they do by default, so that few relays show the cost; between the two runs only
``health.canary.mode`` differs. At the default of one round a second, a figure is the cost of a relay and second.

Usage: python benchmarks/canary.py [--relays N] [--seconds S] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import cpu_seconds, run_folder, show
from tests.kit.kedge import KedgeProcess
from tests.kit.rtpengine import Rtpengine

_INTERVAL = 0.1
_SETTLE = 5.0
"""Seconds from the start until the stretch that is measured."""


def measure(folder: Path, relays: list[Rtpengine], mode: str, seconds: float) -> tuple[float, float]:
    """Return microseconds of CPU a relay and ``_INTERVAL``, in Kedge and in the relays."""
    folder.mkdir()
    health = {"interval": "1s", "timeout": "500ms", "canary": {"mode": mode, "interval": f"{_INTERVAL * 1000:.0f}ms"}}
    with KedgeProcess(folder=folder, relays=relays, routes=[], peers={}, health=health) as kedge:
        time.sleep(_SETTLE)
        groups = ([kedge.pid], [relay.pid for relay in relays])
        before = [sum(map(cpu_seconds, pids)) for pids in groups]
        time.sleep(seconds)
        used = [sum(map(cpu_seconds, pids)) - start for pids, start in zip(groups, before, strict=True)]
        passed, lost = (kedge.metric("kedge_probes_total", outcome=f"media_{end}") for end in ("ok", "lost"))
        if lost > passed / 100 or (passed > 0) is not (mode == "Enabled"):
            raise RuntimeError(f"{passed:.0f} canaries passed and {lost:.0f} were lost: nothing was measured")
    rounds = seconds / _INTERVAL * len(relays)
    return used[0] / rounds * 1e6, used[1] / rounds * 1e6


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--relays", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=20.0, help="that each of the two runs is measured")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    with run_folder() as folder, contextlib.ExitStack() as stack:
        relays = [stack.enter_context(Rtpengine(f"127.0.0.{number}")) for number in range(11, 11 + options.relays)]
        without = measure(folder / "without", relays, "Disabled", options.seconds)
        beside = measure(folder / "with", relays, "Enabled", options.seconds)
    show(
        {"kedge_us": beside[0] - without[0], "relay_us": beside[1] - without[1]},
        as_json=options.json,
        notes={"unit": "microseconds of CPU a round and relay, beyond a run without canaries"},
    )


if __name__ == "__main__":
    main()
