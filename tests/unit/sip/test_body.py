"""Bodies: the description among other parts, and all other parts untouched."""

from __future__ import annotations

import pytest

from kedge.sip.body import sdp_of
from kedge.sip.message import Request
from kedge.sip.sdp import SdpError

SDP = b"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\n"


def message(content_type: str, body: bytes) -> Request:
    request = Request("INVITE", "sip:a@b")
    if content_type:
        request.add("Content-Type", content_type)
    request.body = body
    return request


@pytest.mark.parametrize("content_type", ["application/sdp", "Application/SDP; charset=utf-8"])
def test_a_description_alone(content_type: str) -> None:
    body = sdp_of(message(content_type, SDP))

    assert body.sdp == SDP
    assert body.with_sdp(b"new") == (b"new", content_type)


def test_no_body_gets_the_type_of_a_description() -> None:
    assert sdp_of(message("", b"")).with_sdp(SDP) == (SDP, "application/sdp")


def test_another_body_passes() -> None:
    body = sdp_of(message("text/plain", b"hello"))

    assert (body.sdp, body.with_sdp(b"")) == (b"", (b"hello", "text/plain"))


@pytest.mark.parametrize("boundary", ["b", '"b"'])
def test_only_the_part_with_the_description_is_replaced(boundary: str) -> None:
    before = (
        b"--b\r\nContent-Type: application/pidf+xml\r\n\r\n<where/>\r\n--b\r\nContent-Type: application/sdp\r\n\r\n"
    )
    after = b"\r\n--b\r\nContent-Type: application/isup\r\n\r\n\x01\x00\xff\r\n--b--\r\n"
    content_type = f"multipart/mixed;boundary={boundary}"

    body = sdp_of(message(content_type, before + SDP.rstrip() + after))

    assert body.sdp == SDP
    assert body.with_sdp(b"new") == (before + b"new" + after, content_type)


def test_multipart_without_a_description_passes_whole() -> None:
    raw = b"--b\r\nContent-Type: text/plain\r\n\r\nhello\r\n--b--\r\n"

    assert sdp_of(message("multipart/mixed;boundary=b", raw)).with_sdp(b"")[0] == raw


def test_multipart_without_boundary_is_an_error() -> None:
    with pytest.raises(SdpError, match="boundary"):
        sdp_of(message("multipart/mixed", b"--b\r\n"))
