"""URIs as SIP uses them: ``sip:``, ``sips:``, and anything else by its scheme and the rest.

Nothing is unescaped: what was parsed is written back as it came (parameter names in lower case).
"""

from __future__ import annotations

import re
from typing import Final

from kedge.base.address import host_for_uri
from kedge.sip.errors import URI, ParseError

_HOST: Final = re.compile(r"[A-Za-z0-9._-]+")
_IPV6: Final = re.compile(r"[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")


class SipUri:
    """A URI in parts.

    Attributes:
        scheme: In lower case: ``sip``, ``sips``, ``tel``, ``urn`` and others.
        user: The user part as it came; for other schemes than SIP's all that precedes the parameters.
        password: The password, or None.
        host: Name or literal address, without the brackets of IPv6; empty for other schemes than SIP's.
        port: The port, or None.
        params: Parameters by lower-case name, None where there is no ``=``.
        headers: What follows ``?``, as it came.
    """

    __slots__ = ("headers", "host", "params", "password", "port", "scheme", "user")

    def __init__(
        self,
        scheme: str,
        user: str,
        host: str,
        port: int | None = None,
        params: dict[str, str | None] | None = None,
        headers: str = "",
        password: str | None = None,
    ) -> None:
        self.scheme = scheme
        self.user = user
        self.password = password
        self.host = host
        self.port = port
        self.params: dict[str, str | None] = {} if params is None else params
        self.headers = headers

    def __str__(self) -> str:
        text = self.scheme + ":" + self.user
        if self.password is not None:
            text += ":" + self.password
        if self.host:
            text += ("@" if self.user or self.password is not None else "") + host_for_uri(self.host)
        if self.port is not None:
            text += f":{self.port}"
        text += format_params(self.params)
        return f"{text}?{self.headers}" if self.headers else text


def parse_uri(text: str) -> SipUri:
    """Read a URI.

    Raises:
        ParseError: It has no scheme, or a SIP URI has no valid host and port.
    """
    scheme, colon, rest = text.partition(":")
    if not colon or _SCHEME.fullmatch(scheme) is None:
        raise ParseError(URI, f"no scheme in {text[:80]!r}")
    scheme = scheme.lower()
    if scheme not in ("sip", "sips"):
        return _parse_other(scheme, rest)
    user, at, after = rest.partition("@")  # a user part may hold ; and ? but no @ (RFC 3261 section 25.1)
    if not at:
        user, after = "", rest
    name, has_password, password = user.partition(":")
    after, _, headers = after.partition("?")
    hostport, _, params = after.partition(";")
    host, port = split_host_port(hostport)
    if not host:
        raise ParseError(URI, f"no valid host in {text[:80]!r}")
    return SipUri(
        scheme, name, host, port, parse_params(params) if params else None, headers, password if has_password else None
    )


def _parse_other(scheme: str, rest: str) -> SipUri:
    if not rest:
        raise ParseError(URI, f"nothing after {scheme}:")
    user, _, params = rest.partition(";")
    return SipUri(scheme, user, "", None, parse_params(params) if params else None)


def split_host_port(text: str) -> tuple[str, int | None]:
    """Return host (without the brackets of IPv6) and port; host ``""`` if either is malformed.

    White space around the colon is legal in a Via (RFC 3261 section 25.1, COLON).
    """
    text = text.strip(" \t")
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        rest = rest.strip(" \t")
        if not closed or _IPV6.fullmatch(host) is None or (rest and not rest.startswith(":")):
            return "", None
        colon, digits = rest[:1], rest[1:]
    else:
        host, colon, digits = text.partition(":")
        host = host.rstrip(" \t")
        if _HOST.fullmatch(host) is None:
            return "", None
    if not colon:
        return host, None
    port = decimal(digits.lstrip(" \t"), 65535)
    return (host, port) if port > 0 else ("", None)


def decimal(text: str, most: int) -> int:
    """Return the ASCII digits of ``text`` as a number from 0 to ``most``, or -1 if it is none."""
    if not text.isdigit() or not text.isascii() or len(text) > 19:
        return -1
    number = int(text)
    return number if number <= most else -1


def parse_params(text: str) -> dict[str, str | None]:
    """Read ``;name=value;flag`` (the first ``;`` may be missing); names in lower case, the first of equals wins."""
    params: dict[str, str | None] = {}
    for piece in text.split(";") if '"' not in text else split_quoted(text, ";"):
        name, equals, value = piece.partition("=")
        name = name.strip(" \t").lower()
        if name and name not in params:
            params[name] = value.strip(" \t") if equals else None
    return params


def format_params(params: dict[str, str | None]) -> str:
    """Write parameters, each with its leading ``;``."""
    text = ""
    for name, value in params.items():
        text += f";{name}" if value is None else f";{name}={value}"
    return text


def split_quoted(text: str, separator: str) -> list[str]:
    """Split at each ``separator`` (one character) that stands neither in quotes nor between ``<`` and ``>``."""
    pieces: list[str] = []
    start = index = 0
    end = len(text)
    while index < end:
        char = text[index]
        if char == '"':
            index = quoted_end(text, index)
            if index < 0:
                break  # never closed: the rest is one piece
            continue
        if char == "<":
            index = text.find(">", index)
            if index < 0:
                break
        elif char == separator:
            pieces.append(text[start:index])
            start = index + 1
        index += 1
    pieces.append(text[start:])
    return pieces


def quoted_end(text: str, start: int) -> int:
    """Return the index after the quoted string that opens at ``start``, or -1 if it is never closed."""
    index = start + 1
    quote = text.find('"', index)
    while quote >= 0:
        escape = text.find("\\", index, quote)
        if escape < 0:
            return quote + 1
        index = escape + 2  # what follows a backslash is itself (RFC 3261 section 25.1, quoted-pair)
        if index > quote:
            quote = text.find('"', index)
    return -1
