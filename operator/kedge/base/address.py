"""A transport address, as sockets give and take it."""

from __future__ import annotations

from typing import TypeAlias

Address: TypeAlias = tuple[str, int]
"""Host (a literal IP address) and port of a UDP endpoint."""


def host_for_uri(host: str) -> str:
    """Return ``host`` as it stands in a URI or Via: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def format_address(address: Address) -> str:
    """Return ``host:port``, with brackets around an IPv6 address."""
    return f"{host_for_uri(address[0])}:{address[1]}"
