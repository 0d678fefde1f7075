"""All phones of one side behind one SIP socket: requests, responses, transactions and their timers.

A retransmitted request gets the stored response again, a 200 to an INVITE is repeated until its ACK, own requests are
repeated as RFC 3261 section 17 says (T1 = 0.5 s, T2 = 4 s). What a phone does that a good phone would not, its
``Behaviour`` says.
"""

import os
import random
import socket
from collections.abc import Callable
from typing import Final, Protocol

from tests.kit import wire
from tests.kit.leg import CALLING, ENDED, FAILED, RINGING, TALKING, Leg, Request
from tests.kit.results import ReInvite
from tests.kit.wire import Address, Message

T1: Final = 0.5
T2: Final = 4.0
_BURST: Final = 64  # datagrams read before the loop gets its turn, and RTP with it
_SO_RCVBUFFORCE: Final = 33
_ALLOW: Final = b"Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, UPDATE, INFO\r\n"


class Switchboard(Protocol):
    """What an endpoint needs of the farm."""

    def now(self) -> float:
        """Return the monotonic time."""

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Call at a time."""

    def incoming(self, number: int, call_id: bytes, tag: bytes) -> Leg:
        """Make the callee's phone of a call."""

    def settled(self, leg: Leg) -> None:
        """The INVITE of a phone has its final response, or the phone its ACK."""

    def ended(self, leg: Leg) -> None:
        """A phone has left its call."""


def sip_socket(address: Address) -> socket.socket:
    """Open a SIP socket whose buffer holds a burst of thousands of messages."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    size = 8 << 20
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
    sock.bind(address)
    return sock


class Endpoint:
    """The phones of one side (``caller`` or ``callee``)."""

    def __init__(self, switchboard: Switchboard, address: Address, side: str) -> None:
        self.sock = sip_socket(address)
        self.address: Address = self.sock.getsockname()
        self.side = side
        self.legs: dict[bytes, Leg] = {}
        self.unreadable = 0
        self._board = switchboard
        self._host = f"{self.address[0]}:{self.address[1]}".encode()
        self._branches = 0
        self._salt = os.urandom(4).hex().encode()
        self._random = random.Random(self._salt)

    # --- datagrams ---------------------------------------------------------------------------------------------

    def on_readable(self) -> None:
        """Read what has come, at most a burst of it."""
        receive = self.sock.recvfrom
        for _ in range(_BURST):
            try:
                data, source = receive(65535)
            except BlockingIOError:
                return
            self.on_datagram(data, source)

    def on_datagram(self, data: bytes, source: Address) -> None:
        """Take one datagram."""
        message = wire.parse(data)
        if message is None:
            self.unreadable += 1
            return
        leg = self.legs.get(message.headers[b"call-id"][0])
        copies = 1
        if leg is None and message.method == b"INVITE" and not message.status and self.side == "callee":
            leg = self._new_callee(message, source)
        if leg is not None and leg.faults:
            kind = message.method.decode()
            copies = leg.copies("in", f"{message.status} {kind}" if message.status else kind)
        for _ in range(copies):
            if message.status:
                if leg is not None:
                    self._on_response(leg, message)
            else:
                self._on_request(leg, message, source)

    def _send(self, leg: Leg | None, data: bytes, destination: Address, kind: str) -> None:
        copies = leg.copies("out", kind) if leg is not None and leg.faults else 1
        for _ in range(copies):
            try:
                self.sock.sendto(data, destination)
            except OSError:
                return  # refused or a full buffer: lost, as on any network

    # --- requests received ---------------------------------------------------------------------------------------

    def _on_request(self, leg: Leg | None, message: Message, source: Address) -> None:
        method = message.method
        if method == b"ACK":
            if leg is not None:
                self._on_ack(leg, message)
            return
        if leg is None:
            self._respond(None, message, source, 200 if method == b"OPTIONS" else 481)
            return
        key = message.branch + method
        stored = leg.served.get(key)
        if stored is not None:
            leg.repeats_in += 1
            if stored:
                self._send(leg, stored, source, f"{stored[8:11].decode()} {method.decode()}")
            return
        if method == b"CANCEL":
            self._on_cancel(leg, message, source)
            return
        if len(leg.served) > 16:
            del leg.served[next(iter(leg.served))]
        leg.served[key] = b""
        if method == b"INVITE" and leg.side == "callee" and leg.remote_cseq < 0:
            self._on_first_invite(leg, message, source)
            return
        in_dialog = leg.tag in message.headers[b"to"][0] and leg.remote_tag in message.headers[b"from"][0]
        if leg.is_over or not in_dialog:
            self._respond(leg, message, source, 481)
            return
        if message.cseq <= leg.remote_cseq:
            self._respond(leg, message, source, 500)
            return
        leg.remote_cseq = message.cseq
        handle = self._HANDLERS.get(method)
        if handle is None:
            self._respond(leg, message, source, 405, _ALLOW)
        else:
            handle(self, leg, message, source)

    def _new_callee(self, message: Message, source: Address) -> Leg:
        digits = wire.user(message.start.split(b" ")[1])[-8:]
        leg = self._board.incoming(int(digits) if digits.isdigit() else -1, message.first(b"call-id"), self._tag())
        leg.signaling = source
        self.legs[leg.call_id] = leg
        return leg

    def _on_first_invite(self, leg: Leg, message: Message, source: Address) -> None:
        leg.remote_cseq = message.cseq
        leg.remote_tag = wire.tag(message.first(b"from"))
        leg.from_me = message.first(b"to") + b";tag=" + leg.tag
        leg.to_peer = message.first(b"from")
        leg.target = wire.uri(message.first(b"contact"))
        leg.route = wire.addresses(message.headers.get(b"record-route", []))
        leg.signaling = wire.host_port(wire.uri(leg.route[0]) if leg.route else leg.target)
        leg.invite_request = message
        now, behaviour = self._board.now(), leg.behaviour
        self._board.at(now + behaviour.ring_after, lambda: self._ring(leg, message, source))
        if behaviour.answer_after >= 0:
            self._board.at(now + behaviour.answer_after, lambda: self._answer_first(leg, message, source))

    def _ring(self, leg: Leg, message: Message, source: Address) -> None:
        if leg.invite_request is not message:
            return
        leg.state = RINGING
        if leg.behaviour.early_media and (body := self._answer_body(leg, message, leg.behaviour.codecs)):
            leg.set_sending()
            self._respond(leg, message, source, 183, body=body)
        else:
            self._respond(leg, message, source, 180)

    def _answer_first(self, leg: Leg, message: Message, source: Address) -> None:
        if leg.invite_request is not message:
            return
        status = leg.status = leg.behaviour.answer_status
        body = b""
        if status == 200:
            early = leg.behaviour.early_media and leg.body  # the 200 repeats what the 183 said (RFC 6337 section 3.1)
            body = leg.body if early else self._answer_body(leg, message, leg.behaviour.codecs)
            if not body:
                status = leg.status = 488
        leg.invite_request = None
        if status != 200:
            self._respond(leg, message, source, status)
            self._end(leg, "local")
            return
        leg.state = TALKING
        leg.answered_at = self._board.now()
        leg.set_sending()
        self._respond_200(leg, message, source, body)

    def _on_cancel(self, leg: Leg, message: Message, source: Address) -> None:
        self._respond(leg, message, source, 200)
        invite = leg.invite_request
        if invite is not None and not leg.established:
            leg.invite_request = None
            leg.status = 487
            self._respond(leg, invite, source, 487)
            leg.end_reason = message.first(b"reason").decode()
            self._end(leg, "remote")

    def _on_reinvite(self, leg: Leg, message: Message, source: Address) -> None:
        record = ReInvite(self._board.now())
        leg.reinvites.append(record)
        behaviour = leg.behaviour
        if leg.glares > 0 and leg.invite is None and leg.unacked is None:
            leg.glares -= 1
            self.reinvite(leg, leg.wanted_direction)
        if leg.invite is not None:
            self._finish_reinvite(leg, message, source, record, 491)
            return
        if leg.invite_request is not None or leg.unacked is not None:
            self._finish_reinvite(leg, message, source, record, 500)
            return
        if behaviour.hang_up_on_reinvite:
            self.hang_up(leg)
            self._finish_reinvite(leg, message, source, record, 487)
            return
        index = leg.reinvite_count
        leg.reinvite_count += 1
        listed = index < len(behaviour.reinvite_statuses)
        status = behaviour.reinvite_statuses[index] if listed else behaviour.reinvite_status
        if status == 0:
            return
        if behaviour.reinvite_after > 0:
            leg.invite_request = message
            self._respond(leg, message, source, 100)
            when = record.received_at + behaviour.reinvite_after
            self._board.at(when, lambda: self._finish_reinvite(leg, message, source, record, status))
        else:
            self._finish_reinvite(leg, message, source, record, status)

    def _finish_reinvite(self, leg: Leg, message: Message, source: Address, record: ReInvite, status: int) -> None:
        if leg.invite_request is message:
            leg.invite_request = None
        behaviour = leg.behaviour
        if leg.is_over and status == 200:
            status = 487
        body = b""
        if status == 200:
            if contact := message.first(b"contact"):
                leg.target = wire.uri(contact)
            if behaviour.move_port and leg.rtp is not None:
                leg.rtp.move(leg.ip)
            codecs = behaviour.codecs if behaviour.reinvite_codecs is None else behaviour.reinvite_codecs
            body = self._answer_body(leg, message, codecs)
            status = 200 if body else 488
        record.status = status
        record.answered_at = self._board.now()
        if status != 200:
            extra = b""
            if behaviour.retry_after and status in (500, 503):
                extra = b"Retry-After: %d\r\n" % behaviour.retry_after
            self._respond(leg, message, source, status, extra)
            if status in (404, 410, 481):  # as one says whose dialog is over (RFC 5057)
                self._end(leg, "local")
            return
        leg.set_sending()
        self._respond_200(leg, message, source, b"" if behaviour.answer_without_sdp else body)

    def _on_update(self, leg: Leg, message: Message, source: Address) -> None:
        leg.updates += 1
        if contact := message.first(b"contact"):
            leg.target = wire.uri(contact)
        if not message.body:
            self._respond(leg, message, source, 200)
        elif leg.invite is not None:
            self._respond(leg, message, source, 491)
        elif body := leg.answer(message.body, leg.behaviour.codecs):
            leg.set_sending()
            self._respond(leg, message, source, 200, body=body)
        else:
            self._respond(leg, message, source, 488)

    def _on_bye(self, leg: Leg, message: Message, source: Address) -> None:
        self._respond(leg, message, source, 200)
        leg.end_reason = message.first(b"reason").decode()
        self._end(leg, "remote")

    def _on_other(self, leg: Leg, message: Message, source: Address) -> None:
        self._respond(leg, message, source, 200)

    _HANDLERS: Final = {
        b"INVITE": _on_reinvite,
        b"UPDATE": _on_update,
        b"BYE": _on_bye,
        b"OPTIONS": _on_other,
        b"INFO": _on_other,
    }

    def _answer_body(self, leg: Leg, message: Message, codecs: tuple[str, ...]) -> bytes:
        """Answer the offer of an INVITE, or make one when it has none (late offer)."""
        return (leg.answer(message.body, codecs) or b"") if message.body else leg.offer(leg.wanted_direction)

    def _on_ack(self, leg: Leg, message: Message) -> None:
        now = self._board.now()
        if leg.unacked is None or leg.unacked[0] != message.cseq:
            if leg.reinvites and leg.reinvites[-1].status >= 300 and not leg.reinvites[-1].acked_at:
                leg.reinvites[-1].acked_at = now
            return
        leg.unacked = None
        if message.body and (described := wire.media(message.body)):
            leg.follow(described)
        if not leg.established:
            leg.established = True
            self._board.settled(leg)
        elif leg.reinvites:
            leg.reinvites[-1].acked_at = now

    # --- responses sent ------------------------------------------------------------------------------------------

    def _respond_200(self, leg: Leg, message: Message, source: Address, body: bytes) -> None:
        """Send a 200 to an INVITE, again and again until its ACK comes (RFC 3261 section 13.3.1.4)."""
        cseq = message.cseq
        data = self._respond(leg, message, source, 200, body=body)
        leg.unacked = (cseq, data, source)
        started = self._board.now()
        interval = T1

        def repeat() -> None:
            nonlocal interval
            if leg.unacked is None or leg.unacked[0] != cseq or leg.is_over:
                return
            now = self._board.now()
            if now - started >= 64 * T1:
                leg.unacked = None
                leg.timeouts.append("ACK")
                self.hang_up(leg, "timeout")
                return
            leg.repeats_out += 1
            self._send(leg, data, source, "200 INVITE")
            interval = min(2 * interval, T2)
            self._board.at(now + interval, repeat)

        self._board.at(started + interval, repeat)

    def _respond(
        self, leg: Leg | None, message: Message, source: Address, status: int, extra: bytes = b"", body: bytes = b""
    ) -> bytes:
        headers = message.headers
        vias = headers[b"via"]
        top = vias[0]
        destination = source
        if b";rport" in top:
            top = top.replace(b";rport", b";received=%b;rport=%d" % (source[0].encode(), source[1]), 1)
        else:
            destination = (source[0], wire.host_port(b"sip:" + top.partition(b" ")[2])[1])
        to = headers[b"to"][0]
        if status > 100 and b";tag=" not in to:
            to += b";tag=" + (leg.tag if leg is not None else self._tag())
        parts = [b"SIP/2.0 %d %b\r\nVia: %b\r\n" % (status, wire.REASONS.get(status, b"Refused"), top)]
        parts.extend(b"Via: %b\r\n" % via for via in vias[1:])
        if b"record-route" in headers:
            parts.extend(b"Record-Route: %b\r\n" % value for value in headers[b"record-route"])
        parts.append(
            b"From: %b\r\nTo: %b\r\nCall-ID: %b\r\nCSeq: %b\r\nContact: <sip:%b>\r\n%b%bContent-Length: %d\r\n\r\n%b"
            % (
                headers[b"from"][0], to, headers[b"call-id"][0], headers[b"cseq"][0], self._host, extra,
                b"Content-Type: application/sdp\r\n" if body else b"", len(body), body,
            )
        )  # fmt: skip
        data = b"".join(parts)
        if leg is not None:
            leg.served[message.branch + message.method] = data
        self._send(leg, data, destination, f"{status} {message.method.decode()}")
        return data

    # --- requests sent -------------------------------------------------------------------------------------------

    def invite(self, leg: Leg, target: bytes, destination: Address) -> None:
        """Place a call."""
        leg.target, leg.signaling = target, destination
        self.legs[leg.call_id] = leg
        self._invite(leg, leg.offer())
        if leg.behaviour.cancel_after >= 0:
            self._board.at(self._board.now() + leg.behaviour.cancel_after, lambda: self.cancel(leg))

    def reinvite(self, leg: Leg, direction: bytes) -> None:
        """Send an own re-INVITE, later if one is under way in the dialog (RFC 3261 section 14.1)."""
        if leg.state != TALKING:
            return
        leg.wanted_direction = direction
        if leg.invite is not None or leg.invite_request is not None or leg.unacked is not None:
            self._board.at(self._board.now() + 0.1, lambda: self.reinvite(leg, direction))
            return
        self._invite(leg, leg.offer(direction))

    def update(self, leg: Leg, direction: bytes) -> None:
        """Send an UPDATE with an offer (RFC 3311)."""
        if leg.state == TALKING:
            leg.wanted_direction = direction
            self._request(leg, b"UPDATE", leg.offer(direction))

    def cancel(self, leg: Leg) -> None:
        """Give a call up that nobody has answered."""
        invite = leg.invite
        if invite is None or leg.state not in (CALLING, RINGING):
            return
        if not invite.provisional:  # RFC 3261 section 9.1: not before a response has come
            self._board.at(self._board.now() + 0.02, lambda: self.cancel(leg))
            return
        data = self._write(leg, b"CANCEL", invite.cseq, invite.branch, b"")
        self._start(leg, Request(b"CANCEL", invite.cseq, invite.branch, data, invite.destination))

    def hang_up(self, leg: Leg, ended_by: str = "local") -> None:
        """End the call: BYE, or CANCEL while it rings."""
        if leg.state == TALKING:
            self._end(leg, ended_by)
            self._request(leg, b"BYE", b"")
        elif leg.invite is not None:
            self.cancel(leg)

    def _invite(self, leg: Leg, body: bytes) -> None:
        leg.invite = self._request(leg, b"INVITE", body)

    def _request(self, leg: Leg, method: bytes, body: bytes) -> Request:
        leg.cseq += 1
        self._branches += 1
        branch = b"z9hG4bK%b%x" % (self._salt, self._branches)
        request = Request(method, leg.cseq, branch, self._write(leg, method, leg.cseq, branch, body), leg.signaling)
        self._start(leg, request)
        return request

    def _start(self, leg: Leg, request: Request) -> None:
        now = self._board.now()
        request.deadline = now + 64 * T1
        leg.pending[request.branch + request.method] = request
        self._send(leg, request.data, request.destination, request.method.decode())
        self._board.at(now + request.interval, lambda: self._repeat(leg, request))

    def _repeat(self, leg: Leg, request: Request) -> None:
        """Timers A and B, E and F of RFC 3261 section 17.1."""
        if request.done:
            return
        now = self._board.now()
        is_invite = request.method == b"INVITE"
        if now >= request.deadline and not (is_invite and request.provisional and not leg.established):
            self._timed_out(leg, request)
            return
        if not (is_invite and request.provisional):
            leg.repeats_out += 1
            self._send(leg, request.data, request.destination, request.method.decode())
        request.interval = 2 * request.interval if is_invite else min(2 * request.interval, T2)
        self._board.at(min(now + request.interval, max(request.deadline, now + T1)), lambda: self._repeat(leg, request))

    def _timed_out(self, leg: Leg, request: Request) -> None:
        request.done = True
        leg.pending.pop(request.branch + request.method, None)
        leg.timeouts.append(request.method.decode())
        if request is leg.invite:
            leg.invite = None
            if leg.established:
                self.hang_up(leg, "timeout")
            else:
                leg.status = 408
                self._end(leg, "timeout")

    def _write(self, leg: Leg, method: bytes, cseq: int, branch: bytes, body: bytes) -> bytes:
        in_transaction = method == b"CANCEL"
        routes = b"" if in_transaction else b"".join(b"Route: %b\r\n" % route for route in leg.route)
        to = leg.to_peer if not in_transaction or leg.established else leg.to_peer.partition(b">")[0] + b">"
        return (
            b"%b %b SIP/2.0\r\nVia: SIP/2.0/UDP %b;rport;branch=%b\r\nMax-Forwards: 70\r\n%bFrom: %b\r\nTo: %b\r\n"
            b"Call-ID: %b\r\nCSeq: %d %b\r\nContact: <sip:%b>\r\n%b%bContent-Length: %d\r\n\r\n%b"
            % (
                method, leg.target, self._host, branch, routes, leg.from_me, to, leg.call_id, cseq, method, self._host,
                b"" if in_transaction else _ALLOW, b"Content-Type: application/sdp\r\n" if body else b"", len(body),
                body,
            )
        )  # fmt: skip

    # --- responses received --------------------------------------------------------------------------------------

    def _on_response(self, leg: Leg, message: Message) -> None:
        status = message.status
        request = leg.pending.get(message.branch + message.method)
        if request is None:
            leg.repeats_in += 1
            if message.method == b"INVITE" and 200 <= status < 300 and leg.ack and leg.ack[0] == message.cseq:
                self._send(leg, leg.ack[1], leg.ack[2], "ACK")
            elif message.method == b"INVITE" and status >= 300:
                self._ack_refusal(leg, message, leg.signaling)
            return
        if status < 200:
            request.provisional = True
            if message.method == b"INVITE" and not leg.established:
                self._on_provisional(leg, message)
            return
        request.done = True
        del leg.pending[request.branch + request.method]
        if status >= 300:
            leg.refused.append(f"{status} {message.method.decode()}")
        if message.method == b"INVITE":
            leg.invite = None
            if status < 300:
                self._on_answer(leg, message, request)
            else:
                self._ack_refusal(leg, message, request.destination)
                self._on_refusal(leg, status, request)
        elif message.method == b"UPDATE" and status < 300:
            if described := wire.media(message.body):
                leg.follow(described)
            leg.set_sending()

    def _on_provisional(self, leg: Leg, message: Message) -> None:
        if message.status > 100:
            leg.state = RINGING
            if described := wire.media(message.body):
                leg.follow(described)
                leg.set_sending()

    def _on_answer(self, leg: Leg, message: Message, request: Request) -> None:
        now = self._board.now()
        if not leg.established:
            leg.status = message.status
            leg.answered_at = now
            leg.to_peer = message.first(b"to")
            leg.remote_tag = wire.tag(leg.to_peer)
            leg.route = wire.addresses(message.headers.get(b"record-route", []))[::-1]
        if contact := message.first(b"contact"):
            leg.target = wire.uri(contact)
        leg.signaling = wire.host_port(wire.uri(leg.route[0]) if leg.route else leg.target)
        if described := wire.media(message.body):
            leg.follow(described)
        self._branches += 1
        branch = b"z9hG4bK%b%x" % (self._salt, self._branches)
        leg.ack = (request.cseq, self._write(leg, b"ACK", request.cseq, branch, b""), leg.signaling)
        self._send(leg, leg.ack[1], leg.ack[2], "ACK")
        if not leg.established:
            leg.established = True
            leg.state = TALKING
            self._board.settled(leg)
        leg.set_sending()

    def _ack_refusal(self, leg: Leg, message: Message, destination: Address) -> None:
        """ACK within the INVITE transaction (RFC 3261 section 17.1.1.3)."""
        data = (
            b"ACK %b SIP/2.0\r\nVia: %b\r\nMax-Forwards: 70\r\nFrom: %b\r\nTo: %b\r\nCall-ID: %b\r\nCSeq: %d ACK\r\n"
            b"Content-Length: 0\r\n\r\n"
            % (
                leg.target, b"SIP/2.0/UDP %b;rport;branch=%b" % (self._host, message.branch), leg.from_me,
                message.first(b"to"), leg.call_id, message.cseq,
            )
        )  # fmt: skip
        self._send(leg, data, destination, "ACK")

    def _on_refusal(self, leg: Leg, status: int, request: Request) -> None:
        if not leg.established:
            leg.status = status
            self._end(leg, "remote")
        elif status == 491:
            # RFC 3261 section 14.1: the caller owns the Call-ID.
            wait = self._random.uniform(2.1, 4.0) if self.side == "caller" else self._random.uniform(0.0, 2.0)
            direction = leg.wanted_direction
            self._board.at(self._board.now() + wait, lambda: self.reinvite(leg, direction))
        elif status in (481, 408):
            self.hang_up(leg, "remote")

    def _end(self, leg: Leg, ended_by: str) -> None:
        if leg.is_over:
            return
        leg.state = ENDED if leg.established or leg.status == 200 else FAILED
        leg.ended_at = self._board.now()
        leg.ended_by = ended_by
        leg.set_sending()
        self._board.ended(leg)

    def _tag(self) -> bytes:
        return b"%x" % self._random.getrandbits(48)
