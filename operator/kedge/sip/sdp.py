"""Session descriptions (RFC 8866) as far as a B2BUA must understand them.

A description is kept as the lines that came, grouped by m-line: what is not understood passes unchanged. What Kedge
writes itself is the ``o=`` line (RFC 3264 section 8: constant but for a version that rises with each change), and what
it takes away are formats that are not in force. Addresses and ports are the relay's business.
"""

from __future__ import annotations

from typing import Final

from kedge.base.errors import KedgeError

_MAX_LINES: Final = 1000
_DIRECTIONS: Final = ("sendrecv", "sendonly", "recvonly", "inactive")
_OPPOSITE: Final = {"sendrecv": "sendrecv", "sendonly": "recvonly", "recvonly": "sendonly", "inactive": "inactive"}
_FORMAT_ATTRIBUTES: Final = ("rtpmap", "fmtp", "rtcp-fb")
_STATIC_FORMATS: Final = {
    "0": "PCMU/8000", "3": "GSM/8000", "4": "G723/8000", "8": "PCMA/8000", "9": "G722/8000",
    "13": "CN/8000", "15": "G728/8000", "18": "G729/8000",
}  # fmt: skip
"""Payload types of RFC 3551 section 6 that stand without an rtpmap, as ``encoding/clock rate``."""


class SdpError(KedgeError):
    """A session description cannot be used; a request that carries it is answered with ``status``."""

    def __init__(self, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class Media:
    """One m-line and the lines that belong to it."""

    __slots__ = ("formats", "kind", "lines", "port", "protocol")

    def __init__(self, kind: str, port: str, protocol: str, formats: list[str]) -> None:
        self.kind = kind
        self.port = port
        """As written: ``49170`` or ``49170/2``; ``0`` switches the m-line off."""
        self.protocol = protocol
        self.formats = formats
        self.lines: list[str] = []
        """All further lines, without the m-line, as they came."""

    @property
    def enabled(self) -> bool:
        """Whether the m-line is in use (RFC 3264 section 6: port 0 refuses it)."""
        return self.port != "0" and not self.port.startswith("0/")

    @property
    def connection(self) -> str:
        """The address of its own c= line, or an empty string."""
        for line in self.lines:
            if line.startswith("c="):
                return line.rsplit(" ", 1)[-1]
        return ""

    def attributes(self, name: str) -> list[str]:
        """Return the values of every ``a=name:value`` line."""
        start = f"a={name}:"
        return [line[len(start) :] for line in self.lines if line.startswith(start)]

    def direction(self, inherited: str = "sendrecv") -> str:
        """Return the direction attribute, or what the session level says."""
        return _direction(self.lines) or inherited

    def encoding(self, payload_type: str) -> str:
        """Return ``encoding/rate`` of a payload type in upper case, or the format itself where it has no rtpmap."""
        for value in self.attributes("rtpmap"):
            number, _, encoding = value.partition(" ")
            if number == payload_type:
                return encoding.strip().upper().removesuffix("/1")
        return _STATIC_FORMATS.get(payload_type, payload_type)

    def parameters(self, payload_type: str) -> str:
        """Return the fmtp of a payload type, or an empty string."""
        for value in self.attributes("fmtp"):
            number, _, parameters = value.partition(" ")
            if number == payload_type:
                return parameters.strip()
        return ""

    def keep_formats(self, keep: set[str]) -> None:
        """Drop every format that is not in ``keep``, with its attributes."""
        dropped = {one for one in self.formats if one not in keep}
        if not dropped:
            return
        self.formats = [one for one in self.formats if one in keep]
        self.lines = [line for line in self.lines if _format_of(line) not in dropped]


class SessionDescription:
    """A parsed session description."""

    __slots__ = ("media", "session")

    def __init__(self, session: list[str], media: list[Media]) -> None:
        self.session = session
        """Lines of the session level, ``v=`` and ``o=`` first."""
        self.media = media

    @property
    def connection(self) -> str:
        """The address of the session-level c= line, or an empty string."""
        for line in self.session:
            if line.startswith("c="):
                return line.rsplit(" ", 1)[-1]
        return ""

    @property
    def direction(self) -> str:
        """The direction at the session level (RFC 8866 section 6.7: it holds for m-lines without their own)."""
        return _direction(self.session) or "sendrecv"

    def address_of(self, media: Media) -> tuple[str, str]:
        """Return the address and port at which the m-line wants its media."""
        return media.connection or self.connection, media.port

    def to_bytes(self) -> bytes:
        """Write it with CRLF line ends."""
        lines = list(self.session)
        for media in self.media:
            lines.append(f"m={media.kind} {media.port} {media.protocol} {' '.join(media.formats)}")
            lines.extend(media.lines)
        lines.append("")
        return "\r\n".join(lines).encode("utf-8", "surrogateescape")


def parse_sdp(body: bytes) -> SessionDescription:
    """Parse a session description.

    Raises:
        SdpError: it does not start with ``v=0``, a line is not ``x=...``, an m-line is not whole, or it is too long.
    """
    lines = body.decode("utf-8", "surrogateescape").replace("\r\n", "\n").rstrip("\n").split("\n")
    if lines[0] != "v=0":
        raise SdpError("a session description must begin with v=0")
    if len(lines) > _MAX_LINES:
        raise SdpError(f"more than {_MAX_LINES} lines in a session description")
    session: list[str] = []
    media: list[Media] = []
    current = session
    for line in lines:
        if line[1:2] != "=":
            raise SdpError(f"not a line of SDP: {line[:40]!r}")
        if line[0] == "m":
            media.append(_parse_media(line))
            current = media[-1].lines
        else:
            current.append(line)
    if len(session) < 2 or not session[1].startswith("o="):
        raise SdpError("a session description must have an o= line after v=0")
    return SessionDescription(session, media)


def _parse_media(line: str) -> Media:
    parts = line[2:].split()
    if len(parts) < 4 or not parts[1].split("/")[0].isdigit():
        raise SdpError(f"not a whole m-line: {line[:60]!r}")
    return Media(parts[0], parts[1], parts[2], parts[3:])


def _direction(lines: list[str]) -> str:
    for line in lines:
        if line[:2] == "a=" and line[2:] in _DIRECTIONS:
            return line[2:]
    return ""


def _format_of(line: str) -> str:
    """Return the payload type that an attribute line speaks of, or an empty string."""
    if not line.startswith("a="):
        return ""
    name, _, value = line[2:].partition(":")
    return value.partition(" ")[0] if name in _FORMAT_ATTRIBUTES else ""


def opposite(direction: str) -> str:
    """Return how the other side calls a direction (RFC 3264 section 6.1)."""
    return _OPPOSITE[direction]


def split_origin(body: bytes) -> tuple[bytes, bytes]:
    """Return what stands before and after the ``o=`` line: all that may change without a new meaning is in between.

    Raises:
        SdpError: there is no o= line.
    """
    start = body.find(b"\no=")
    if start < 0:
        raise SdpError("a session description must have an o= line")
    end = body.find(b"\n", start + 1)
    if end < 0:
        raise SdpError("a session description ends at its o= line")
    return body[: start + 1], body[end + 1 :]


class Origin:
    """Our own ``o=`` line towards one party: constant but for the version.

    RFC 3264 section 8: the version rises by one whenever the body differs from the last one sent, offers that were
    refused included, and stays when the same body is sent again.
    """

    __slots__ = ("_address", "_last", "_session_id", "version")

    def __init__(self, session_id: int, address: str) -> None:
        self._session_id = session_id
        self._address = f"{'IP6' if ':' in address else 'IP4'} {address}"
        self._last: tuple[bytes, bytes] | None = None
        self.version = 0

    def would_change(self, body: bytes) -> bool:
        """Whether ``body`` differs from the last one sent, but for its o= line."""
        return split_origin(body) != self._last

    def stamp(self, body: bytes) -> bytes:
        """Return ``body`` with our o= line, at the version that it must carry; it counts as sent."""
        parts = split_origin(body)
        if parts != self._last:
            self._last = parts
            self.version += 1
        line = f"o=- {self._session_id} {self.version} IN {self._address}\r\n".encode()
        return parts[0] + line + parts[1]
