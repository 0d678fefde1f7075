"""Commands to one rtpengine in its ng protocol: ``cookie SP dictionary`` over UDP, each command answered once.

A command is sent again, with the same cookie and bytes, until its reply comes or its time is over: rtpengine keeps the
reply of each cookie and repeats it, so nothing is done twice. Few commands are under way at once (``window``), because
bursts of them starve the media of live calls; what exceeds the window waits, deletes behind everything else. Probes
(``ping``, ``identify``, ``statistics``) pass the window, and are never sent again, as their loss is what they tell.

The dictionaries, as rtpengine 10.5 takes them:

- ``offer``, ``answer``: ``DTLS: "off"`` (a key of its own: the flag ``DTLS=off`` is unknown and only logged),
  ``ICE: "remove"``, ``call-id``, ``command``, ``flags: ["port-latching"]``, ``from-tag``, ``sdp`` and ``to-tag``. There
  is no ``via-branch``, since a second branch gets ports of its own; and no ``replace: ["origin"]``, as ``o=`` is ours.
- ``transport protocol`` in an offer: the RTP profile towards the other side. It stands for the session: keys and ports
  stay over further offers, and it is given anew all the same, as a side's own next description would undo it.
- ``delete``: ``call-id``, ``command``, ``delete delay: 0`` (else the session is kept for 30 s), ``from-tag``.

This module writes what is sent often by one formatting, and finds the SDP in a reply without decoding it; what looks
otherwise goes to the general codec, with the same outcome.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Final

from kedge.base.ids import Ids
from kedge.base.timers import Timer, TimerHeap, TimerTarget
from kedge.relay.backend import RelayClient, RelayReply, RelayUser
from kedge.relay.bencode import BencodeError, decode_dict, encode

TIMEOUT: Final = "timeout"
"""Error of a command that had no reply in time."""
RELAY_DOWN: Final = "relay down"
"""Error of a command that was given up, since its relay is."""
REFUSED: Final = "refused"
"""Error of a probe that ended with an ICMP error; ordinary commands go on."""
BAD_REPLY: Final = "bad reply"
"""Error of a command whose reply cannot be read."""

# The kinds of command: what is done with the reply, and whether the window counts it.
_DESCRIBE: Final = 0  # offer and answer
_DELETE: Final = 1
_GENERAL: Final = 2  # the whole reply is decoded: query, list
_PROBE: Final = 3  # the same, past the window, sent once
_IDENTIFY: Final = 4  # a probe whose reply is looked through for the instance

_RESEND: Final = 0  # kinds of timer
_EXPIRE: Final = 1

_LATE: Final = 0.01
"""Seconds by which a probe's timer may fire late. Later, this process was stalled: the reply may be in the socket."""
_GRACE: Final = 0.01
"""Seconds that a probe is given then, once."""

_OK: Final = b"6:result2:oke"
_INSTANCE: Final = b"a=rtpengine:"
# The m-line with port 0 makes a session without ports: the probe takes none from calls, and works when all are taken.
_IDENTIFY_SDP: Final = b"v=0\r\no=- 0 0 IN IP4 0.0.0.0\r\ns=-\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\nm=audio 0 RTP/AVP 0\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class NgSettings:
    """How rtpengine is spoken to."""

    window: int = 8
    """Commands under way at once at one relay; bursts of more starve live media."""
    retry: tuple[float, ...] = (0.1, 0.2, 0.4, 0.8)
    """Seconds from each transmission to the next one of the same bytes."""
    timeout: float = 2.0
    """Seconds from the submission of a command to its end without reply; for ``delete`` from its first transmission."""
    delete_wait: float = 30.0
    """Seconds, at most, that a ``delete`` waits behind offers and answers before it is given up."""
    flags: tuple[str, ...] = ("port-latching",)
    """Flags of every offer and answer."""


class _Command(TimerTarget):
    """One command under way."""

    __slots__ = ("attempt", "client", "cookie", "data", "deadline", "kind", "timer", "token", "user")

    def __init__(
        self,
        client: NgClient,
        kind: int,
        cookie: bytes,
        data: bytes,
        user: RelayUser | None,
        token: int,
        deadline: float,
    ) -> None:
        self.client = client
        self.kind = kind
        self.cookie = cookie
        self.data = data
        self.user = user
        self.token = token
        self.deadline = deadline
        self.attempt = 0
        self.timer: Timer | None = None

    def on_timer(self, kind: int, now: float) -> None:
        """Send again or give up."""
        self.client.on_command_timer(self, kind, now)


class _Expiry(TimerTarget):
    """Wakes a client when its oldest waiting command may have waited long enough."""

    __slots__ = ("client", "timer")

    def __init__(self, client: NgClient) -> None:
        self.client = client
        self.timer: Timer | None = None

    def on_timer(self, kind: int, now: float) -> None:
        """Look through the queues."""
        self.timer = None
        self.client.expire_waiting(now)


class NgClient(RelayClient):
    """Commands to one rtpengine; see the module.

    Errors of ours in replies: ``timeout``, ``relay down``, ``refused`` (probes only), ``bad reply: ...``; all others
    are the relay's ``error-reason``.
    """

    __slots__ = (
        "_count",
        "_deletes",
        "_expiry",
        "_flags",
        "_in_window",
        "_pending",
        "_prefix",
        "_settings",
        "_timers",
        "_waiting",
        "closed",
        "heard",
        "name",
        "retransmissions",
        "strays",
        "timeouts",
    )

    def __init__(self, name: str, timers: TimerHeap, ids: Ids, settings: NgSettings) -> None:
        super().__init__()
        self.name = name
        self._timers = timers
        self._settings = settings
        # The relay's cache of replies does not look at the sender: cookies must differ over processes and restarts.
        self._prefix = ids.token().encode() + b"."
        self._count = 0
        flags = [flag.encode() for flag in settings.flags]
        self._flags = b"5:flags" + encode(flags) if flags else b""
        self._pending: dict[bytes, _Command] = {}
        self._in_window = 0
        self._waiting: deque[_Command] = deque()
        self._deletes: deque[_Command] = deque()
        self._expiry = _Expiry(self)
        self.closed = False
        self.heard = -1.0
        """When the relay last answered anything of ours (seconds); negative: never."""
        self.retransmissions = 0
        self.timeouts = 0
        """Commands (not probes) that ended without reply."""
        self.strays = 0
        """Datagrams that answer nothing that is under way: repeated or late replies, or noise."""

    def reload(self, settings: NgSettings) -> None:
        """Take other settings, for what is sent from now on."""
        self._settings = settings

    @property
    def idle(self) -> bool:
        """Whether no command is under way or waits; probes do not count."""
        return not (self._in_window or self._waiting or self._deletes)

    @property
    def backlog(self) -> int:
        """How many commands wait for the window."""
        return len(self._waiting) + len(self._deletes)

    def offer(
        self, session: str, from_tag: str, to_tag: str, sdp: bytes, user: RelayUser, token: int, now: float,
        profile: str = "",
    ) -> None:  # fmt: skip
        """Ask for the description to send on to the other side, in ``profile`` if one is named.

        An empty ``to_tag`` is left out.
        """
        self._describe(b"7:command5:offer", session, from_tag, to_tag, sdp, user, token, now, profile)

    def answer(
        self, session: str, from_tag: str, to_tag: str, sdp: bytes, user: RelayUser, token: int, now: float
    ) -> None:
        """Complete an offer; ``from_tag`` is always the first offerer's."""
        self._describe(b"7:command6:answer", session, from_tag, to_tag, sdp, user, token, now)

    def delete(self, session: str, from_tag: str, user: RelayUser | None, token: int, now: float) -> None:
        """End a session, after all offers and answers that wait."""
        self._count += 1
        cookie = b"%b%d" % (self._prefix, self._count)
        call, tag = session.encode(), from_tag.encode()
        data = b"%b d7:call-id%d:%b7:command6:delete12:delete delayi0e8:from-tag%d:%be" % (
            cookie,
            len(call),
            call,
            len(tag),
            tag,
        )
        self._submit(_Command(self, _DELETE, cookie, data, user, token, now + self._settings.delete_wait), now)

    def query(self, session: str, user: RelayUser, token: int, now: float) -> None:
        """Ask for all that the relay knows of a session; an unknown one is an error."""
        self._general(_GENERAL, {b"command": b"query", b"call-id": session.encode()}, user, token, now, 0.0)

    def list_sessions(self, limit: int, user: RelayUser, token: int, now: float) -> None:
        """Ask for the names of at most ``limit`` sessions (``calls`` in the reply's fields)."""
        self._general(_GENERAL, {b"command": b"list", b"limit": limit}, user, token, now, 0.0)

    def ping(self, user: RelayUser, token: int, now: float, timeout: float) -> None:
        """Probe: sent at once and only once, lost after ``timeout`` seconds."""
        self._general(_PROBE, {b"command": b"ping"}, user, token, now, timeout)

    def statistics(self, user: RelayUser, token: int, now: float, timeout: float) -> None:
        """Probe for all counters (``uptime_of``). The reply has 7.5 kB: that it is lost on the way is no evidence."""
        self._general(_PROBE, {b"command": b"statistics"}, user, token, now, timeout)

    def identify(self, user: RelayUser, token: int, now: float, timeout: float) -> None:
        """Probe for the instance that answers (``instance_of`` reads the reply): random for each run of the daemon.

        It is an offer with ``loop-protect``, whose session has no ports and is deleted as soon as the reply is here.
        """
        self._general(
            _IDENTIFY,
            {
                b"DTLS": b"off",
                b"ICE": b"remove",
                b"call-id": self._probe_session,
                b"command": b"offer",
                b"flags": [b"loop-protect"],
                b"from-tag": b"probe",
                b"sdp": _IDENTIFY_SDP,
            },
            user,
            token,
            now,
            timeout,
        )

    @property
    def _probe_session(self) -> bytes:
        return b"kedge-probe-" + self._prefix[:-1]

    def on_datagram(self, data: bytes, now: float) -> None:
        """Take a reply; one that is repeated, late or foreign is only counted."""
        at = data.find(b" ")
        command = self._pending.get(data[:at]) if at > 0 else None
        if command is None:
            self.strays += 1
            if data.startswith(self._prefix):
                self.heard = now  # a late reply is a sign of life all the same
            return
        self.heard = now
        if command.kind == _IDENTIFY:
            self.delete(self._probe_session.decode(), "probe", None, 0, now)
        self._finish(command, read_reply(command.kind, data, at + 1), now)

    def on_refused(self, now: float) -> None:
        """End the probes under way with ``refused``; commands go on, as a retransmission may find the relay back."""
        for command in [each for each in self._pending.values() if each.kind >= _PROBE]:
            if command.cookie in self._pending:
                self._finish(command, RelayReply(None, REFUSED), now)

    def abort(self, now: float) -> None:
        """End every command, under way or waiting, with ``relay down``; probes go on and new commands are taken."""
        commands = [each for each in self._pending.values() if each.kind < _PROBE]
        for command in commands:
            del self._pending[command.cookie]
        self._in_window = 0
        self._fail([*commands, *self._take_waiting()], now)

    def close(self, now: float) -> None:
        """Give up: every command and probe ends with ``relay down``, now or, if given later, at once by a timer."""
        self.closed = True
        commands = [*self._pending.values(), *self._take_waiting()]
        self._pending.clear()
        self._in_window = 0
        self._timers.cancel(self._expiry.timer)
        self._expiry.timer = None
        self.out.clear()
        self._fail(commands, now)

    def _take_waiting(self) -> list[_Command]:
        waiting = [*self._waiting, *self._deletes]
        self._waiting.clear()
        self._deletes.clear()
        return waiting

    def _fail(self, commands: list[_Command], now: float) -> None:
        for command in commands:
            self._timers.cancel(command.timer)
        for command in commands:
            if command.user is not None:
                command.user.on_relay_reply(command.token, RelayReply(None, RELAY_DOWN), now)

    def _describe(
        self,
        name: bytes,
        session: str,
        from_tag: str,
        to_tag: str,
        sdp: bytes,
        user: RelayUser,
        token: int,
        now: float,
        profile: str = "",
    ) -> None:
        self._count += 1
        cookie = b"%b%d" % (self._prefix, self._count)
        call, tag = session.encode(), from_tag.encode()
        data = b"%b d4:DTLS3:off3:ICE6:remove7:call-id%d:%b%b%b8:from-tag%d:%b3:sdp%d:%b" % (
            cookie,
            len(call),
            call,
            name,
            self._flags,
            len(tag),
            tag,
            len(sdp),
            sdp,
        )
        if to_tag:
            tag = to_tag.encode()
            data = b"%b6:to-tag%d:%b" % (data, len(tag), tag)
        if profile:
            data = b"%b18:transport protocol%d:%b" % (data, len(profile), profile.encode())
        self._submit(_Command(self, _DESCRIBE, cookie, data + b"e", user, token, now + self._settings.timeout), now)

    def _general(
        self, kind: int, fields: dict[bytes, Any], user: RelayUser, token: int, now: float, timeout: float
    ) -> None:
        self._count += 1
        cookie = b"%b%d" % (self._prefix, self._count)
        deadline = now + (timeout or self._settings.timeout)
        self._submit(_Command(self, kind, cookie, b"%b %b" % (cookie, encode(fields)), user, token, deadline), now)

    def _submit(self, command: _Command, now: float) -> None:
        if self.closed:
            # Not from within the caller's own call: users need not expect a reply before their command returns.
            command.timer = self._timers.schedule(now, command, _EXPIRE)
            self._pending[command.cookie] = command
        elif command.kind >= _PROBE:
            self._pending[command.cookie] = command
            command.timer = self._timers.schedule(command.deadline, command, _EXPIRE)
            self.out.append(command.data)
        elif self._in_window < self._settings.window:
            self._send(command, now)
        else:
            (self._deletes if command.kind == _DELETE else self._waiting).append(command)
            self._wake_at(command.deadline)

    def _send(self, command: _Command, now: float) -> None:
        """Send for the first time."""
        self._in_window += 1
        self._pending[command.cookie] = command
        if command.kind == _DELETE:
            command.deadline = now + self._settings.timeout
        self.out.append(command.data)
        self._await(command, now)

    def _await(self, command: _Command, now: float) -> None:
        """Arm the timer of the next transmission, or of the end."""
        retry = self._settings.retry
        at = now + retry[command.attempt] if command.attempt < len(retry) else command.deadline
        if at < command.deadline:
            command.timer = self._timers.schedule(at, command, _RESEND)
        else:
            command.timer = self._timers.schedule(command.deadline, command, _EXPIRE)

    def on_command_timer(self, command: _Command, kind: int, now: float) -> None:
        """Send a command again or end it; called by its timer."""
        if self.closed:
            self._finish(command, RelayReply(None, RELAY_DOWN), now)
        elif kind == _RESEND and now < command.deadline:
            command.attempt += 1
            self.retransmissions += 1
            self.out.append(command.data)
            self._await(command, now)
        elif command.kind >= _PROBE and not command.attempt and now - command.deadline > _LATE:
            command.attempt = 1
            command.timer = self._timers.schedule(now + _GRACE, command, _EXPIRE)
        else:
            self.timeouts += command.kind < _PROBE
            self._finish(command, RelayReply(None, TIMEOUT), now)

    def _finish(self, command: _Command, reply: RelayReply, now: float) -> None:
        del self._pending[command.cookie]
        self._timers.cancel(command.timer)
        if command.kind < _PROBE and not self.closed:
            self._in_window -= 1
            if self._waiting or self._deletes:
                self._pump(now)
        if command.user is not None:
            command.user.on_relay_reply(command.token, reply, now)

    def _pump(self, now: float) -> None:
        """Send what waits, as far as the window allows."""
        while self._in_window < self._settings.window:
            if self._waiting:
                command = self._waiting.popleft()
            elif self._deletes:
                command = self._deletes.popleft()
            else:
                return
            self._send(command, now)

    def _wake_at(self, deadline: float) -> None:
        timer = self._expiry.timer
        if timer is None or timer.at > deadline:
            self._timers.cancel(timer)
            self._expiry.timer = self._timers.schedule(deadline, self._expiry)

    def expire_waiting(self, now: float) -> None:
        """End commands that have waited too long; called by a timer."""
        expired = []
        for queue in (self._waiting, self._deletes):
            while queue and queue[0].deadline <= now:  # all of one queue wait equally long: the oldest ends first
                expired.append(queue.popleft())
        heads = [queue[0].deadline for queue in (self._waiting, self._deletes) if queue]
        if heads:
            self._wake_at(min(heads))
        for command in expired:
            self.timeouts += 1
            if command.user is not None:
                command.user.on_relay_reply(command.token, RelayReply(None, TIMEOUT), now)


def read_reply(kind: int, data: bytes, at: int) -> RelayReply:
    """Read the reply to a command of ``kind`` that starts at offset ``at``, behind the cookie."""
    if kind == _DESCRIBE:
        if data.startswith(b"d3:sdp", at):
            colon = data.find(b":", at + 6, at + 12)
            digits = data[at + 6 : colon]
            if colon > 0 and digits.isdigit():
                end = colon + 1 + int(digits)
                if data[end:] == _OK:
                    return RelayReply(data[colon + 1 : end], "")
    elif kind == _DELETE and data.endswith(_OK):
        return RelayReply(None, "")  # the rest, about 2 kB, tells of a session that nobody wants to hear of again
    return read_reply_generally(kind, data, at)


def read_reply_generally(kind: int, data: bytes, at: int) -> RelayReply:
    """Do as ``read_reply``, by decoding all of it."""
    try:
        fields = decode_dict(data, at)
    except BencodeError as error:
        return RelayReply(None, f"{BAD_REPLY}: {error}")
    result = fields.get(b"result")
    if result not in (b"ok", b"pong"):
        reason = fields.get(b"error-reason", result)
        return RelayReply(None, reason.decode(errors="replace") if isinstance(reason, bytes) else BAD_REPLY, fields)
    if kind == _DELETE:
        return RelayReply(None, "")
    if kind == _DESCRIBE:
        sdp = fields.get(b"sdp")
        return RelayReply(sdp, "") if isinstance(sdp, bytes) else RelayReply(None, f"{BAD_REPLY}: it has no sdp")
    return RelayReply(None, "", fields)


def instance_of(reply: RelayReply) -> str:
    """Return which run of the daemon gave this reply to ``identify``; empty when it does not say."""
    sdp = (reply.fields or {}).get(b"sdp")
    if not isinstance(sdp, bytes):
        return ""
    start = sdp.find(_INSTANCE)
    return sdp[start + len(_INSTANCE) :].split(maxsplit=1)[0].decode("ascii", "replace") if start >= 0 else ""


def uptime_of(reply: RelayReply) -> float | None:
    """Return the age of the daemon in whole seconds, from its reply to ``statistics``; None when it is not there."""
    uptime = (reply.fields or {}).get(b"statistics")
    for key in (b"totalstatistics", b"uptime"):
        uptime = uptime.get(key) if isinstance(uptime, dict) else None
    if isinstance(uptime, int):
        return float(uptime)
    return float(uptime) if isinstance(uptime, bytes) and uptime.isdigit() else None
