"""Calls through Kedge and a real rtpengine, with SIPp at both ends: each behaviour of SIP has its scenario."""

import asyncio
import socket
import time
from pathlib import Path

import pytest
from tests.kit.phones import Behaviour, PhoneFarm
from tests.kit.sipp import run_pair
from tests.wire.cases import CALLS, IN_DIALOG, LOSSES, Case
from tests.wire.conftest import CALLER_IP, STRANGER_IP, System


@pytest.mark.parametrize("case", CALLS + LOSSES + IN_DIALOG, ids=str)
def test_conversation(case: Case, system: System, folder: Path) -> None:
    results = system.converse(case.caller, case.callee, folder, values=case.values)

    assert [(each.succeeded, each.failed) for each in results] == [(1, 0), (1, 0)]


def test_one_invite_repeated_reaches_the_callee_once(system: System, folder: Path) -> None:
    callee, caller = system.converse("repeated-invite", "rings", folder)

    assert caller.sent("INVITE") == 2
    assert callee.received("INVITE") == 1


def test_the_relay_stands_between_the_phones(system: System, folder: Path) -> None:
    callee, caller = system.converse("basic", "basic", folder)

    relays = {f"c=IN IP4 {relay.ip}" for relay in system.relays}
    offered = {line for line in callee.messages.splitlines() if line in relays}
    answered = {line for line in caller.messages.splitlines() if line in relays}
    # Both descriptions name one and the same relay, and neither end sees the other's Call-ID.
    assert len(offered) == 1
    assert offered == answered
    call_ids = [
        {line for line in result.messages.splitlines() if line.startswith("Call-ID:")} for result in (callee, caller)
    ]
    assert call_ids[0].isdisjoint(call_ids[1])


async def test_audio_of_a_caller_comes_out_of_the_relay(system: System, folder: Path) -> None:
    line = system.line()
    async with PhoneFarm(callee=line.callee, callee_behaviour=Behaviour(any_audio=True)) as farm:
        await asyncio.to_thread(system.caller("talks", folder, line).start().check)

        (leg,) = (await farm.report()).strangers

    assert leg.received >= 20
    assert leg.remote_rtp.partition(":")[0] in {relay.ip for relay in system.relays}


async def test_audio_of_a_callee_comes_back_through_the_relay(system: System, folder: Path) -> None:
    line = system.line()
    with system.callee("basic", folder, line, rtp_echo=True) as callee:
        async with PhoneFarm(
            caller=(CALLER_IP, 0),
            proxy=system.kedge.address,
            prefix=line.number,
            caller_behaviour=Behaviour(any_audio=True),
        ) as farm:
            since = time.monotonic()
            await farm.place_calls(1)
            assert await farm.wait_audio(since, within=5)
            await farm.hang_up()
            await asyncio.to_thread(callee.check)


@pytest.mark.parametrize("status", ["503", "408"])
def test_the_next_hop_is_tried_when_the_first_one_fails(status: str, system: System, folder: Path) -> None:
    line = system.line()
    with system.callee("refuses", folder, line, values={"status": status}) as failing:
        run_pair(system.callee("basic", folder, line, second=True), system.caller("basic", folder, line))

        assert failing.check().succeeded == 1


def test_the_next_hop_is_tried_when_the_first_one_is_silent(system: System, folder: Path) -> None:
    line = system.line()
    with system.callee("silent", folder, line):
        run_pair(system.callee("basic", folder, line, second=True), system.caller("basic", folder, line))


def test_many_calls_with_a_tenth_of_all_datagrams_lost(system: System, folder: Path) -> None:
    line = system.line()
    callee = system.callee("basic", folder, line, calls=20, limit=40.0)
    caller = system.caller("lossy", folder, line, calls=20, limit=40.0, options=["-lost", "10"])

    results = run_pair(callee, caller)

    assert [(each.succeeded, each.failed) for each in results] == [(20, 0), (20, 0)]


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"status": "483", "forwards": "0"}, "Max-Forwards is used up"),
        ({"status": "420", "extra": "Require: foo", "regexp": "Unsupported: *foo"}, "an unknown extension is required"),
    ],
    ids=["max-forwards", "require"],
)
def test_an_invite_is_refused(values: dict[str, str], why: str, system: System, folder: Path) -> None:
    result = system.caller("invite-refused", folder, system.line(), values=values).start().check()

    assert result.succeeded == 1, why


def test_a_number_without_a_route_gets_404(system: System, folder: Path) -> None:
    caller = system.caller("invite-refused", folder, system.line(), number="0800", values={"status": "404"})

    assert caller.start().check().succeeded == 1


def test_a_stranger_gets_403(system: System, folder: Path) -> None:
    caller = system.caller("invite-refused", folder, system.line(), ip=STRANGER_IP, values={"status": "403"})

    assert caller.start().check().succeeded == 1


@pytest.mark.parametrize(
    ("method", "status", "more"),
    [
        ("OPTIONS", "200", {}),
        ("OPTIONS", "200", {"forwards": "0"}),
        ("BYE", "481", {"to-tag": ";tag=nobody"}),
        ("UPDATE", "481", {"to-tag": ";tag=nobody"}),
        ("INFO", "481", {"to-tag": ";tag=nobody"}),
        ("REGISTER", "405", {"regexp": "Allow: *[A-Z]"}),
        ("SUBSCRIBE", "405", {}),
        ("PUBLISH", "405", {}),
        ("CANCEL", "481", {}),
    ],
)
def test_a_request_outside_of_a_dialog(
    method: str, status: str, more: dict[str, str], system: System, folder: Path
) -> None:
    values = {"method": method, "status": status, **more}

    result = system.caller("request", folder, system.line(), values=values).start().check()

    assert result.succeeded == 1


def test_an_unknown_method_outside_of_a_dialog(system: System, folder: Path) -> None:
    answer = _exchange(system, _request(system, "FOO"))

    assert answer.startswith((b"SIP/2.0 405", b"SIP/2.0 501"))


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ((b"CSeq: 1 INVITE", b"CSeq: 1 OPTIONS"), b"400"),
        ((b"Content-Length: 0", b"Content-Length: 500"), b"400"),
        ((b"SIP/2.0\r\n", b"SIP/3.0\r\n"), b"505"),
    ],
    ids=["cseq", "short-body", "version"],
)
def test_a_bad_request(change: tuple[bytes, bytes], status: bytes, system: System) -> None:
    answer = _exchange(system, _request(system, "INVITE").replace(*change, 1))

    assert answer.startswith(b"SIP/2.0 " + status)


def test_noise_is_counted_and_calls_go_on(system: System, folder: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((CALLER_IP, 0))
        for noise in (b"\x00", b"\r\n\r\n", b"INVITE", b"SIP/2.0 200 OK\r\n\r\n", bytes(range(256)) * 20):
            sock.sendto(noise, system.kedge.address)

    assert system.converse("basic", "basic", folder)[0].succeeded == 1


def _request(system: System, method: str) -> bytes:
    ip, port = system.kedge.address
    lines = [
        f"{method} sip:{system.line().number}@{ip}:{port} SIP/2.0",
        f"Via: SIP/2.0/UDP {CALLER_IP}:5999;rport;branch=z9hG4bK{time.monotonic_ns():x}",
        "Max-Forwards: 70",
        "From: <sip:kit@127.0.0.20>;tag=kit",
        f"To: <sip:x@{ip}>",
        f"Call-ID: kit-{time.monotonic_ns():x}",
        f"CSeq: 1 {method}",
        f"Contact: <sip:kit@{CALLER_IP}:5999>",
        "Content-Length: 0",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def _exchange(system: System, request: bytes) -> bytes:
    """Send a request, and return the first final response."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((CALLER_IP, 0))
        sock.settimeout(5)
        sock.sendto(request, system.kedge.address)
        while (answer := sock.recv(65535)).startswith(b"SIP/2.0 1"):
            pass
        return answer
