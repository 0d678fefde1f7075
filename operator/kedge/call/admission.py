"""Whether an INVITE becomes a call: what must be readable in it, its route, and the zone whose relays it prefers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kedge.call.call import Call
from kedge.call.legs import caller_leg
from kedge.call.setup import Setup
from kedge.sip.body import Body, sdp_of
from kedge.sip.errors import ParseError
from kedge.sip.headers import parse_name_addr
from kedge.sip.sdp import SdpError, parse_sdp
from kedge.sip.uri import SipUri, parse_uri

if TYPE_CHECKING:
    from kedge.call.b2bua import B2bua
    from kedge.call.routing import Peer, Route
    from kedge.sip.message import Request
    from kedge.sip.transaction import ServerTransaction


def admit(b2bua: B2bua, tx: ServerTransaction, request: Request, peer: Peer, now: float) -> None:
    """Route an INVITE and start its set-up, or refuse it."""
    try:
        uri, offer = _read(request)
    except ParseError:
        b2bua.reject(tx, request, 400, now)
        return
    except SdpError as error:
        b2bua.reject(tx, request, error.status, now)
        return
    route = b2bua.routing.route_for(peer, uri)
    if route is None:
        b2bua.reject(tx, request, 404, now)
        return
    call = Call(f"call-{b2bua.ids.token()}", route.relay_set, b2bua.mark, now)
    call.emergency = "urn:service:sos" in request.uri or bool(request.get("Resource-Priority"))
    call.zone = _zone_of(b2bua, peer, route)
    call.caller = caller_leg(b2bua, call, tx.source, request, peer)
    tx.data = call.setup = setup = Setup(b2bua, call, tx, request, route, uri, offer)
    setup.start(now)


def _zone_of(b2bua: B2bua, peer: Peer, route: Route) -> str:
    """Return the zone whose relays a call prefers: its caller's peer's, else its first next hop's, else ours."""
    if peer.zone:
        return peer.zone
    callee = b2bua.routing.peer_of(route.next_hops[0])
    return (callee.zone if callee is not None else "") or b2bua.settings.zone


def _read(request: Request) -> tuple[SipUri, Body]:
    """Return where an INVITE wants to go, and its body; what else will be needed of it is looked at too.

    Raises:
        ParseError: the Request-URI, From, To or Contact cannot be read.
        SdpError: the description cannot.
    """
    uri = parse_uri(request.uri)
    for name in ("From", "To", "Contact"):
        parse_name_addr(request.get(name) or "")
    offer = sdp_of(request)
    if offer.sdp:
        parse_sdp(offer.sdp)
    return uri, offer
