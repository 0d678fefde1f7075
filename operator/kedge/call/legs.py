"""The two legs of a new call: dialogs as the INVITE, the route and the answer make them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kedge.base.address import Address, host_for_uri
from kedge.call.call import CALLEE_TAG, CALLER_TAG, Call
from kedge.call.endings import Acker
from kedge.call.leg import Leg
from kedge.call.passing import hops_left, passed_lines
from kedge.sip.body import Body
from kedge.sip.dialog import Dialog
from kedge.sip.headers import parse_name_addr
from kedge.sip.message import Request, Response
from kedge.sip.sdp import Origin
from kedge.sip.uri import SipUri

if TYPE_CHECKING:
    from kedge.call.b2bua import B2bua
    from kedge.call.routing import Peer


def caller_leg(b2bua: B2bua, call: Call, source: Address, request: Request, peer: Peer) -> Leg:
    """Return the leg towards who sent the INVITE (RFC 3261 section 12.1.1)."""
    dialog = Dialog(
        call_id=request.call_id, local=request.get("To") or "", local_tag=b2bua.ids.token(),
        remote=_without_tag(request.get("From") or ""), remote_tag=request.from_tag, via=b2bua.settings.address,
    )  # fmt: skip
    dialog.remote_cseq = request.cseq
    dialog.learn_routes(request)
    dialog.refresh_target(request)
    leg = Leg(call, CALLER_TAG, peer, dialog, _origin(b2bua), source)
    leg.aim()
    return leg


def _callee_leg(b2bua: B2bua, call: Call, request: Request, peer: Peer, destination: Address, uri: SipUri) -> Leg:
    """Return the leg towards a next hop, with From and To of the INVITE, and a Call-ID of our own."""
    dialog = Dialog(
        call_id=b2bua.ids.token(), local=_without_tag(request.get("From") or ""), local_tag=b2bua.ids.token(),
        remote=_without_tag(request.get("To") or ""), remote_tag="", via=b2bua.settings.address,
    )  # fmt: skip
    dialog.max_forwards = hops_left(request, b2bua.settings.max_forwards)
    user = f"{uri.user}@" if uri.user else ""
    dialog.remote_target = f"sip:{user}{host_for_uri(destination[0])}:{destination[1]}"
    dialog.destination = destination
    return Leg(call, CALLEE_TAG, peer, dialog, _origin(b2bua), destination)


def next_callee(b2bua: B2bua, call: Call, request: Request, peer: Peer, destination: Address, uri: SipUri) -> Leg:
    """Give a call the leg towards a next hop, in place of the one that did not have it."""
    previous: Leg | None = getattr(call, "callee", None)
    if previous is not None:
        b2bua.dialogs.pop(previous.dialog.local_tag, None)
        previous.peer.count.calls -= 1
    leg = call.callee = _callee_leg(b2bua, call, request, peer, destination, uri)
    peer.count.calls += 1
    b2bua.dialogs[leg.dialog.local_tag] = leg
    return leg


def invitation(b2bua: B2bua, leg: Leg, request: Request, offer: Body, relayed: bytes) -> tuple[str, bytes]:
    """Return the branch and the INVITE to a callee; ``relayed`` is what a relay made of the offer."""
    branch = b2bua.ids.branch()
    lines = passed_lines(request, trusted=leg.call.caller.peer.trusted and leg.peer.trusted)
    leg.local = leg.origin.stamp(relayed) if relayed else b""
    body, content_type = offer.with_sdp(leg.local)
    return branch, leg.dialog.request("INVITE", branch, lines, body, content_type)


def confirm_callee(b2bua: B2bua, leg: Leg, response: Response) -> Acker:
    """The callee has answered: its dialog is confirmed (RFC 3261 section 12.1.2). Return who ACKs."""
    dialog = leg.dialog
    dialog.max_forwards = 70
    dialog.set_remote_tag(response.to_tag)
    dialog.learn_routes(response)
    leg.refresh_target(response)
    leg.aim()
    leg.learn_session_timer(response, we_are_uac=True)
    leg.client = None
    return Acker(b2bua, leg, dialog.local_cseq)


def _origin(b2bua: B2bua) -> Origin:
    return Origin(b2bua.rng.getrandbits(62), b2bua.settings.address[0])


def _without_tag(value: str) -> str:
    """Return a From or To value without its tag and other parameters: they are the dialog's own."""
    address = parse_name_addr(value)
    return f"{address.display} <{address.uri}>".strip() if address.display else f"<{address.uri}>"
