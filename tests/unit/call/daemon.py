"""A tiny rtpengine: what it does to descriptions, to cookies and to sessions, as far as calls can tell.

As the real one (10.5, port-latching): an offer for a session that it does not know makes one; ports stay while the
session lives; ``o=`` passes; c= and ports are rewritten, except 0.0.0.0 and port 0; attributes that it always writes
are written; a side keeps its RTP profile, and where the other one has none with keys, they are the relay's own; an
empty from-tag deletes a whole session, one that is not of the session deletes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kedge.relay.bencode import decode_dict, encode
from kedge.sip.sdp import Media, SessionDescription, parse_sdp

_SUITES = [["1", "AEAD_AES_256_GCM"], ["7", "AES_CM_128_HMAC_SHA1_80"], ["8", "AES_CM_128_HMAC_SHA1_32"]]
"""Tags and suites of the relay's own keys in an offer."""

Distort = Callable[[str, bytes], "bytes | str | None"]
"""Given command and its output, what is answered instead: other bytes, an error, or None for silence."""


class Session:
    """One session: which ports each side was given, and what each side last said."""

    def __init__(self) -> None:
        self.ports: dict[str, list[int]] = {}
        """By the tag of the side that sends its media there."""
        self.heard: dict[str, bytes] = {}
        """By tag: the description that this side gave last."""
        self.said: dict[str, bytes] = {}
        """By tag: what this side was given last, if nothing distorts it."""
        self.profiles: dict[str, str] = {}
        """By tag: the RTP profile of this side, as it spoke or as was asked for it."""
        self.answered = False


class Daemon:
    """What answers at one address: ``up``, ``frozen`` (swallows) or ``killed`` (refuses)."""

    def __init__(self, ip: str) -> None:
        self.ip = ip
        self.mode = "up"
        self.run = 1
        self.began = 0.0
        self.delay = 0.0
        """Seconds that each answer takes."""
        self.sessions: dict[str, Session] = {}
        self.distort: Distort | None = None
        self.commands: list[tuple[float, str, str]] = []
        """(time, command, session) of all but probes."""
        self.first_run: dict[str, int] = {}
        self.known_run = 0
        """The run that was asked last who it is."""
        self.remade: set[str] = set()
        """Sessions made before anybody knew of the restart, of new calls or of calls that an earlier run had; and those
        that an offer made again after their deletion, without an answer.

        The real one ends them when no media comes; Kedge does not know of them until a sweep.
        """
        self.deleted: set[str] = set()
        self.unknown_deletes: list[str] = []
        self.listed: list[tuple[float, int]] = []
        """(time, limit) of each list of its sessions, repeated sendings not counted."""
        self.lists = True
        """Whether it answers ``list``: a long reply may be lost on its way."""
        self._cache: dict[bytes, bytes | None] = {}
        self._port = 20000

    def kill(self) -> None:
        self.mode = "killed"
        self._forget()

    def restart(self, now: float) -> None:
        self._forget()
        self.mode, self.run, self.began, self.distort = "up", self.run + 1, now, None

    def _forget(self) -> None:
        self.sessions.clear()
        self._cache.clear()

    def left(self, known: set[str]) -> set[str]:
        """Return sessions that should not be there."""
        return set(self.sessions) - known - self.remade

    def count(self, command: str) -> int:
        return sum(1 for _, name, _ in self.commands if name == command)

    def receive(self, data: bytes, now: float) -> bytes | None:
        cookie, _, _ = data.partition(b" ")
        if cookie not in self._cache:
            reply = self._reply(decode_dict(data, len(cookie) + 1), now)
            self._cache[cookie] = None if reply is None else cookie + b" " + encode(reply)
        return self._cache[cookie]

    def _reply(self, request: dict[bytes, Any], now: float) -> dict[bytes, Any] | None:
        command = request[b"command"].decode()
        if command == "ping":
            return {b"result": b"pong"}
        if command == "statistics":
            uptime = b"%d" % int(now - self.began)
            return {b"statistics": {b"totalstatistics": {b"uptime": uptime}}, b"result": b"ok"}
        if command == "list":
            self.listed.append((now, request[b"limit"]))
            names = [name.encode() for name in self.sessions][: request[b"limit"]]
            return {b"calls": names, b"result": b"ok"} if self.lists else None
        if b"loop-protect" in request.get(b"flags", []):
            self.known_run = self.run
            return {b"sdp": b"v=0\r\na=rtpengine:run%d\r\n" % self.run, b"result": b"ok"}
        name = request[b"call-id"].decode()
        if name.startswith("kedge-probe"):
            return {b"result": b"ok"}
        self.commands.append((now, command, name))
        if command == "delete":
            return self._delete(name, request.get(b"from-tag", b"").decode())
        if command == "answer" and name not in self.sessions:
            return {b"result": b"error", b"error-reason": b"Unknown call-id"}
        return self._describe(command, name, request)

    def _delete(self, name: str, tag: str) -> dict[bytes, Any]:
        session = self.sessions.get(name)
        self.deleted.add(name)
        if session is None or (tag and tag not in session.heard):
            self.unknown_deletes.append(name)
            return {b"result": b"ok", b"warning": b"Call-ID not found or tags didn't match"}
        del self.sessions[name]
        return {b"result": b"ok"}

    def _describe(self, command: str, name: str, request: dict[bytes, Any]) -> dict[bytes, Any] | None:
        if self.known_run != self.run or self.first_run.setdefault(name, self.run) != self.run:
            self.remade.add(name)
        session = self.sessions.setdefault(name, Session())
        speaker = request[b"from-tag" if command == "offer" else b"to-tag"].decode()
        listener = {"a": "b", "b": "a"}[speaker]
        session.heard[speaker] = request[b"sdp"]
        session.answered = session.answered or command == "answer"
        if command == "offer" and b"transport protocol" in request:
            session.profiles[listener] = request[b"transport protocol"].decode()
        rewritten = self._rewrite(request[b"sdp"], session.ports.setdefault(listener, []))
        output: bytes | str | None = self._converted(command, rewritten, session, speaker, listener)
        assert isinstance(output, bytes)
        session.said[listener] = output
        if self.distort is not None:
            output = self.distort(command, output)
        if output is None:
            if name in self.deleted:
                self.remade.add(name)
            return None
        if isinstance(output, str):
            return {b"result": b"error", b"error-reason": output.encode()}
        return {b"sdp": output, b"result": b"ok"}

    def _converted(self, command: str, body: bytes, session: Session, speaker: str, listener: str) -> bytes:
        """Give the listener its own RTP profile: keys pass from side to side, or are the relay's own where none came.

        In an answer the suite is the one that was offered, with its tag; in an offer the one in force comes first.
        """
        description = parse_sdp(body)
        spoken = next((one.protocol for one in description.media if one.enabled and "RTP/" in one.protocol), "")
        if not spoken:
            return body
        session.profiles[speaker] = spoken
        wanted = session.profiles.setdefault(listener, spoken)
        if wanted == spoken:
            return body
        heard = parse_sdp(session.heard[listener]).media if session.answered and listener in session.heard else []
        for index, media in enumerate(one for one in description.media if one.enabled and "RTP/" in one.protocol):
            media.protocol = wanted
            media.lines = [line for line in media.lines if not line.startswith("a=crypto:")]
            if "/SAVP" in wanted:
                named = heard[index].attributes("crypto") if index < len(heard) else []
                suites = [value.split()[:2] for value in named] or _SUITES
                if command == "offer" and named:
                    suites += [[f"2{tag}", suite] for tag, suite in _SUITES if suite != suites[0][1]]
                media.lines += [
                    f"a=crypto:{tag} {suite} inline:{self.key_for(session, listener)}" for tag, suite in suites
                ]
        return description.to_bytes()

    def key_for(self, session: Session, tag: str) -> str:
        """The relay's own key towards a side: the same while the session lives, and as long as its suite."""
        return f"{self.ip}-{id(session):x}-{tag}"

    def _rewrite(self, body: bytes, ports: list[int]) -> bytes:
        description = parse_sdp(body)
        description.session = [self._address(line) for line in description.session]
        for index, media in enumerate(description.media):
            while len(ports) <= index:
                ports.append(self._port)
                self._port += 2
            self._rewrite_media(media, ports[index], description)
        return description.to_bytes()

    def _rewrite_media(self, media: Media, port: int, description: SessionDescription) -> None:
        if not media.enabled:
            return
        media.port = str(port)
        media.lines = [self._address(line) for line in media.lines if not line.startswith("a=rtcp:")]
        direction = media.direction(description.direction)
        held = description.connection == "0.0.0.0" or media.connection == "0.0.0.0"
        media.lines = [line for line in media.lines if line != f"a={direction}"]
        media.lines += [f"a={'sendonly' if held else direction}", f"a=rtcp:{port + 1}"]

    def _address(self, line: str) -> str:
        return f"c=IN IP4 {self.ip}" if line.startswith("c=") and not line.endswith(" 0.0.0.0") else line
