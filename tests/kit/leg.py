"""One phone of one call: its dialog, its session description, its counters. What it sends, the endpoint decides."""

import functools
from typing import Final

from tests.kit import wire
from tests.kit.behaviour import Behaviour, Fault
from tests.kit.results import LegReport, ReInvite
from tests.kit.rtp import RtpPhone
from tests.kit.srtp import SUITE, new_key
from tests.kit.wire import Address

CALLING: Final = "calling"
RINGING: Final = "ringing"
TALKING: Final = "talking"
ENDED: Final = "ended"
FAILED: Final = "failed"

_CODEC_LINES: Final = {
    "PCMU": (b"0", b"a=rtpmap:0 PCMU/8000\r\n"),
    "PCMA": (b"8", b"a=rtpmap:8 PCMA/8000\r\n"),
    "telephone-event": (b"101", b"a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-16\r\n"),
}
_STATIC: Final = {b"0": "PCMU", b"8": "PCMA"}
_VIDEO: Final = b"m=video 9 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
_UNUSED_PORT: Final = 9  # discard: for calls without RTP


class Request:
    """An own request that waits for its final response (client transaction, RFC 3261 section 17.1)."""

    __slots__ = ("branch", "cseq", "data", "deadline", "destination", "done", "interval", "method", "provisional")

    def __init__(self, method: bytes, cseq: int, branch: bytes, data: bytes, destination: Address) -> None:
        self.method = method
        self.cseq = cseq
        self.branch = branch
        self.data = data
        self.destination = destination
        self.interval = 0.5
        self.deadline = 0.0
        self.provisional = False
        self.done = False


class Leg:
    """A phone in a call. ``from_me`` and ``to_peer`` are the header values of its own requests."""

    __slots__ = (
        "ack", "answered_at", "behaviour", "body", "call_id", "cseq", "direction", "end_reason", "ended_at",
        "ended_by", "established", "faults", "from_me", "glares", "invite", "invite_request", "ip", "number",
        "others", "own_key", "pending", "refused", "reinvite_count", "reinvites", "remote", "remote_cseq", "remote_tag",
        "repeats_in", "repeats_out", "route", "rtp", "sdp_rest", "served", "session", "side", "signaling", "state",
        "status", "tag", "target", "their_key", "timeouts", "to_peer", "unacked", "updates", "version",
        "wanted_direction",
    )  # fmt: skip

    def __init__(self, number: int, side: str, behaviour: Behaviour, call_id: bytes, tag: bytes, ip: str) -> None:
        self.number = number
        self.side = side
        self.behaviour = behaviour
        self.call_id = call_id
        self.tag = tag
        self.ip = ip
        self.remote_tag = b""
        self.from_me = b""
        self.to_peer = b""
        self.target = b""
        self.route: list[bytes] = []
        self.signaling: Address = ("", 0)
        self.cseq = 0
        self.remote_cseq = -1
        self.state = CALLING
        self.status = 0
        self.established = False  # the ACK of the first 200 has been seen or sent
        # Transactions
        self.invite: Request | None = None  # own INVITE or re-INVITE without a final response
        self.pending: dict[bytes, Request] = {}  # own requests by branch
        self.served: dict[bytes, bytes] = {}  # last response by branch and method of a request
        self.invite_request: wire.Message | None = None  # INVITE received that has no final response
        self.unacked: tuple[int, bytes, Address] | None = None  # our 200: CSeq, datagram, where to
        self.ack: tuple[int, bytes, Address] | None = None  # our last ACK of a 200
        # Media
        self.rtp: RtpPhone | None = None
        self.own_key: tuple[bytes, bytes] = (b"1", new_key()) if behaviour.srtp == "wanted" else (b"", b"")
        """Tag and key of its SRTP; empty while it speaks RTP."""
        self.their_key = b""
        self.others = _VIDEO if behaviour.video else b""
        """Further m-lines than that of the audio."""
        self.remote: Address | None = None
        self.direction = b"sendrecv"
        self.wanted_direction = b"sendrecv"
        self.session = b""
        self.version = 0
        self.sdp_rest = b""
        self.body = b""
        # Troubles
        self.reinvite_count = 0
        self.glares = behaviour.glares
        self.faults: list[list[object]] = [[fault, fault.count] for fault in behaviour.faults]
        # Counters
        self.answered_at = self.ended_at = 0.0
        self.ended_by = self.end_reason = ""
        self.refused: list[str] = []
        self.timeouts: list[str] = []
        self.reinvites: list[ReInvite] = []
        self.updates = self.repeats_in = self.repeats_out = 0

    @property
    def is_over(self) -> bool:
        """The phone has left the call, or was never in it."""
        return self.state in (ENDED, FAILED)

    def copies(self, direction: str, kind: str) -> int:
        """Return how many copies of this datagram arrive: 1, unless a fault is set for it."""
        for entry in self.faults:
            fault, left = entry
            assert isinstance(fault, Fault)
            assert isinstance(left, int)
            phase = "call" if self.established else "setup"
            if left and fault.direction == direction and fault.kind == kind and fault.phase in ("any", phase):
                entry[1] = left - 1
                return fault.copies
        return 1

    def describe(self, formats: tuple[bytes, bytes], direction: bytes) -> bytes:
        """Write the own description; ``o=`` is raised only if anything else changed (RFC 3264 section 8)."""
        tag, key = self.own_key
        crypto = b"a=crypto:%b %b inline:%b\r\n" % (tag, SUITE, key) if key else b""
        port = self.rtp.port if self.rtp is not None else _UNUSED_PORT
        ip = self.ip.encode()
        rest = b"s=-\r\nc=IN IP4 %b\r\nt=0 0\r\nm=audio %d RTP/%bAVP %b\r\n%b%ba=ptime:20\r\na=%b\r\n%b" % (
            ip, port, b"S" if key else b"", formats[0], formats[1], crypto, direction, self.others,
        )  # fmt: skip
        if rest != self.sdp_rest:
            self.version += 1
            self.sdp_rest = rest
            self.body = b"v=0\r\no=kit %b %d IN IP4 %b\r\n%b" % (self.session, self.version, ip, rest)
        self.direction = direction
        return self.body

    def offer(self, direction: bytes = b"sendrecv") -> bytes:
        """Write an offer with all codecs of this phone."""
        chosen = [_CODEC_LINES[name] for name in self.behaviour.codecs]
        return self.describe((b" ".join(each[0] for each in chosen), b"".join(each[1] for each in chosen)), direction)

    def answer(self, offer: bytes, codecs: tuple[str, ...]) -> bytes | None:
        """Write the answer to an offer, and follow the address in it at once; None when no codec fits."""
        described = wire.media(offer)
        if described is None:
            return None
        formats = _accepted(described.formats, described.event, codecs)
        if formats is None or not self._takes_profile(described):
            return None
        self.follow(described)
        self.others = b"".join(b"m=%b 0 %b %b\r\n" % other for other in described.others)
        direction = wire.opposite(described.direction)
        if self.wanted_direction != b"sendrecv" and direction == b"sendrecv":
            direction = self.wanted_direction  # a phone that holds goes on holding
        return self.describe(formats, direction)

    def _takes_profile(self, described: wire.Media) -> bool:
        """Answer an offer of SRTP with a key of its own, another one for each key of theirs; or say no."""
        tag, key = described.key
        if described.profile == b"RTP/AVP":
            self.own_key = (b"", b"")
        elif described.profile != b"RTP/SAVP" or not key or not self.behaviour.srtp:
            return False
        elif key != self.their_key or not self.own_key[1]:
            self.own_key = (tag, new_key())
        return True

    def follow(self, described: wire.Media) -> None:
        """Send audio where, and as, the peer's description says."""
        self.remote = described.address
        self.their_key = described.key[1] if self.own_key[1] else b""
        if self.rtp is not None:
            self.rtp.encrypt(self.own_key[1], self.their_key)
        if self.rtp is not None:
            self.rtp.remote = described.address if described.address[0] != "0.0.0.0" and described.address[1] else None
            first = described.formats.partition(b" ")[0]
            if first in _STATIC:
                self.rtp.payload_type = int(first)

    def set_sending(self) -> None:
        """Let the audio run, if direction and state allow it."""
        if self.rtp is not None:
            self.rtp.sending = self.direction in (b"sendrecv", b"sendonly") and not self.is_over

    def report(self, since: float, now: float) -> LegReport:
        """Say what this phone has seen."""
        made = LegReport(
            side=self.side, state=self.state, status=self.status, answered_at=self.answered_at, ended_at=self.ended_at,
            ended_by=self.ended_by, end_reason=self.end_reason, refused=self.refused, timeouts=self.timeouts,
            reinvites=self.reinvites, updates=self.updates, repeats_in=self.repeats_in, repeats_out=self.repeats_out,
            direction=self.direction.decode(), version=self.version,
            remote_rtp="" if self.remote is None else f"{self.remote[0]}:{self.remote[1]}",
        )  # fmt: skip
        rtp = self.rtp
        if rtp is not None:
            made.rtp, made.encrypted, made.sent = True, rtp.srtp is not None, rtp.sent
            made.received, made.lost, made.foreign = rtp.received, rtp.lost, rtp.foreign
            made.first_received, made.last_received = rtp.first_received, rtp.last_received
            made.gap, made.gap_from, made.gap_until = rtp.gap_since(
                since, now if not self.is_over else rtp.last_received
            )
            made.local_rtp = f"{rtp.address[0]}:{rtp.port}"
        return made


@functools.lru_cache(1000)
def _accepted(formats: bytes, event: bytes, codecs: tuple[str, ...]) -> tuple[bytes, bytes] | None:
    """Choose what both know, in the offer's order and with its payload types (RFC 3264 section 6.1).

    Returns:
        The formats and their attribute lines; None when no codec fits.
    """
    chosen: list[tuple[bytes, bytes]] = []
    for number in formats.split():
        name = "telephone-event" if number == event else _STATIC.get(number, "")
        if name in codecs:
            lines = _CODEC_LINES[name][1]
            is_event = name == "telephone-event"
            chosen.append((number, lines.replace(b":101 ", b":%b " % number) if is_event else lines))
    if not any(number in _STATIC for number, _ in chosen):
        return None
    return b" ".join(number for number, _ in chosen), b"".join(lines for _, lines in chosen)
