"""Offer/answer (RFC 3264) as re-anchoring needs it: what is in force, what changed, what may be sent.

A leg's **in-force pair** is L, the description we sent, and R, the one we received, whoever offered. To put a call on
another relay, its in-force descriptions are replayed there. They are pruned to L∩R first (``agree``): an answer that is
offered again as it came brings back codecs, and an offer media, that were never agreed.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Final, TypeAlias

from kedge.base.errors import KedgeError
from kedge.sip.sdp import Media, SessionDescription, parse_sdp, split_origin

MediaSignature: TypeAlias = tuple[bool, str, str, tuple[tuple[str, str, str], ...], str, tuple[str, ...]]

_SETUP: Final = {"actpass", "active", "passive", "holdconn"}
_ENCRYPTED: Final = {"RTP/AVP": "RTP/SAVP", "RTP/AVPF": "RTP/SAVPF"}
_PLAIN: Final = {encrypted: plain for plain, encrypted in _ENCRYPTED.items()}
_COMMON_SUITES: Final = frozenset({"AES_CM_128_HMAC_SHA1_80", "AES_CM_128_HMAC_SHA1_32"})
"""The crypto suites that every phone with SRTP knows (RFC 4568 section 6.2).

A relay offers a dozen, which would not fit into one packet; and phones read the keys of others in different ways, as
their base64 needs padding, which rtpengine leaves out.
"""


class UnfitDescriptionError(KedgeError):
    """What a relay gave back may not be sent to the phone: the detail says which rule it breaks."""


def is_encrypted(body: bytes) -> bool:
    """Whether a description has SRTP in it."""
    return b"/SAVP" in body


def profile_of(body: bytes) -> str:
    """Return the profile of the RTP that is on (``RTP/AVP``, ``RTP/SAVP``...); empty for none, and for several."""
    found = {media.protocol for media in parse_sdp(body).media if media.enabled and "RTP/" in media.protocol}
    return found.pop() if len(found) == 1 else ""


def counterpart(profile: str, *, encrypted: bool) -> str:
    """Return the same profile with SRTP whose keys are in the description (RFC 4568), or without.

    Empty where there is none: keys that are agreed in the media path (``UDP/TLS/RTP/SAVP``) are no relay's to make.
    """
    table = _ENCRYPTED if encrypted else _PLAIN
    return profile if profile in table.values() else table.get(profile, "")


def keep_common_suites(body: bytes) -> bytes:
    """Return a relay's offer with those crypto lines only that phones know; unchanged where it has none of them."""
    if b"\na=crypto:" not in body:
        return body
    description = parse_sdp(body)
    pruned = [_prune_crypto(media, _COMMON_SUITES) for media in description.media]
    return description.to_bytes() if any(pruned) else body


def agree(local: bytes, remote: bytes) -> tuple[bytes, bytes]:
    """Return a leg's L and R as they are in force, whoever offered.

    An m-line that one side has off is off in both: who refused video once is not to be offered it again, and a relay
    switches it off for the other side too. R has only those formats that L has too; an m-line without a common format
    is left as it is, for the relay's output check to find fault. Of crypto suites both have those that both name.
    """
    ours, theirs = parse_sdp(local), parse_sdp(remote)
    local_changed = remote_changed = False
    for mine, other in zip(ours.media, theirs.media, strict=False):
        if mine.enabled and other.enabled:
            suites = _suites(mine), _suites(other)
            remote_changed |= _prune_formats(other, mine) | _prune_crypto(other, suites[0])
            local_changed |= _prune_crypto(mine, suites[1])
        elif mine.enabled:
            mine.port, local_changed = "0", True
        elif other.enabled:
            other.port, remote_changed = "0", True
    return ours.to_bytes() if local_changed else local, theirs.to_bytes() if remote_changed else remote


def drop_unasked_keys(answer: bytes, offer: bytes) -> bytes:
    """Return an answer without keys, if there were none in the offer (RFC 4568 section 5.1.2); no offer, no change.

    Phones that leave SRTP to the other side send keys all the same and then speak RTP; a relay would take it for SRTP.
    """
    if b"\na=crypto:" not in answer or not offer or b"\na=crypto:" in offer:
        return answer
    return b"".join(line for line in answer.splitlines(keepends=True) if not line.startswith(b"a=crypto:"))


def keep_suites(body: bytes, mate: bytes) -> bytes:
    """Return a description with those crypto lines only whose suite ``mate`` names too.

    One side of a pair offers many and the other takes one: that is the suite in force, and what relays add of their own
    to an offer is none of it.
    """
    if b"\na=crypto:" not in body:
        return body
    description, other = parse_sdp(body), parse_sdp(mate)
    pairs = zip(description.media, other.media, strict=False)
    pruned = [_prune_crypto(media, _suites(mate)) for media, mate in pairs]
    return description.to_bytes() if any(pruned) else body


def _prune_formats(media: Media, mate: Media) -> bool:
    keep = _common_formats(media, mate)
    if not keep or len(keep) == len(media.formats):
        return False
    media.keep_formats(keep)
    return True


def _suites(media: Media) -> set[str]:
    return {_crypto_suite(value) for value in media.attributes("crypto")}


def _prune_crypto(media: Media, ours: AbstractSet[str]) -> bool:
    """Keep the crypto lines of these suites, if there are any (RFC 4568 section 5.1.2)."""
    theirs = media.attributes("crypto")
    keep = [value for value in theirs if _crypto_suite(value) in ours]
    if not keep or len(keep) == len(theirs):
        return False
    dropped = {f"a=crypto:{value}" for value in theirs if value not in keep}
    media.lines = [line for line in media.lines if line not in dropped]
    return True


def _crypto_suite(value: str) -> str:
    parts = value.split()
    return parts[1] if len(parts) > 1 else ""


def signature(body: bytes) -> tuple[MediaSignature, ...]:
    """Return N: what a description means, without address, port, ICE or ptime.

    Per m-line: on or off, kind, protocol, (payload type, encoding, fmtp) of each format, direction, crypto suites with
    their keys (a party may take other ones later: RFC 4568 section 7.1.4).
    """
    description = parse_sdp(body)
    return tuple(_media_signature(media, description) for media in description.media)


def _media_signature(media: Media, description: SessionDescription) -> MediaSignature:
    if not media.enabled:
        return (False, media.kind, "", (), "", ())
    formats = tuple((one, media.encoding(one), media.parameters(one)) for one in media.formats)
    direction = media.direction(description.direction)
    if "0.0.0.0" in (media.connection, description.connection):
        direction += " hold"  # RFC 2543 hold: the address itself carries a meaning
    keys = tuple(media.attributes("crypto"))
    return (True, media.kind, media.protocol, formats, direction, keys)


def same_meaning(one: bytes, other: bytes) -> bool:
    """Whether two descriptions agree in N; equal but for ``o=`` is seen without parsing."""
    return same_but_origin(one, other) or signature(one) == signature(other)


def same_but_origin(one: bytes, other: bytes) -> bool:
    """Whether two descriptions are the same, byte for byte, but for their o= lines."""
    return one == other or split_origin(one) == split_origin(other)


def same_addresses(one: bytes, other: bytes) -> bool:
    """Whether media is wanted at the same addresses and ports."""
    if same_but_origin(one, other):
        return True
    first, second = parse_sdp(one), parse_sdp(other)
    return [first.address_of(media) for media in first.media] == [second.address_of(media) for media in second.media]


def is_plausible(output: bytes, given: bytes) -> bool:
    """Whether a relay can have made ``output`` of ``given``: whole, with as many m-lines. Parses nothing."""
    return (
        output.startswith(b"v=0")
        and b"\no=" in output
        and output.endswith(b"\n")
        and output.count(b"\nm=") == given.count(b"\nm=")
    )


def check_relay_output(output: bytes, local: bytes, remote: bytes, profile: str = "") -> None:
    """Check what a relay gave for a leg against the leg's in-force pair, before it is sent.

    The same m-lines in the same order; what is off stays off; formats a subset of L∩R, with the payload types of either
    side; a legal ``a=setup``; crypto suites no others than those in force. ``profile`` is the RTP profile that it was
    asked for, where that is another one than in force: then keys are new, and must be there if it is encrypted.

    Raises:
        UnfitDescriptionError: names the m-line and the rule.
    """
    if not profile and _differs_only_in_addresses(output, local):
        return
    new, ours, theirs = parse_sdp(output), parse_sdp(local), parse_sdp(remote)
    if len(new.media) != len(ours.media):
        raise UnfitDescriptionError(f"{len(new.media)} m-lines instead of {len(ours.media)}")
    for index, media in enumerate(new.media):
        mate = theirs.media[index] if index < len(theirs.media) else ours.media[index]
        _check_media(index + 1, media, ours.media[index], mate, profile)


def _differs_only_in_addresses(output: bytes, local: bytes) -> bool:
    """The fast path: line by line the same, but for o=, c=, a=rtcp and the port of an m-line that is on."""
    if output.count(b"\n") != local.count(b"\n"):
        return False
    for new, old in zip(output.split(b"\n"), local.split(b"\n"), strict=True):
        if new == old:
            continue
        start = new[:2]
        if start != old[:2]:
            return False
        if start == b"m=":
            if not _same_media_line(new, old):
                return False
        elif not (start in (b"o=", b"c=") or (new.startswith(b"a=rtcp:") and old.startswith(b"a=rtcp:"))):
            return False
    return True


def _same_media_line(new: bytes, old: bytes) -> bool:
    first, second = new.split(b" ", 2), old.split(b" ", 2)
    on = first[1] != b"0" and second[1] != b"0"
    return first[0] == second[0] and first[2:] == second[2:] and (on or first[1] == second[1])


def _check_media(number: int, new: Media, ours: Media, theirs: Media, profile: str) -> None:
    if new.kind != ours.kind:
        raise UnfitDescriptionError(f"m-line {number} is {new.kind} instead of {ours.kind}")
    if not ours.enabled:
        if new.enabled:
            raise UnfitDescriptionError(f"m-line {number} is off and must stay so")
        return
    if not new.enabled:
        raise UnfitDescriptionError(f"m-line {number} is in use and came back with port 0")
    protocol = profile if profile and "RTP/" in ours.protocol else ours.protocol
    if new.protocol != protocol:
        raise UnfitDescriptionError(f"m-line {number} is {new.protocol} instead of {protocol}")
    agreed = {
        (one, side.encoding(one))
        for side, other in ((ours, theirs), (theirs, ours))
        for one in _common_formats(side, other)
    }
    for one in new.formats:
        if agreed and (one, new.encoding(one)) not in agreed:
            raise UnfitDescriptionError(f"m-line {number} has format {one}, which is not agreed")
    if protocol == ours.protocol:
        for suite in _suites(new) - _suites(ours):
            raise UnfitDescriptionError(f"m-line {number} has crypto suite {suite}, not in force")
    elif protocol in _PLAIN and not new.attributes("crypto"):
        raise UnfitDescriptionError(f"m-line {number} is {protocol} without a key")
    for value in new.attributes("setup"):
        if value.strip() not in _SETUP:
            raise UnfitDescriptionError(f"m-line {number} has a=setup:{value}")


def _common_formats(media: Media, mate: Media) -> set[str]:
    """Return those formats that ``mate`` has too: under the same payload type, or else under one of its own.

    An answer should keep the numbers of its offer, but need not (RFC 3264 section 6.1).
    """
    theirs = {(one, mate.encoding(one)) for one in mate.formats}
    same = {one for one in media.formats if (one, media.encoding(one)) in theirs}
    left = {encoding for _, encoding in theirs} - {media.encoding(one) for one in same}
    return same | {one for one in media.formats if media.encoding(one) in left}


def with_addresses_of(local: bytes, output: bytes) -> bytes:
    """Return L exactly as it was, but with addresses, ports and keys of a relay's output.

    For a phone that refused the pruned offer (488): it gets the very description that it had agreed to once.
    """
    old, new = parse_sdp(local), parse_sdp(output)
    for media, mate in zip(old.media, new.media, strict=False):
        if media.enabled:
            media.port = mate.port
        address = mate.connection or new.connection
        media.lines = [_moved(line, address, mate) for line in media.lines]
    old.session = [_moved(line, new.connection or new.media[0].connection, None) for line in old.session]
    return old.to_bytes()


def _moved(line: str, address: str, mate: Media | None) -> str:
    if line.startswith("c=") and not line.endswith(" 0.0.0.0"):
        return f"c=IN {'IP6' if ':' in address else 'IP4'} {address}"
    if line.startswith("a=rtcp:") and mate is not None:
        values = mate.attributes("rtcp")
        return f"a=rtcp:{values[0]}" if values else line
    if line.startswith("a=crypto:") and mate is not None:
        suite = _crypto_suite(line)
        return next((f"a=crypto:{one}" for one in mate.attributes("crypto") if _crypto_suite(one) == suite), line)
    return line
