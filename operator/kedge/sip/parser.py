"""Reads one datagram into a message.

Strict where leniency would be unsafe: line ends, the headers that identify a transaction and a dialog, CSeq,
Content-Length, sizes. Tolerant elsewhere: compact names, folded lines, any case, white space, unknown headers. Values
are kept as they came (UTF-8 with surrogateescape), so what is passed on is the same byte for byte. Bodies are not read.

A request whose Via, From, To, Call-ID and CSeq are there is answerable even when something else is wrong with it: the
``ParseError`` then carries it.
"""

from __future__ import annotations

import re
from typing import Final

from kedge.sip.errors import (
    CONTENT_LENGTH,
    CSEQ,
    DUPLICATE_HEADER,
    HEADER_LINE,
    KEEPALIVE,
    LINE_ENDING,
    LINE_TOO_LONG,
    MISSING_HEADER,
    START_LINE,
    TOO_LARGE,
    TOO_MANY_HEADERS,
    TRUNCATED,
    VERSION,
    ParseError,
)
from kedge.sip.headers import find_branch, find_tag, first_of, is_token, parse_cseq, parse_via
from kedge.sip.message import Message, Request, Response
from kedge.sip.names import CACHE, canonical_name
from kedge.sip.uri import decimal

MAX_HEADERS: Final = 256
"""Header rows in one message."""

MAX_LINE: Final = 8192
"""Characters in one line, after unfolding."""

_MANDATORY: Final = ("Via", "From", "To", "Call-ID", "CSeq")
_SINGLE: Final = (
    "From",
    "To",
    "Call-ID",
    "CSeq",
    "Content-Length",
    "Content-Type",
    "Max-Forwards",
    "Expires",
    "RAck",
    "RSeq",
    "Replaces",
    "Refer-To",
    "Session-Expires",
)
"""Headers of which two would mean two things to two readers."""

MAX_DATAGRAM: Final = 65535
"""Bytes: no datagram is longer."""
_FOLD: Final = re.compile(r"\r\n[ \t]+")
_URI_START: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[^<>\"\s]+")


def is_keepalive(data: bytes) -> bool:
    """Whether a datagram holds no message: empty, or only CR, LF and NUL (RFC 5626 section 3.5.1, and habits)."""
    return len(data) <= 4 and not data.strip(b"\r\n\0")


def parse_message(data: bytes, *, max_bytes: int = MAX_DATAGRAM) -> Request | Response:
    """Read one datagram of at most ``max_bytes``.

    Raises:
        ParseError: With a reason from ``PARSE_REASONS``, and the request if it can be answered.
    """
    if len(data) > max_bytes:
        raise ParseError(TOO_LARGE, f"{len(data)} bytes")
    if data.startswith((b"\r", b"\n", b"\0")) or not data:
        data = _without_leading_line_ends(data)
    end = data.find(b"\r\n\r\n")
    if end < 0:
        raise ParseError(TRUNCATED, "no empty line after the headers")
    head = data[:end].decode("utf-8", "surrogateescape")
    if "\r\n " in head or "\r\n\t" in head:
        head = _FOLD.sub(" ", head)
    lines = head.split("\r\n")
    _check_lines(head, lines)
    start = lines[0]
    if start.startswith(("SIP/", "sip/")):
        response = _start_response(start)
        fault = _read_headers(response, lines)
        length, fault = _check_headers(response, fault)
        if fault is None:
            fault = _take_body(response, data, end + 4, length)
        if fault is not None:
            raise fault
        return response
    return _read_request(start, lines, data, end + 4)


def _read_request(start: str, lines: list[str], data: bytes, body_at: int) -> Request:
    request, start_fault = _start_request(start)
    fault = _read_headers(request, lines)
    length, fault = _check_headers(request, start_fault or fault)
    if fault is None and request.cseq_method != request.method:
        fault = ParseError(CSEQ, f"{request.cseq_method} in a {request.method[:20]} request")
    if fault is None:
        fault = _take_body(request, data, body_at, length)
    if fault is not None:
        fault.request = request if request.method else None
        raise fault
    return request


def _without_leading_line_ends(data: bytes) -> bytes:
    """RFC 3261 section 7.5: CRLF before the start line is to be ignored."""
    stripped = data.lstrip(b"\r\n")
    if not stripped.strip(b"\r\n\0"):
        raise ParseError(KEEPALIVE, "no message")
    return stripped


def _check_lines(head: str, lines: list[str]) -> None:
    """A lone CR or LF would be a line end to some readers and none to others, so it is one to nobody."""
    if len(lines) > MAX_HEADERS + 1:
        raise ParseError(TOO_MANY_HEADERS, f"{len(lines) - 1} header lines")
    if head.count("\n") != len(lines) - 1 or head.count("\r") != len(lines) - 1:
        raise ParseError(LINE_ENDING, "CR or LF alone")
    if len(head) > MAX_LINE and max([len(line) for line in lines]) > MAX_LINE:
        raise ParseError(LINE_TOO_LONG, f"over {MAX_LINE} characters")


def _start_response(line: str) -> Response:
    version, _, rest = line.partition(" ")
    status, _, reason = rest.partition(" ")
    if version.upper() != "SIP/2.0":
        raise ParseError(VERSION, version[:20])
    number = decimal(status, 699)
    if number < 100 or len(status) != 3:
        raise ParseError(START_LINE, line[:80])
    return Response(number, reason)


def _start_request(line: str) -> tuple[Request, ParseError | None]:
    """Return a request, and what is wrong with its first line; no method means that it cannot be answered."""
    parts = line.split(" ")
    method = parts[0]
    if len(parts) < 3 or not is_token(method) or not parts[-1].upper().startswith("SIP/"):
        if "SIP/" not in line.upper() or not is_token(method):
            raise ParseError(START_LINE, line[:80])
        return Request(method, " ".join(parts[1:])), ParseError(START_LINE, line[:80])
    request = Request(method, parts[1] if len(parts) == 3 else " ".join(parts[1:-1]))
    if parts[-1].upper() != "SIP/2.0":
        return request, ParseError(VERSION, parts[-1][:20], status=505)
    if len(parts) != 3 or _URI_START.fullmatch(request.uri) is None:
        return request, ParseError(START_LINE, line[:80])
    return request, None


def _read_headers(message: Message, lines: list[str]) -> ParseError | None:
    """Fill in names and values; return the first line that is no header, as an error."""
    names, values = message.names, message.values
    cached = CACHE.get
    fault: ParseError | None = None
    del lines[0]
    for line in lines:
        raw, colon, value = line.partition(":")
        name = cached(raw) or canonical_name(raw)
        if not name or not colon:
            fault = fault or ParseError(HEADER_LINE, line[:80])
            continue
        names.append(name)
        values.append(value.strip(" \t"))
    return fault


def _check_headers(message: Message, fault: ParseError | None) -> tuple[int, ParseError | None]:
    """Check and extract what every message must have.

    Returns:
        The Content-Length or -1, and the first error; with the mandatory headers there, errors are returned and not
        raised, because the message can still be answered.

    Raises:
        ParseError: The message cannot even be answered.
    """
    names, values = message.names, message.values
    known = dict(zip(names, values))  # noqa: B905 - of equal length, and in the way of every packet
    via = known.get("Via")
    from_ = known.get("From")
    to = known.get("To")
    call_id = known.get("Call-ID")
    cseq = known.get("CSeq")
    if not via or from_ is None or to is None or not call_id or cseq is None:
        missing = [name for name in _MANDATORY if not known.get(name)]
        raise ParseError(MISSING_HEADER, ", ".join(missing))
    if len(known) != len(names):
        via = values[names.index("Via")]
        fault = fault or _find_duplicate(message)
        if fault is not None:
            from_, to = message.get("From") or "", message.get("To") or ""
            call_id, cseq = message.get("Call-ID") or "", message.get("CSeq") or ""
    if isinstance(message, Request):
        message._via = parse_via(first_of(via))
        message.branch = message._via.branch
    else:
        message.branch = find_branch(via)
    message.call_id = call_id
    try:
        message.cseq, message.cseq_method = parse_cseq(cseq)
        message.from_tag = find_tag(from_)
        message.to_tag = find_tag(to)
    except ParseError as error:
        fault = fault or error
    length = -1
    stated = known.get("Content-Length")
    if stated is not None:
        at = names.index("Content-Length")
        del names[at], values[at]
        length = decimal(stated, 2**31)
        if length < 0:
            fault = fault or ParseError(CONTENT_LENGTH, stated[:80])
    return length, fault


def _find_duplicate(message: Message) -> ParseError | None:
    for name in _SINGLE:
        if message.names.count(name) > 1:
            return ParseError(DUPLICATE_HEADER, name)
    return None


def _take_body(message: Message, data: bytes, start: int, length: int) -> ParseError | None:
    """RFC 3261 section 18.3: a body shorter than stated is an error, what is beyond it is cut off."""
    if length < 0:
        message.body = data[start:]
    elif length > len(data) - start:
        return ParseError(CONTENT_LENGTH, f"{length} stated, {len(data) - start} there")
    else:
        message.body = data[start : start + length]
    return None
