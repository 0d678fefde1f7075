"""Message bodies: the session description among other parts (RFC 5621).

Only the ``application/sdp`` part of a multipart body is Kedge's business; location, ISUP and other parts pass as they
came.
"""

from __future__ import annotations

from kedge.sip.errors import ParseError
from kedge.sip.headers import parse_params
from kedge.sip.message import Message
from kedge.sip.sdp import SdpError

SDP_TYPE = "application/sdp"


class Body:
    """A body, and the session description in it."""

    __slots__ = ("_after", "_before", "content_type", "sdp")

    def __init__(self, content_type: str, sdp: bytes, before: bytes = b"", after: bytes = b"") -> None:
        self.content_type = content_type
        self.sdp = sdp
        """The description, or empty where there is none."""
        self._before = before
        self._after = after

    def with_sdp(self, sdp: bytes) -> tuple[bytes, str]:
        """Return the body with another description in its place, and its Content-Type."""
        return self._before + sdp + self._after, self.content_type


def sdp_of(message: Message) -> Body:
    """Find the session description in a message.

    Raises:
        SdpError: a multipart body cannot be taken apart.
    """
    body = message.body
    content_type = message.get("Content-Type") or ""
    kind = content_type.partition(";")[0].strip().lower()
    if not body:
        return Body(SDP_TYPE, b"")
    if kind == SDP_TYPE:
        return Body(content_type, body)
    if kind.startswith("multipart/"):
        return _from_multipart(content_type, body)
    return Body(content_type, b"", before=body)


def sdp_in(message: Message) -> bytes:
    """Return the session description; one that cannot be found is none."""
    try:
        return sdp_of(message).sdp
    except SdpError:
        return b""


def _from_multipart(content_type: str, body: bytes) -> Body:
    try:
        boundary = parse_params(content_type.partition(";")[2]).get("boundary")
    except ParseError as error:
        raise SdpError(f"multipart body: {error}") from error
    if not boundary:
        raise SdpError("multipart body without a boundary")
    delimiter = b"--" + boundary.strip('"').encode("utf-8", "surrogateescape")
    start = body.find(delimiter)
    while start >= 0:
        head_end = body.find(b"\r\n\r\n", start)
        end = body.find(b"\r\n" + delimiter, start + len(delimiter))
        if head_end < 0 or end < 0:
            break
        if SDP_TYPE.encode() in body[start:head_end].lower():
            begin = head_end + 4
            # The line end before the delimiter belongs to the delimiter (RFC 2046 section 5.1.1).
            return Body(content_type, body[begin:end] + b"\r\n" * (not body[begin:end].endswith(b"\n")),
                        body[:begin], body[end:])  # fmt: skip
        start = end + 2
    return Body(content_type, b"", before=body)
