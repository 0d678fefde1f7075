"""SRTP of a phone: libsrtp, with keys in the session description (RFC 4568) and the one suite that all know."""

import base64
import os
from typing import Final

from pylibsrtp import Error, Policy, Session

SUITE: Final = b"AES_CM_128_HMAC_SHA1_80"
_KEY_BYTES: Final = 30
"""Master key and salt (RFC 4568 section 6.2.1)."""


def new_key() -> bytes:
    """Make a key, as it stands in a crypto line."""
    return base64.b64encode(os.urandom(_KEY_BYTES))


class Srtp:
    """Both directions of one phone's media. Another key means another one of these: the packet index begins anew."""

    __slots__ = ("_receiving", "_sending", "keys")

    def __init__(self, own: bytes, theirs: bytes) -> None:
        self.keys = (own, theirs)
        profile = Policy.SRTP_PROFILE_AES128_CM_SHA1_80
        self._sending = Session(Policy(base64.b64decode(own), Policy.SSRC_ANY_OUTBOUND, 0, profile))
        self._receiving = Session(Policy(base64.b64decode(theirs), Policy.SSRC_ANY_INBOUND, 0, profile))

    def protect(self, packet: bytes) -> bytes:
        """Encrypt a packet of RTP, and sign it."""
        return self._sending.protect(packet)

    def unprotect(self, packet: bytes) -> bytes:
        """Return the packet of RTP; nothing if its signature is not of the other side's key."""
        try:
            return self._receiving.unprotect(packet)
        except Error:
            return b""
