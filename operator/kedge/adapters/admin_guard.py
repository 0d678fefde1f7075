"""Who may ask what of the admin API: a bearer token (RFC 6750) for all of it, another for reports alone.

Everything needs a token but ``/healthz``, ``/readyz`` and ``/metrics``, which kubelets and scrapers ask for. The report
token lies in the pods of relays, the least trusted place; so it opens one door: it can neither read calls nor move or
end them. What is compared are digests, so that the time it takes tells nothing of a token.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Iterable
from enum import StrEnum
from hashlib import sha256
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Middleware

from kedge.adapters.token_file import TokenFile
from kedge.runtime.stats import Stats

OPEN: Final = frozenset(("/healthz", "/readyz", "/metrics"))
"""Paths that need no token."""
EVIDENCE: Final = "/v1/evidence"
"""Where reports go."""
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Refusal(StrEnum):
    """Why a request is refused; values of a metric's label."""

    MISSING = "missing"
    WRONG = "wrong"
    SCOPE = "scope"


_TOLD: Final = {
    Refusal.MISSING: "a bearer token is needed (--token-file or KEDGE_TOKEN_FILE)",
    Refusal.WRONG: "the token is not valid here",
    Refusal.SCOPE: f"this token is for POST {EVIDENCE} alone",
}


class AdminGuard:
    """Lets in who has a token of ``full``, and with one of ``report`` reports only."""

    def __init__(self, full: TokenFile, report: TokenFile | None, stats: Stats) -> None:
        self._full = full
        self._report = report
        self._refused = stats.admin_refused

    @property
    def middleware(self) -> Middleware:
        """For the application that has the routes."""

        @web.middleware
        async def guard(request: web.Request, handler: _Handler) -> web.StreamResponse:
            refusal = self._judge(request)
            if refusal is None:
                return await handler(request)
            self._refused[(refusal.value,)] += 1
            return _refused(refusal)

        return guard

    def _judge(self, request: web.Request) -> Refusal | None:
        resource = request.match_info.route.resource
        path = resource.canonical if resource is not None else ""  # of what would answer, however it was written
        if path in OPEN:
            return None
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            return Refusal.MISSING
        given = _digest(token.strip())
        if _is_among(given, self._full.tokens):
            return None
        if self._report is None or not _is_among(given, self._report.tokens):
            return Refusal.WRONG
        return None if (request.method, path) == ("POST", EVIDENCE) else Refusal.SCOPE


def _digest(token: str) -> bytes:
    return sha256(token.encode(errors="surrogateescape")).digest()


def _is_among(given: bytes, tokens: Iterable[str]) -> bool:
    """Compare with each of them, whatever the first ones give."""
    return sum(hmac.compare_digest(given, _digest(one)) for one in tokens) > 0


def _refused(refusal: Refusal) -> web.Response:
    status = 403 if refusal is Refusal.SCOPE else 401
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    return web.json_response({"error": _TOLD[refusal]}, status=status, headers=headers)
