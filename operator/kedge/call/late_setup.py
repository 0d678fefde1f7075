"""A set-up by an INVITE without a description: the callee's 200 holds the offer, and the caller's ACK the answer.

``call.setup`` drives the call; here is what it does with the two descriptions (RFC 3261 section 13.2.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kedge.call.call import CALLEE_TAG, CALLER_TAG
from kedge.relay.backend import RelayReply
from kedge.sip.sdp import SdpError

if TYPE_CHECKING:
    from kedge.call.setup import Setup
    from kedge.sip.message import Response


def pass_on(setup: Setup, offer: bytes, response: Response, now: float) -> None:
    """Pass the callee's offer through a relay to the caller's 200."""
    call = setup.call
    if not setup.take_relay(now):
        setup.no_relay(now)
        return

    def offered(reply: RelayReply, now: float) -> None:
        if reply.sdp is None:
            pass_on(setup, offer, response, now)
            return
        call.callee.remote = offer
        caller = call.caller
        caller.local, caller.session = caller.origin.stamp(reply.sdp), call.session
        setup.send_ok(caller.local, response, now)

    setup.b2bua.offer(call, CALLEE_TAG, "", offer, offered, now)


def take_answer(setup: Setup, answer: bytes, now: float) -> None:
    """Take the caller's answer, from its ACK, to the callee's ACK."""
    call = setup.call

    def answered(reply: RelayReply, now: float) -> None:
        if reply.sdp is None:
            _answer_elsewhere(setup, answer, now)
        else:
            _agreed(setup, answer, call.session, reply.sdp, now)

    if call.is_lost:
        _answer_elsewhere(setup, answer, now)
    else:
        setup.b2bua.answer(call, CALLEE_TAG, CALLER_TAG, answer, answered, now)


def _answer_elsewhere(setup: Setup, answer: bytes, now: float) -> None:
    """The relay was lost while the caller thought: the callee's ACK carries another, the caller is told after."""
    told, setup.replacement.tries = setup.call.caller.session, 0

    def done(sdp: bytes | None, now: float) -> None:
        if sdp is None:
            setup.no_relay(now)
        else:
            _agreed(setup, answer, told, sdp, now)

    setup.replay(CALLEE_TAG, setup.call.callee.remote, CALLER_TAG, answer, done, now)


def _agreed(setup: Setup, answer: bytes, told: str, sdp: bytes, now: float) -> None:
    """Both descriptions are known; the caller's is of session ``told``."""
    b2bua, call = setup.b2bua, setup.call
    callee, caller = call.callee, call.caller
    local = callee.origin.stamp(sdp)
    try:
        callee.set_in_force(local=local, remote=callee.remote, session=call.session)
        caller.set_in_force(local=caller.local, remote=answer, session=told)
    except SdpError as error:
        b2bua.hang_up(call, now, reason=str(error), cause=488)
        return
    if setup.acker is not None:
        setup.acker.ack(local)
    setup.established(now)
