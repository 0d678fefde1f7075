"""Unguessable identifiers: tags, branches, Call-IDs, ng cookies.

They are random over processes and restarts: two workers that count from one would share a relay's reply cache, and
tags must not be guessed (RFC 3261 section 19.3 asks for 32 bits of randomness; these have 64).
"""

from __future__ import annotations

import secrets
from typing import Final

BRANCH_COOKIE: Final = "z9hG4bK"
"""The start of every RFC 3261 branch (section 8.1.1.7)."""


class Ids:
    """Makes identifiers; tests pass a subclass that counts instead."""

    __slots__ = ()

    def token(self) -> str:
        """Return 16 hexadecimal digits from the system's random source."""
        return secrets.token_hex(8)

    def branch(self) -> str:
        """Return a branch parameter for a Via of our own."""
        return BRANCH_COOKIE + self.token()


class CountingIds(Ids):
    """Predictable identifiers for tests and golden files: ``t1``, ``t2`` and so on."""

    __slots__ = ("_count",)

    def __init__(self) -> None:
        self._count = 0

    def token(self) -> str:
        """Return the next token."""
        self._count += 1
        return f"t{self._count}"
