"""The errors of the SIP boundary.

A peer's fault is a ``ParseError`` with a reason from a closed set, so that it can be counted; nothing that a peer
sends raises anything else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kedge.base.errors import KedgeError

if TYPE_CHECKING:
    from kedge.sip.message import Request

KEEPALIVE: Final = "keepalive"
TOO_LARGE: Final = "too_large"
TRUNCATED: Final = "truncated"
LINE_ENDING: Final = "line_ending"
START_LINE: Final = "start_line"
VERSION: Final = "version"
HEADER_LINE: Final = "header_line"
TOO_MANY_HEADERS: Final = "too_many_headers"
LINE_TOO_LONG: Final = "line_too_long"
MISSING_HEADER: Final = "missing_header"
DUPLICATE_HEADER: Final = "duplicate_header"
VIA: Final = "via"
ADDRESS: Final = "address"
CSEQ: Final = "cseq"
CONTENT_LENGTH: Final = "content_length"
URI: Final = "uri"

PARSE_REASONS: Final = (
    KEEPALIVE,
    TOO_LARGE,
    TRUNCATED,
    LINE_ENDING,
    START_LINE,
    VERSION,
    HEADER_LINE,
    TOO_MANY_HEADERS,
    LINE_TOO_LONG,
    MISSING_HEADER,
    DUPLICATE_HEADER,
    VIA,
    ADDRESS,
    CSEQ,
    CONTENT_LENGTH,
    URI,
)
"""Every ``ParseError.reason``: fit to be a metric label."""


class SipError(KedgeError):
    """Anything that the SIP layer raises."""


class ParseError(SipError):
    """What a peer sent cannot be read, and the fault is the peer's.

    Attributes:
        reason: One of ``PARSE_REASONS``.
        detail: What was wrong, for a log line; may quote the peer's text.
        request: The request, when it is readable enough to be answered, else None.
        status: The SIP status to answer ``request`` with.
    """

    def __init__(self, reason: str, detail: str, *, request: Request | None = None, status: int = 400) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.request = request
        self.status = status
