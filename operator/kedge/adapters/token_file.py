"""Tokens of the admin API in a file, such as a mounted Secret: one a line, read again when the file has changed.

All lines are valid, and the first is the one that is sent; so a token is changed without a gap in three steps: the new
one as second line, the two lines swapped, the old one taken out. A file that cannot be used any more is logged, and the
last good tokens stand. No token is ever part of an error, a log line or a ``repr``.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from kedge.adapters.file_stamp import Stamp, stamp
from kedge.base.errors import KedgeError

SHORTEST: Final = 16
"""Characters; a shorter token could be guessed."""
_MOST_BYTES: Final = 65536
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""RFC 6750 section 2.1: ``b64token``."""
_log = logging.getLogger(__name__)

Bearer = Callable[[], str]
"""Returns the token to send now; empty for none."""


class TokenFileError(KedgeError):
    """A file has no tokens that could be used; says which file and why. For who runs the process to mend."""


class TokenFile:
    """One file; ``name`` is what errors call it: the field or option that it comes from."""

    def __init__(self, path: str | Path, *, name: str) -> None:
        self._path = Path(path)
        self._name = name
        self._seen: Stamp | None = None
        self._tokens: tuple[str, ...] = ()
        self._trouble = ""

    def load(self) -> TokenFile:
        """Read it now, and return itself.

        Raises:
            TokenFileError: it is missing or empty, or a line in it is no token.
        """
        self._seen = stamp(self._path)
        self._tokens = self._read()
        return self

    @property
    def tokens(self) -> tuple[str, ...]:
        """What the file says, or said when it was last good; never raises."""
        found = stamp(self._path)
        if found != self._seen or found is None:
            self._seen = found
            self._read_again()
        return self._tokens

    def first(self) -> str:
        """Return the token to send; empty while there is none."""
        return next(iter(self.tokens), "")

    def _read_again(self) -> None:
        had = self._tokens
        try:
            self._tokens = self._read()
        except TokenFileError as error:
            if str(error) != self._trouble:
                stands = "the tokens known last stand" if had else "there is no token yet"
                _log.error("%s; %s", error, stands)
            self._trouble = str(error)
            return
        if self._trouble or self._tokens != had:
            _log.info("%s: %s is read: %d valid now", self._name, self._path, len(self._tokens))
        self._trouble = ""

    def _read(self) -> tuple[str, ...]:
        try:
            with self._path.open("rb") as file:
                text = file.read(_MOST_BYTES + 1)
        except OSError as error:
            raise self._error(error.strerror or type(error).__name__) from None
        if len(text) > _MOST_BYTES:
            raise self._error(f"is longer than {_MOST_BYTES} bytes")
        lines = [line.strip() for line in text.decode("ascii", errors="replace").splitlines()]
        for number, line in enumerate(lines, 1):
            if line and not (_TOKEN.fullmatch(line) and len(line) >= SHORTEST):
                raise self._error(f"line {number} is no token: {SHORTEST} or more of A-Z a-z 0-9 . _ ~ + / - =")
        found = tuple(line for line in lines if line)
        if not found:
            raise self._error("holds no token")
        return found

    def _error(self, why: str) -> TokenFileError:
        return TokenFileError(f"{self._name}: {self._path}: {why}")


def authorization(token: str) -> dict[str, str]:
    """Return the header that carries a token; none for an empty one."""
    return {"Authorization": f"Bearer {token}"} if token else {}
