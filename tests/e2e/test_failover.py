"""Relays die, freeze, restart under live calls: each call has audio again, both ways, counted at the phones."""

import asyncio
import time
from pathlib import Path

from tests.e2e.harness import System
from tests.kit.phones import Behaviour
from tests.kit.rtpengine import Rtpengine

CALLS = 50


async def place_on_first(system: System, calls: int = CALLS) -> list[int]:
    """Place calls on the first relay, then have the others join."""
    numbers = await system.phones.place_calls(calls, rate=200, within=10)
    assert (await system.phones.report()).talking() == calls
    assert system.relays[0].sessions() == calls
    await system.join(*system.relays[1:])
    assert await system.phones.wait_audio(time.monotonic())
    return numbers


async def assert_all_moved(system: System, lost: Rtpengine, since: float, *, reason: str, calls: int = CALLS) -> None:
    """Assert that all calls have audio again, and that Kedge says of it what is true."""
    assert await system.phones.wait_reanchored(since, within=15)
    await assert_audible(system, calls)
    failover = await system.failover()
    assert (failover.relay, failover.reason) == (system.name_of(lost), reason)
    assert (failover.calls, failover.moved, failover.failed) == (calls, calls, 0)
    assert 0 < failover.detection < failover.gap_p50 <= failover.gap_p99
    await system.until(lambda: _records_say_moved(system), "the records say where the calls are")


async def _records_say_moved(system: System) -> bool:
    calls = await system.calls()
    return all(call.last_anchor and call.last_anchor.result == "Moved" and call.anchors == 1 for call in calls)


async def assert_audible(system: System, calls: int, *, crossed: bool = False) -> None:
    """Assert that so many calls live, each with audio from now on in both directions; of others only if ``crossed``."""
    now = time.monotonic()
    assert await system.phones.wait_audio(now, within=10), "a phone hears nothing"
    report = await system.phones.report()
    assert report.talking() == report.audible_after(now) == calls
    assert report.lost == report.failed == 0
    assert crossed or not any(leg.foreign for leg in report.legs()), "audio of another call was heard"


async def test_kill(system: System) -> None:
    first = system.relays[0]
    await place_on_first(system)

    killed = first.kill()

    await assert_all_moved(system, first, killed, reason="RelayDown")
    report = await system.phones.report(killed)
    assert len(report.reinvites()) == 2 * CALLS, "one re-INVITE to each phone, no more"
    assert not report.refused
    assert sum(system.sessions()) == CALLS
    assert min(system.sessions()) > 0, "both relays share the calls"
    assert [event.relay for event in await system.events("RelayDown")] == ["relay-1"]
    await system.end_in_peace()


async def test_freeze_and_thaw(system: System) -> None:
    first = system.relays[0]
    await place_on_first(system)

    frozen = first.freeze()

    await assert_all_moved(system, first, frozen, reason="RelayDown")
    first.thaw()
    await system.wait_ready(first)
    await system.until(lambda: _holds_none(first), "the thawed relay has lost the sessions that left it")
    await assert_audible(system, CALLS)
    await system.end_in_peace()


async def _holds_none(relay: Rtpengine) -> bool:
    return relay.sessions() == 0


async def test_restart_of_the_only_relay(tmp_path: Path) -> None:
    async with System(tmp_path, relays=1) as system:
        relay = system.relays[0]
        await system.phones.place_calls(CALLS, rate=200)

        relay.restart()

        # A fresh rtpengine gives out the same ports again: if to the same call, no phone has to be told; if to another
        # one, they hear each other until they are.
        await system.until(lambda: _holds(relay, CALLS), "all calls have a session on the new instance")
        await assert_audible(system, CALLS, crossed=True)
        heard = await _foreign(system)
        await assert_audible(system, CALLS, crossed=True)
        assert await _foreign(system) == heard, "audio of another call is still heard"
        assert system.sessions() == [CALLS]
        failover = await system.failover()
        assert (failover.calls, failover.moved, failover.failed) == (CALLS, CALLS, 0)
        await system.end_in_peace()


async def _foreign(system: System) -> int:
    return sum(leg.foreign for leg in (await system.phones.report()).legs())


async def test_restart_among_others(system: System) -> None:
    first = system.relays[0]
    await place_on_first(system)

    restarted = first.restart()

    assert await system.phones.wait_reanchored(restarted, within=15)
    await assert_audible(system, CALLS)
    failover = await system.failover()
    assert (failover.relay, failover.calls, failover.moved, failover.failed) == ("relay-1", CALLS, CALLS, 0)
    await system.wait_ready(first)
    assert sum(system.sessions()) == CALLS, "a call has one session"
    await system.end_in_peace()


async def test_calls_come_and_go_meanwhile(system: System) -> None:
    first, phones = system.relays[0], system.phones
    numbers = await place_on_first(system)
    leaving, staying = numbers[: CALLS // 2], numbers[CALLS // 2 :]
    coming = asyncio.create_task(phones.place_calls(40, rate=80, within=10))
    leaving_callers = asyncio.create_task(phones.hang_up(leaving[::2], rate=40))
    leaving_callees = asyncio.create_task(phones.hang_up(leaving[1::2], side="callee", rate=40))
    await asyncio.sleep(0.1)

    killed = first.kill()

    came = await coming
    assert await leaving_callers
    assert await leaving_callees
    assert await phones.wait_reanchored(killed, numbers=staying, within=15)
    await assert_audible(system, len(staying) + len(came))
    failover = await system.failover()
    assert failover.failed == 0
    assert len(staying) <= failover.moved <= failover.calls
    assert sum(system.sessions()) == len(staying) + len(came)
    await system.end_in_peace()


async def test_second_relay_dies_while_the_first_is_left(tmp_path: Path) -> None:
    slow = {"failover": {"rate": 40, "ratePerPeer": 20}}  # 20 calls a second
    async with System(tmp_path, joined=1, relay_set=slow) as system:
        first, second, third = system.relays
        await place_on_first(system)
        first.kill()
        await system.until(lambda: _holds(second, 5), "some calls have come to the second relay")

        second.kill()

        await system.until(lambda: _holds(third, CALLS), "all calls are on the third relay", within=20)
        failover = await system.failover()
        assert (failover.relay, failover.failed) == ("relay-2", 0)
        await assert_audible(system, CALLS)
        started, done = await system.events("FailoverStarted"), await system.events("FailoverDone")
        assert [event.relay for event in started] == ["relay-1", "relay-2"]
        assert sorted(event.relay for event in done) == ["relay-1", "relay-2"]
        await system.end_in_peace()


async def _holds(relay: Rtpengine, sessions: int) -> bool:
    return relay.sessions() >= sessions


async def test_all_relays_die_and_one_returns(system: System) -> None:
    await place_on_first(system)
    second = system.relays[1]
    for relay in reversed(system.relays):  # that of the calls last, so that they find no other one
        relay.kill()
    for relay in system.relays:
        await system.wait_state(relay, "Down")
    assert (await system.phones.report()).talking() == CALLS, "calls wait for a relay"

    second.start()

    await system.until(lambda: _holds(second, CALLS), "all calls are on the relay that has returned", within=15)
    await assert_audible(system, CALLS)
    failover = await system.failover()
    assert (failover.calls, failover.moved, failover.failed) == (CALLS, CALLS, 0)
    await system.end_in_peace()


async def test_calls_that_ring(tmp_path: Path) -> None:
    async with System(tmp_path, joined=1, relay_set={"rebalance": {"mode": "Manual"}}) as system:
        first, phones = system.relays[0], system.phones
        late = Behaviour(answer_after=2.0)
        placing = asyncio.create_task(phones.place_calls(20, rate=200, callee=late, within=10))
        early = Behaviour(answer_after=2.0, early_media=True)
        placing_early = asyncio.create_task(phones.place_calls(20, rate=200, callee=early, within=10))
        await system.until(lambda: _holds(first, 40), "all calls ring")
        system.write_relay_set(system.relays)
        await system.wait_ready(*system.relays[1:])

        first.kill()

        await asyncio.gather(placing, placing_early)
        assert await phones.wait_talking(40)
        await system.until(lambda: _sum_is(system, 40), "all calls have a session on a living relay")
        await assert_audible(system, 40)
        await system.end_in_peace()


async def _sum_is(system: System, sessions: int) -> bool:
    return sum(system.sessions()) == sessions


async def test_move_of_one_call(system: System) -> None:
    await place_on_first(system, 2)
    call, other = await system.calls()

    status, answer = await system.post(f"/v1/calls/{call.id}/move", {"relay": "relay-9"})
    assert (status, answer["error"]) == (409, f"there is no relay relay-9 in RelaySet {call.relay_set}")
    status, answer = await system.post("/v1/calls/nobody/move", {"relay": "relay-2"})
    assert (status, answer["error"]) == (404, "there is no call nobody")
    status, _ = await system.post(f"/v1/calls/{call.id}/move", {"relay": "relay-3"})
    assert status == 202

    await system.until(lambda: _relays_are(system, {call.id: "relay-3", other.id: "relay-1"}), "only this call moves")
    await system.until(lambda: _sessions_are(system, [1, 0, 1]), "the session left behind is deleted")
    await assert_audible(system, 2)
    await system.end_in_peace()


async def _relays_are(system: System, wanted: dict[str, str]) -> bool:
    return {call.id: call.relay for call in await system.calls()} == wanted


async def _sessions_are(system: System, wanted: list[int]) -> bool:
    return system.sessions() == wanted
