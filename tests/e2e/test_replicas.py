"""Two signaling processes with calls of their own share relays: neither knows the other, and together they keep limits.

Each takes its share of what the RelaySet allows (``signaling.replicas``): sessions of a relay, re-INVITEs in a second.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.e2e.harness import System
from tests.e2e.test_failover import assert_audible

LIMIT = 20
"""Sessions of a relay, of both processes together."""
RATE = 20
"""Re-INVITEs in a second, of both processes together."""
CALLS = 15
"""Of each process at first."""
SPEC = {
    "placement": {"maxSessionsPerRelay": LIMIT},
    "failover": {"rate": RATE, "ratePerPeer": RATE},
    "rebalance": {"mode": "Manual"},
}
SETTINGS = {"signaling": {"replicas": 2}}


@pytest.fixture
async def both(tmp_path: Path) -> AsyncIterator[tuple[System, System]]:
    """Two systems on the same three relays, each with calls."""
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    async with (
        System(folders[0], relay_set=SPEC, settings=SETTINGS) as one,
        System(folders[1], relays=one.relays, relay_set=SPEC, settings=SETTINGS) as two,
    ):
        for system in (one, two):
            await system.phones.place_calls(CALLS, rate=200)
        yield one, two


async def reinvited(system: System, since: float) -> list[float]:
    """Return when re-INVITEs arrived at the phones of a system, as seconds of a clock that all processes share."""
    report = await system.phones.report(since)
    return [each.received_at for leg in report.legs() for each in leg.reinvites]


async def test_a_lost_relay_is_left_within_limits_that_both_keep_together(both: tuple[System, System]) -> None:
    one, two = both
    lost = one.relays[0]
    leaving = lost.sessions()
    assert 0 < leaving <= LIMIT

    killed = lost.kill()

    for system in both:
        failover = await system.failover()
        assert failover.moved == failover.calls > 0
        await assert_audible(system, CALLS)
    times = sorted([*await reinvited(one, killed), *await reinvited(two, killed)])
    assert len(times) == 2 * leaving, "one re-INVITE to each phone of each call"
    # Each process may begin with a call's two at once; then they take turns at the pace of the set. A machine that is
    # busy can only make it slower, and processes that know no share would take half as long.
    assert times[-1] - times[0] >= (len(times) - 2 * 4) / RATE
    assert sum(one.sessions()) == 2 * CALLS

    # Two relays are left, for as many calls as both may have there.
    room = LIMIT - CALLS
    for system in both:
        await system.phones.place_calls(room, rate=200)
    assert one.sessions() == [LIMIT, LIMIT]
    for system in both:
        await system.phones.place_calls(1)
        assert (await system.phones.report()).refused == {"503 INVITE": 1}, "one more has no room"
    assert one.sessions() == [LIMIT, LIMIT]
    await asyncio.gather(*(system.phones.hang_up(within=15) for system in both))
    for system in both:
        await system.assert_clean()
