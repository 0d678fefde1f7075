"""Session descriptions: what is read, what passes unchanged, and our own o= line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge.sip.sdp import Origin, SdpError, opposite, parse_sdp, split_origin

AUDIO = (
    b"v=0\r\no=phone 7 3 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n"
    b"m=audio 4000 RTP/AVP 0 8 101\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=sendonly\r\n"
)


def test_what_is_not_understood_passes_byte_for_byte() -> None:
    odd = AUDIO + b"a=x-odd:\xff\xfe\r\nm=image 0 udptl t38\r\nc=IN IP4 192.0.2.9\r\n"

    assert parse_sdp(odd).to_bytes() == odd


@pytest.mark.parametrize(
    "body",
    [
        b"", b"rubbish", b"v=1\r\no=- 1 1 IN IP4 x\r\n", b"v=0\r\ns=-\r\n", b"v=0\r\no=- 1 1 IN IP4 x\r\nbad line\r\n",
        b"v=0\r\no=- 1 1 IN IP4 x\r\nm=audio RTP/AVP 0\r\n", b"v=0\r\no=- 1 1 IN IP4 x\r\nm=audio x RTP/AVP 0\r\n",
        b"v=0\r\no=- 1 1 IN IP4 x\r\n" + b"a=x\r\n" * 1001,
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_an_error_with_a_status(body: bytes) -> None:
    with pytest.raises(SdpError) as caught:
        parse_sdp(body)

    assert caught.value.status == 400


@given(st.binary(max_size=300))
def test_nothing_that_a_peer_sends_raises_anything_else(noise: bytes) -> None:
    for body in (noise, AUDIO + noise, b"v=0\r\n" + noise):
        try:
            description = parse_sdp(body)
        except SdpError:
            continue
        assert parse_sdp(description.to_bytes()).to_bytes() == description.to_bytes()


def test_media_tell_what_they_mean() -> None:
    (media,) = parse_sdp(AUDIO).media

    assert (media.encoding("0"), media.encoding("101"), media.encoding("96")) == (
        "PCMU/8000", "TELEPHONE-EVENT/8000", "96",
    )  # fmt: skip
    assert media.parameters("101") == "0-15"
    assert media.direction() == "sendonly"
    assert parse_sdp(AUDIO).address_of(media) == ("192.0.2.1", "4000")


def test_direction_of_the_session_holds_for_media_without_their_own() -> None:
    body = AUDIO.replace(b"a=sendonly\r\n", b"").replace(b"t=0 0\r\n", b"t=0 0\r\na=inactive\r\n")
    description = parse_sdp(body)

    assert description.media[0].direction(description.direction) == "inactive"


def test_dropped_formats_take_their_attributes_along() -> None:
    description = parse_sdp(AUDIO)
    description.media[0].keep_formats({"0", "8"})

    assert b"101" not in description.to_bytes()
    assert b"m=audio 4000 RTP/AVP 0 8\r\n" in description.to_bytes()


@pytest.mark.parametrize("one", ["sendrecv", "sendonly", "recvonly", "inactive"])
def test_opposite_of_the_opposite_is_the_same(one: str) -> None:
    assert opposite(opposite(one)) == one


def version(body: bytes) -> int:
    return int(body.split(b"\r\no=", 1)[1].split()[2])


def test_own_origin_is_constant_but_for_a_version_that_rises_with_each_change() -> None:
    origin = Origin(42, "192.0.2.5")
    other = AUDIO.replace(b"4000", b"4002")

    sent = [origin.stamp(one) for one in (AUDIO, AUDIO, other, AUDIO, AUDIO.replace(b"phone 7 3", b"phone 7 9"))]

    assert [version(one) for one in sent] == [1, 1, 2, 3, 3]
    assert {one.split(b"\r\no=", 1)[1].split(b"\r\n")[0].replace(b" %d " % version(one), b" ") for one in sent} == {
        b"- 42 IN IP4 192.0.2.5"
    }
    assert split_origin(sent[0]) == split_origin(AUDIO)


def test_own_origin_of_an_ipv6_address_says_so() -> None:
    assert b"o=- 1 1 IN IP6 2001:db8::1\r\n" in Origin(1, "2001:db8::1").stamp(AUDIO)
