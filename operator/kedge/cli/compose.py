"""The composition root: from settings to objects. Nothing else knows both."""

from __future__ import annotations

import ipaddress

from kedge.adapters.udp import DrainedSockets
from kedge.api.settings import Peer as PeerModel
from kedge.api.settings import Route as RouteModel
from kedge.api.settings import Settings, Strangers
from kedge.call.routing import Peer, Route, Routing
from kedge.call.settings import CallSettings
from kedge.relay.ng_client import NgSettings
from kedge.relay.probing import ProbeSettings
from kedge.runtime.bookkeeper import Bookkeeper
from kedge.runtime.signaling import Signaling, SignalingSettings
from kedge.sip.timers import TimerSettings


def signaling_of(settings: Settings, bookkeeper: Bookkeeper, *, namespace: str) -> Signaling:
    """Build the signaling loop; ``namespace`` is where RelaySets are that a route names without one."""
    sockets = DrainedSockets(receive_buffer_bytes=settings.sip.receive_buffer_bytes)
    return Signaling(signaling_settings(settings), routing_of(settings, namespace), sockets, bookkeeper)


def signaling_settings(settings: Settings) -> SignalingSettings:
    """Return what the signaling loop is told."""
    sip, reanchor, commands = settings.sip, settings.signaling.reanchor, settings.signaling.commands
    listen = sip.listen[0]
    return SignalingSettings(
        listen=(listen.address, listen.port),
        advertise=listen.advertise or "",
        calls=CallSettings(
            user_agent=sip.user_agent, max_forwards=sip.max_forwards, max_calls=sip.max_calls,
            ring_timeout=sip.ring_timeout, refuse_for=sip.retry_after, busy_timeout=reanchor.busy_wait,
            answer_timeout=reanchor.response_timeout,
            max_offers=reanchor.max_offers, zone=settings.signaling.zone,
            drop_strangers=sip.strangers is Strangers.DROP,
            rest=reanchor.rest, sweep_interval=commands.sweep_interval,
        ),
        timers=TimerSettings(t1=sip.timers.t1, t2=sip.timers.t2, t4=sip.timers.t4),
        max_datagram_bytes=sip.max_datagram_bytes,
        probes=ProbeSettings(own_network=reanchor.own_network_percent / 100),
        ng=NgSettings(
            window=commands.outstanding, retry=(commands.timeout,) * commands.retries,
            timeout=commands.timeout * (commands.retries + 1),
        ),
    )  # fmt: skip


def routing_of(settings: Settings, namespace: str) -> Routing:
    """Return peers and routes."""
    return Routing(
        tuple(_peer(one) for one in settings.peers), tuple(_route(one, namespace) for one in settings.routes)
    )


def _peer(model: PeerModel) -> Peer:
    return Peer(
        model.name, tuple(ipaddress.ip_network(one) for one in model.networks), port=model.port or 0,
        max_calls=model.max_calls or 0, calls_per_second=model.calls_per_second or 0, trusted=model.trusted,
        zone=model.zone,
    )  # fmt: skip


def _route(model: RouteModel, namespace: str) -> Route:
    key = model.relay_set if "/" in model.relay_set else f"{namespace}/{model.relay_set}"
    hops = list(model.next_hops)
    return Route(
        name=model.name, relay_set=key, next_hops=tuple((hop.address, hop.port) for hop in hops),
        weights=tuple(hop.weight or 0 for hop in hops),
        peer=model.match.peer or "", user_prefix=model.match.user_prefix, host=model.match.host or "",
        response_timeout=model.response_timeout, failover_on=frozenset(model.failover_on),
    )  # fmt: skip
