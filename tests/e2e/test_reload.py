"""The settings file changes under calls with audio: they go on, new ones follow it; a wrong one changes nothing."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.e2e.harness import PREFIX, System
from tests.kit.phones import PhoneProcess
from tests.kit.ports import free_port

from kedge.cli.main import main
from kedge.ports.records import CallState, EventRecord

CALLS = 9
FILE = "settings.yaml"


@pytest.fixture
async def talking(tmp_path: Path) -> AsyncIterator[System]:
    """Calls with RTP on three relays."""
    async with System(tmp_path) as system:
        await system.phones.place_calls(CALLS, rtp=True)

        async def told() -> bool:
            return sum(one.state is CallState.ACTIVE for one in await system.calls()) == CALLS

        await system.until(told, "all calls are told of")
        yield system


@pytest.fixture
async def others(talking: System) -> AsyncIterator[PhoneProcess]:
    """Two more parties, at addresses that no peer covers yet."""
    network = talking.kedge.ip.rpartition(".")[0]
    callee = (f"{network}.5", free_port(f"{network}.5"))
    phones = PhoneProcess(proxy=talking.kedge.address, caller=(f"{network}.4", 0), callee=callee, prefix=PREFIX)
    async with phones:
        yield phones


def give_to(others: PhoneProcess, settings: dict[str, Any]) -> None:
    """Let the other parties take the place of all peers and routes."""
    addresses = {"callers": others.caller_address, "callees": others.callee_address}
    settings["peers"] = [{"name": name, "networks": [f"{ip}/32"]} for name, (ip, _) in addresses.items()]
    ip, port = others.callee_address
    settings["routes"] = [{"name": "other", "nextHops": [{"address": ip, "port": port}], "relaySet": "voice"}]


async def last_event(system: System, reason: str, count: int = 1) -> EventRecord:
    """Wait until there are so many events of a kind; return the last."""

    async def told() -> bool:
        return len(await system.events(reason)) >= count

    await system.until(told, f"event {reason}")
    return (await system.events(reason))[-1]


async def on_first(system: System, calls: int) -> int:
    """Wait until so many calls are counted on the relays; return those of the first, which are some."""
    shares: list[int] = []

    async def counted() -> bool:
        shares[:] = [one.sessions for one in (await system.snapshot()).relays]
        return sum(shares) == calls

    await system.until(counted, f"{calls} calls are on the relays")
    assert shares[0] > 0
    return shares[0]


async def all_heard(system: System) -> None:
    assert await system.phones.wait_audio(time.monotonic())
    assert (await system.phones.report()).talking() == CALLS


async def test_calls_of_peers_and_routes_that_are_gone_live_move_and_end_and_new_ones_follow_the_file(
    talking: System, others: PhoneProcess
) -> None:
    began = time.monotonic()
    talking.edit(FILE, lambda settings: give_to(others, settings))
    event = await last_event(talking, "SettingsApplied")
    assert (event.warning, event.message) == (False, "settings in force now: peers, routes")

    numbers = await others.place_calls(2, rtp=True)
    assert await others.wait_audio(time.monotonic())
    assert (await others.report()).talking() == len(numbers) == 2
    await talking.phones.place_calls(1, rtp=False)
    assert (await talking.phones.report()).refused == {"403 INVITE": 1}

    await talking.phones.reinvite([1], side="callee", direction="sendonly")
    await talking.phones.reinvite([2], side="caller", direction="sendrecv")
    assert await talking.phones.wait_answered(), "one under way would bring its call to another relay by itself"
    on_it = await on_first(talking, CALLS + len(numbers))
    talking.relays[0].kill()
    failover = await talking.failover()
    assert (failover.calls, failover.moved, failover.failed) == (on_it, on_it, 0)
    await talking.phones.reinvite([1], side="callee", direction="sendrecv")
    await all_heard(talking)
    gaps = [leg.gap for call in (await talking.phones.report(began)).calls for leg in call.legs if call.number > 2]
    assert max(gaps) < 3.0, "nobody was cut off"

    assert await others.hang_up()
    await talking.end_in_peace()


async def test_a_wrong_file_changes_nothing_and_says_why_until_it_is_right(talking: System) -> None:
    file = talking.folder / FILE
    good = file.read_text()
    talking.edit(FILE, lambda settings: settings["sip"].update(maxCals=1) or settings.update(peers=[], routes=[]))

    event = await last_event(talking, "SettingsRefused")

    assert event.warning
    assert event.message.startswith("the settings stay as they were: ")
    assert f"{FILE}:" in event.message
    assert "sip.maxCals: unknown field; did you mean maxCalls?" in event.message
    assert event.message in talking.kedge.log
    listed = CliRunner().invoke(main, ["events", "--server", "http://{}:{}".format(*talking.kedge.admin)])
    assert "SettingsRefused" in listed.stdout
    assert talking.kedge.metric("kedge_settings_current") == 0
    assert talking.kedge.metric("kedge_settings_reloads_total", result="Refused") == 1
    await talking.phones.place_calls(1, rtp=False)
    assert (await talking.phones.report()).refused == {}

    file.write_text(good)

    await last_event(talking, "SettingsApplied")
    assert talking.kedge.metric("kedge_settings_current") == 1
    await talking.end_in_peace()


async def test_limits_and_shares_follow_the_file_and_what_cannot_waits_for_a_restart(talking: System) -> None:
    def change(settings: dict[str, Any]) -> None:
        settings["sip"] |= {"maxCalls": CALLS, "strangers": "Drop", "listen": [{"address": talking.kedge.ip}]}
        settings["signaling"] |= {"replicas": 2}
        settings["log"] = {"format": "json"}

    before = {one.name: one.capacity for one in (await talking.snapshot()).relays}
    talking.edit(FILE, change)
    event = await last_event(talking, "SettingsRestartNeeded")

    assert event.message == (
        "settings in force now: sip.maxCalls, sip.strangers, log.format, signaling.replicas; "
        "waiting for a restart: sip.listen"
    )
    assert talking.kedge.metric("kedge_settings_current") == 0
    assert talking.kedge.metric("kedge_settings_reloads_total", result="RestartNeeded") == 1

    async def halved() -> bool:
        return {one.name: one.capacity for one in (await talking.snapshot()).relays} == {
            name: capacity // 2 for name, capacity in before.items()
        }

    await talking.until(halved, "it takes half of each relay")
    await talking.phones.place_calls(1, rtp=False)
    assert (await talking.phones.report()).refused == {"503 INVITE": 1}
    assert talking.kedge.log.splitlines()[-1].startswith("{")
    await all_heard(talking)

    os.kill(talking.kedge.pid, signal.SIGHUP)

    event = await last_event(talking, "SettingsRestartNeeded", 2)
    assert event.message == "the settings in force have not changed; waiting for a restart: sip.listen"
    await talking.end_in_peace()
