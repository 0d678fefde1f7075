"""Kedge is told to end under calls with audio: new ones are refused, the old ones go on, and none is left behind."""

import asyncio
import time
from pathlib import Path

import pytest
from tests.e2e.harness import System

CALLS = 5


def with_grace(folder: Path, grace: str) -> System:
    return System(folder, settings={"signaling": {"shutdownGrace": grace}})


async def test_calls_go_on_for_the_grace_and_end_on_both_sides(tmp_path: Path) -> None:
    async with with_grace(tmp_path, "4s") as system:
        numbers = await system.phones.place_calls(CALLS, rate=100)

        asked = time.monotonic()
        system.kedge.ask_to_end()
        await system.until(lambda: _unready(system), "it is not ready any more", within=2)
        await system.phones.place_calls(1)

        assert (await system.phones.report()).refused == {"503 INVITE": 1}
        killed = system.relays[0].kill()
        assert await system.phones.wait_audio(killed + 0.5, numbers=numbers), "calls are moved until the end"
        assert await system.phones.wait_over(numbers, within=10)
        assert await asyncio.to_thread(system.kedge.wait_ended, within=10) == 0
        ended = time.monotonic() - asked
        legs = [leg for leg in (await system.phones.report()).legs() if leg.status == 200]
        assert [leg.ended_by for leg in legs] == ["remote"] * 2 * CALLS
        assert 4.0 <= ended < 12.0
        assert sum(system.sessions()) == 0
        assert f"{CALLS} may go on for 4s" in system.kedge.log
        assert f"{CALLS} calls were hung up" in system.kedge.log


async def _unready(system: System) -> bool:
    return not await asyncio.to_thread(system.kedge.is_ready)


@pytest.mark.parametrize("by", ["the last call", "a second signal"])
async def test_a_long_grace_is_over_early_with(by: str, tmp_path: Path) -> None:
    async with with_grace(tmp_path, "1h") as system:
        await system.phones.place_calls(CALLS, rate=100)
        system.kedge.ask_to_end()
        await system.until(lambda: _unready(system), "it is not ready any more", within=2)

        if by == "the last call":
            assert await system.phones.hang_up(within=10)
        else:
            system.kedge.ask_to_end()

        assert await asyncio.to_thread(system.kedge.wait_ended, within=10) == 0
        assert ("were hung up" in system.kedge.log) is (by == "a second signal")
        assert sum(system.sessions()) == 0
