"""A world without I/O: Kedge's B2BUA with the real transaction layer and fleet, phones, relays, a wire, and time.

Only ``run`` moves the clock: to the next arrival or deadline, and never further than it is told to. ``tamper`` decides
on each packet of SIP: how many more seconds it takes, or None to lose it.
"""

from __future__ import annotations

import gc
import heapq
import ipaddress
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from tests.unit.call.daemon import Daemon
from tests.unit.call.phones import Party, Phone, address_of

from kedge.base.address import Address
from kedge.base.ids import CountingIds
from kedge.base.timers import TimerHeap
from kedge.call.b2bua import B2bua
from kedge.call.bridge import Bridge
from kedge.call.call import Call, LastAnchor
from kedge.call.leg import Leg
from kedge.call.leg_move import LegMove
from kedge.call.observer import Observer
from kedge.call.reanchor import Move
from kedge.call.replacement import Replacement
from kedge.call.reports import FailoverReport
from kedge.call.routing import Peer, Route, Routing
from kedge.call.settings import CallSettings
from kedge.call.setup import Setup
from kedge.call.want import Want
from kedge.relay.fleet import Fleet, FleetListener, Relay
from kedge.relay.model import (
    FailoverPolicy,
    HealthPolicy,
    Intent,
    InventorySnapshot,
    PlacementPolicy,
    RelayDescription,
    RelaySetPolicy,
    RelayState,
)
from kedge.relay.ng_client import NgSettings
from kedge.sip.message import Message, Request, Response
from kedge.sip.parser import parse_message
from kedge.sip.sdp import parse_sdp
from kedge.sip.timers import TimerSettings
from kedge.sip.transaction import TransactionLayer

SET = "default/edge"
KEDGE: Address = ("192.0.2.1", 5060)
CALLER: Address = ("198.51.100.1", 5060)
CALLEE: Address = ("203.0.113.1", 5060)
LATENCY = 0.001
"""Seconds that a packet takes."""

Tamper = Callable[["Packet"], "float | None"]


@dataclass(frozen=True)
class Packet:
    """One datagram of SIP, when it was sent, and what it says."""

    at: float
    data: bytes
    source: Address
    destination: Address
    message: Message

    @property
    def word(self) -> str:
        """``INVITE``, or ``200 INVITE``."""
        if isinstance(self.message, Request):
            return self.message.method
        assert isinstance(self.message, Response)
        return f"{self.message.status} {self.message.cseq_method}"


class Books(Observer):
    """Counts what the call layer tells."""

    __slots__ = ("ended", "events", "gaps", "moves", "rejected", "reports", "setups")

    def __init__(self) -> None:
        self.setups: list[int] = []
        self.ended = 0
        self.moves: list[tuple[str, str, str]] = []
        """(call, reason, result)"""
        self.gaps: list[float] = []
        self.rejected: list[tuple[str, int]] = []
        self.events: list[tuple[str, str]] = []
        self.reports: list[FailoverReport] = []

    def setup_ended(self, call: Call, status: int, seconds: float) -> None:
        self.setups.append(status)

    def call_ended(self, call: Call, now: float) -> None:
        self.ended += 1

    def move_ended(self, call: Call, reason: str, result: str, seconds: float, gap: float) -> None:
        self.moves.append((call.id, reason, result))
        self.gaps.append(gap)

    def failover_changed(self, report: FailoverReport, now: float) -> None:
        if report not in self.reports:
            self.reports.append(report)

    def request_rejected(self, method: str, status: int) -> None:
        self.rejected.append((method, status))

    def event(self, *, warning: bool, reason: str, message: str, relay_set: str, relay: str, call: str) -> None:
        self.events.append((reason, message))

    def results(self) -> list[str]:
        return [result for _, _, result in self.moves]


@dataclass
class Talk:
    """A call that is up: both ends, and Kedge's view."""

    caller: Party
    callee: Party
    id: str
    world: World = field(repr=False)

    @property
    def call(self) -> Call:
        return self.world.b2bua.calls[self.id]

    @property
    def relay(self) -> str:
        relay = self.call.relay
        return relay.name if relay is not None else ""

    @property
    def alive(self) -> bool:
        return self.id in self.world.b2bua.calls

    @property
    def anchored_at(self) -> tuple[str, str]:
        """The relay addresses that the two phones send to."""
        return self.caller.media[0], self.callee.media[0]


def profile_and_key(body: bytes) -> tuple[str, set[str]]:
    """Of a description's first m-line: the RTP profile, and the keys of its SRTP."""
    media = parse_sdp(body).media[0]
    keys = {value.split()[2] for value in media.attributes("crypto")}
    return media.protocol, keys if "/SAVP" in media.protocol else set()


class World(FleetListener):
    """See the module."""

    def __init__(
        self, relays: int = 3, *, seed: int = 1, limit: int = 1000, failover: FailoverPolicy | None = None,
        settings: dict[str, Any] | None = None, hops: tuple[Address, ...] = (CALLEE,), trusted: bool = False,
        peers: tuple[Peer, ...] | None = None, route: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.now = 0.0
        self.kedge = KEDGE
        self.ids = CountingIds()
        self.rng = random.Random(seed)
        self.timers = TimerHeap()
        self.clock = TimerHeap()
        """The phones'; Kedge's are apart, so that they can be seen to be gone."""
        self.books = Books()
        self.peers = peers or (
            Peer("left", (ipaddress.ip_network("198.51.100.0/24"),), trusted=trusted),
            Peer("right", (ipaddress.ip_network("203.0.113.0/24"),), trusted=trusted),
        )
        routes = (Route(name="all", relay_set=SET, next_hops=hops, **(route or {})),)
        self.b2bua = B2bua(
            CallSettings(address=KEDGE, **(settings or {})), Routing(self.peers, routes), self.timers, self.ids,
            random.Random(seed), self.books,
        )  # fmt: skip
        self.layer = TransactionLayer(self.timers, TimerSettings(), self.ids, self.b2bua)
        self.fleet = Fleet(self.timers, self.ids, self, random.Random(seed), NgSettings())
        self.b2bua.sip, self.b2bua.fleet = self.layer, self.fleet
        self.policy = RelaySetPolicy(
            key=SET, health=HealthPolicy(), failover=failover or FailoverPolicy(),
            placement=PlacementPolicy(max_sessions_per_relay=limit),
        )  # fmt: skip
        self.daemons = {f"r{index}": Daemon(f"127.0.0.{index}") for index in range(1, relays + 1)}
        self.descriptions = {
            name: RelayDescription(uid=f"uid-{name}", name=name, relay_set=SET, control=(daemon.ip, 2223))
            for name, daemon in self.daemons.items()
        }
        self.phones: dict[Address, Phone] = {}
        self.packets: list[Packet] = []
        self.tamper: Tamper | None = None
        self._sockets: dict[str, str] = {}
        self._wire: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.left = self.phone("alice", CALLER)
        self.right = self.phone("bob", CALLEE)
        self.apply()
        self.run(0.5)

    # --- who is there -----------------------------------------------------------------------------------------------

    def phone(self, name: str, address: Address) -> Phone:
        phone = self.phones[address] = Phone(self, name, address)
        return phone

    def apply(self) -> None:
        snapshot = InventorySnapshot(relay_sets=(self.policy,), relays=tuple(self.descriptions.values()))
        self.fleet.apply(snapshot, self.now)

    def idle(self, seconds: float) -> None:
        """Let much time pass, with few probes, as they cost the most here."""
        health, self.policy = self.policy.health, replace(self.policy, health=HealthPolicy(interval=5.0))
        self.apply()
        self.run(seconds)
        self.policy = replace(self.policy, health=health)
        self.apply()
        self.run(0.5)

    def relay(self, name: str) -> Relay:
        return self.fleet.relays[f"uid-{name}"]

    def name_at(self, ip: str) -> str:
        return next(name for name, daemon in self.daemons.items() if daemon.ip == ip)

    def intend(self, name: str, intent: Intent) -> None:
        """Change what the inventory wants of a relay."""
        old = self.descriptions[name]
        self.descriptions[name] = RelayDescription(
            uid=old.uid, name=name, relay_set=SET, control=old.control, intent=intent
        )
        self.apply()

    def call(self, number: str = "100", **kwargs: Any) -> Talk:
        """Set a call up."""
        party = self.left.invite(number, **kwargs)
        assert self.until(lambda: party.talking and not self.leg_of(party).call.setup), party.log
        self.run(0.01)
        return self.talk_of(party)

    def talk_of(self, party: Party) -> Talk:
        call = self.leg_of(party).call
        other = next(one for one in self.parties() if one.local_tag == call.callee.dialog.remote_tag)
        return Talk(party, other, call.id, self)

    def leg_of(self, party: Party) -> Leg:
        return self.b2bua.dialogs[party.remote_tag]

    def parties(self) -> list[Party]:
        return [party for phone in self.phones.values() for party in phone.made]

    def lose(self, talk: Talk, *, seconds: float = 0.2) -> str:
        """Kill the relay of a call; return its name."""
        name = talk.relay
        self.daemons[name].kill()
        self.run(seconds)
        return name

    # --- time and wire ----------------------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        self._run_until(self.now + seconds, None)

    def until(self, done: Callable[[], bool], limit: float = 60.0) -> bool:
        """Run until something is so; say whether it came to be within ``limit`` seconds."""
        self._run_until(self.now + limit, done)
        return done()

    def _run_until(self, end: float, done: Callable[[], bool] | None) -> None:
        while True:
            self._flush()
            if done is not None and done():
                return
            heads = [self.timers.next_deadline(), self.clock.next_deadline(), self._wire[0][0] if self._wire else None]
            due = [at for at in heads if at is not None]
            if not due or min(due) > end:
                self.now = end
                return
            self.now = max(self.now, min(due))
            if self._wire and self._wire[0][0] <= self.now:
                heapq.heappop(self._wire)[2]()
            else:
                self.timers.run_due(self.now)
                self.clock.run_due(self.now)

    def at(self, delay: float, what: Callable[[], None]) -> None:
        """Let something happen ``delay`` seconds from now."""
        self._count += 1
        heapq.heappush(self._wire, (self.now + delay, self._count, what))

    def send(self, data: bytes, source: Address, destination: Address) -> None:
        """Put a packet of SIP on the wire."""
        packet = Packet(self.now, data, source, destination, parse_message(data))
        self.packets.append(packet)
        extra = 0.0 if self.tamper is None else self.tamper(packet)
        if extra is not None:
            self.at(LATENCY + extra, lambda: self._arrive(packet))

    def _arrive(self, packet: Packet) -> None:
        if packet.destination == KEDGE:
            self.layer.on_datagram(packet.data, packet.source, self.now)
        elif packet.destination in self.phones:
            self.phones[packet.destination].layer.on_datagram(packet.data, packet.source, self.now)

    def _flush(self) -> None:
        for layer, source in [(self.layer, KEDGE), *((phone.layer, at) for at, phone in self.phones.items())]:
            if layer.out:
                out, layer.out[:] = layer.out[:], []
                for data, destination in out:
                    self.send(data, source, destination)
        for relay in list(self.fleet.relays.values()):
            if relay.client.out:
                sent, relay.client.out[:] = relay.client.out[:], []
                for data in sent:
                    self._to_relay(relay.uid, data)

    def _to_relay(self, uid: str, data: bytes) -> None:
        daemon = self.daemons[self._sockets[uid]]

        def arrive() -> None:
            if daemon.mode == "frozen":
                return
            reply = None if daemon.mode == "killed" else daemon.receive(data, self.now)
            if daemon.mode == "killed" or reply is not None:
                self.at(LATENCY / 2 + daemon.delay, lambda: self._from_relay(uid, reply))

        self.at(LATENCY / 2, arrive)

    def _from_relay(self, uid: str, reply: bytes | None) -> None:
        relay = self.fleet.relays.get(uid)
        if relay is None:
            return
        if reply is None:
            self.fleet.on_refused(relay, self.now)
        else:
            self.fleet.on_datagram(relay, reply, self.now)

    # --- what a test reads ------------------------------------------------------------------------------------------

    def sent(self, word: str, to: Address | None = None, *, since: float = 0.0) -> list[Packet]:
        """Kedge's packets of one kind, retransmissions included."""
        return [
            one for one in self.packets
            if one.source == KEDGE and one.word == word and to in (None, one.destination) and one.at >= since
        ]  # fmt: skip

    def words(self, *, since: float = 0.0) -> list[str]:
        """All packets as ``from>to word``, by phones' names."""
        names = {KEDGE: "kedge"} | {address: phone.name for address, phone in self.phones.items()}
        return [
            f"{names.get(one.source, '?')}>{names.get(one.destination, '?')} {one.word}"
            for one in self.packets
            if one.at >= since
        ]

    def faults_of(self, talk: Talk) -> list[str]:
        """What is wrong with a call that should be anchored: nothing, if both phones send to its session's ports."""
        call = talk.call
        relay = call.relay
        if relay is None:
            return ["it has no relay"]
        daemon = self.daemons[relay.name]
        session = daemon.sessions.get(call.session)
        if daemon.mode != "up" or session is None:
            return [f"relay {relay.name} is {daemon.mode} and has {list(daemon.sessions)} but not {call.session}"]
        faults = []
        for party, tag in ((talk.caller, "a"), (talk.callee, "b")):
            ip, port = address_of(party.remote)
            if ip not in (daemon.ip, "0.0.0.0") or int(port) not in session.ports.get(tag, []):
                faults.append(f"{party.phone.name} sends to {ip}:{port}, not to {daemon.ip}:{session.ports.get(tag)}")
            if profile_and_key(party.local) != profile_and_key(session.heard.get(tag, b"")):
                faults.append(f"the relay knows another key of {party.phone.name}")
            told, said = profile_and_key(party.remote), profile_and_key(session.said.get(tag, b""))
            if told[0] != said[0] or not told[1] <= said[1] or bool(told[1]) != ("/SAVP" in told[0]):
                faults.append(f"{party.phone.name} knows {told} of the relay, which has {said}")
        return faults

    def assert_anchored(self, talk: Talk, name: str = "") -> None:
        assert talk.caller.talking, talk.caller.log
        assert talk.callee.talking, talk.callee.log
        assert self.faults_of(talk) == []
        assert talk.call.move is None
        assert talk.call.settled
        if name:
            assert talk.relay == name

    def assert_empty(self) -> None:
        """Nothing is left of any call: not in registers, not in the books of relays, not in memory."""
        self.idle(200.0)
        b2bua = self.b2bua
        assert (b2bua.calls, b2bua.dialogs, b2bua.setups, b2bua.failover.wants) == ({}, {}, {}, {})
        assert [calls for calls in b2bua.on_relay.values() if calls] == []
        assert {relay.name: relay.sessions for relay in self.fleet.relays.values() if relay.sessions} == {}
        assert {peer.name: peer.calls for peer in self.peers if peer.calls} == {}
        assert (list(self.layer.clients), list(self.layer.servers)) == ([], [])
        living = {name: one for name, one in self.daemons.items() if one.mode == "up"}
        known = {relay.name for relay in self.fleet.relays.values() if relay.state is not RelayState.DOWN}
        assert {name: one.left(set()) for name, one in living.items() if one.left(set()) and name in known} == {}
        assert not b2bua.failover._queue
        assert b2bua.failover._preparing == 0
        for report in self.books.reports:
            assert report.pending == 0

    # --- the fleet's listener, as the runtime wires it --------------------------------------------------------------

    def on_relay_added(self, relay: Relay, now: float) -> None:
        self._sockets[relay.uid] = relay.name

    def on_relay_removed(self, relay: Relay, now: float) -> None:
        del self._sockets[relay.uid]
        self.b2bua.relay_gone(relay)

    def on_relay_lost(self, relay: Relay, reason: str, now: float) -> None:
        self.b2bua.failover.relay_lost(relay, "RelayDown", now)

    def on_relay_restarted(self, relay: Relay, now: float) -> None:
        self.b2bua.failover.relay_lost(relay, "RelayRestarted", now)

    def on_relay_drain(self, relay: Relay, now: float) -> None:
        self.b2bua.failover.relay_drains(relay, now)

    def on_relay_state(self, relay: Relay, old: RelayState, now: float) -> None:
        if relay.state is RelayState.READY:
            self.b2bua.relay_ready(relay, now)

    def on_probe(self, relay: Relay, outcome: str, rtt: float, now: float) -> None:
        """Not of interest here."""


_MORTAL = (Call, Leg, Setup, Bridge, Replacement, Move, LegMove, Want, LastAnchor)


def living_objects() -> Counter[str]:
    """What the garbage collector knows of calls and their parts; it does not collect here."""
    return Counter(type(one).__name__ for one in gc.get_objects() if isinstance(one, _MORTAL))
