"""A relay dies under calls, and phones answer the re-INVITEs in every way they can: Kedge does what the RFCs ask."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.kit.leg import Leg
from tests.kit.phones import Behaviour, Fault, PhoneFarm
from tests.kit.rtpengine import Rtpengine
from tests.wire.conftest import CALLER_IP, Line, System


@pytest.fixture
async def phones(mortal_system: System) -> AsyncIterator[PhoneFarm]:
    """Test phones around the system that may be killed."""
    line = mortal_system.line()
    async with PhoneFarm(
        caller=(CALLER_IP, 0), callee=line.callee, proxy=mortal_system.kedge.address, prefix=line.number
    ) as farm:
        yield farm


def busiest(system: System) -> Rtpengine:
    """Return the living relay with most calls."""
    return max((relay for relay in system.relays if relay.pid), key=Rtpengine.sessions)


async def calls_on(relay: Rtpengine, phones: PhoneFarm) -> list[int]:
    """Return the numbers of the calls that the relay carries."""
    numbers = [call.number for call in (await phones.report()).calls if call.relay == relay.ip]
    assert numbers
    return numbers


async def kill_and_hear(system: System, phones: PhoneFarm, *, within: float = 10.0) -> float:
    """Kill the relay of the calls, wait until all are heard again, and return the time of the kill."""
    relay = busiest(system)
    numbers = await calls_on(relay, phones)
    killed = relay.kill()
    assert await phones.wait_reanchored(killed, numbers=numbers, within=within)
    assert await phones.wait_audio(time.monotonic(), within=5)
    return killed


async def test_audio_comes_back_in_both_directions(mortal_system: System, phones: PhoneFarm) -> None:
    await phones.place_calls(10, rtp=True)
    killed = await kill_and_hear(mortal_system, phones)

    report = await phones.report(killed)

    assert report.talking() == 10
    assert report.refused == {}
    assert {leg.foreign for leg in report.legs()} == {0}
    assert all(leg.version == 1 for leg in report.legs()), "the phones' own descriptions did not change"
    assert await phones.hang_up()


async def test_video_that_was_refused_costs_no_call_its_second_relay(mortal_system: System, phones: PhoneFarm) -> None:
    await phones.place_calls(5, rtp=True, caller=Behaviour(video=True))
    await kill_and_hear(mortal_system, phones)
    assert (await phones.report()).talking() == 5
    await kill_and_hear(mortal_system, phones)

    report = await phones.report()

    assert report.talking() == 5
    assert all(leg.version <= 2 for leg in report.legs()), "the callers' video is off since the first move"
    assert await phones.hang_up()


ALL_ON_ONE = (1000, 1)
"""Weights of two relays, so that the first one gets all calls: the less loaded of two, for its weight, is taken."""

REFUSALS = {
    "491 once": Behaviour(reinvite_statuses=(491,)),
    "500 with Retry-After": Behaviour(reinvite_statuses=(500,), retry_after=1),
    "no answer at first": Behaviour(faults=(Fault(direction="in", kind="INVITE", count=2, phase="call"),)),
    "the 200 is lost": Behaviour(faults=(Fault(direction="out", kind="200 INVITE", phase="call"),)),
    "the ACK is lost": Behaviour(faults=(Fault(direction="in", kind="ACK", phase="call"),)),
    "fewer codecs": Behaviour(reinvite_codecs=("PCMU",)),
    "another port": Behaviour(move_port=True),
    "200 without SDP": Behaviour(answer_without_sdp=True),
    "slow": Behaviour(reinvite_after=1.0),
    "crossing re-INVITEs": Behaviour(glares=1),
}


@pytest.mark.parametrize("mortal_system", [ALL_ON_ONE], indirect=True, ids=["two-relays"])
@pytest.mark.parametrize("side", ["caller", "callee"])
async def test_phones_that_make_trouble_keep_their_calls(side: str, mortal_system: System, phones: PhoneFarm) -> None:
    numbers = {
        name: await phones.place_calls(3, rtp=True, **{side: behaviour})  # type: ignore[arg-type]
        for name, behaviour in REFUSALS.items()
    }
    relay = busiest(mortal_system)
    moving = set(await calls_on(relay, phones))
    assert all(moving.issuperset(some) for some in numbers.values())
    killed = relay.kill()

    heard = {name: await phones.wait_audio(killed + 0.2, numbers=some, within=15) for name, some in numbers.items()}

    assert heard == dict.fromkeys(REFUSALS, True)
    talking = {call.number for call in (await phones.report(killed)).calls if call.talking}
    assert {name: talking.issuperset(some) for name, some in numbers.items()} == dict.fromkeys(REFUSALS, True)


async def test_a_phone_whose_dialog_is_over_ends_the_call_for_the_other(
    mortal_system: System, phones: PhoneFarm
) -> None:
    for status in (481, 404, 410):
        await phones.place_calls(2, rtp=True, callee=Behaviour(reinvite_status=status))
    relay = busiest(mortal_system)
    moving = await calls_on(relay, phones)
    relay.kill()
    assert await phones.wait_over(moving)

    report = await phones.report()

    assert {call.caller.ended_by for call in report.calls if call.number in moving} == {"remote"}
    assert report.talking() == 6 - len(moving)


async def test_a_phone_that_refuses_for_good_never_points_past_the_relay(
    mortal_system: System, phones: PhoneFarm
) -> None:
    await phones.place_calls(2, rtp=True, callee=Behaviour(reinvite_status=488))
    relay = busiest(mortal_system)
    moving = await calls_on(relay, phones)
    killed = relay.kill()
    assert await phones.wait_over(moving, within=15)

    report = await phones.report(killed)

    relays = {relay.ip for relay in mortal_system.relays}
    assert {leg.remote_rtp.partition(":")[0] for leg in report.legs()} <= relays


async def test_hang_up_meanwhile_ends_the_call_cleanly(mortal_system: System, phones: PhoneFarm) -> None:
    await phones.place_calls(3, rtp=True, callee=Behaviour(hang_up_on_reinvite=True))
    await phones.place_calls(3, rtp=True, caller=Behaviour(hang_up_on_reinvite=True))
    relay = busiest(mortal_system)
    moving = await calls_on(relay, phones)
    relay.kill()
    assert await phones.wait_over(moving)

    report = await phones.report()

    ended = {call.number: call.callee and call.callee.ended_by for call in report.calls if call.number in moving}
    assert ended == {number: "local" if number <= 3 else "remote" for number in moving}
    assert not any(leg.timeouts for leg in report.legs())


async def test_the_second_relay_dies_too(mortal_system: System, phones: PhoneFarm) -> None:
    await phones.place_calls(6, rtp=True)
    await kill_and_hear(mortal_system, phones)
    killed = busiest(mortal_system).kill()
    assert await phones.wait_audio(killed + 1.0, within=10)

    assert (await phones.report(killed)).talking() == 6


async def test_the_second_relay_dies_while_the_calls_move(mortal_system: System, phones: PhoneFarm) -> None:
    await phones.place_calls(6, rtp=True, callee=Behaviour(reinvite_after=0.5))
    first = busiest(mortal_system)
    moving = await calls_on(first, phones)
    since = first.kill()
    assert await phones._until(lambda: any(leg.reinvites for leg in _callees(phones)), 5)
    second = max((relay for relay in mortal_system.relays if relay.pid), key=Rtpengine.sessions)
    killed = second.kill()
    assert await phones.wait_reanchored(since, numbers=moving, within=15)
    assert await phones.wait_audio(killed + 2.0, within=15)

    report = await phones.report(since)
    assert report.talking() == 6
    assert {call.relay for call in report.calls} == {relay.ip for relay in mortal_system.relays if relay.pid}


def _callees(phones: PhoneFarm) -> list[Leg]:
    return [call.callee for call in phones._calls.values() if call.callee is not None]


async def test_a_held_call_stays_held(mortal_system: System, phones: PhoneFarm) -> None:
    await phones.place_calls(2, rtp=True)
    since = time.monotonic()
    await phones.reinvite(side="caller", direction="sendonly")
    assert await phones._until(
        lambda: all(leg.reinvites and leg.reinvites[-1].acked_at > since for leg in _callees(phones)), 5
    )
    relay = busiest(mortal_system)
    moving = await calls_on(relay, phones)
    killed = relay.kill()
    assert await phones.wait_reanchored(killed, numbers=moving)

    report = await phones.report(killed)

    directions = {(call.caller.direction, call.callee.direction) for call in report.calls if call.callee}
    assert directions == {("sendonly", "recvonly")}


async def test_a_frozen_relay_is_left(mortal_system: System, phones: PhoneFarm) -> None:
    await phones.place_calls(6, rtp=True)
    frozen = busiest(mortal_system).freeze()

    assert await phones.wait_audio(frozen + 1.0, within=10)

    assert (await phones.report(frozen)).talking() == 6


async def test_a_restarted_relay_has_lost_its_calls(mortal_system: System, phones: PhoneFarm) -> None:
    await phones.place_calls(6, rtp=True)
    restarted = busiest(mortal_system).restart()

    assert await phones.wait_audio(restarted + 1.5, within=10)

    assert (await phones.report(restarted)).talking() == 6


async def test_a_ringing_call_is_answered_on_another_relay(mortal_system: System, phones: PhoneFarm) -> None:
    await phones.place_calls(4, rtp=True, callee=Behaviour(answer_after=1.0), within=0.0)
    _wait_for_session(mortal_system).kill()
    assert await phones.wait_talking(4, within=10)

    assert await phones.wait_audio(time.monotonic() + 0.3, within=10)


@pytest.mark.parametrize("status", ["491", "500"])
def test_sipp_is_moved_after_it_refused_once(status: str, mortal_system: System, folder: Path) -> None:
    line: Line = mortal_system.line()
    values = {"status": status, "linger": "5000"}
    callee = mortal_system.callee("reanchored", folder, line, values=values)
    caller = mortal_system.caller("reanchored", folder, line, values=values)
    with callee, caller:
        caller.wait_sent("ACK")
        busiest(mortal_system).kill()

        assert caller.check().succeeded == callee.check().succeeded == 1


@pytest.mark.parametrize("status", ["481", "408"])
def test_sipp_whose_dialog_is_over_ends_the_call(status: str, mortal_system: System, folder: Path) -> None:
    line = mortal_system.line()
    callee = mortal_system.callee("reanchor-refused", folder, line, values={"status": status})
    caller = mortal_system.caller("ended", folder, line)
    with callee, caller:
        caller.wait_sent("ACK")
        busiest(mortal_system).kill()

        assert caller.check().succeeded == callee.check().succeeded == 1


def _wait_for_session(system: System) -> Rtpengine:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        for relay in system.relays:
            if relay.sessions():
                return relay
    raise AssertionError("no relay got a session")
