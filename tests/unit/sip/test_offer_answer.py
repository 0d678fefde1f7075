"""What is pruned, what counts as the same, and what of a relay's output may be sent."""

from __future__ import annotations

import pytest

from kedge.sip.offer_answer import (
    UnfitDescriptionError,
    check_relay_output,
    is_plausible,
    keep_suites,
    prune,
    same_addresses,
    same_meaning,
    with_addresses_of,
)
from kedge.sip.sdp import parse_sdp


def sdp(
    formats: str = "0 8 101", *, port: int = 4000, address: str = "192.0.2.1", kind: str = "audio",
    protocol: str = "RTP/AVP", lines: tuple[str, ...] = (), more: str = "",
) -> bytes:  # fmt: skip
    text = [
        "v=0", "o=- 1 1 IN IP4 192.0.2.1", "s=-", f"c=IN IP4 {address}", "t=0 0",
        f"m={kind} {port} {protocol} {formats}",
    ]  # fmt: skip
    text += ["a=rtpmap:101 telephone-event/8000"] if "101" in formats.split() else []
    return ("\r\n".join([*text, *lines]) + "\r\n" + more).encode()


def formats_of(body: bytes) -> list[str]:
    return parse_sdp(body).media[0].formats


def test_prune_keeps_what_both_have_in_the_order_of_the_remote() -> None:
    assert formats_of(prune(sdp("101 8 0"), sdp("0 101"))) == ["101", "0"]


def test_prune_compares_encodings_not_numbers_alone() -> None:
    theirs = sdp("96 0", lines=("a=rtpmap:96 opus/48000/2",))
    ours = sdp("96 0", lines=("a=rtpmap:96 AMR/8000",))

    assert formats_of(prune(theirs, ours)) == ["0"]


def test_prune_returns_the_same_object_where_nothing_goes() -> None:
    body = sdp()

    assert prune(body, sdp(port=9)) is body


def test_prune_leaves_media_without_anything_in_common_and_media_that_are_off() -> None:
    assert formats_of(prune(sdp("8"), sdp("0"))) == ["8"]
    assert formats_of(prune(sdp("0 8", port=0), sdp("0"))) == ["0", "8"]


def test_prune_keeps_the_suite_in_force() -> None:
    theirs = sdp(lines=("a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:x", "a=crypto:2 AES_256_CM_HMAC_SHA1_80 inline:y"))
    ours = sdp(lines=("a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:z",))

    assert parse_sdp(prune(theirs, ours)).media[0].attributes("crypto") == ["1 AES_CM_128_HMAC_SHA1_80 inline:x"]


def test_a_description_keeps_the_suites_that_the_other_one_names() -> None:
    offered = sdp(lines=("a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:x", "a=crypto:2 AES_256_CM_HMAC_SHA1_80 inline:y"))
    taken = sdp(lines=("a=crypto:2 AES_256_CM_HMAC_SHA1_80 inline:z",))

    kept = parse_sdp(keep_suites(offered, taken)).media[0].attributes("crypto")
    assert kept == ["2 AES_256_CM_HMAC_SHA1_80 inline:y"]
    assert keep_suites(offered, sdp()) == offered, "none is left: not for us to take all keys away"
    assert keep_suites(taken, offered) is taken


def test_a_key_is_part_of_the_meaning() -> None:
    one, other = (sdp(lines=(f"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{key}",)) for key in "xy")
    assert not same_meaning(one, other)
    assert same_meaning(one, one.replace(b"4000", b"5000"))


def test_meaning_is_all_but_addresses_ports_and_ptime() -> None:
    base = sdp()
    assert same_meaning(base, sdp(port=5000, address="192.0.2.7", lines=("a=ptime:30",)))
    assert not same_addresses(base, sdp(port=5000))
    assert not same_meaning(base, sdp("0 101"))
    assert not same_meaning(base, sdp("8 0 101"))
    assert not same_meaning(base, sdp(lines=("a=sendonly",)))
    assert not same_meaning(base, sdp(port=0))
    assert not same_meaning(base, sdp(address="0.0.0.0"))


def test_output_that_only_moves_may_be_sent() -> None:
    check_relay_output(sdp(port=9000, address="192.0.2.9", lines=("a=rtcp:9001",)), sdp(lines=("a=rtcp:4001",)), sdp())
    check_relay_output(sdp("0 101", port=9000), sdp(), sdp("0 101"))


@pytest.mark.parametrize(
    ("output", "rule"),
    [
        (sdp(more="m=video 9 RTP/AVP 96\r\n"), "2 m-lines instead of 1"),
        (sdp("31", kind="video"), "is video instead of audio"),
        (sdp(port=0, lines=("a=x",)), "came back with port 0"),
        (sdp(protocol="RTP/SAVP"), "RTP/SAVP instead of RTP/AVP"),
        (sdp("0 8 9 101"), "format 9"),
        (sdp("0 8"), ""),
        (sdp("0", lines=("a=crypto:1 NEW inline:x",)), "crypto suite NEW"),
        (sdp("0", lines=("a=setup:maybe",)), "a=setup:maybe"),
    ],
)
def test_output_that_may_not_be_sent_names_the_rule(output: bytes, rule: str) -> None:
    if not rule:
        check_relay_output(output, sdp(), sdp())
        return
    with pytest.raises(UnfitDescriptionError, match=rule):
        check_relay_output(output, sdp(), sdp())


def test_what_is_off_stays_off() -> None:
    off = sdp(more="m=image 0 udptl t38\r\n")
    check_relay_output(off.replace(b"4000", b"9000"), off, off)
    with pytest.raises(UnfitDescriptionError, match="m-line 2 is off and must stay so"):
        check_relay_output(sdp(more="m=image 9 udptl t38\r\n"), off, off)


def test_exact_description_with_the_addresses_of_another() -> None:
    old = sdp("0 8 101", lines=("a=rtcp:4001", "a=x-own"), more="m=image 0 udptl t38\r\n")
    new = sdp("0", port=9000, address="192.0.2.9", lines=("a=rtcp:9001",), more="m=image 0 udptl t38\r\n")

    moved = with_addresses_of(old, new)

    assert same_meaning(moved, old)
    assert same_addresses(moved, new)
    assert b"a=rtcp:9001" in moved
    assert b"a=x-own" in moved


def test_hold_by_address_stays_a_hold() -> None:
    assert b"c=IN IP4 0.0.0.0" in with_addresses_of(sdp(address="0.0.0.0"), sdp(port=9000, address="192.0.2.9"))


@pytest.mark.parametrize("output", [b"", b"v=0\r\n", sdp()[:-1], sdp(more="m=image 0 udptl t38\r\n"), b"x" + sdp()])
def test_a_description_that_is_not_whole_is_not_plausible(output: bytes) -> None:
    assert is_plausible(sdp(port=9), sdp())
    assert not is_plausible(output, sdp())
