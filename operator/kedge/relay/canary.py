"""RTP of our own through each relay, at an interval: finds one that answers its control port and moves no packets.

One session per relay, made as a call's is (offer, answer), with two addresses of ours as its parties, a and b. In each
round one packet leaves from either, to the port that the relay gave it, and should come out at the other:

    state       until                                    then
    Idle        wanted, and the control port is well     Making: offer, answer
    Making      both are answered                        Waiting, and a round at once
                an error, or no answer                   Idle, again after ``interval``; it is no evidence: the relay
                                                         may be full, and takes calls that it has
    Waiting     ``interval`` since the last round        Sent; still Waiting while the control port is in trouble:
                                                         that is for the probes to judge
    Sent        both packets are here                    Waiting; the round has passed
                half of ``timeout``                      Sent; what is missing leaves once more
                ``timeout``                              Asking: does the relay know the session?
    Asking      both packets are here after all          Waiting; the round has passed
                it does                                  Waiting; the round is lost
                it does not                              Making: it has lost the session, not a packet
                no answer                                Waiting; the round says nothing

A packet that our own kernel refused says nothing either; and if this process was stalled, what waits in its sockets is
read before the relay's answer to the question. The relay learns our addresses from these packets as it does
with phones, so that address translation in between does no harm. What arrives is known by a key that is random for
each session, so that nobody can feign that a relay lives who does not see its packets.

The session is no call: nobody counts it in ``Relay.sessions``, and whoever lists the sessions of a relay knows it by
``CANARY_PREFIX``. It is deleted when it is not wanted any more; what a crash leaves, the relay's own time limit for
silent sessions ends.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final, TypeAlias

from kedge.base.address import Address
from kedge.base.ids import Ids
from kedge.base.timers import Timer, TimerHeap, TimerTarget
from kedge.relay.backend import RelayReply, RelayUser
from kedge.relay.health import Health
from kedge.relay.model import CanaryPolicy, RelayState
from kedge.relay.ng_client import BAD_REPLY, RELAY_DOWN, TIMEOUT, NgClient

CANARY_PREFIX: Final = "kedge-canary-"
"""Start of the names of all canary sessions, of all processes."""

_TAGS: Final = ("kedge-a", "kedge-b")
_BOTH: Final = 3
"""What is missing, as bits: 1 for what a sent, 2 for what b sent."""

_IDLE: Final = 0  # states
_MAKING: Final = 1
_WAITING: Final = 2
_SENT: Final = 3
_ASKING: Final = 4

_ROUND: Final = 0  # kinds of timer
_AGAIN: Final = 1
_EXPIRE: Final = 2

_OFFER: Final = 0  # tokens, in the two lowest bits; above them, which try it was
_ANSWER: Final = 1
_QUERY: Final = 2

_RTP: Final = struct.Struct(">BBHII16sB")  # RFC 3550 section 5.1; then the key, and the side that sends
_VERSION: Final = 0x80
_PCMU: Final = 0
_CLOCK: Final = 8000
_SILENCE: Final = b"\xff" * 143  # with what comes before it, as long as 20 ms of PCMU: what fits a call fits a canary

Packet: TypeAlias = tuple[bytes, Address, Address]
"""A datagram, the address of ours that it leaves from, and where it goes."""


class CanaryOwner:
    """Who keeps the canary of one relay. A native base class."""

    __slots__ = ()

    def media_addresses(self) -> tuple[Address, Address] | None:
        """Return two addresses of ours that the relay can send to; None: there are none now."""
        raise NotImplementedError

    def on_canary(self, outcome: str, rtt: float, now: float) -> None:
        """Take the end of a round: ``media_ok`` (with the time both packets took, in seconds) or ``media_lost``."""
        raise NotImplementedError


class Canaries:
    """What the canaries of all relays share: what is to be sent, and who is meant by what arrives."""

    __slots__ = ("by_key", "out", "strays")

    def __init__(self) -> None:
        self.out: list[Packet] = []
        """To be sent; whoever sends it clears the list."""
        self.by_key: dict[bytes, Canary] = {}
        self.strays = 0
        """Datagrams that are no packet of ours."""

    def on_packet(self, data: bytes, at: Address, now: float) -> None:
        """Take a datagram that has come to ``at``, an address of ours."""
        if len(data) >= _RTP.size:
            first, _, sequence, _, _, key, side = _RTP.unpack_from(data)
            canary = self.by_key.get(key)
            if first == _VERSION and canary is not None and side < 2:
                canary.arrived(sequence, side, at, now)
                return
        self.strays += 1

    def on_unsent(self, data: bytes) -> None:
        """Take note that our own system refused to send ``data``."""
        canary = self.by_key.get(_RTP.unpack_from(data)[5])
        if canary is not None:
            canary.unsent = True


class Canary(TimerTarget):
    """The canary of one relay; see the module."""

    __slots__ = (
        "_addresses",
        "_began",
        "_canaries",
        "_client",
        "_health",
        "_ids",
        "_key",
        "_missing",
        "_not_before",
        "_owner",
        "_ports",
        "_replies",
        "_sequence",
        "_state",
        "_timer",
        "_timers",
        "_try",
        "session",
        "unsent",
    )

    def __init__(
        self,
        client: NgClient,
        health: Health,
        timers: TimerHeap,
        ids: Ids,
        canaries: Canaries,
        owner: CanaryOwner,
    ) -> None:
        self._client = client
        self._health = health
        self._timers = timers
        self._ids = ids
        self._canaries = canaries
        self._owner = owner
        self._replies = _Replies(self)
        self.session = ""
        """Its name at the relay; empty while there is none."""
        self.unsent = False
        """Whether a packet of this round was refused by our own system."""
        self._key = b""
        self._state = _IDLE
        self._not_before = 0.0
        self._try = 0
        self._addresses: tuple[Address, Address] = (("", 0), ("", 0))
        self._ports: tuple[Address, Address] = (("", 0), ("", 0))
        self._sequence = 0
        self._missing = 0
        self._began = 0.0
        self._timer: Timer | None = None

    def review(self, now: float, *, wanted: bool) -> None:
        """Begin, or end, as wanted; to be called whenever that or the relay's health may have changed."""
        if not wanted or self._health.policy.canary is None:
            self.stop(now)
        elif self._state == _IDLE and now >= self._not_before and self._health.control is RelayState.READY:
            self._make(now)

    def stop(self, now: float) -> None:
        """End it, and delete its session."""
        if self.session:
            self._end(now)
            self._health.media.stop()

    def renew(self, now: float) -> None:
        """Take another session, as another instance of the relay answers.

        The one there was may be known there all the same: a round was lost, and it was made anew before the new
        instance had said that it is one. So it is deleted.
        """
        if self.session:
            self._end(now)
        self._not_before = now

    def _end(self, now: float) -> None:
        self._client.delete(self.session, _TAGS[0], None, 0, now)
        self._canaries.by_key.pop(self._key, None)
        self._timers.cancel(self._timer)
        self._timer = None
        self._state, self.session, self._key = _IDLE, "", b""
        self._try += 1  # replies that are under way mean nothing any more

    # --- the session ---

    def _make(self, now: float) -> None:
        policy, addresses = self._health.policy.canary, self._owner.media_addresses()
        if policy is None or addresses is None:
            self._not_before = now + (policy.interval if policy is not None else 0.0)
            return
        self._addresses = addresses
        if not self.session:
            self.session = CANARY_PREFIX + self._ids.token()
            self._key = self._ids.token().encode().ljust(16, b"-")[:16]
            self._canaries.by_key[self._key] = self
        self._state = _MAKING
        self._try += 1
        self._client.offer(
            self.session, _TAGS[0], "", _describe(addresses[0]), self._replies, self._try << 2 | _OFFER, now
        )

    def on_reply(self, token: int, reply: RelayReply, now: float) -> None:
        """Take a reply of the relay."""
        if token >> 2 != self._try:
            return
        kind = token & 3
        if kind == _QUERY:
            self._on_query(reply.error, now)
            return
        port = media_address(reply.sdp or b"") if not reply.error else None
        policy = self._health.policy.canary
        if port is None or policy is None:
            self._state = _IDLE
            if self._health.media.verdict is RelayState.SUSPECT:
                self._health.media.stop()  # nothing follows that could prove it or clear it
            self._not_before = now + (policy.interval if policy is not None else 0.0)
        elif kind == _OFFER:
            self._ports = (self._ports[0], port)  # what the relay tells b is where b sends to
            answer = _describe(self._addresses[1])
            self._client.answer(self.session, *_TAGS, answer, self._replies, self._try << 2 | _ANSWER, now)
        else:
            self._ports = (port, self._ports[1])
            self._round(policy, now)

    # --- rounds ---

    def on_timer(self, kind: int, now: float) -> None:
        """Begin a round, send again, or end it."""
        policy = self._health.policy.canary
        if policy is None:
            return  # it is stopped at the next review
        if kind == _EXPIRE:
            self._expire(now)
        elif kind == _AGAIN:
            self._send()
            self._arm(now + min(policy.timeout, policy.interval) / 2, _EXPIRE)
        elif self._health.control is RelayState.READY:
            self._round(policy, now)
        else:
            self._state = _WAITING
            self._arm(now + policy.interval, _ROUND)

    def _round(self, policy: CanaryPolicy, now: float) -> None:
        self._state = _SENT
        self._began = now
        self._sequence = (self._sequence + 1) & 0xFFFF
        self._missing = _BOTH
        self.unsent = False
        self._send()
        self._arm(now + min(policy.timeout, policy.interval) / 2, _AGAIN)

    def _send(self) -> None:
        """Send what is missing."""
        stamp = int(self._began * _CLOCK) & 0xFFFFFFFF
        source = zlib.crc32(self._key)
        for side in (0, 1):
            if self._missing & 1 << side:
                head = _RTP.pack(_VERSION, _PCMU, self._sequence, stamp, source ^ side, self._key, side)
                self._canaries.out.append((head + _SILENCE, self._addresses[side], self._ports[side]))

    def arrived(self, sequence: int, side: int, at: Address, now: float) -> None:
        """Take a packet of ``side`` that has come to ``at``; an old one, or one back at its sender, is nothing."""
        if sequence != self._sequence or self._state not in (_SENT, _ASKING):
            return
        if at == self._addresses[1 - side]:
            self._missing &= ~(1 << side)
        if not self._missing:
            self._health.media.passed(now)
            self._wait(now)
            self._owner.on_canary("media_ok", now - self._began, now)

    def _expire(self, now: float) -> None:
        if self.unsent or self._health.control is not RelayState.READY:
            self._wait(now)
        else:
            self._state = _ASKING
            self._try += 1
            self._client.query(self.session, self._replies, self._try << 2 | _QUERY, now)

    def _on_query(self, error: str, now: float) -> None:
        policy = self._health.policy.canary
        if self._state != _ASKING or policy is None:
            return
        if not error:
            self._health.media.round_lost(self._began, "both ways" if self._missing == _BOTH else "one way", policy)
            self._wait(now)
            self._owner.on_canary("media_lost", 0.0, now)
        elif error in (TIMEOUT, RELAY_DOWN) or error.startswith(BAD_REPLY):
            self._wait(now)
        else:
            self._make(now)

    def _wait(self, now: float) -> None:
        policy = self._health.policy.canary
        self._state = _WAITING
        self._arm(max(now, self._began + policy.interval if policy is not None else now), _ROUND)

    def _arm(self, at: float, kind: int) -> None:
        self._timers.cancel(self._timer)
        self._timer = self._timers.schedule(at, self, kind)


class _Replies(RelayUser):
    """Hands the replies to a canary's commands to it."""

    __slots__ = ("canary",)

    def __init__(self, canary: Canary) -> None:
        self.canary = canary

    def on_relay_reply(self, token: int, reply: RelayReply, now: float) -> None:
        """Take a reply."""
        self.canary.on_reply(token, reply, now)


def _describe(address: Address) -> bytes:
    """Return a session description with one audio stream to ``address``."""
    family = b"IP6" if ":" in address[0] else b"IP4"
    host = address[0].encode()
    return (b"v=0\r\no=kedge 1 1 IN %b %b\r\ns=-\r\nc=IN %b %b\r\nt=0 0\r\nm=audio %d RTP/AVP 0\r\na=sendrecv\r\n") % (
        family,
        host,
        family,
        host,
        address[1],
    )


def media_address(description: bytes) -> Address | None:
    """Return where the one stream of a relay's description is sent to; None when it does not say, or takes none."""
    host, port = "", 0
    for line in description.splitlines():
        words = line[2:].split()
        if line.startswith(b"c=") and len(words) == 3:
            host = words[2].decode("ascii", "replace")  # of the stream, which comes later, rather than of the session
        elif line.startswith(b"m=") and len(words) > 2 and words[1].isdigit():
            port = int(words[1])
    return (host, port) if host and 0 < port < 65536 else None
