"""SIP and SDP on the wire, as far as a test phone needs it.

Written for speed and for valid messages: names are looked up in a cache, bodies are matched by a few patterns. It does
not unfold header lines and knows IPv4 only. It refuses to know anything of Kedge's own parser.
"""

import re
from typing import Final, NamedTuple

Address = tuple[str, int]

_COMPACT: Final = {
    b"v": b"via",
    b"f": b"from",
    b"t": b"to",
    b"i": b"call-id",
    b"m": b"contact",
    b"l": b"content-length",
}
_names: dict[bytes, bytes] = {}

_NEEDED: Final = {b"via", b"from", b"to", b"call-id", b"cseq"}

REASONS: Final = {
    100: b"Trying", 180: b"Ringing", 183: b"Session Progress", 200: b"OK", 302: b"Moved Temporarily", 404: b"Not Found",
    405: b"Method Not Allowed", 408: b"Request Timeout", 481: b"Call/Transaction Does Not Exist", 486: b"Busy Here",
    487: b"Request Terminated", 488: b"Not Acceptable Here", 491: b"Request Pending", 500: b"Server Internal Error",
    503: b"Service Unavailable", 603: b"Decline",
}  # fmt: skip


def _canonical(raw: bytes) -> bytes:
    name = raw.strip().lower()
    name = _COMPACT.get(name, name)
    if len(_names) < 1000:
        _names[raw] = name
    return name


class Message:
    """One SIP message: ``status`` is 0 for a request, ``method`` is that of the CSeq."""

    __slots__ = ("body", "cseq", "headers", "method", "start", "status")

    def __init__(self, start: bytes, headers: dict[bytes, list[bytes]], body: bytes) -> None:
        self.start = start
        self.headers = headers
        self.body = body
        number, method = headers[b"cseq"][0].split()
        self.cseq = int(number)
        if start.startswith(b"SIP/2.0 "):
            self.status = int(start[8:11])
            self.method = method
        else:
            self.status = 0
            self.method = start.partition(b" ")[0]

    def first(self, name: bytes, default: bytes = b"") -> bytes:
        """Return the first value of a header, or ``default``."""
        values = self.headers.get(name)
        return values[0] if values else default

    @property
    def branch(self) -> bytes:
        """The branch of the topmost Via: it names the transaction (RFC 3261 section 17)."""
        return parameter(self.headers[b"via"][0].partition(b",")[0], b"branch")


def parse(data: bytes) -> Message | None:
    """Read one message; None for what no phone would answer."""
    head, found, body = data.partition(b"\r\n\r\n")
    if not found:
        return None
    lines = head.split(b"\r\n")
    headers: dict[bytes, list[bytes]] = {}
    for line in lines[1:]:
        raw, _, value = line.partition(b":")
        name = _names.get(raw) or _canonical(raw)
        if name in headers:
            headers[name].append(value.lstrip())
        else:
            headers[name] = [value.lstrip()]
    if not headers.keys() >= _NEEDED:
        return None
    try:
        return Message(lines[0], headers, body)
    except (ValueError, IndexError):
        return None


def parameter(value: bytes, name: bytes) -> bytes:
    """Return the header parameter ``;name=...`` of a value, empty when it has none."""
    start = value.find(b";" + name + b"=")
    if start < 0:
        return b""
    start += len(name) + 2
    end = value.find(b";", start)
    return (value[start:] if end < 0 else value[start:end]).strip(b" >")


def tag(value: bytes) -> bytes:
    """Return the tag of a From or To value: what stands after the closing bracket, if there is one."""
    return parameter(value[value.rfind(b">") + 1 :], b"tag")


def uri(value: bytes) -> bytes:
    """Return the URI of a name-addr or addr-spec."""
    left = value.find(b"<")
    return value[left + 1 : value.find(b">", left)] if left >= 0 else value.partition(b";")[0]


def user(address: bytes) -> bytes:
    """Return the user part of a SIP URI."""
    return address.partition(b":")[2].partition(b"@")[0]


def host_port(address: bytes) -> Address:
    """Return where a SIP URI with a numeric host points to."""
    rest = address.partition(b":")[2]
    rest = rest.rpartition(b"@")[2].partition(b";")[0].partition(b"?")[0]
    host, _, port = rest.partition(b":")
    return host.decode(), int(port or 5060)


def addresses(values: list[bytes]) -> list[bytes]:
    """Split a list header (Route, Record-Route), also where several addresses stand on one line."""
    return [part.strip() for value in values for part in re.split(rb",(?=\s*<)", value)]


_CONNECTION: Final = re.compile(rb"^c=IN IP4 (\S+)", re.MULTILINE)
_AUDIO: Final = re.compile(rb"^m=audio (\d+) (\S+) ([^\r\n]*)", re.MULTILINE)
_OTHERS: Final = re.compile(rb"^m=(\w+) \d+ (\S+) ([^\r\n]*)", re.MULTILINE)
_DIRECTION: Final = re.compile(rb"^a=(sendrecv|sendonly|recvonly|inactive)\b", re.MULTILINE)
_KEY: Final = re.compile(rb"^a=crypto:(\d+) AES_CM_128_HMAC_SHA1_80 inline:([^\s|]+)", re.MULTILINE)
_EVENT: Final = re.compile(rb"^a=rtpmap:(\d+) telephone-event/8000", re.MULTILINE)
_OPPOSITE: Final = {
    b"sendrecv": b"sendrecv",
    b"sendonly": b"recvonly",
    b"recvonly": b"sendonly",
    b"inactive": b"inactive",
}


class Media(NamedTuple):
    """The audio of a description: where to, in which formats, in which direction as the other side sees it."""

    address: Address
    formats: bytes
    direction: bytes
    event: bytes
    profile: bytes
    """``RTP/AVP``, ``RTP/SAVP``..."""
    others: tuple[tuple[bytes, bytes, bytes], ...]
    """Kind, profile and formats of the further m-lines."""
    key: tuple[bytes, bytes]
    """Tag and key of the first crypto line with the suite that phones know (RFC 4568); empty when there is none."""


def media(body: bytes) -> Media | None:
    """Read the first audio line of a description; None when there is none."""
    audio = _AUDIO.search(body)
    if audio is None:
        return None
    connection = _CONNECTION.search(body, audio.start()) or _CONNECTION.search(body)
    direction = _DIRECTION.search(body, audio.start()) or _DIRECTION.search(body)
    event = _EVENT.search(body, audio.start())
    key = _KEY.search(body, audio.start())
    return Media(
        (connection[1].decode() if connection else "0.0.0.0", int(audio[1])),
        audio[3],
        direction[1] if direction else b"sendrecv",
        event[1] if event else b"",
        audio[2],
        tuple(_OTHERS.findall(body, audio.end())),
        (key[1], key[2]) if key else (b"", b""),
    )


def opposite(direction: bytes) -> bytes:
    """Return the direction that answers ``direction`` (RFC 3264 section 6.1)."""
    return _OPPOSITE[direction]
