"""The relay layer against real rtpengine processes, over connected sockets on loopback."""

import random
import select
import socket
import time
from collections.abc import Callable, Iterator
from urllib.request import urlopen

import pytest
from tests.kit.rtpengine import Rtpengine

from kedge.base.ids import Ids
from kedge.base.timers import TimerHeap
from kedge.relay.backend import RelayReply, RelayUser
from kedge.relay.fleet import Fleet, FleetListener, Relay
from kedge.relay.model import HealthPolicy, InventorySnapshot, RelayDescription, RelaySetPolicy, RelayState
from kedge.relay.ng_client import NgSettings, instance_of, uptime_of
from kedge.sip.offer_answer import profile_of
from kedge.sip.sdp import parse_sdp

SET = "default/edge"
KEY = "a=crypto:{} AES_CM_128_HMAC_SHA1_80 inline:PS1uQCVeeCFCanVmcjkpPywjNWhcYD0mXXtxaVBR\r\n"
PATIENCE = 10.0  # seconds until a test gives up; nothing is expected to take a tenth of it


def sdp(port: int, profile: str = "RTP/AVP", extra: str = "") -> bytes:
    return (
        "v=0\r\no=phone 7 7 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
        f"m=audio {port} {profile} 0 8 101\r\na=rtpmap:101 telephone-event/8000\r\n{extra}a=sendrecv\r\n"
    ).encode()


def port_of(description: bytes | None) -> int:
    assert description is not None
    return int(description.split(b"m=audio ", 1)[1].split(b" ", 1)[0])


class Replies(RelayUser):
    def __init__(self) -> None:
        self.by_token: dict[int, RelayReply] = {}

    def on_relay_reply(self, token: int, reply: RelayReply, now: float) -> None:
        assert token not in self.by_token, "a second reply to one command"
        self.by_token[token] = reply


class Driver(FleetListener):
    """Runs a fleet over real sockets, in this thread, as long as it is told to."""

    def __init__(self, daemons: list[Rtpengine]) -> None:
        self.timers = TimerHeap()
        self.fleet = Fleet(self.timers, Ids(), self, random.Random(1), NgSettings())
        self.sockets: dict[Relay, socket.socket] = {}
        self.events: list[str] = []
        self.outcomes: set[str] = set()
        relays = tuple(
            RelayDescription(uid=f"uid-{number}", name=f"r{number}", relay_set=SET, control=daemon.ng)
            for number, daemon in enumerate(daemons, 1)
        )
        policy = RelaySetPolicy(key=SET, health=HealthPolicy(interval=0.15, timeout=0.15))
        self.snapshot = InventorySnapshot(relay_sets=(policy,), relays=relays)
        self.fleet.apply(self.snapshot, time.monotonic())
        # Idle: the session that asked for the instance is deleted, too.
        relays_of = self.fleet.relays.values
        self.run_until(lambda: all(each.state is RelayState.READY and each.client.idle for each in relays_of()))
        self.events.clear()

    def on_relay_added(self, relay: Relay, now: float) -> None:
        self.sockets[relay] = sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.connect(relay.description.control)

    def on_relay_removed(self, relay: Relay, now: float) -> None:
        self.sockets.pop(relay).close()
        self.events.append("removed")

    def on_relay_lost(self, relay: Relay, reason: str, now: float) -> None:
        self.events.append(f"{relay.name} lost {reason}")

    def on_relay_restarted(self, relay: Relay, now: float) -> None:
        self.events.append(f"{relay.name} restarted")

    def on_relay_drain(self, relay: Relay, now: float) -> None:
        self.events.append(f"{relay.name} drain")

    def on_relay_state(self, relay: Relay, old: RelayState, now: float) -> None:
        self.events.append(f"{relay.name} {relay.state.value}")

    def on_probe(self, relay: Relay, outcome: str, rtt: float, now: float) -> None:
        self.outcomes.add(outcome)

    def close(self) -> None:
        for sock in self.sockets.values():
            sock.close()

    def run_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"in vain; so far: {self.events}, {list(self.fleet.relays.values())}"
            self._turn()

    def _turn(self) -> None:
        self._flush()
        due = self.timers.next_deadline()
        wait = 0.05 if due is None else min(0.05, max(0.0, due - time.monotonic()))
        readable = select.select(list(self.sockets.values()), [], [], wait)[0]
        for relay, sock in list(self.sockets.items()):
            if sock in readable:
                self._read(relay, sock)
        self.timers.run_due(time.monotonic())

    def _flush(self) -> None:
        for relay, sock in list(self.sockets.items()):
            out, relay.client.out[:] = relay.client.out[:], []
            for data in out:
                try:
                    sock.send(data)
                except ConnectionRefusedError:  # of an earlier datagram: this one has not been sent
                    self.fleet.on_refused(relay, time.monotonic())
                    sock.send(data)

    def _read(self, relay: Relay, sock: socket.socket) -> None:
        while True:
            try:
                data = sock.recv(65535)
            except BlockingIOError:
                return
            except ConnectionRefusedError:
                self.fleet.on_refused(relay, time.monotonic())
                continue
            self.fleet.on_datagram(relay, data, time.monotonic())


@pytest.fixture(scope="module")
def daemon() -> Iterator[Rtpengine]:
    """One that no test harms."""
    with Rtpengine(media_ports=1200) as relay:
        yield relay


@pytest.fixture
def driver(daemon: Rtpengine) -> Iterator[Driver]:
    made = Driver([daemon])
    yield made
    made.close()


class Talk:
    """Commands to the one relay of a driver, each awaited."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.relay = driver.fleet.relays["uid-1"]
        self.client = self.relay.client
        self.replies = Replies()
        self.token = 0

    def wait(self, give: Callable[[int, float], None]) -> RelayReply:
        self.token += 1
        give(self.token, time.monotonic())
        self.driver.run_until(lambda: self.token in self.replies.by_token)
        return self.replies.by_token[self.token]

    def offer(self, session: str, tag: str, description: bytes, to_tag: str = "", profile: str = "") -> RelayReply:
        return self.wait(
            lambda token, now: self.client.offer(session, tag, to_tag, description, self.replies, token, now, profile)
        )

    def answer(self, session: str, tag: str, to_tag: str, description: bytes) -> RelayReply:
        return self.wait(
            lambda token, now: self.client.answer(session, tag, to_tag, description, self.replies, token, now)
        )

    def delete(self, session: str, tag: str) -> RelayReply:
        return self.wait(lambda token, now: self.client.delete(session, tag, self.replies, token, now))

    def query(self, session: str) -> RelayReply:
        return self.wait(lambda token, now: self.client.query(session, self.replies, token, now))

    def sessions(self) -> list[bytes]:
        reply = self.wait(lambda token, now: self.client.list_sessions(1000, self.replies, token, now))
        assert reply.fields is not None
        calls = reply.fields[b"calls"]
        assert isinstance(calls, list)
        return calls


def test_a_session_from_offer_to_delete(driver: Driver, daemon: Rtpengine) -> None:
    talk = Talk(driver)
    offer = talk.offer("one", "alice", sdp(5000))
    answer = talk.answer("one", "alice", "bob", sdp(5002))

    assert (offer.error, answer.error) == ("", "")
    assert b"o=phone 7 7 IN IP4 127.0.0.1" in (offer.sdp or b"")  # ours to count
    ports = port_of(offer.sdp), port_of(answer.sdp)
    assert all(daemon.first_media_port <= port <= daemon.last_media_port for port in ports)
    assert b"one" in talk.sessions()
    query = talk.query("one")
    assert query.fields is not None
    assert set(query.fields[b"tags"]) == {b"alice", b"bob"}

    # A new address, and then an offer from the other side: the ports stay (port-latching).
    assert port_of(talk.offer("one", "alice", sdp(6000), "bob").sdp) == ports[0]
    assert port_of(talk.answer("one", "alice", "bob", sdp(5002)).sdp) == ports[1]
    assert port_of(talk.offer("one", "bob", sdp(6002), "alice").sdp) == ports[1]

    assert talk.delete("one", "alice").error == ""
    assert b"one" not in talk.sessions()
    assert talk.delete("one", "alice").error == ""
    assert talk.query("one").error == "Unknown call-id"
    assert "Unknown flag" not in daemon.log


def test_no_dtls_is_offered_beside_the_phones_keys(driver: Driver) -> None:
    talk = Talk(driver)
    key = KEY.format(1)
    offer = talk.offer("sdes", "alice", sdp(5000, "RTP/SAVP", key)).sdp or b""
    assert key.encode() in offer
    assert b"a=fingerprint" not in offer
    assert b"a=setup" not in offer
    assert talk.delete("sdes", "alice").error == ""


def keys_of(description: bytes | None) -> dict[str, str]:
    """Return the keys by tag and suite."""
    assert description is not None
    values = [value.split() for value in parse_sdp(description).media[0].attributes("crypto")]
    return {f"{tag} {suite}": key for tag, suite, key in values}


def test_a_side_that_shall_have_srtp_gets_keys_that_stay_while_the_session_lives(driver: Driver) -> None:
    talk = Talk(driver)
    first = talk.offer("srtp", "alice", sdp(5000), profile="RTP/SAVP").sdp
    for_alice = talk.answer("srtp", "alice", "bob", sdp(5002)).sdp  # bob's description before he was asked
    offered = keys_of(first)
    suite = next(name for name in offered if name.endswith("AES_CM_128_HMAC_SHA1_80"))
    bob = sdp(5002, "RTP/SAVP", KEY.format(suite.split()[0]))
    again = talk.offer("srtp", "alice", sdp(5000), profile="RTP/SAVP").sdp
    settled = talk.answer("srtp", "alice", "bob", bob).sdp

    assert profile_of(first or b"") == profile_of(again or b"") == "RTP/SAVP"
    assert keys_of(again) == offered
    assert profile_of(for_alice or b"") == profile_of(settled or b"") == "RTP/AVP"
    assert keys_of(settled) == {}
    later = talk.offer("srtp", "alice", sdp(5000), "bob", "RTP/SAVP").sdp
    assert keys_of(later)[suite] == offered[suite]
    assert (port_of(later), port_of(settled)) == (port_of(first), port_of(for_alice))

    # The other way round: alice's leg is plain, and bob offers.
    for_alice = talk.offer("srtp", "bob", bob, "alice", "RTP/AVP").sdp
    for_bob = talk.answer("srtp", "bob", "alice", sdp(5000)).sdp
    assert (profile_of(for_alice or b""), keys_of(for_alice)) == ("RTP/AVP", {})
    assert keys_of(for_bob) == {suite: offered[suite]}
    assert talk.delete("srtp", "").error == ""


def test_what_the_relay_refuses_is_told_in_its_words(driver: Driver) -> None:
    talk = Talk(driver)
    assert talk.offer("bad", "alice", b"rubbish").error == "Failed to parse SDP"
    assert talk.answer("never", "alice", "bob", sdp(5000)).error == "Unknown call-id"


def test_many_commands_at_once_go_through_the_window(driver: Driver) -> None:
    talk, replies = Talk(driver), Replies()
    now = time.monotonic()
    for number in range(200):
        talk.client.offer(f"m{number}", "a", "", sdp(5000), replies, number, now)
        talk.client.delete(f"m{number}", "a", replies, 1000 + number, now)
    assert talk.client.backlog >= 400 - NgSettings().window
    driver.run_until(lambda: len(replies.by_token) == 400)
    assert {reply.error for reply in replies.by_token.values()} == {""}
    assert not any(name.startswith(b"m") for name in talk.sessions())
    assert "ok" in driver.outcomes


def test_the_instance_is_told_without_taking_ports_and_leaves_no_session(driver: Driver) -> None:
    talk = Talk(driver)
    first, second = (
        instance_of(talk.wait(lambda token, now: talk.client.identify(talk.replies, token, now, 1.0))) for _ in range(2)
    )
    assert first == second == talk.relay.instance
    assert len(first) == 12
    driver.run_until(lambda: not any(name.startswith(b"kedge-probe") for name in talk.sessions()))
    statistics = talk.wait(lambda token, now: talk.client.statistics(talk.replies, token, now, 1.0))
    assert uptime_of(statistics) is not None
    assert statistics.fields is not None
    assert statistics.fields[b"statistics"][b"interfaces"][0][b"ports"][b"used"] == 0


def test_a_relay_that_takes_no_new_sessions_is_known_all_the_same() -> None:
    with Rtpengine() as own:
        driver = Driver([own])
        relay = driver.fleet.relays["uid-1"]
        instance = relay.instance
        with urlopen(f"http://{own.http[0]}:{own.http[1]}/cli/set+maxsessions+0", timeout=PATIENCE) as reply:
            assert reply.status == 200
        talk = Talk(driver)
        assert talk.offer("new", "alice", sdp(5000)).error == "Parallel session limit reached"

        relay.health.identity_needed = True
        driver.run_until(lambda: not relay.health.identity_needed)

        assert (relay.state, relay.instance, driver.events) == (RelayState.READY, instance, [])
        driver.close()


def test_kill_9_is_a_refusal_and_a_restart_another_instance() -> None:
    with Rtpengine() as own, Rtpengine() as other:
        driver = Driver([own, other])
        relay = driver.fleet.relays["uid-1"]
        before = relay.instance

        own.kill()
        driver.run_until(lambda: relay.state is RelayState.DOWN)
        assert driver.events == ["r1 Suspect", "r1 Down", "r1 lost Refused"]
        assert driver.fleet.pick(SET) is driver.fleet.relays["uid-2"]

        own.start()
        driver.run_until(lambda: "r1 restarted" in driver.events)
        assert driver.events[3:] == ["r1 Ready", "r1 restarted"]
        assert relay.instance not in ("", before)
        assert "refused" in driver.outcomes
        driver.close()


def test_a_restart_that_no_probe_met_is_found_by_the_instance() -> None:
    with Rtpengine() as own:
        driver = Driver([own])
        own.restart()  # nobody runs the fleet meanwhile
        driver.run_until(lambda: "r1 restarted" in driver.events)
        assert "r1 lost Refused" not in driver.events
        driver.close()


def test_a_frozen_relay_is_down_by_silence_and_comes_back_as_it_was() -> None:
    with Rtpengine() as own:
        driver = Driver([own])
        relay = driver.fleet.relays["uid-1"]
        before = relay.instance

        own.freeze()
        driver.run_until(lambda: relay.state is RelayState.DOWN)
        assert driver.events == ["r1 Suspect", "r1 Down", "r1 lost ProbesLost"]

        own.thaw()
        driver.run_until(lambda: relay.state is RelayState.READY)
        assert driver.events[3:] == ["r1 Ready"]
        assert relay.instance == before
        assert driver.outcomes == {"ok", "timeout"}
        driver.close()


def test_as_many_names_as_the_sweep_asks_for_come_in_one_datagram() -> None:
    with Rtpengine(media_ports=4 * 1100) as own:
        driver = Driver([own])
        talk, made = Talk(driver), Replies()
        most = 1000
        names = {f"0123456789abcdef.call-{number:016x}.12" for number in range(most)}
        for token, name in enumerate(names):
            talk.client.offer(name, "a", "", sdp(5000), made, token, time.monotonic())
            driver.run_until(lambda: talk.client.backlog < 4)
        driver.run_until(lambda: len(made.by_token) == len(names))

        listed = {name.decode() for name in talk.sessions()}

        assert {reply.error for reply in made.by_token.values()} == {""}
        assert len(listed) == most
        assert len(names - listed) <= 1, "but for a probe's own"
        driver.close()
