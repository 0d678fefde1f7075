"""Microseconds of the SIP layer's steps: reading, writing, and whole transactions. No network.

Usage: python benchmarks/sip_micro.py [--json]
"""

from __future__ import annotations

import argparse
import json
import timeit
from collections.abc import Callable
from typing import Final

from kedge.base.address import Address
from kedge.base.ids import CountingIds
from kedge.base.timers import TimerHeap
from kedge.sip.message import Request, Response, make_response
from kedge.sip.parser import parse_message
from kedge.sip.timers import TimerSettings
from kedge.sip.transaction import ClientOwner, ClientTransaction, ServerTransaction, ServerUser, TransactionLayer

PEER: Final[Address] = ("127.0.0.1", 5060)

SDP: Final = (
    "v=0\r\no=- 3961 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 30000 RTP/AVP 0 8 101\r\n"
    "a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-16\r\na=sendrecv\r\n"
)
HEADERS: Final = (
    "Via: SIP/2.0/UDP 127.0.0.1:5060;branch=z9hG4bKBRANCH;rport\r\n"
    "Max-Forwards: 70\r\n"
    'From: "Alice" <sip:alice@127.0.0.1>;tag=0123456789abcdef\r\n'
    "To: <sip:bob@127.0.0.1>;tag=fedcba9876543210\r\n"
    "Call-ID: 0123456789abcdef@127.0.0.1\r\n"
    "CSeq: 102 METHOD\r\n"
    "Contact: <sip:bob@127.0.0.1:5070;transport=UDP>\r\n"
    "User-Agent: Phone 1.2.3\r\n"
    "Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, UPDATE\r\n"
    "Supported: timer, replaces\r\n"
    "Content-Type: application/sdp\r\n"
    f"Content-Length: {len(SDP)}\r\n\r\n{SDP}"
)


def response_bytes(method: str, branch: str = "x") -> bytes:
    """A 200 with twelve headers and SDP."""
    return ("SIP/2.0 200 OK\r\n" + HEADERS.replace("METHOD", method).replace("BRANCH", branch)).encode()


def request_bytes(method: str, branch: str = "x") -> bytes:
    """A request with twelve headers and SDP."""
    return (
        f"{method} sip:bob@127.0.0.1 SIP/2.0\r\n" + HEADERS.replace("METHOD", method).replace("BRANCH", branch)
    ).encode()


class Owner(ClientOwner):
    """Ignores what it is told."""

    def on_response(self, tx: ClientTransaction, response: Response, now: float) -> None:
        """Ignore it."""

    def on_timeout(self, tx: ClientTransaction, now: float) -> None:
        """Ignore it."""


class User(ServerUser):
    """Answers each request with a bare 200."""

    def __init__(self) -> None:
        self.layer: TransactionLayer | None = None

    def on_request(self, tx: ServerTransaction, request: Request, now: float) -> None:
        """Answer it."""
        assert self.layer is not None
        self.layer.respond(tx, make_response(request, 200, to_tag="t1"), now)
        if tx.method == "INVITE":
            self.layer.stop_2xx(tx, now)


def transactions(method: str, server: bool, count: int) -> Callable[[], None]:
    """Return a run of ``count`` transactions, their timers included."""
    requests = [request_bytes(method, str(number)) for number in range(count)]
    responses = [response_bytes(method, str(number)) for number in range(count)]

    def run() -> None:
        timers, user, owner = TimerHeap(), User(), Owner()
        layer = user.layer = TransactionLayer(timers, TimerSettings(), CountingIds(), user)
        for number in range(count):
            now = number / 1000
            if server:
                layer.on_datagram(requests[number], PEER, now)
            else:
                layer.send_request(method, f"z9hG4bK{number}", requests[number], PEER, owner, now)
                layer.on_datagram(responses[number], PEER, now)
            layer.out.clear()
        timers.run_due(1000.0)
        assert not layer.clients
        assert not layer.servers

    return run


def measure(run: Callable[[], object], repetitions: int, each: int = 1) -> float:
    """Return the best of five, in microseconds of one."""
    return min(timeit.repeat(run, number=repetitions, repeat=5)) / repetitions / each * 1e6


def main() -> None:
    """Measure all, and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of a table")
    as_json = parser.parse_args().json
    ok, invite = response_bytes("INVITE"), request_bytes("INVITE")
    response, request = parse_message(ok), parse_message(invite)
    assert isinstance(request, Request)
    count = 2000
    results = {
        "parse_200_us": measure(lambda: parse_message(ok), 5000),
        "parse_invite_us": measure(lambda: parse_message(invite), 5000),
        "write_200_us": measure(response.to_bytes, 5000),
        "make_response_us": measure(lambda: make_response(request, 200, to_tag="t"), 5000),
        "client_invite_us": measure(transactions("INVITE", server=False, count=count), 1, count),
        "client_bye_us": measure(transactions("BYE", server=False, count=count), 1, count),
        "server_invite_us": measure(transactions("INVITE", server=True, count=count), 1, count),
        "server_bye_us": measure(transactions("BYE", server=True, count=count), 1, count),
    }
    if as_json:
        print(json.dumps({name: round(value, 2) for name, value in results.items()}))
        return
    for name, value in results.items():
        print(f"{name.removesuffix('_us').replace('_', ' '):20}{value:8.2f} us")


if __name__ == "__main__":
    main()
