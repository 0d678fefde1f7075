"""An INVITE without a description within a call: the 200 holds the offer, and the ACK the answer.

``call.bridge`` carries the request over; here is what it does with the offer that comes back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kedge.relay.backend import RelayReply
from kedge.sip.sdp import SdpError

if TYPE_CHECKING:
    from kedge.call.bridge import Bridge
    from kedge.sip.message import Response


def pass_on(bridge: Bridge, offer: bytes, response: Response, now: float) -> None:
    """Pass the far party's offer through the relay to the 200 for the near one."""
    call, near = bridge.call, bridge.near
    if not offer or call.relay is None:
        bridge.ack()
        bridge.fail(488, now)
        return

    def offered(reply: RelayReply, now: float) -> None:
        if call.bridge is not bridge:
            return
        if reply.sdp is not None:
            bridge.late_offer = offer
            bridge.sent = near.origin.stamp(reply.sdp)
            bridge.respond(response.status, response, now, bridge.sent)
        elif bridge.other_relay(now):
            pass_on(bridge, offer, response, now)
        else:
            _answer_with_old(bridge, offer)
            bridge.fail(503, now)

    bridge.b2bua.offer(call, bridge.far.tag, near.tag, offer, offered, now)


def take_answer(bridge: Bridge, answer: bytes, now: float) -> None:
    """Take the near party's answer, from its ACK, to the far party's ACK."""
    call, near, far = bridge.call, bridge.near, bridge.far
    offer, bridge.late_offer = bridge.late_offer, b""
    if not answer or call.relay is None:
        _answer_with_old(bridge, offer)
        near.session = ""
        bridge.close(now)
        return
    told = call.session

    def answered(reply: RelayReply, now: float) -> None:
        if call.bridge is not bridge:
            return
        if reply.sdp is None:
            bridge.replay(far, offer, answer, done, now)
        else:
            done(reply.sdp, now)

    def done(sdp: bytes | None, now: float) -> None:
        if sdp is None:
            _answer_with_old(bridge, offer)
            near.session = ""
        else:
            _agreed(bridge, offer, answer, sdp, told)
        bridge.close(now)

    bridge.b2bua.answer(call, far.tag, near.tag, answer, answered, now)


def _answer_with_old(bridge: Bridge, offer: bytes) -> None:
    """The far party's offer must be answered all the same: with what was in force; it is put right after."""
    far = bridge.far
    bridge.ack(far.local)
    try:
        far.set_in_force(local=far.local, remote=offer, session="")
    except SdpError:
        far.session = ""


def _agreed(bridge: Bridge, offer: bytes, answer: bytes, sdp: bytes, told: str) -> None:
    """Both descriptions are in force; the near party was told those of session ``told``."""
    near, far = bridge.near, bridge.far
    local = far.origin.stamp(sdp)
    bridge.ack(local)
    try:
        far.set_in_force(local=local, remote=offer, session=bridge.call.session)
        near.set_in_force(local=bridge.sent, remote=answer, session=told)
    except SdpError:
        near.session = ""
