"""Milliseconds that it takes to plan a drain, a loss and a rebalance. No network.

Usage: python benchmarks/plan.py [--json] [--repeat N]

The calls exist already when the clock starts, as tuples; making them is measured apart. Each figure is the best of N
runs, and the median beside it. The least favourable set has zones, weights, load at random and calls that cannot move.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from kedge.relay.plan import Pace, Plan, PlanCall, PlanRelay, plan_drain, plan_loss, plan_rebalance

LIMIT: Final = 50.0
"""Milliseconds that ten thousand calls may take."""
PACE: Final = Pace(rate=5000, rate_per_peer=2500, calls=50)
PEERS: Final = ("trunk-a", "trunk-b", "pbx-1", "pbx-2")


def plain(count: int, relays: int) -> tuple[list[PlanRelay], list[PlanCall]]:
    """Return equal relays with equal load, the last of which has just joined and is empty."""
    calls = [
        PlanCall(f"call-{number:06d}", f"r{number % (relays - 1)}", peers=(PEERS[number % 4], PEERS[number % 3]))
        for number in range(count)
    ]
    return _relays(calls, relays, zones=("",), weights=(1,)), calls


def heaped(count: int, relays: int) -> tuple[list[PlanRelay], list[PlanCall]]:
    """Return relays of which one has all calls."""
    calls = [PlanCall(f"call-{number:06d}", "r0", peers=(PEERS[number % 4], PEERS[0])) for number in range(count)]
    return _relays(calls, relays, zones=("",), weights=(1,)), calls


def mixed(count: int, relays: int) -> tuple[list[PlanRelay], list[PlanCall]]:
    """Return relays of three zones and weights, with load at random, and some calls that rest or cannot move."""
    rng = random.Random(1)
    calls = [
        PlanCall(
            id=f"call-{number:06d}",
            relay=f"r{int(rng.random() ** 2 * relays)}",
            zone=rng.choice(("", "a", "b", "c")),
            emergency=rng.random() < 0.01,
            last_move_at=rng.choice((None, None, 900.0, 990.0)),
            silent_since=rng.choice((None, rng.random())),
            movable=rng.random() < 0.97,
            reason="Recording",
            peers=(rng.choice(PEERS), rng.choice(PEERS)),
        )
        for number in range(count)
    ]
    return _relays(calls, relays, zones=("a", "b", "c"), weights=(1, 2)), calls


def _relays(calls: list[PlanCall], count: int, zones: tuple[str, ...], weights: tuple[int, ...]) -> list[PlanRelay]:
    on = Counter(call.relay for call in calls)
    return [
        PlanRelay(
            uid=f"r{index}",
            name=f"relay-{index:02d}",
            zone=zones[index % len(zones)],
            weight=weights[index % len(weights)],
            sessions=on[f"r{index}"],
            capacity=2 * len(calls),
        )
        for index in range(count)
    ]


def measure(plan: Callable[[], Plan], repeat: int) -> tuple[float, float, Plan]:
    """Return best and median milliseconds, and the plan."""
    times = []
    for _ in range(repeat):
        begin = time.perf_counter()
        made = plan()
        times.append(1000 * (time.perf_counter() - begin))
    return min(times), statistics.median(times), made


def rows(repeat: int) -> list[dict[str, object]]:
    """Return all figures."""
    found: list[dict[str, object]] = []
    for make in (plain, heaped, mixed):
        for count in (1000, 10_000):
            for size in (4, 16, 64):
                relays, calls = make(count, size)
                everything = {relay.uid for relay in relays[: size // 2]}
                plans: dict[str, Callable[[], Plan]] = {
                    "drain": lambda relays=relays, calls=calls: plan_drain(relays, calls, "r0", pace=PACE),  # type: ignore[misc]
                    "drain of half": lambda relays=relays, calls=calls, half=everything: plan_drain(  # type: ignore[misc]
                        relays, calls, half, pace=PACE
                    ),
                    "loss": lambda relays=relays, calls=calls: plan_loss(relays, calls, "r0", pace=PACE),  # type: ignore[misc]
                    "rebalance 10 %": lambda relays=relays, calls=calls: plan_rebalance(  # type: ignore[misc]
                        relays, calls, now=1000.0, pace=PACE
                    ),
                    "rebalance 0 %": lambda relays=relays, calls=calls: plan_rebalance(  # type: ignore[misc]
                        relays, calls, imbalance=0, now=1000.0, pace=PACE
                    ),
                }
                for name, plan in plans.items():
                    best, median, made = measure(plan, repeat)
                    found.append(
                        {
                            "set": make.__name__,
                            "calls": count,
                            "relays": size,
                            "plan": name,
                            "moves": len(made.moves),
                            "best_ms": round(best, 2),
                            "median_ms": round(median, 2),
                        }
                    )
    return found


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--repeat", type=int, default=7, help="runs of each plan (default 7)")
    options = parser.parse_args()
    found = rows(options.repeat)
    if options.json:
        print(json.dumps(found, indent=1))
        return
    print(f"{'set':<7}{'calls':>7}{'relays':>8}  {'plan':<16}{'moves':>7}{'best ms':>9}{'median ms':>11}")
    for row in found:
        mark = "" if float(str(row["median_ms"])) < LIMIT else f"  over {LIMIT:g} ms"
        print(
            f"{row['set']:<7}{row['calls']:>7}{row['relays']:>8}  {row['plan']:<16}{row['moves']:>7}"
            f"{row['best_ms']:>9}{row['median_ms']:>11}{mark}"
        )


if __name__ == "__main__":
    main()
