"""Phones that make trouble while their relay dies: 491, no answer, lost datagrams, own re-INVITEs, hold, hang-ups."""

import asyncio
import time

from tests.e2e.harness import System
from tests.e2e.test_failover import assert_audible, place_on_first
from tests.kit.phones import Behaviour, CallReport, Fault
from tests.kit.results import FarmReport

KEPT = {
    "491 once": Behaviour(reinvite_statuses=(491,)),
    "500 with Retry-After": Behaviour(reinvite_statuses=(500,), retry_after=1),
    "503 with Retry-After": Behaviour(reinvite_statuses=(503,), retry_after=1),
    "slow": Behaviour(reinvite_after=1.0),
    "another RTP port": Behaviour(move_port=True),
    "200 without SDP": Behaviour(answer_without_sdp=True),
    "fewer codecs": Behaviour(reinvite_codecs=("PCMU",)),
    "the other codec": Behaviour(reinvite_codecs=("PCMA",)),
    "its own re-INVITE crosses": Behaviour(glares=1),
    "its own re-INVITE crosses twice": Behaviour(glares=2),
    "re-INVITE lost": Behaviour(faults=(Fault(direction="in", kind="INVITE", count=2, phase="call"),)),
    "re-INVITE doubled": Behaviour(faults=(Fault(direction="in", kind="INVITE", copies=2, phase="call"),)),
    "200 lost": Behaviour(faults=(Fault(direction="out", kind="200 INVITE", count=2, phase="call"),)),
    "200 doubled": Behaviour(faults=(Fault(direction="out", kind="200 INVITE", copies=2, phase="call"),)),
    "ACK lost": Behaviour(faults=(Fault(direction="in", kind="ACK", phase="call"),)),
    "ACK doubled": Behaviour(faults=(Fault(direction="in", kind="ACK", copies=2, phase="call"),)),
    "491 and its ACK lost": Behaviour(
        reinvite_statuses=(491,), faults=(Fault(direction="in", kind="ACK", phase="call"),)
    ),
}
OVER = {
    "481": Behaviour(reinvite_status=481),
    "404": Behaviour(reinvite_status=404),
    "no answer for ever": Behaviour(reinvite_status=0),
    "488 for ever": Behaviour(reinvite_status=488),
    "hangs up": Behaviour(hang_up_on_reinvite=True),
}
_EACH = 2


async def place_each(system: System, behaviours: dict[str, Behaviour]) -> dict[int, str]:
    """Place calls on the first relay in which one phone behaves so, then have the others join; return number: name."""
    phones = system.phones
    names: dict[int, str] = {}
    for name, behaviour in behaviours.items():
        for number in await phones.place_calls(_EACH, caller=behaviour):
            names[number] = f"caller: {name}"
        for number in await phones.place_calls(_EACH, callee=behaviour):
            names[number] = f"callee: {name}"
    await system.join(*system.relays[1:])
    assert await phones.wait_audio(time.monotonic())
    assert (await phones.report()).talking() == len(names)
    return names


def those(report: FarmReport, names: dict[int, str], wrong: object) -> list[str]:
    """Name the calls for which a predicate holds."""
    assert callable(wrong)
    return sorted({names[call.number] for call in report.calls if wrong(call)})


async def test_phones_that_can_be_moved_are(system: System) -> None:
    names = await place_each(system, KEPT)

    killed = system.relays[0].kill()

    failover = await system.failover()
    heard_from = time.monotonic()
    await system.phones.wait_audio(heard_from, within=5)
    report = await system.phones.report(killed)
    assert those(report, names, lambda call: not call.talking) == []
    assert those(report, names, lambda call: not call.audio_after(heard_from)) == []
    assert those(report, names, lambda call: any(leg.foreign for leg in call.legs)) == []
    assert (failover.calls, failover.moved, failover.failed) == (len(names), len(names), 0)
    assert sum(system.sessions()) == len(names)
    await system.end_in_peace()


async def test_calls_that_cannot_go_on_end_at_both_phones(system: System) -> None:
    names = await place_each(system, OVER)
    healthy = await system.phones.place_calls(4)

    killed = system.relays[0].kill()

    assert await system.phones.wait_talking(len(healthy), within=20)
    report = await system.phones.report(killed)
    over = [call for call in report.calls if call.number in names]
    assert {leg.state for call in over for leg in call.legs} == {"ended"}
    assert those(report, names, _ended_without_reason) == []
    relay_ips = {relay.ip for relay in system.relays}
    assert {leg.remote_rtp.partition(":")[0] for leg in report.legs()} <= relay_ips, "a phone was pointed past a relay"
    await assert_only_healthy(system, healthy)


async def assert_only_healthy(system: System, healthy: list[int]) -> None:
    """Assert that these calls live and nothing is left of others."""
    failover = await system.failover()
    assert failover.moved + failover.failed <= failover.calls
    now = time.monotonic()
    assert await system.phones.wait_audio(now, numbers=healthy)
    assert sum(system.sessions()) == len(healthy)
    await system.end_in_peace()


def _ended_without_reason(call: CallReport) -> bool:
    """Whether a phone that Kedge sent a BYE was not told why, though no phone hung up by itself."""
    if any(leg.ended_by == "local" for leg in call.legs):
        return False
    return any(leg.ended_by == "remote" and not leg.end_reason for leg in call.legs)


async def test_phones_with_re_invites_of_their_own_at_that_moment(system: System) -> None:
    numbers = await place_on_first(system)

    system.relays[0].kill()
    callers = asyncio.create_task(system.phones.reinvite(numbers[::2]))
    callees = asyncio.create_task(system.phones.reinvite(numbers[1::3], side="callee"))
    await asyncio.gather(callers, callees)

    await system.until(lambda: _all_moved(system, len(numbers)), "all calls are on living relays", within=20)
    failover = await system.failover()
    assert failover.failed == 0
    await assert_audible(system, len(numbers))
    await system.end_in_peace()


async def test_phones_that_change_their_offer_while_the_relay_dies(system: System) -> None:
    """Re-INVITEs and UPDATEs arrive over half a second around the kill, before it is known and after."""
    numbers = await place_on_first(system)

    async def change() -> None:
        for start in range(0, len(numbers), 5):
            await system.phones.reinvite(numbers[start : start + 3])
            await system.phones.update(numbers[start + 3 : start + 5], side="callee")
            await asyncio.sleep(0.05)

    changing = asyncio.create_task(change())
    await asyncio.sleep(0.2)
    system.relays[0].kill()
    await changing

    await system.until(lambda: _all_moved(system, len(numbers)), "all calls are on living relays", within=20)
    await assert_audible(system, len(numbers))
    await system.end_in_peace()


async def _all_moved(system: System, calls: int) -> bool:
    records = await system.calls()
    moved = [call for call in records if call.relay in ("relay-2", "relay-3") and call.state.value == "Active"]
    return len(moved) == len(records) == calls


async def test_hold_before_and_during_the_failover(system: System) -> None:
    numbers = await place_on_first(system, 20)
    held, holding = numbers[:10], numbers[10:]
    await system.phones.reinvite(held, direction="sendonly")
    await system.until(lambda: _held(system, held), "the first calls are held")

    killed = system.relays[0].kill()
    await system.phones.reinvite(holding, direction="sendonly")

    await system.until(lambda: _all_moved(system, len(numbers)), "all calls are on living relays", within=20)
    await system.until(lambda: _held(system, numbers), "all calls are held", within=10)
    since = time.monotonic()
    await system.until(lambda: _one_way(system, since), "the held phones hear, the holding ones do not")
    await system.phones.reinvite(numbers)
    await assert_audible(system, len(numbers))
    assert (await system.phones.report(killed)).lost == 0
    await system.end_in_peace()


async def _held(system: System, numbers: list[int]) -> bool:
    report = await system.phones.report()
    calls = [call for call in report.calls if call.number in numbers]
    return {(call.caller.direction, call.legs[-1].direction) for call in calls} == {("sendonly", "recvonly")}


async def _one_way(system: System, since: float) -> bool:
    """Whether all callees hear since then; a caller that holds must hear nothing."""
    report = await system.phones.report()
    assert not [call.number for call in report.calls if call.caller.last_received > since + 0.1]
    return all(call.legs[-1].last_received > since + 0.1 for call in report.calls)


async def test_hang_ups_at_that_moment(system: System) -> None:
    numbers = await place_on_first(system)
    leaving, staying = numbers[:30], numbers[30:]

    killed = system.relays[0].kill()
    by_callers = asyncio.create_task(system.phones.hang_up(leaving[:15], rate=80))
    by_callees = asyncio.create_task(system.phones.hang_up(leaving[15:], side="callee", rate=80))

    assert await by_callers
    assert await by_callees
    assert await system.phones.wait_reanchored(killed, numbers=staying, within=15)
    await assert_audible(system, len(staying))
    failover = await system.failover()
    assert failover.failed == 0
    assert sum(system.sessions()) == len(staying)
    await system.end_in_peace()
