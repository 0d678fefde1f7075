"""What is pruned, what counts as the same, and what of a relay's output may be sent."""

from __future__ import annotations

import pytest

from kedge.sip.offer_answer import (
    UnfitDescriptionError,
    agree,
    check_relay_output,
    counterpart,
    drop_unasked_keys,
    is_plausible,
    keep_common_suites,
    keep_suites,
    profile_of,
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


def pruned(remote: bytes, local: bytes) -> bytes:
    return agree(local, remote)[1]


def test_what_is_replayed_has_what_both_have_in_the_order_of_the_remote() -> None:
    assert formats_of(pruned(sdp("101 8 0"), sdp("0 101"))) == ["101", "0"]


def test_encodings_are_compared_not_numbers_alone() -> None:
    theirs = sdp("96 0", lines=("a=rtpmap:96 opus/48000/2",))
    ours = sdp("96 0", lines=("a=rtpmap:96 AMR/8000",))

    assert formats_of(pruned(theirs, ours)) == ["0"]


def test_an_encoding_under_another_number_is_the_same_one_if_no_number_fits() -> None:
    events = "a=rtpmap:{} telephone-event/8000"
    offered, answered = sdp("0 8 101"), sdp("0 96", lines=(events.format(96),))
    assert formats_of(pruned(answered, offered)) == ["0", "96"]
    check_relay_output(sdp("0 96", lines=(events.format(96),)), offered, answered)
    with pytest.raises(UnfitDescriptionError, match="format 97"):
        check_relay_output(sdp("0 97", lines=(events.format(97),)), offered, answered)

    profiles = ("a=rtpmap:96 H264/90000", "a=rtpmap:97 H264/90000")
    assert formats_of(pruned(sdp("96 97", lines=profiles), sdp("97", lines=profiles[1:]))) == ["97"]


def test_what_is_in_force_is_the_same_object_where_nothing_goes() -> None:
    body = sdp()

    assert pruned(body, sdp(port=9)) is body
    assert agree(body, sdp("0 8 101 9"))[0] is body, "formats of L stay: they were offered once, and may be again"


def test_media_without_anything_in_common_is_left_for_the_check_of_the_output() -> None:
    assert formats_of(pruned(sdp("8"), sdp("0"))) == ["8"]


@pytest.mark.parametrize(("ours", "theirs"), [(9, 0), (0, 9), (0, 0)])
def test_media_that_one_side_has_off_is_off_in_both(ours: int, theirs: int) -> None:
    video = "m=video {} RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"

    local, remote = agree(sdp(more=video.format(ours)), sdp(more=video.format(theirs)))

    assert [[one.enabled for one in parse_sdp(body).media] for body in (local, remote)] == [[True, False]] * 2
    assert parse_sdp(local).media[0].port == "4000"


def test_both_have_the_suites_that_both_name() -> None:
    theirs = sdp(lines=("a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:x", "a=crypto:2 AES_256_CM_HMAC_SHA1_80 inline:y"))
    ours = sdp(lines=("a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:z",))

    assert parse_sdp(pruned(theirs, ours)).media[0].attributes("crypto") == ["1 AES_CM_128_HMAC_SHA1_80 inline:x"]
    assert parse_sdp(agree(theirs, ours)[0]).media[0].attributes("crypto") == ["1 AES_CM_128_HMAC_SHA1_80 inline:x"]


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


SUITES = tuple(
    f"a=crypto:{tag} {suite} inline:{tag}"
    for tag, suite in enumerate(("AEAD_AES_256_GCM", "AES_CM_128_HMAC_SHA1_80", "AES_CM_128_HMAC_SHA1_32"), start=1)
)


@pytest.mark.parametrize(
    ("output", "rule"),
    [
        (sdp(protocol="RTP/SAVP", lines=SUITES), ""),
        (sdp(protocol="RTP/SAVP"), "m-line 1 is RTP/SAVP without a key"),
        (sdp(port=5000), "m-line 1 is RTP/AVP instead of RTP/SAVP"),
        (sdp(protocol="RTP/SAVP", lines=SUITES, more="m=video 9 RTP/SAVP 96\r\n"), "2 m-lines instead of 1"),
    ],
)
def test_output_in_a_profile_that_was_asked_for_has_it_and_a_key(output: bytes, rule: str) -> None:
    if not rule:
        check_relay_output(output, sdp(), sdp(), "RTP/SAVP")
        return
    with pytest.raises(UnfitDescriptionError, match=rule):
        check_relay_output(output, sdp(), sdp(), "RTP/SAVP")


def test_a_profile_is_asked_for_rtp_alone() -> None:
    fax = "m=image 9 udptl t38\r\n"
    check_relay_output(sdp(protocol="RTP/SAVP", lines=SUITES, more=fax), sdp(more=fax), sdp(more=fax), "RTP/SAVP")
    assert profile_of(sdp(more=fax)) == "RTP/AVP"


def test_the_profile_is_that_of_all_rtp_that_is_on() -> None:
    assert profile_of(sdp(protocol="RTP/SAVPF")) == "RTP/SAVPF"
    assert profile_of(sdp(more="m=video 9 RTP/SAVP 96\r\n")) == "", "two of them"
    assert profile_of(sdp(more="m=video 0 RTP/SAVP 96\r\n")) == "RTP/AVP", "one is off"
    assert profile_of(sdp(port=0)) == ""


@pytest.mark.parametrize(
    ("profile", "encrypted", "plain"),
    [
        ("RTP/AVP", "RTP/SAVP", "RTP/AVP"),
        ("RTP/SAVPF", "RTP/SAVPF", "RTP/AVPF"),
        ("UDP/TLS/RTP/SAVP", "", ""),
        ("", "", ""),
    ],
)
def test_a_profile_has_a_counterpart_if_keys_are_in_the_description(profile: str, encrypted: str, plain: str) -> None:
    assert counterpart(profile, encrypted=True) == encrypted
    assert counterpart(profile, encrypted=False) == plain


def test_suites_that_phones_know_are_kept_of_a_relays_offer() -> None:
    kept = parse_sdp(keep_common_suites(sdp(lines=SUITES))).media[0].attributes("crypto")

    assert kept == ["2 AES_CM_128_HMAC_SHA1_80 inline:2", "3 AES_CM_128_HMAC_SHA1_32 inline:3"]
    only = sdp(lines=SUITES[:1])
    assert keep_common_suites(only) is only, "it has none of them"
    assert keep_common_suites(sdp()) == sdp()


def test_keys_that_nobody_asked_for_are_dropped() -> None:
    answer = sdp(lines=(*SUITES, "a=sendrecv"))

    assert drop_unasked_keys(answer, sdp()) == sdp(lines=("a=sendrecv",))
    assert drop_unasked_keys(answer, sdp(lines=SUITES)) is answer
    assert drop_unasked_keys(answer, b"") is answer, "it is the offer itself"


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


def test_exact_description_has_the_keys_of_another() -> None:
    key = "a=crypto:{} AES_CM_128_HMAC_SHA1_80 inline:{}"
    old = sdp("0 8", protocol="RTP/SAVP", lines=(key.format(7, "old"),))
    new = sdp("0", port=9000, protocol="RTP/SAVP", lines=(key.format(1, "new"),))

    assert parse_sdp(with_addresses_of(old, new)).media[0].attributes("crypto") == [
        "1 AES_CM_128_HMAC_SHA1_80 inline:new"
    ]


def test_hold_by_address_stays_a_hold() -> None:
    assert b"c=IN IP4 0.0.0.0" in with_addresses_of(sdp(address="0.0.0.0"), sdp(port=9000, address="192.0.2.9"))


@pytest.mark.parametrize("output", [b"", b"v=0\r\n", sdp()[:-1], sdp(more="m=image 0 udptl t38\r\n"), b"x" + sdp()])
def test_a_description_that_is_not_whole_is_not_plausible(output: bytes) -> None:
    assert is_plausible(sdp(port=9), sdp())
    assert not is_plausible(output, sdp())
