"""Canonical header names: ``Call-ID`` for ``call-id``, ``CALL-ID`` and ``i``."""

from __future__ import annotations

from typing import Final

from kedge.sip.headers import is_token

_MAX_CACHED_NAMES: Final = 1024
_MAX_CACHED_LENGTH: Final = 48

_CANONICAL: Final = (  # noqa: SIM905 - reads better as text
    "Accept Accept-Contact Accept-Encoding Accept-Language Alert-Info Allow Allow-Events Answer-Mode "
    "Authentication-Info Authorization Call-ID Call-Info Contact Content-Disposition Content-Encoding "
    "Content-Language Content-Length Content-Type CSeq Date Diversion Error-Info Event Expires Feature-Caps "
    "Flow-Timer From Geolocation Geolocation-Error Geolocation-Routing History-Info Identity Identity-Info "
    "Info-Package In-Reply-To Join Max-Breadth Max-Forwards MIME-Version Min-Expires Min-SE Organization "
    "P-Access-Network-Info P-Answer-State P-Asserted-Identity P-Associated-URI P-Called-Party-ID "
    "P-Charging-Function-Addresses P-Charging-Vector P-Early-Media P-Preferred-Identity P-Visited-Network-ID "
    "Path Permission-Missing Priority Privacy Proxy-Authenticate Proxy-Authorization Proxy-Require RAck Reason "
    "Record-Route Recv-Info Refer-Sub Refer-To Referred-By Reject-Contact Remote-Party-ID Replaces Reply-To "
    "Request-Disposition Require Resource-Priority Retry-After Route RSeq Security-Client Security-Server "
    "Security-Verify Server Service-Route Session-Expires SIP-ETag SIP-If-Match Subject Subscription-State "
    "Supported Suppress-If-Match Target-Dialog Timestamp To Trigger-Consent Unsupported User-Agent "
    "User-to-User Via Warning WWW-Authenticate"
).split()

_COMPACT: Final = {
    "a": "Accept-Contact",
    "b": "Referred-By",
    "c": "Content-Type",
    "d": "Request-Disposition",
    "e": "Content-Encoding",
    "f": "From",
    "i": "Call-ID",
    "j": "Reject-Contact",
    "k": "Supported",
    "l": "Content-Length",
    "m": "Contact",
    "n": "Identity-Info",
    "o": "Event",
    "r": "Refer-To",
    "s": "Subject",
    "t": "To",
    "u": "Allow-Events",
    "v": "Via",
    "x": "Session-Expires",
    "y": "Identity",
}

_BY_LOWER: Final[dict[str, str]] = {name.lower(): name for name in _CANONICAL} | _COMPACT
_KNOWN: Final[dict[str, str]] = {name: name for name in _CANONICAL} | _BY_LOWER
CACHE: Final[dict[str, str]] = dict(_KNOWN)
"""Names as they come to canonical names. Emptied down to ``_KNOWN`` when a peer fills it with inventions."""


def canonical_name(raw: str) -> str:
    """Return the canonical form of a header name as it stands before the colon, or ``""`` if it is none.

    Compact forms are expanded; unknown names get a capital after each hyphen.
    """
    name = CACHE.get(raw)
    if name is None:
        name = _name_of(raw)
        if name and len(raw) <= _MAX_CACHED_LENGTH:
            if len(CACHE) >= _MAX_CACHED_NAMES:
                CACHE.clear()
                CACHE.update(_KNOWN)
            CACHE[raw] = name
    return name


def _name_of(raw: str) -> str:
    bare = raw.rstrip(" \t")  # "Subject :" is legal (RFC 3261 section 25.1, HCOLON)
    if not is_token(bare):
        return ""
    lower = bare.lower()
    known = _BY_LOWER.get(lower)
    return known if known is not None else "-".join([part.capitalize() for part in lower.split("-")])
