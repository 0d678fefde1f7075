"""The settings file of a process, as frozen models: read at the start, and again whenever the file changes.

Whatever is a timeout, a retry or a limit has its place here, with its unit and a default that suits a voice trunk.
What concerns relays rather than SIP stands in a RelaySet. ``LIVE`` and ``RESTART`` say when a change takes effect.
"""

from collections.abc import Iterator
from enum import StrEnum
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from kedge.api.admin import Admin
from kedge.api.change import LIVE, RESTART
from kedge.api.durations import DurationBounds
from kedge.api.kube_settings import Kube
from kedge.api.model import (
    IDENTIFIER,
    PRINTABLE,
    RELAY_SET_KEY,
    IpAddress,
    ListenPort,
    Model,
    Port,
    Rule,
    ShortText,
)

Name = Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=IDENTIFIER)]
"""The name of a peer or a route: letters, digits and inner dots, hyphens and underscores."""


def _valid_network(value: str) -> str:
    try:
        ip_network(value)
    except ValueError as error:
        hint = " (bits beyond the prefix are set)" if "host bits" in str(error) else ""
        raise PydanticCustomError(
            "network", "must be a network such as 192.0.2.0/24 or 2001:db8::/32{hint}", {"hint": hint}
        ) from None
    return value


Network = Annotated[str, StringConstraints(max_length=64), AfterValidator(_valid_network)]
"""A network in CIDR notation; an address alone is a network of one."""


class SipTransport(StrEnum):
    """How SIP is carried."""

    UDP = "UDP"


class Listen(Model):
    """A socket for SIP."""

    address: IpAddress
    """The address to bind to."""
    port: ListenPort = 5060
    """The port to bind to; 0 takes any free one."""
    transport: SipTransport = SipTransport.UDP
    """UDP."""
    advertise: IpAddress | None = None
    """The address for Via and Contact where it is not the bound one, behind a NAT for instance."""


class SipTimers(Model):
    """The base timers of RFC 3261, table 4; all the others follow from them."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="duration(self.t1) <= duration(self.t2)",
            message="must not be longer than t2",
            field="t1",
            check=lambda self: self.t1 <= self.t2,
        ),
    )

    t1: Annotated[float, DurationBounds(0.01, 10)] = 0.5
    """Round-trip time estimate; a request without an answer is given up after 64 times this."""
    t2: Annotated[float, DurationBounds(0.01, 60)] = 4.0
    """Longest time between retransmissions of a non-INVITE request and of an INVITE's response."""
    t4: Annotated[float, DurationBounds(0.01, 60)] = 5.0
    """How long a message may stay in the network."""


class Strangers(StrEnum):
    """What becomes of requests from sources that no peer covers."""

    REFUSE = "Refuse"
    DROP = "Drop"


class Sip(Model):
    """The SIP side."""

    listen: Annotated[tuple[Listen, ...], Field(min_length=1, max_length=1), RESTART] = (Listen(address="127.0.0.1"),)
    """The socket for SIP: one, so far."""
    user_agent: Annotated[str, StringConstraints(max_length=128, pattern=PRINTABLE), LIVE] = "Kedge"
    """The User-Agent of requests and the Server of responses that are Kedge's own; none when empty. Those of a party
    pass to the other one as they are."""
    timers: Annotated[SipTimers, LIVE] = SipTimers()
    """The base timers of SIP."""
    max_datagram_bytes: Annotated[int, Field(ge=1300, le=65535), RESTART] = 65535
    """Longer datagrams are dropped, and counted as ``too_large``."""
    receive_buffer_bytes: Annotated[int, Field(ge=65536, le=268435456), RESTART] = 8388608
    """Receive buffer asked of the kernel for each socket; a burst of responses must fit in."""
    max_calls: Annotated[int, Field(ge=1, le=1_000_000), LIVE] = 20000
    """Calls of this process at most; further ones are refused with 503."""
    max_forwards: Annotated[int, Field(ge=1, le=255), LIVE] = 70
    """Max-Forwards of a call whose INVITE came without one; else it is what came, less one."""
    ring_timeout: Annotated[float, DurationBounds(1, 3600), LIVE] = 180.0
    """How long a call may ring, from its INVITE on."""
    retry_after: Annotated[float, DurationBounds(1, 3600), LIVE] = 10.0
    """Retry-After of a 503 that is owed to a limit."""
    strangers: Annotated[Strangers, LIVE] = Strangers.REFUSE
    """Requests from sources that no peer covers: Refuse answers them with 403, Drop leaves them without an answer."""


class Peer(Model):
    """Someone that Kedge exchanges calls with, known by its networks."""

    name: Name
    """The peer's name, unique; routes and metrics use it."""
    networks: Annotated[tuple[Network, ...], Field(min_length=1, max_length=256)]
    """Where its packets come from; of two peers, the one with the longer prefix is meant."""
    port: Port | None = None
    """Only packets from this source port are the peer's; any port when left out."""
    trusted: bool = False
    """Whether P-Asserted-Identity and the like are believed from it and passed to it."""
    max_calls: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Calls with this peer at most, refused with 503 beyond; no limit of its own when left out."""
    calls_per_second: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """New calls in a second from this peer at most, refused with 503 beyond; no limit when left out."""
    zone: ShortText = ""
    """The zone that it is nearest to: relays of that zone are preferred for its calls."""

    def covers(self, address: str, port: int) -> int:
        """How well the peer covers a source: the length of the longest prefix, -1 when it does not.

        For the start of a program or a test; the hot path keeps a table of its own.
        """
        if self.port is not None and self.port != port:
            return -1
        source = ip_address(address)
        return max((one.prefixlen for one in self.parsed_networks if source in one), default=-1)

    @cached_property
    def parsed_networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """``networks``, parsed."""
        return tuple(ip_network(one) for one in self.networks)


class Match(Model):
    """Which calls a route is for; all that is given must match, nothing given matches all."""

    peer: Name | None = None
    """The peer that the call comes from."""
    user_prefix: Annotated[str, StringConstraints(max_length=128)] = ""
    """What the user part of the request-URI begins with, +49 for instance."""
    host: Annotated[str, StringConstraints(max_length=253)] | None = None
    """The host part of the request-URI, in any case of letters."""


class NextHop(Model):
    """Where a call is sent."""

    address: IpAddress
    """The next hop's address."""
    port: Port = 5060
    """The next hop's port."""
    weight: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Its share against the other next hops of the route that have a weight: who is tried first, and next, is drawn
    for each call. Those without come after them, in their order."""


class Route(Model):
    """What is done with calls; the first route that matches is taken."""

    name: Name
    """The route's name, unique; logs and metrics use it."""
    match: Match = Match()
    """Which calls it is for."""
    next_hops: Annotated[tuple[NextHop, ...], Field(min_length=1, max_length=32)]
    """Where they are sent: one after the other, until one answers. In the order of the list, or by weights."""
    relay_set: Annotated[
        str,
        StringConstraints(min_length=1, max_length=317, pattern=RELAY_SET_KEY),
    ]
    """The RelaySet that carries their media: NAME, or NAMESPACE/NAME."""
    response_timeout: Annotated[float, DurationBounds(0.1, 32)] = 4.0
    """A next hop that has not answered the INVITE at all by then is left for the next one."""
    failover_on: Annotated[tuple[Annotated[int, Field(ge=400, le=699)], ...], Field(max_length=64)] = (408, 503)
    """Final responses that send the call to the next hop in the list."""


class Metrics(Model):
    """Where Prometheus scrapes, and where /healthz and /readyz answer."""

    address: IpAddress = "127.0.0.1"
    """The address to bind to."""
    port: ListenPort = 9090
    """The port to bind to; 0 takes any free one."""


class LogLevel(StrEnum):
    """From which severity on is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """How log lines look."""

    JSON = "json"
    TEXT = "text"


class Log(Model):
    """What is logged, on standard error."""

    level: LogLevel = LogLevel.INFO
    """debug, info, warning or error."""
    format: LogFormat = LogFormat.TEXT
    """json: an object a line. text: for people."""


class Commands(Model):
    """How relays are commanded."""

    timeout: Annotated[float, DurationBounds(0.01, 30)] = 0.25
    """How long the reply to one sending of a command may take."""
    retries: Annotated[int, Field(ge=0, le=20)] = 3
    """Further sendings of a command without a reply, with the same cookie."""
    outstanding: Annotated[int, Field(ge=1, le=256)] = 4
    """Commands that one relay may have before it at a time; bursts starve the media of live calls."""
    sweep_interval: Annotated[float, DurationBounds(1, 86400)] = 60.0
    """Time between two looks at the sessions of a relay: those of this process that no call owns are deleted."""


class Reanchor(Model):
    """How a call is moved; how many at a time is the RelaySet's failover."""

    response_timeout: Annotated[float, DurationBounds(0.1, 32)] = 4.0
    """A phone that has not answered a re-INVITE at all by then counts as not answering."""
    busy_wait: Annotated[float, DurationBounds(0, 32)] = 2.0
    """How long a move waits for a transaction that is running in the dialog."""
    max_offers: Annotated[int, Field(ge=1, le=10)] = 3
    """Offers to one phone in one move at most; then the answers diverge."""
    rest: Annotated[float, DurationBounds(1, 86400)] = 60.0
    """How long a call whose answers diverge, or whose move failed, is left alone by drains and rebalances."""
    own_network_percent: Annotated[int, Field(ge=1, le=100)] = 51
    """When so many of a set's relays, three or more, fall silent at once, this process suspects its own network, and
    moves nothing on the strength of lost probes alone."""


class Signaling(Model):
    """This signaling process among others."""

    replica: Annotated[str, StringConstraints(max_length=253), RESTART] = ""
    """This process's name, unique among replicas; the host's name when empty."""
    zone: Annotated[ShortText, LIVE] = ""
    """The zone that it stands in: relays of it are preferred for calls whose peers name no zone."""
    replicas: Annotated[int, Field(ge=1, le=64), LIVE] = 1
    """How many signaling processes serve the same RelaySets. Each takes an equal share of their rates, and of
    maxSessionsPerRelay: none of them knows how many calls the others have on a relay."""
    shutdown_grace: Annotated[float, DurationBounds(0, 86400), LIVE] = 300.0
    """How long calls may go on once the process is told to end (SIGTERM); new ones get 503 from then on. What is left
    is hung up on both sides. A second signal ends the wait."""
    commands: Annotated[Commands, LIVE] = Commands()
    """How relays are commanded."""
    reanchor: Annotated[Reanchor, LIVE] = Reanchor()
    """How calls are moved."""


class Settings(Model):
    """Everything that a process is told by its settings file."""

    sip: Sip = Sip()
    """The SIP side."""
    peers: Annotated[tuple[Peer, ...], Field(max_length=1024), LIVE] = ()
    """Who may send calls. What becomes of other sources is said by sip.strangers."""
    routes: Annotated[tuple[Route, ...], Field(max_length=1024), LIVE] = ()
    """Where calls go, in order. A call that no route matches gets 404."""
    admin: Annotated[Admin | None, RESTART] = Admin()
    """The API for the command line, the operator and agents of relays; null turns it off."""
    metrics: Annotated[Metrics | None, RESTART] = Metrics()
    """Where Prometheus scrapes; null turns it off."""
    log: Annotated[Log, LIVE] = Log()
    """What is logged."""
    signaling: Signaling = Signaling()
    """This signaling process among others."""
    kube: Kube = Kube()
    """How Kubernetes is used."""

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        broken = [*_ambiguous_peers(self), *_broken_routes(self)]
        if broken:
            text = "; ".join(f"{field}: {message}" for field, message in broken)
            raise PydanticCustomError("rules", "{text}", {"broken": broken, "text": text})
        return self

    def peer_of(self, address: str, port: int) -> Peer | None:
        """The peer that a source address belongs to: the one with the longest prefix, then one with a port."""
        ranked = [(peer.covers(address, port), peer.port is not None, peer) for peer in self.peers]
        best = max(ranked, key=lambda one: one[:2], default=None)
        return best[2] if best is not None and best[0] >= 0 else None


_Broken = Iterator[tuple[str, str]]
"""Field and message of each rule that settings break."""


def _ambiguous_peers(settings: Settings) -> _Broken:
    names: set[str] = set()
    owners: dict[object, str] = {}
    for index, peer in enumerate(settings.peers):
        if peer.name in names:
            yield f"peers.{index}.name", "there is another peer of that name"
        names.add(peer.name)
        for number, network in enumerate(peer.parsed_networks):
            owner = owners.setdefault((network, peer.port), peer.name)
            if owner != peer.name:
                yield f"peers.{index}.networks.{number}", f"belongs to the peer {owner} already"


def _broken_routes(settings: Settings) -> _Broken:
    peers = [peer.name for peer in settings.peers]
    names: set[str] = set()
    for index, route in enumerate(settings.routes):
        if route.name in names:
            yield f"routes.{index}.name", "there is another route of that name"
        names.add(route.name)
        if route.match.peer is not None and route.match.peer not in peers:
            yield f"routes.{index}.match.peer", f"must be a peer's name: {', '.join(peers) or 'there is none'}"
        for number, hop in enumerate(route.next_hops):
            if settings.peer_of(hop.address, hop.port) is None:
                message = "is in no peer's networks, so that its requests would be refused; add a peer for it"
                yield f"routes.{index}.nextHops.{number}.address", message
