"""The phones talk to each other directly: what they measure must be true before anything is measured with them."""

import asyncio
import time

import pytest
from tests.kit.phones import Behaviour, Fault, PhoneFarm, PhoneProcess, PhonesError
from tests.kit.rtp import TONE
from tests.kit.srtp import Srtp, new_key

HEARD = 0.3  # seconds of audio that a test waits for


async def hear(farm: PhoneFarm | PhoneProcess, seconds: float = HEARD) -> None:
    assert await farm.wait_audio(time.monotonic() + seconds, within=10)


async def test_audio_is_counted_in_both_directions() -> None:
    async with PhoneFarm() as farm:
        numbers = await farm.place_calls(3, rtp=True)
        await hear(farm)
        report = await farm.report()

        assert numbers == [1, 2, 3]
        assert report.placed == report.answered == report.talking() == 3
        for leg in report.legs():
            assert leg.received >= 10
            assert leg.lost == leg.foreign == 0
        assert report.refused == {}
        assert await farm.hang_up()
        ended = await farm.report()
        assert (ended.finished, ended.lost, ended.talking()) == (3, 0, 0)


async def test_calls_without_audio_open_no_rtp() -> None:
    async with PhoneFarm() as farm:
        await farm.place_calls(4, rtp=True, rtp_every=2)

        report = await farm.report()

        assert [call.caller.rtp for call in report.calls] == [True, False, True, False]
        assert report.talking() == 4


async def test_a_silence_is_measured_from_packet_to_packet() -> None:
    async with PhoneFarm() as farm:
        await farm.place_calls(2, rtp=True)
        await hear(farm)
        since = time.monotonic()
        await farm.pause_rtp(True)
        await asyncio.sleep(0.3)
        resumed = time.monotonic()
        await farm.pause_rtp(False)
        assert await farm.wait_audio(resumed, within=10)

        report = await farm.report(since)

        assert len(report.gaps()) == 4
        for leg in report.legs():
            # The silence lasts from the packet before the pause to the first one after it, at most two packets more.
            assert leg.gap_from <= since + 0.02
            assert leg.gap_until >= resumed
            assert leg.gap == pytest.approx(leg.gap_until - leg.gap_from)
            assert leg.gap >= resumed - since - 0.02


async def test_a_silence_that_lasts_is_a_gap_too() -> None:
    async with PhoneFarm() as farm:
        await farm.place_calls(1, rtp=True)
        await hear(farm)
        await farm.pause_rtp(True)
        since = time.monotonic()
        await asyncio.sleep(0.2)

        report = await farm.report(since)

        assert min(report.gaps()) >= 0.15
        assert report.audible_after(since + 0.1) == 0


async def test_reinvite_is_answered_acked_and_leaves_the_version_alone() -> None:
    async with PhoneFarm() as farm:
        await farm.place_calls(2, rtp=True)
        since = time.monotonic()
        await farm.reinvite(side="caller")
        assert await farm._until(lambda: all(call.callee and call.callee.reinvites for call in farm._calls.values()), 5)
        await farm.reinvite(side="callee")
        assert await farm.wait_reanchored(since)

        report = await farm.report(since)

        assert [each.status for each in report.reinvites()] == [200] * 4
        assert all(each.acked_at >= each.answered_at >= each.received_at > since for each in report.reinvites())
        assert {leg.version for leg in report.legs()} == {1}


async def test_hold_silences_one_direction_and_resume_brings_it_back() -> None:
    async with PhoneFarm() as farm:
        await farm.place_calls(1, rtp=True)
        await hear(farm)
        await farm.reinvite(side="caller", direction="sendonly")
        assert await farm._until(
            lambda: bool(farm._calls[1].callee and farm._calls[1].callee.direction == b"recvonly"), 5
        )
        held = (await farm.report()).calls[0]
        assert held.callee is not None
        assert (held.caller.direction, held.callee.direction) == ("sendonly", "recvonly")

        await farm.reinvite(side="caller", direction="sendrecv")
        await hear(farm)

        report = await farm.report()
        assert {leg.direction for leg in report.legs()} == {"sendrecv"}
        assert [leg.version for leg in report.legs()] == [3, 3]


async def test_a_moved_port_is_followed_at_once() -> None:
    async with PhoneFarm(callee_behaviour=Behaviour(move_port=True)) as farm:
        await farm.place_calls(1, rtp=True)
        before = (await farm.report()).calls[0]
        await farm.reinvite(side="caller")
        assert await farm.wait_audio(time.monotonic() + HEARD, within=10)

        after = (await farm.report()).calls[0]

        assert before.callee is not None
        assert after.callee is not None
        assert before.callee.local_rtp != after.callee.local_rtp == after.caller.remote_rtp


async def test_lost_datagrams_are_repaired_by_retransmission() -> None:
    lossy = Behaviour(
        faults=(
            Fault(direction="in", kind="INVITE"),
            Fault(direction="out", kind="200 INVITE"),
            Fault(direction="in", kind="ACK"),
            Fault(direction="in", kind="BYE"),
        )
    )
    async with PhoneFarm(callee_behaviour=lossy) as farm:
        await farm.place_calls(1, rtp=False)
        assert await farm.hang_up()

        report = await farm.report()

        # Sent again: the INVITE, the 200 (lost once, its ACK lost once) and the BYE.
        assert (report.answered, report.finished, report.lost) == (1, 1, 0)
        assert report.repeats_out == 4


async def test_repeated_datagrams_are_absorbed() -> None:
    doubling = Behaviour(
        faults=tuple(
            Fault(direction="out", kind=kind, copies=3) for kind in ("INVITE", "ACK", "BYE", "200 INVITE", "200 BYE")
        )
    )
    async with PhoneFarm(caller_behaviour=doubling, callee_behaviour=doubling) as farm:
        await farm.place_calls(2, rtp=False)
        assert await farm.hang_up()

        report = await farm.report()

        assert (report.answered, report.finished, report.lost, report.refused) == (2, 2, 0, {})
        assert report.repeats_in > 0


@pytest.mark.parametrize("status", [302, 404, 486, 503, 603])
async def test_a_refused_call_fails_with_its_status(status: int) -> None:
    async with PhoneFarm() as farm:
        await farm.place_calls(2, callee=Behaviour(answer_status=status))

        report = await farm.report()

        assert (report.failed, report.answered) == (2, 0)
        assert {call.caller.status for call in report.calls} == {status}
        assert report.refused == {f"{status} INVITE": 2}


async def test_a_cancelled_call_ends_with_487() -> None:
    async with PhoneFarm() as farm:
        await farm.place_calls(1, caller=Behaviour(cancel_after=0.05), callee=Behaviour(answer_after=-1))

        call = (await farm.report()).calls[0]

        assert call.caller.status == 487
        assert call.callee is not None
        assert call.callee.state == "failed"


@pytest.mark.parametrize("status", [488, 500])
async def test_a_reinvite_is_refused_as_asked_and_the_call_lives(status: int) -> None:
    async with PhoneFarm(callee_behaviour=Behaviour(reinvite_statuses=(status,))) as farm:
        await farm.place_calls(1)
        await farm.reinvite(side="caller")
        assert await farm._until(lambda: bool(farm._calls[1].caller.refused), 5)
        since = time.monotonic()
        await farm.reinvite(side="caller")
        assert await farm._until(lambda: len(farm._calls[1].callee.reinvites) == 2, 5)  # type: ignore[union-attr]
        assert await farm.wait_audio(since)

        report = await farm.report()

        assert report.talking() == 1
        assert report.refused == {f"{status} INVITE": 1}


async def test_glare_is_refused_at_both_ends_and_retried() -> None:
    async with PhoneFarm(callee_behaviour=Behaviour(glares=1)) as farm:
        await farm.place_calls(1)
        since = time.monotonic()
        await farm.reinvite(side="caller")
        assert await farm.wait_reanchored(since, within=10)

        report = await farm.report()

        assert report.refused == {"491 INVITE": 2}
        assert report.talking() == 1


async def test_a_dialog_that_is_gone_ends_the_call() -> None:
    async with PhoneFarm(callee_behaviour=Behaviour(reinvite_status=481)) as farm:
        await farm.place_calls(1)
        await farm.reinvite(side="caller")
        assert await farm.wait_talking(0)

        report = await farm.report()

        assert [leg.state for leg in report.legs()] == ["ended", "ended"]


async def test_hang_up_during_a_reinvite() -> None:
    async with PhoneFarm(callee_behaviour=Behaviour(hang_up_on_reinvite=True)) as farm:
        await farm.place_calls(1)
        await farm.reinvite(side="caller")
        assert await farm.wait_talking(0)

        report = await farm.report()

        assert report.calls[0].caller.refused == ["487 INVITE"]
        assert (report.finished, report.lost) == (1, 0)


async def test_early_media_is_heard_before_the_answer() -> None:
    ringing = Behaviour(early_media=True, answer_after=0.4)
    async with PhoneFarm(callee_behaviour=ringing) as farm:
        await farm.place_calls(1)

        call = (await farm.report()).calls[0]

        assert 0 < call.caller.first_received < call.caller.answered_at


async def test_calls_that_end_by_themselves_leave_the_table() -> None:
    async with PhoneFarm(forget_after=0.05) as farm:
        await farm.place_calls(10, rate=1000, rtp=False, hold=0.05)
        assert await farm._until(lambda: not farm._calls, 5)

        report = await farm.report()

        assert (report.placed, report.answered, report.finished, report.lost) == (10, 10, 10, 0)


async def test_a_phone_process_does_the_same() -> None:
    async with PhoneProcess() as phones:
        numbers = await phones.place_calls(2, rtp=True, callee=Behaviour(codecs=("PCMA",)))
        since = time.monotonic()
        await phones.reinvite([numbers[0]])
        assert await phones.wait_audio(since)

        report = await phones.report(since)

        assert report.talking() == 2
        assert [call.callee and len(call.callee.reinvites) for call in report.calls] == [1, 0]
        assert (await phones.summary())["talking"] == 2
        assert await phones.hang_up()


async def test_a_phone_process_says_what_was_wrong() -> None:
    async with PhoneProcess() as phones:
        with pytest.raises(PhonesError, match="unexpected keyword"):
            await phones._ask("hang_up", no_such_side=1)


async def test_srtp_is_taken_if_it_is_offered_and_audio_is_what_the_keys_fit() -> None:
    wanted, able = Behaviour(srtp="wanted"), Behaviour(srtp="able")
    async with PhoneFarm() as farm:
        await farm.place_calls(1, rtp=True, caller=wanted, callee=able)
        await farm.place_calls(1, rtp=True, caller=able, callee=able)
        await hear(farm)
        await farm.reinvite()
        await hear(farm)

        report = await farm.report()

        assert [leg.encrypted for leg in report.legs()] == [True, True, False, False]
        assert all(leg.received >= 20 and leg.foreign == 0 for leg in report.legs())


async def test_a_phone_without_srtp_refuses_it() -> None:
    async with PhoneFarm() as farm:
        await farm.place_calls(1, caller=Behaviour(srtp="wanted"))

        assert (await farm.report()).refused == {"488 INVITE": 1}


def test_what_is_encrypted_for_somebody_else_is_no_audio() -> None:
    ours, theirs, other = new_key(), new_key(), new_key()
    packet = b"\x80\x00\x00\x01" + bytes(8) + TONE

    sent = Srtp(theirs, ours).protect(packet)

    assert sent != packet
    assert Srtp(ours, theirs).unprotect(sent) == packet
    assert Srtp(ours, other).unprotect(sent) == b""
    assert Srtp(ours, theirs).unprotect(packet) == b""
