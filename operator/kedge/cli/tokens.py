"""Which tokens the settings mean: those that the admin API asks for, and the one that the operator sends."""

from __future__ import annotations

from aiohttp.typedefs import Middleware

from kedge.adapters.admin_guard import AdminGuard
from kedge.adapters.token_file import Bearer, TokenFile
from kedge.api.admin import Admin
from kedge.runtime.stats import Stats


def guard_of(admin: Admin | None, stats: Stats) -> Middleware | None:
    """Return who guards the admin API; nobody where the settings ask for no token, which is for loopback alone.

    Raises:
        TokenFileError: a file with tokens cannot be used.
    """
    if admin is None or not admin.token_file:
        return None
    report = admin.report_token_file
    return AdminGuard(
        _full(admin), TokenFile(report, name="admin.reportTokenFile").load() if report else None, stats
    ).middleware


def bearer_of(admin: Admin | None) -> Bearer:
    """Return what gives the token to ask signaling pods with; raises TokenFileError."""
    return _full(admin).first if admin is not None and admin.token_file else str


def _full(admin: Admin) -> TokenFile:
    return TokenFile(admin.token_file, name="admin.tokenFile").load()
