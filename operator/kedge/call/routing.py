"""Who may call through Kedge, and where calls go.

A peer is known by its networks, a route by its source peer and request-URI. What no peer covers is refused, what no
route covers is not found: Kedge never routes by the host of a request-URI alone, so it is never an open relay.

Other settings make peers and routes anew. A call keeps the peers that it began with, so that its parties stay who they
are; only what is counted of a peer goes on from the old one to the new one of its name.
"""

from __future__ import annotations

import ipaddress
import random
from dataclasses import dataclass
from typing import Final, TypeAlias

from kedge.base.address import Address
from kedge.sip.uri import SipUri

IpAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_CACHE_SIZE: Final = 4096
"""Source addresses whose peer is remembered; past it the memory is started anew (a flood must not fill memory)."""


class PeerCount:
    """What is counted of a peer. It outlives the settings that describe the peer."""

    __slots__ = ("allowance", "allowance_at", "calls")

    def __init__(self, allowance: float) -> None:
        self.calls = 0
        """Calls from and to it."""
        self.allowance = allowance
        """New calls that it may begin at once, as of ``allowance_at``."""
        self.allowance_at = 0.0
        """Seconds of the monotonic clock."""


class Peer:
    """A SIP neighbour: a trunk, a PBX, a proxy."""

    __slots__ = (
        "calls_per_second",
        "count",
        "max_calls",
        "name",
        "networks",
        "port",
        "trusted",
        "zone",
    )

    def __init__(
        self, name: str, networks: tuple[Network, ...], *, port: int = 0, max_calls: int = 0,
        calls_per_second: int = 0, trusted: bool = False, zone: str = "",
    ) -> None:  # fmt: skip
        self.name = name
        self.networks = networks
        self.port = port
        """Only packets from this source port are the peer's; 0 for any."""
        self.max_calls = max_calls
        """Calls from and to it at the same time; 0 for no limit of its own."""
        self.calls_per_second = calls_per_second
        """New calls from it in a second; 0 for no limit."""
        self.trusted = trusted
        """Whether P-Asserted-Identity is taken from it and given to it (RFC 3325)."""
        self.zone = zone
        """The zone whose relays its calls prefer; empty for none."""
        self.count = PeerCount(float(calls_per_second))

    @property
    def calls(self) -> int:
        """Calls from and to it now."""
        return self.count.calls

    def covers(self, host: str) -> int:
        """Return the length of the longest prefix that covers an IP address; -1 if none does."""
        address = _address(host)
        return -1 if address is None else self.prefix_of(address)

    def prefix_of(self, address: IpAddress) -> int:
        """As ``covers``, for an address that was read before."""
        return max((network.prefixlen for network in self.networks if address in network), default=-1)

    def admits(self, source: Address) -> bool:
        """Whether a packet from there may be its own."""
        return self.port in (0, source[1]) and self.covers(source[0]) >= 0

    @property
    def full(self) -> bool:
        """Whether it may have no further call."""
        return 0 < self.max_calls <= self.count.calls

    def admits_call(self, now: float) -> bool:
        """Whether it may begin a call now, by its number and rate; if so, it counts against the rate."""
        if self.full:
            return False
        if not self.calls_per_second:
            return True
        rate, count = self.calls_per_second, self.count
        count.allowance = min(float(rate), count.allowance + (now - count.allowance_at) * rate)
        count.allowance_at = now
        if count.allowance < 1.0:
            return False
        count.allowance -= 1.0
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Where calls that match go."""

    name: str
    relay_set: str
    """Key of the RelaySet whose relays carry the media."""
    next_hops: tuple[Address, ...]
    """The next one is tried on no answer, or on a status of ``failover_on``."""
    weights: tuple[int, ...] = ()
    """Of the next hops, in their order; 0 for none."""
    peer: str = ""
    """Name of the source peer, or empty for any."""
    user_prefix: str = ""
    host: str = ""
    response_timeout: float = 4.0
    """Seconds without any response until the next hop is tried."""
    failover_on: frozenset[int] = frozenset({408, 503})

    def hops(self, rng: random.Random) -> tuple[Address, ...]:
        """Return the next hops in the order in which one call tries them.

        Those with weights are drawn by them, one after the other (as RFC 2782 has it); the others follow as they stand.
        """
        if not any(self.weights):
            return self.next_hops
        weights = dict(zip(self.next_hops, self.weights, strict=True))
        drawn: list[Address] = []
        left = [hop for hop in self.next_hops if weights[hop]]
        while left:
            drawn += rng.choices(left, [weights[hop] for hop in left])
            left.remove(drawn[-1])
        return (*drawn, *(hop for hop in self.next_hops if not weights[hop]))

    def matches(self, peer: Peer, uri: SipUri) -> bool:
        """Whether a request of this peer for this URI takes this route."""
        return (
            (not self.peer or self.peer == peer.name)
            and (uri.user or "").startswith(self.user_prefix)
            and (not self.host or self.host.lower() == uri.host.lower())
        )


class Routing:
    """Peers and routes, with a memory of which source address is which peer."""

    __slots__ = ("_cache", "_counts", "peers", "routes")

    def __init__(self, peers: tuple[Peer, ...], routes: tuple[Route, ...]) -> None:
        self.peers = peers
        self.routes = routes
        self._cache: dict[Address, Peer | None] = {}
        self._counts = {peer.name: peer.count for peer in peers}
        """By the peer's name; those of peers that are gone too, as they may come back while their calls live."""

    def take_over(self, old: Routing) -> None:
        """Go on with what ``old`` has counted, in whose place this one comes."""
        self._counts |= old._counts
        for peer in self.peers:
            peer.count = self._counts[peer.name]

    def peer_of(self, source: Address) -> Peer | None:
        """Return the peer that an address belongs to: longest prefix first, then one that names the port."""
        try:
            return self._cache[source]
        except KeyError:
            pass
        peer = self._look_up(source)
        if len(self._cache) >= _CACHE_SIZE:
            self._cache.clear()
        self._cache[source] = peer
        return peer

    def _look_up(self, source: Address) -> Peer | None:
        address = _address(source[0])
        if address is None:
            return None
        ranked = [(peer.prefix_of(address), peer.port != 0, peer) for peer in self.peers if peer.port in (0, source[1])]
        best = max(ranked, key=lambda one: one[:2], default=None)
        return best[2] if best is not None and best[0] >= 0 else None

    def learn_from(self, old: Routing) -> None:
        """Look up whom ``old`` has met, so that no packet has to wait for that. From any thread, before it is used."""
        for source in tuple(old._cache):
            self.peer_of(source)

    def route_for(self, peer: Peer, uri: SipUri) -> Route | None:
        """Return the first route that matches."""
        return next((route for route in self.routes if route.matches(peer, uri)), None)


def _address(host: str) -> IpAddress | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
