"""Says whether an installed Kedge works: is signaling ready, and, given a number, is a call answered, with audio?

Nothing but Python's own library, so that it runs in Kedge's image. The call's audio must come back: call an echo.
"""

import argparse
import os
import re
import secrets
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import TypeVar

TONE = b"\xff\x9e\x8e\x9e\xff\x1e\x0e\x1e" * 20
"""20 ms of 1 kHz in PCMU."""
FRAME = 0.02
"""Seconds of a packet."""
T = TypeVar("T")
TRIES = 30
"""Seconds to wait for what should be there."""


class TroubleError(Exception):
    """What does not work, in plain words."""


def main() -> None:
    """Test as the command line says; exit status 1 with a reason on standard error when something does not work."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True, help="name of all signaling pods")
    parser.add_argument("--sip-port", type=int, default=5060)
    parser.add_argument("--http-port", type=int, default=9090)
    parser.add_argument("--number", default="", help="whom to call; nobody when empty")
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    try:
        for address in retried(addresses, options.host):
            retried(fetch, f"http://{in_url(address)}:{options.http_port}/readyz")
            tell(f"signaling at {address} is ready")
            if options.number:
                call(address, options.sip_port, options.number, options.seconds)
    except TroubleError as trouble:
        sys.exit(f"trouble: {trouble}")


def tell(text: str) -> None:
    """Write a line."""
    sys.stdout.write(f"{text}\n")


def retried(act: Callable[[str], T], about: str) -> T:
    """Return what ``act`` gives of ``about``; tried once a second while it raises ``TroubleError``."""
    deadline = time.monotonic() + TRIES
    while True:
        try:
            return act(about)
        except TroubleError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def addresses(host: str) -> list[str]:
    """Return the addresses of all signaling pods."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    except OSError as error:
        raise TroubleError(f"{host} has no address, so that no signaling pod is ready: {error}") from None
    return sorted({str(one[4][0]) for one in found})


def in_url(address: str) -> str:
    """Return an address as URLs and SIP want it."""
    return f"[{address}]" if ":" in address else address


def fetch(url: str) -> None:
    """Get a page that must be there."""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return
    except urllib.error.HTTPError as error:
        raise TroubleError(f"{url}: {error.code} {error.read().decode(errors='replace').strip()}") from None
    except OSError as error:
        raise TroubleError(f"{url}: {error}") from None


def call(address: str, port: int, number: str, seconds: float) -> None:
    """Call ``number`` through the signaling pod at ``address``, listen and hang up."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sip, socket.socket(family, socket.SOCK_DGRAM) as media:
        sip.connect((address, port))
        here = str(sip.getsockname()[0])
        media.bind((here, 0))
        one = Call(sip, here, number, f"{in_url(address)}:{port}")
        answer = one.invite(description(here, media.getsockname()[1]))
        try:
            heard = talk(media, relay_of(answer), seconds)
        finally:
            one.hang_up()
    if heard < seconds / FRAME / 2:
        raise TroubleError(f"the call was answered, but only {heard} packets of audio came back in {seconds:g} s")
    tell(f"called {number} through {address}: answered, {heard} packets of audio came back")


def description(here: str, port: int) -> str:
    """Return our offer."""
    family = "IP6" if ":" in here else "IP4"
    return (
        f"v=0\r\no=- 1 1 IN {family} {here}\r\ns=-\r\nc=IN {family} {here}\r\nt=0 0\r\n"
        f"m=audio {port} RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n"
    )


def relay_of(answer: str) -> tuple[str, int]:
    """Return where an answer wants its audio."""
    address, port = re.search(r"^c=IN IP[46] (\S+)", answer, re.M), re.search(r"^m=audio (\d+)", answer, re.M)
    if not address or not port:
        raise TroubleError("the answer has no audio")
    return address[1], int(port[1])


def talk(media: socket.socket, relay: tuple[str, int], seconds: float) -> int:
    """Send audio for a time; return how many packets came back meanwhile."""
    heard, source = 0, secrets.token_bytes(4)
    began = time.monotonic()
    for number in range(int(seconds / FRAME)):
        header = b"\x80\x00" + number.to_bytes(2, "big") + (160 * number).to_bytes(4, "big") + source
        media.sendto(header + TONE, relay)
        until = began + FRAME * (number + 1)
        while (left := until - time.monotonic()) > 0:
            media.settimeout(left)
            try:
                heard += len(media.recv(2048)) > 12
            except (TimeoutError, ConnectionRefusedError):
                continue
    return heard


class Call:
    """A call of ours: INVITE and ACK, later BYE. Retransmits as RFC 3261 section 17.1 asks."""

    def __init__(self, sip: socket.socket, here: str, number: str, there: str) -> None:
        self._sip = sip
        self._us = f"{in_url(here)}:{sip.getsockname()[1]}"
        self._id, self._tag = secrets.token_hex(8), secrets.token_hex(4)
        self._target = f"sip:{number}@{there}"
        self._to = f"<{self._target}>"

    def invite(self, offer: str) -> str:
        """Return the description that the call is answered with."""
        branch = secrets.token_hex(8)
        status, headers, body = self._ask("INVITE", 1, branch, offer)
        self._to = headers.get("to", self._to)
        if status >= 300:
            self._send("ACK", 1, branch)
            raise TroubleError(f"the call was refused: {status} {headers['']}")
        contact = re.search(r"<([^>]+)>", headers.get("contact", ""))
        self._target = contact[1] if contact else self._target
        self._send("ACK", 1, secrets.token_hex(8))
        return body

    def hang_up(self) -> None:
        """End it."""
        self._ask("BYE", 2, secrets.token_hex(8))

    def _ask(self, method: str, number: int, branch: str, body: str = "") -> tuple[int, dict[str, str], str]:
        interval, deadline = 0.5, time.monotonic() + TRIES
        self._send(method, number, branch, body)
        while time.monotonic() < deadline:
            self._sip.settimeout(interval)
            try:
                status, headers, answer = parsed(self._sip.recv(65535))
            except TimeoutError:
                interval = min(2 * interval, 4.0)
                self._send(method, number, branch, body)
                continue
            except ConnectionRefusedError:
                raise TroubleError(f"nobody serves SIP at {self._sip.getpeername()}") from None
            if headers.get("cseq") != f"{number} {method}":
                continue
            if status >= 200:
                return status, headers, answer
            interval = 4.0
        raise TroubleError(f"{method} was not answered within {TRIES} s")

    def _send(self, method: str, number: int, branch: str, body: str = "") -> None:
        lines = [
            f"{method} {self._target} SIP/2.0",
            f"Via: SIP/2.0/UDP {self._us};rport;branch=z9hG4bK{branch}",
            "Max-Forwards: 70",
            f"From: <sip:kedge-test@{self._us}>;tag={self._tag}",
            f"To: {self._to}",
            f"Call-ID: {self._id}",
            f"CSeq: {number} {method}",
            f"Contact: <sip:kedge-test@{self._us}>",
            *(["Content-Type: application/sdp"] if body else []),
            f"Content-Length: {len(body)}",
        ]
        self._sip.send(("\r\n".join(lines) + "\r\n\r\n" + body).encode())


def parsed(data: bytes) -> tuple[int, dict[str, str], str]:
    """Return status, headers (the first of each name; the reason under an empty one) and body of a response."""
    head, _, body = data.decode(errors="replace").partition("\r\n\r\n")
    first, *lines = head.split("\r\n")
    found = re.match(r"SIP/2\.0 (\d{3}) ?(.*)", first)
    if not found:
        return 0, {}, ""
    headers = {"": found[2]}
    for line in lines:
        name, _, value = line.partition(":")
        headers.setdefault(name.strip().lower(), value.strip())
    return int(found[1]), headers, body


if __name__ == "__main__":
    if "POD_IP" in os.environ:
        tell(f"testing from {os.environ['POD_IP']}")
    main()
