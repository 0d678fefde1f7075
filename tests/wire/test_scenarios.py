"""The scenarios themselves are right: SIPp against SIPp, and against the test phones, with nobody in the middle."""

import asyncio
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from tests.kit.phones import Behaviour, PhoneFarm
from tests.kit.ports import free_port
from tests.kit.rtp import TONE
from tests.kit.sipp import Sipp, SippError, expand, run_pair
from tests.wire.cases import ALL, SCENARIOS, Case

IP = "127.0.0.1"
FILLED = {"status": "486", "method": "FOO", "linger": "100"}


@pytest.mark.parametrize("file", sorted(SCENARIOS.glob("*.xml")), ids=lambda file: file.stem)
def test_scenario_is_well_formed(file: Path) -> None:
    root = ElementTree.fromstring(expand(file, FILLED))

    assert root.tag == "scenario"
    assert not list(root.iter("part"))


@pytest.mark.parametrize("case", [case for case in ALL if case.direct], ids=str)
def test_callers_and_callees_fit(case: Case, tmp_path: Path) -> None:
    callee = Sipp(case.callee_file, tmp_path, local=(IP, free_port()), values=case.values)
    caller = Sipp(
        case.caller_file, tmp_path, local=(IP, free_port()), remote=callee.local, number="4912", values=case.values
    )

    results = run_pair(callee, caller)

    assert [(each.succeeded, each.failed) for each in results] == [(1, 0), (1, 0)]


@pytest.mark.parametrize("name", ["basic", "hold", "info", "lost-ack", "repeated-bye", "update"])
async def test_callers_fit_the_test_phones(name: str, tmp_path: Path) -> None:
    async with PhoneFarm() as farm:
        caller = Sipp(SCENARIOS / f"caller-{name}.xml", tmp_path, local=(IP, free_port()), remote=farm.callee_address)

        result = await asyncio.to_thread(caller.start().check)

        assert result.succeeded == 1


@pytest.mark.parametrize("name", ["basic", "hangs-up", "lost-invite", "record-route", "repeats"])
async def test_callees_fit_the_test_phones(name: str, tmp_path: Path) -> None:
    callee = Sipp(SCENARIOS / f"callee-{name}.xml", tmp_path, local=(IP, free_port()))
    with callee:
        async with PhoneFarm(proxy=callee.local) as farm:
            await farm.place_calls(1, rtp=False)
            if name != "hangs-up":
                await farm.hang_up()

            result = await asyncio.to_thread(callee.check)

    assert result.succeeded == 1


async def test_audio_of_a_caller_is_heard_by_the_test_phones(tmp_path: Path) -> None:
    (tmp_path / "tone.ulaw").write_bytes(TONE * 50)
    async with PhoneFarm(callee_behaviour=Behaviour(any_audio=True)) as farm:
        caller = Sipp(SCENARIOS / "caller-talks.xml", tmp_path, local=(IP, free_port()), remote=farm.callee_address)

        await asyncio.to_thread(caller.start().check)

        assert [leg.received >= 20 for leg in (await farm.report()).strangers] == [True]


async def test_audio_is_echoed_by_a_callee(tmp_path: Path) -> None:
    callee = Sipp(SCENARIOS / "callee-basic.xml", tmp_path, local=(IP, free_port()), rtp_echo=True)
    with callee:
        async with PhoneFarm(proxy=callee.local, caller_behaviour=Behaviour(any_audio=True)) as farm:
            since = time.monotonic()
            await farm.place_calls(1)
            assert await farm.wait_audio(since, within=5)
            await farm.hang_up()

            await asyncio.to_thread(callee.check)


def test_a_failed_call_shows_both_stories(tmp_path: Path) -> None:
    callee = Sipp(
        SCENARIOS / "callee-refuses.xml", tmp_path, local=(IP, free_port()), values={"status": "486"}, limit=1
    )
    caller = Sipp(SCENARIOS / "caller-basic.xml", tmp_path, local=(IP, free_port()), remote=callee.local, limit=1)

    with pytest.raises(SippError, match=r"SIP/2\.0 486"):
        run_pair(callee, caller)
