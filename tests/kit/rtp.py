"""Real RTP for many phones in one thread: paced senders, and receivers that measure gaps by kernel time stamps.

The phones are spread over the 20 ms of a packet in slots of 2 ms, so that no burst leaves. Receivers are not woken by
packets: the kernel stamps each on its arrival, and a socket is read some times a second. So a gap is exact although the
process is cheap: about 4 us for a packet sent and one received.
"""

import asyncio
import os
import socket
import struct
import time
from typing import Final

from tests.kit.srtp import Srtp
from tests.kit.wire import Address

PACKET_SECONDS: Final = 0.02
SAMPLES: Final = 160
_SLOTS: Final = 10
_SLOT_SECONDS: Final = PACKET_SECONDS / _SLOTS
_READ_ROUNDS: Final = 100  # a socket is read once in so many slots: 0.2 s, ten packets
_SO_TIMESTAMPNS: Final = 35  # <asm-generic/socket.h>; the socket module of Python 3.11 does not name it
_LONG_GAP: Final = 0.04  # seconds; two packets late or one lost: such gaps are kept with their times

_header = struct.Struct(">BBHII").pack
_timespec = struct.Struct("qq").unpack_from


def _ulaw(sample: int) -> int:
    """Encode one 16-bit sample (G.711, mu-law)."""
    sign = 0x80 if sample < 0 else 0
    magnitude = min(abs(sample), 32635) + 132
    exponent = magnitude.bit_length() - 8
    return ~(sign | exponent << 4 | magnitude >> (exponent + 3) & 0x0F) & 0xFF


# One period of a tone of 1 kHz is 8 samples of 8 kHz: each packet is twenty of them, and joins the next one smoothly.
_PERIOD: Final = (0, 5657, 8000, 5657, 0, -5657, -8000, -5657)
TONE: Final = bytes(_ulaw(_PERIOD[i % 8]) for i in range(SAMPLES))


class RtpPhone:
    """The media of one phone: one socket, a counted sender, a counting receiver. Times are ``time.monotonic()``."""

    __slots__ = (
        "_highest", "_sequence", "_sock", "_ssrc", "_start", "_timestamp", "address", "first_received", "foreign",
        "gaps", "last_received", "lost", "partner", "payload_type", "port", "received", "remote", "sending", "sent",
        "short_gap", "srtp",
    )  # fmt: skip

    def __init__(self, ip: str, ssrc: int, partner: int) -> None:
        self._sock = _media_socket(ip)
        self.address: Address = self._sock.getsockname()
        self.port = self.address[1]
        self._ssrc = ssrc
        self.partner = partner
        """The SSRC of the phone at the other end: any other, or another sound, is ``foreign``; -1: all is right."""
        self._sequence = ssrc & 0x7FFF
        self._timestamp = 0
        self.payload_type = 0
        self.srtp: Srtp | None = None
        """Encrypts what it sends, and takes nothing that its keys do not fit."""
        self.remote: Address | None = None
        self.sending = False
        self.sent = 0
        self.received = 0
        self.foreign = 0
        self.lost = 0
        self._highest = -1
        self.first_received = 0.0
        self.last_received = 0.0
        self.short_gap = 0.0
        self.gaps: list[tuple[float, float]] = []
        """The long gaps: (last packet before, first packet after)."""

    def encrypt(self, own: bytes, theirs: bytes) -> None:
        """Speak SRTP with these keys from now on; RTP without."""
        if not own or not theirs:
            self.srtp = None
        elif self.srtp is None or self.srtp.keys != (own, theirs):
            self.srtp = Srtp(own, theirs)

    def send(self) -> None:
        """Send the next packet, if this phone sends."""
        if self.remote is None or not self.sending:
            return
        self._sequence = self._sequence + 1 & 0xFFFF
        self._timestamp = self._timestamp + SAMPLES & 0xFFFFFFFF
        packet = _header(0x80, self.payload_type, self._sequence, self._timestamp, self._ssrc) + TONE
        if self.srtp is not None:
            packet = self.srtp.protect(packet)
        try:
            self._sock.sendto(packet, self.remote)
        except OSError:
            return  # a full buffer or an unreachable address: the packet is lost, as on any network
        self.sent += 1

    def drain(self, realtime_offset: float) -> None:
        """Read what has come; ``realtime_offset`` turns the kernel's time stamps into monotonic ones."""
        receive = self._sock.recvmsg
        while True:
            try:
                packet, ancillary, _, _ = receive(2048, 64)
            except OSError:
                return
            if len(packet) < 12 or not ancillary:
                continue
            seconds, nanoseconds = _timespec(ancillary[0][2])
            self._count(packet, seconds + nanoseconds * 1e-9 + realtime_offset)

    def _count(self, packet: bytes, at: float) -> None:
        if self.srtp is not None:
            packet = self.srtp.unprotect(packet)
        alien = self.partner >= 0 and (int.from_bytes(packet[8:12], "big") != self.partner or packet[12:] != TONE)
        if alien or not packet:
            self.foreign += 1
            return
        sequence = packet[2] << 8 | packet[3]
        if self.received:
            step = sequence - self._highest & 0xFFFF
            if 0 < step < 0x8000:
                self.lost += step - 1
                self._highest = sequence
            else:
                self.lost -= self.lost > 0  # came late, not lost
            gap = at - self.last_received
            if gap >= _LONG_GAP:
                self.gaps.append((self.last_received, at))
            elif gap > self.short_gap:
                self.short_gap = gap
        else:
            self.first_received = at
            self._highest = sequence
        self.received += 1
        self.last_received = at

    def gap_since(self, since: float, now: float) -> tuple[float, float, float]:
        """Return the longest silence (seconds, from, until) that ended after ``since`` or is going on at ``now``."""
        longest = (0.0, 0.0, 0.0)
        for start, end in self.gaps:
            if end > since and end - start > longest[0]:
                longest = (end - start, start, end)
        start = self.last_received or since
        if now - start > max(_LONG_GAP, longest[0]):
            longest = (now - start, start, now)
        return longest if longest[0] else (self.short_gap, 0.0, 0.0)

    def move(self, ip: str) -> None:
        """Take another local port, as a phone that changes its address does."""
        self._sock.close()
        self._sock = _media_socket(ip)
        self.address = self._sock.getsockname()
        self.port = self.address[1]

    def close(self) -> None:
        """Stop, and give the port back."""
        self.sending = False
        self._sock.close()


def _media_socket(ip: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    sock.bind((ip, 0))
    return sock


def realtime_offset() -> float:
    """Return what must be added to a kernel time stamp (CLOCK_REALTIME) to get ``time.monotonic()``."""
    return (time.clock_gettime_ns(time.CLOCK_MONOTONIC) - time.clock_gettime_ns(time.CLOCK_REALTIME)) * 1e-9


class RtpClock:
    """Drives all phones of a process from one timer of the running event loop."""

    def __init__(self) -> None:
        self._slots: list[list[RtpPhone]] = [[] for _ in range(_SLOTS)]
        self._next_slot = 0
        self._readers: list[RtpPhone] = []
        self._next_reader = 0
        self._owed = 0.0
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.paused = False
        self.latest = 0.0
        """How late a slot was sent at most, in seconds: what the measured gaps may owe to the phones themselves."""
        self.skipped = 0
        """Slots that were not sent because the process was more than five packets late."""

    def add(self, phone: RtpPhone) -> None:
        """Let a phone take part; the emptiest slot takes it."""
        min(self._slots, key=len).append(phone)
        self._readers.append(phone)
        if self._timer is None:
            self._due = time.monotonic()
            self._arm()

    def remove(self, phone: RtpPhone) -> None:
        """Read what a phone has received so far, and forget and close it."""
        for slot in (*self._slots, self._readers):
            if phone in slot:
                slot.remove(phone)
        phone.drain(realtime_offset())
        phone.close()

    def drain(self) -> None:
        """Read all sockets now, so that counters and gaps are up to date."""
        offset = realtime_offset()
        for phone in self._readers:
            phone.drain(offset)

    def close(self) -> None:
        """Stop the timer and close all sockets."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for phone in self._readers:
            phone.close()
        self._readers.clear()
        self._slots = [[] for _ in range(_SLOTS)]

    def _arm(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(max(0.0, self._due - time.monotonic()), self._tick)

    def _tick(self) -> None:
        now = time.monotonic()
        self.latest = max(self.latest, now - self._due)
        if now - self._due > 5 * PACKET_SECONDS:
            late = int((now - self._due) / _SLOT_SECONDS)
            self.skipped += late
            self._next_slot = (self._next_slot + late) % _SLOTS
            self._due += late * _SLOT_SECONDS
        while self._due <= now:
            if not self.paused:
                for phone in self._slots[self._next_slot]:
                    phone.send()
            self._next_slot = (self._next_slot + 1) % _SLOTS
            self._due += _SLOT_SECONDS
            self._read_some()
        if self._readers:
            self._arm()
        else:
            self._timer = None

    def _read_some(self) -> None:
        self._owed += len(self._readers) / _READ_ROUNDS
        if self._owed < 1:
            return
        offset = realtime_offset()
        while self._owed >= 1 and self._readers:
            self._owed -= 1
            self._next_reader = (self._next_reader + 1) % len(self._readers)
            self._readers[self._next_reader].drain(offset)


def new_ssrc() -> int:
    """Make a random SSRC (RFC 3550 section 8)."""
    return int.from_bytes(os.urandom(4), "big")
