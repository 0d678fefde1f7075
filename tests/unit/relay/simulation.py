"""A fleet, simulated relays that move packets, and a clock that only this moves."""

import heapq
import random
from typing import Any

from kedge.base.address import Address
from kedge.base.ids import CountingIds
from kedge.base.timers import TimerHeap
from kedge.relay.bencode import decode_dict, encode
from kedge.relay.canary import CANARY_PREFIX
from kedge.relay.fleet import Fleet, FleetListener, Relay
from kedge.relay.model import (
    HealthPolicy,
    InventorySnapshot,
    PlacementPolicy,
    RelayDescription,
    RelaySetPolicy,
    RelayState,
)
from kedge.relay.ng_client import NgSettings
from kedge.relay.probing import ProbeSettings

SET = "default/edge"
LATENCY = 0.0005
OURS: tuple[Address, Address] = (("127.0.0.1", 40000), ("127.0.0.1", 40001))


class SimulatedRelay:
    """What answers at one address: ``up``, ``frozen`` (swallows) or ``killed`` (refuses)."""

    def __init__(self, index: int) -> None:
        self.mode = "up"
        self.run = 1
        self.began = 0.0
        self.full = False
        self.drops: frozenset[int] = frozenset()
        """Packets of which side (0 or 1) it does not relay."""
        self.drop_next = 0
        """So many of the next packets are lost, as packets are."""
        self.sessions: dict[bytes, list[int]] = {}
        """The ports of both sides, by session."""
        self._port = 20000 + 1000 * index
        self.commands: list[tuple[float, dict[bytes, Any]]] = []

    def restart(self, now: float) -> None:
        self.mode, self.run, self.began = "up", self.run + 1, now
        self.sessions.clear()

    def partner(self, port: int) -> int | None:
        """Side that a packet to ``port`` comes out at."""
        for ports in self.sessions.values():
            if port in ports:
                side = ports.index(port)
                if self.drop_next:
                    self.drop_next -= 1
                    return None
                return None if side in self.drops else 1 - side
        return None

    def canaries(self) -> list[bytes]:
        return [name for name in self.sessions if name.startswith(CANARY_PREFIX.encode())]

    def receive(self, data: bytes, now: float) -> bytes | None:
        at = data.index(b" ")
        request = decode_dict(data, at + 1)
        self.commands.append((now, request))
        return data[: at + 1] + encode(self._reply(request, now))

    def _reply(self, request: dict[bytes, Any], now: float) -> dict[bytes, Any]:
        match request[b"command"]:
            case b"ping":
                return {b"result": b"pong"}
            case b"offer" if self.full:
                return {b"result": b"error", b"error-reason": b"Parallel session limit reached"}
            case b"offer" if b"loop-protect" in request.get(b"flags", ()):
                return {b"sdp": b"v=0\r\na=rtpengine:run%d\r\n" % self.run, b"result": b"ok"}
            case b"offer" | b"answer" as command:
                self._port += 2
                # The description for b has the port that b sends to, and the other way about.
                side = 1 if command == b"offer" else 0
                self.sessions.setdefault(request[b"call-id"], [0, 0])[side] = self._port
                return {b"sdp": b"v=0\r\nc=IN IP4 127.0.1.1\r\nm=audio %d RTP/AVP 0\r\n" % self._port, b"result": b"ok"}
            case b"delete":
                self.sessions.pop(request[b"call-id"], None)
                return {b"result": b"ok"}
            case b"query" if request[b"call-id"] not in self.sessions:
                return {b"result": b"error", b"error-reason": b"Unknown call-id"}
            case b"statistics":
                uptime = b"%d" % int(now - self.began)
                return {b"statistics": {b"totalstatistics": {b"uptime": uptime}}, b"result": b"ok"}
            case _:
                return {b"result": b"ok"}


class Log(FleetListener):
    """Writes down what it is told, with times."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.events: list[tuple[float, str, str]] = []
        self.probes: list[tuple[str, str]] = []
        self.rtts: list[float] = []

    def _note(self, now: float, relay: Relay, what: str) -> None:
        self.events.append((now, relay.name, what))

    def on_relay_added(self, relay: Relay, now: float) -> None:
        self._note(now, relay, "added")
        self.world.sockets[relay.uid] = relay.description.control

    def on_relay_removed(self, relay: Relay, now: float) -> None:
        self._note(now, relay, "removed")
        del self.world.sockets[relay.uid]

    def on_relay_lost(self, relay: Relay, reason: str, now: float) -> None:
        self._note(now, relay, f"lost {reason}")

    def on_relay_restarted(self, relay: Relay, now: float) -> None:
        self._note(now, relay, "restarted")

    def on_relay_drain(self, relay: Relay, now: float) -> None:
        self._note(now, relay, "drain")

    def on_relay_state(self, relay: Relay, old: RelayState, now: float) -> None:
        self._note(now, relay, f"{old.value}->{relay.state.value}")

    def on_probe(self, relay: Relay, outcome: str, rtt: float, now: float) -> None:
        self.probes.append((relay.name, outcome))
        self.rtts.append(rtt)

    def media_addresses(self, relay: Relay) -> tuple[Address, Address] | None:
        return self.world.ours


def describe(index: int, **changes: Any) -> RelayDescription:
    values = {
        "uid": f"uid-{index}",
        "name": f"r{index}",
        "relay_set": SET,
        "control": (f"127.0.0.{index}", 2223),
        **changes,
    }
    return RelayDescription(**values)


class World:
    """So many relays of one set, all well."""

    def __init__(
        self,
        count: int,
        *,
        seed: int = 1,
        limit: int = 100,
        health: HealthPolicy | None = None,
        own_network: float = 0.51,
    ) -> None:
        self.now = 0.0
        self.timers = TimerHeap()
        self.ours: tuple[Address, Address] | None = OURS
        self.refuse_rtp = False
        """Whether our own system lets no RTP leave."""
        self._packets: list[tuple[float, int, bytes, Address]] = []
        self.log = Log(self)
        self.sockets: dict[str, tuple[str, int]] = {}
        self.daemons = {(f"127.0.0.{index}", 2223): SimulatedRelay(index) for index in range(1, count + 1)}
        probes = ProbeSettings(own_network=own_network)
        self.fleet = Fleet(self.timers, CountingIds(), self.log, random.Random(seed), NgSettings(), probes)
        self.policy = RelaySetPolicy(
            key=SET, health=health or HealthPolicy(), placement=PlacementPolicy(max_sessions_per_relay=limit)
        )
        self._arrivals: list[tuple[float, int, str, bytes | None]] = []
        self._count = 0
        self.descriptions = {index: describe(index) for index in range(1, count + 1)}
        self.apply()

    def apply(self) -> None:
        snapshot = InventorySnapshot(relay_sets=(self.policy,), relays=tuple(self.descriptions.values()))
        self.fleet.apply(snapshot, self.now)

    def change(self, index: int, **changes: Any) -> None:
        self.descriptions[index] = describe(index, **changes)
        self.apply()

    def relay(self, index: int) -> Relay:
        return self.fleet.relays[f"uid-{index}"]

    def daemon(self, index: int) -> SimulatedRelay:
        return self.daemons[(f"127.0.0.{index}", 2223)]

    def events(self, name: str = "") -> list[str]:
        """What was told of relay ``name``; what was told before is forgotten by ``forget``."""
        return [what for _, relay, what in self.log.events if name in (relay, "")]

    def forget(self) -> None:
        self.log.events.clear()
        self.log.probes.clear()
        self.log.rtts.clear()

    def time_of(self, what: str) -> float:
        return next(at for at, _, told in self.log.events if told == what)

    def states(self) -> list[str]:
        return [relay.state.value for relay in self.fleet.relays.values()]

    def run(self, seconds: float) -> None:
        """Let time pass: datagrams take ``LATENCY`` there and back."""
        end = self.now + seconds
        while True:
            self._flush()
            heads = (self.timers.next_deadline(), self._next_arrival(), self._packets[0][0] if self._packets else None)
            due = [at for at in heads if at is not None]
            if not due or min(due) > end:
                break
            self.now = max(self.now, min(due))
            self._arrive()
            self.timers.run_due(self.now)
        self.now = end

    def _next_arrival(self) -> float | None:
        return self._arrivals[0][0] if self._arrivals else None

    def _flush(self) -> None:
        for relay in list(self.fleet.relays.values()):
            out, relay.client.out[:] = relay.client.out[:], []
            for data in out:
                self._deliver(relay, data)
        for packet in self.fleet.canaries.out:
            self._relay_rtp(*packet)
        self.fleet.canaries.out.clear()

    def _relay_rtp(self, data: bytes, source: Address, destination: Address) -> None:
        assert source in OURS
        if self.refuse_rtp:
            self.fleet.canaries.on_unsent(data)
            return
        for daemon in self.daemons.values():
            if any(destination[1] in ports for ports in daemon.sessions.values()) and daemon.mode == "up":
                side = daemon.partner(destination[1])
                if side is not None:
                    self._count += 1
                    heapq.heappush(self._packets, (self.now + 2 * LATENCY, self._count, data, OURS[side]))

    def _deliver(self, relay: Relay, data: bytes) -> None:
        daemon = self.daemons[self.sockets[relay.uid]]
        if daemon.mode == "frozen":
            return
        reply = None if daemon.mode == "killed" else daemon.receive(data, self.now)
        self._count += 1
        heapq.heappush(self._arrivals, (self.now + 2 * LATENCY, self._count, relay.uid, reply))

    def _arrive(self) -> None:
        while self._arrivals and self._arrivals[0][0] <= self.now:
            _, _, uid, data = heapq.heappop(self._arrivals)
            relay = self.fleet.relays.get(uid)
            if relay is None:
                continue
            if data is None:
                self.fleet.on_refused(relay, self.now)
            else:
                self.fleet.on_datagram(relay, data, self.now)
        while self._packets and self._packets[0][0] <= self.now:
            _, _, packet, at = heapq.heappop(self._packets)
            self.fleet.canaries.on_packet(packet, at, self.now)
