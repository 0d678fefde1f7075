"""Canaries through real relays, in a network where the packets of one relay's media ports can be dropped."""

import asyncio
import http.client
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.kit.kedge import KedgeProcess, RouteRule
from tests.kit.network import Network
from tests.kit.phones import PhoneFarm
from tests.kit.ports import free_port
from tests.kit.rtpengine import Rtpengine

from kedge.adapters.rtp import DrainedRtpSockets, local_host
from kedge.base.address import Address
from kedge.ports.sockets import Batch
from kedge.relay.canary import CANARY_PREFIX

KEDGE_IP, CALLER_IP, CALLEE_IP = "127.0.0.1", "127.0.0.20", "127.0.0.30"
RELAY_IPS = ("127.0.0.11", "127.0.0.12", "127.0.0.13")
PREFIX = "49"
THRESHOLD = 2
CANARY = {"mode": "Enabled", "interval": "400ms", "threshold": THRESHOLD}
PATIENCE = 10.0  # seconds until a test gives up


def canaries(relay: Rtpengine) -> int:
    """Count the canary sessions of a relay."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(relay.ng)
        sock.send(b"canary%d d7:command4:list5:limiti1000ee" % time.monotonic_ns())
        return sock.recv(65535).count(CANARY_PREFIX.encode())


@pytest.fixture
def network() -> Iterator[Network]:
    """All sockets and processes that the test makes belong to it."""
    with Network() as network:
        yield network


class Site:
    """Kedge and its relays."""

    def __init__(self, kedge: KedgeProcess, relays: list[Rtpengine]) -> None:
        self.kedge = kedge
        self.relays = relays

    def relay(self, number: int) -> dict[str, Any]:
        """Return what Kedge holds of relay ``number``, from 1."""
        records = [each for each in self._get("/v1/relays") if each["name"] == f"relay-{number}"]
        return dict(records[0])

    def judged(self) -> list[tuple[str, bool | None]]:
        """Return state and media_ready of all relays."""
        relays = sorted(self._get("/v1/relays"), key=lambda each: str(each["name"]))
        return [(each["state"], each["media_ready"]) for each in relays]

    def events(self) -> list[dict[str, Any]]:
        """Return the events, oldest first."""
        return list(self._get("/v1/events"))

    def rounds(self, number: int, outcome: str) -> float:
        """Count rounds of the canary of relay ``number``."""
        return self.kedge.metric("kedge_probes_total", relay=f"relay-{number}", outcome=outcome)

    def wait(self, condition: Callable[[], object]) -> float:
        """Wait until ``condition`` holds; return the monotonic time of it."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"in vain: {self._get('/v1/relays')}\n{self.kedge.log[-3000:]}"
            time.sleep(0.01)
        return time.monotonic()

    def _get(self, path: str) -> Any:
        connection = http.client.HTTPConnection(*self.kedge.admin, timeout=5)
        try:
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()


@pytest.fixture
def callee() -> tuple[str, int]:
    """Where calls go to."""
    return CALLEE_IP, free_port(CALLEE_IP)


@pytest.fixture
def site(network: Network, tmp_path: Path, callee: tuple[str, int]) -> Iterator[Site]:
    """Three relays with canaries, that have passed."""
    relays = [Rtpengine(ip) for ip in RELAY_IPS]
    try:
        for relay in relays:
            relay.start()
        kedge = KedgeProcess(
            folder=tmp_path,
            relays=relays,
            routes=[RouteRule(prefix=PREFIX, next_hops=[callee])],
            peers={"callers": [f"{CALLER_IP}/32"], "callees": [f"{CALLEE_IP}/32"]},
            ip=KEDGE_IP,
            health={"interval": "100ms", "timeout": "100ms", "threshold": 3, "canary": CANARY},
        )
        with kedge:
            site = Site(kedge, relays)
            site.wait(lambda: site.judged() == [("Ready", True)] * 3)
            yield site
            assert kedge.is_ready(), kedge.log[-4000:]
            assert kedge.metric("kedge_internal_errors_total") == 0
    finally:
        for relay in relays:
            relay.stop()


def test_a_canary_is_a_session_of_its_own_that_no_call_count_sees_and_that_goes_with_kedge(site: Site) -> None:
    rounds = site.rounds(1, "media_ok")
    site.wait(lambda: site.rounds(1, "media_ok") >= rounds + 5)

    assert [canaries(relay) for relay in site.relays] == [1, 1, 1]
    assert [site.relay(number)["sessions"] for number in (1, 2, 3)] == [0, 0, 0]
    assert site.kedge.metric("kedge_calls") == 0
    assert [site.rounds(number, "media_lost") for number in (1, 2, 3)] == [0, 0, 0]

    site.kedge.stop()
    assert [canaries(relay) for relay in site.relays] == [0, 0, 0]
    site.kedge.start()  # as the fixture wants it


def test_a_relay_that_answers_and_moves_no_packets_is_down_and_comes_back(site: Site, network: Network) -> None:
    network.drop_media(site.relays[0])
    site.wait(lambda: site.relay(1)["state"] == "Down")

    assert site.relay(1)["reason"] == "MediaLost"
    assert f"{THRESHOLD} canaries lost in a row" in site.events()[-1]["message"], "and not one more"
    assert site.relays[0].ping(), "its control port answers"
    assert network.dropped() > 0
    assert site.judged()[1:] == [("Ready", True)] * 2
    pings = site.rounds(1, "ok")
    site.wait(lambda: site.rounds(1, "ok") >= pings + 10)
    assert site.relay(1)["state"] == "Down", "no ping brings it back"

    network.drop_nothing()
    site.wait(lambda: site.relay(1)["state"] == "Ready")
    assert canaries(site.relays[0]) == 1
    told = [each["reason"] for each in site.events() if each["relay"] == "relay-1"]
    assert told[-3:] == ["RelaySuspect", "RelayDown", "RelayReady"]


def test_a_restarted_relay_gets_a_canary_again(site: Site) -> None:
    instance, rounds = site.relay(2)["instance"], site.rounds(2, "media_ok")
    site.relays[1].restart()
    site.wait(lambda: site.relay(2)["instance"] != instance and site.judged()[1] == ("Ready", True))
    site.wait(lambda: site.rounds(2, "media_ok") > rounds + 2)
    assert canaries(site.relays[1]) == 1
    assert site.rounds(2, "media_lost") == 0


def test_dead_media_everywhere_is_held_to_be_our_own_fault(site: Site, network: Network) -> None:
    network.drop_media(*site.relays)
    site.wait(lambda: [site.relay(number)["reason"] for number in (1, 2, 3)] == ["MediaUnproven"] * 3)
    assert site.judged() == [("Ready", True)] * 3
    assert "RelayDown" not in [each["reason"] for each in site.events()]


@pytest.fixture
async def phones(site: Site, callee: tuple[str, int]) -> AsyncIterator[PhoneFarm]:
    """Test phones around the site."""
    async with PhoneFarm(caller=(CALLER_IP, 0), callee=callee, proxy=site.kedge.address, prefix=PREFIX) as farm:
        yield farm


async def test_calls_leave_a_relay_whose_media_is_dead(site: Site, network: Network, phones: PhoneFarm) -> None:
    await phones.place_calls(9, rtp=True)
    calls = [call for call in (await phones.report()).calls if call.relay == site.relays[0].ip]
    assert calls
    # Records follow within a tick; the canary is none of the sessions, so they come to rest at the calls.
    site.wait(lambda: site.relay(1)["sessions"] == len(calls))

    dropped = network.drop_media(site.relays[0])

    assert await phones.wait_reanchored(dropped, numbers=[call.number for call in calls], within=PATIENCE)
    assert await phones.wait_audio(time.monotonic(), within=PATIENCE)
    report = await phones.report(dropped)
    assert report.talking() == 9
    assert {call.relay for call in report.calls} <= set(RELAY_IPS[1:])
    network.drop_nothing()
    site.wait(lambda: site.relay(1)["state"] == "Ready")
    site.wait(lambda: site.relays[0].sessions() == 1)  # what the calls left there is deleted
    assert canaries(site.relays[0]) == 1
    assert await phones.hang_up()


async def test_the_sockets_are_shared_by_relays_that_see_us_at_one_address() -> None:
    arrived: asyncio.Queue[tuple[bytes, Address]] = asyncio.Queue()

    def receive(batch: Batch) -> None:
        for one in batch:
            arrived.put_nowait(one)

    sockets = DrainedRtpSockets(asyncio.get_running_loop(), receive)
    a, b = sockets.addresses(("127.0.0.11", 1))
    assert a != b
    assert sockets.addresses(("127.0.0.11", 2)) == (a, b)
    assert a[0] == b[0] == local_host("127.0.0.11")

    assert sockets.send(b"to b", a, b)
    assert await asyncio.wait_for(arrived.get(), PATIENCE) == (b"to b", b)
    assert sockets.send(b"to a", b, a)
    assert await asyncio.wait_for(arrived.get(), PATIENCE) == (b"to a", a)

    assert not sockets.send(b"", ("127.0.0.1", 1), a), "no socket of ours"
    assert not sockets.send(b"", a, ("255.255.255.255", 1)), "refused by the kernel"
    sockets.close()
    assert not sockets.send(b"", a, b)
