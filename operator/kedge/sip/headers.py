"""Structured header values: Via, name-addr, CSeq, parameters, comma lists.

They are read when somebody asks, except what every message needs; for that there are ``find_tag`` and
``find_branch``, which look only where they must and agree with the full parsers.
"""

from __future__ import annotations

import re
from typing import Final

from kedge.base.address import host_for_uri
from kedge.sip.errors import ADDRESS, CSEQ, VIA, ParseError
from kedge.sip.uri import (
    decimal,
    format_params,
    parse_params,
    quoted_end,
    split_host_port,
    split_quoted,
)

__all__ = [
    "NameAddr",
    "Via",
    "find_branch",
    "find_tag",
    "format_params",
    "parse_cseq",
    "parse_name_addr",
    "parse_params",
    "parse_via",
    "split_commas",
]

MAX_CSEQ: Final = 2**31 - 1
"""RFC 3261 section 8.1.1.5: a CSeq number is less than 2**31."""

_TOKEN: Final = re.compile(r"[A-Za-z0-9.!%*_+`'~-]+")
_COMMON_TOKENS: Final = frozenset(("UDP", "INVITE", "ACK", "BYE", "CANCEL", "OPTIONS", "UPDATE", "PRACK", "INFO"))
_SPACED_VIA: Final = re.compile(r"SIP[ \t]*/[ \t]*2\.0[ \t]*/[ \t]*([^ \t/;,]+)[ \t]+", re.IGNORECASE)


def is_token(text: str) -> bool:
    """Whether it is a ``token`` of RFC 3261 section 25.1: a method, a header name, a transport."""
    return text in _COMMON_TOKENS or _TOKEN.fullmatch(text) is not None


class Via:
    """One Via value.

    Attributes:
        transport: As it came, ``UDP`` for instance.
        host: The sent-by host, without the brackets of IPv6.
        port: The sent-by port, or None.
        params: All parameters by lower-case name, None where there is no ``=``.
    """

    __slots__ = ("host", "params", "port", "transport")

    def __init__(self, transport: str, host: str, port: int | None, params: dict[str, str | None]) -> None:
        self.transport = transport
        self.host = host
        self.port = port
        self.params = params

    @property
    def branch(self) -> str:
        """The branch, or ``""``."""
        return self.params.get("branch") or ""

    @property
    def received(self) -> str:
        """The address that the request came from, as its receiver noted it, or ``""``."""
        return self.params.get("received") or ""

    @property
    def rport(self) -> int | None:
        """The port that the request came from (RFC 3581), or None: not asked for or not yet filled in."""
        port = decimal(self.params.get("rport") or "", 65535)
        return port if port > 0 else None

    def __str__(self) -> str:
        port = "" if self.port is None else f":{self.port}"
        return f"SIP/2.0/{self.transport} {host_for_uri(self.host)}{port}{format_params(self.params)}"


def parse_via(value: str) -> Via:
    """Read one Via value (not a comma list).

    Raises:
        ParseError: It is not ``SIP/2.0/transport host[:port]`` with parameters.
    """
    space = value.find(" ", 8) if value.startswith("SIP/2.0/") else -1
    if space > 8:
        transport, rest = value[8:space], value[space + 1 :]
    else:
        transport, rest = "", ""
    if not is_token(transport):
        match = _SPACED_VIA.match(value)
        if match is None:
            raise ParseError(VIA, value[:80])
        transport, rest = match.group(1), value[match.end() :]
    sent_by, _, params = rest.partition(";")
    host, port = split_host_port(sent_by)
    if not host:
        raise ParseError(VIA, value[:80])
    return Via(transport, host, port, parse_params(params))


def first_of(value: str) -> str:
    """Return the first value of a comma list."""
    return value if "," not in value else (split_commas(value) or [""])[0]


def find_branch(value: str) -> str:
    """Return the branch of the first Via in a header row, or ``""``.

    Raises:
        ParseError: The row is not a Via.
    """
    start = value.find(";branch=")
    if start < 0 or "," in value or '"' in value:
        return parse_via(first_of(value)).branch
    end = value.find(";", start + 8)
    branch = value[start + 8 :] if end < 0 else value[start + 8 : end]
    return branch.strip(" \t")


class NameAddr:
    """A name-addr or addr-spec with the header's parameters: From, To, Contact, Route, Refer-To.

    Attributes:
        display: The display name as it came, quotes included; ``""`` if none.
        uri: What stands between ``<`` and ``>``, as it came.
        params: The header's parameters (not the URI's) by lower-case name.
    """

    __slots__ = ("display", "params", "uri")

    def __init__(self, display: str, uri: str, params: dict[str, str | None] | None = None) -> None:
        self.display = display
        self.uri = uri
        self.params: dict[str, str | None] = {} if params is None else params

    @property
    def tag(self) -> str:
        """The tag, or ``""``."""
        return self.params.get("tag") or ""

    def __str__(self) -> str:
        space = " " if self.display else ""
        return f"{self.display}{space}<{self.uri}>{format_params(self.params)}"


def parse_name_addr(value: str) -> NameAddr:
    """Read one address (not a comma list).

    Without ``<>`` all parameters belong to the header, not to the URI (RFC 3261 section 20.10).

    Raises:
        ParseError: Quotes or brackets are not closed, or there is no URI.
    """
    opening = _find_bracket(value)
    if opening < 0:
        uri, _, params = value.partition(";")
        return NameAddr("", uri.strip(" \t"), parse_params(params) if params else None)
    closing = value.find(">", opening)
    params = value[closing + 1 :]
    return NameAddr(
        value[:opening].strip(" \t"),
        value[opening + 1 : closing].strip(" \t"),
        parse_params(params) if params else None,
    )


def find_tag(value: str) -> str:
    """Return the tag of a From or To value, or ``""``.

    Raises:
        ParseError: As ``parse_name_addr``.
    """
    opening = _find_bracket(value)
    start = value.find(";") if opening < 0 else value.find(">", opening) + 1
    if start < 0 or start == len(value):
        return ""
    if value.startswith(";tag=", start):
        tag = value[start + 5 :]
        if ";" not in tag and '"' not in tag and " " not in tag and "\t" not in tag:
            return tag
    return parse_params(value[start:]).get("tag") or ""


def _find_bracket(value: str) -> int:
    """Return where ``<`` opens the URI, or -1 for an addr-spec; quotes and brackets are then closed, the URI there."""
    start = 0
    if value.startswith('"'):
        start = quoted_end(value, 0)
        if start < 0:
            raise ParseError(ADDRESS, f"quote not closed in {value[:80]!r}")
    opening = value.find("<", start)
    if opening < 0:
        if start or value.find(":") <= 0 or '"' in value.partition(";")[0]:
            raise ParseError(ADDRESS, f"no URI in {value[:80]!r}")
        return -1
    if value.find('"', start, opening) >= 0:
        raise ParseError(ADDRESS, f"stray quote in {value[:80]!r}")
    if value.find(">", opening) < opening + 2:
        raise ParseError(ADDRESS, f"no URI in {value[:80]!r}")
    return opening


def parse_cseq(value: str) -> tuple[int, str]:
    """Return number and method of a CSeq value.

    Raises:
        ParseError: It is not ``number method``, or the number is not below 2**31.
    """
    parts = value.split()
    if len(parts) == 2:
        number = decimal(parts[0], MAX_CSEQ)
        if number >= 0 and is_token(parts[1]):
            return number, parts[1]
    raise ParseError(CSEQ, value[:80])


def split_commas(value: str) -> list[str]:
    """Split a comma list, respecting quoted strings and ``<>``; empty members are left out."""
    if "," not in value:
        pieces = [value]
    elif '"' not in value and "<" not in value:
        pieces = value.split(",")
    else:
        pieces = split_quoted(value, ",")
    return [piece for piece in (piece.strip(" \t") for piece in pieces) if piece]
