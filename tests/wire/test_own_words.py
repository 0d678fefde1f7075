"""What Kedge itself says and allows, on the wire: its name, Max-Forwards, sizes, and who is asked first."""

import re
import select
import socket
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from tests.kit.kedge import KedgeProcess
from tests.kit.ports import free_port
from tests.kit.rtpengine import Rtpengine

CALLER_IP, CALLEE_IP = "127.0.0.22", "127.0.0.32"
CALLS = 60


class Site:
    """Kedge between a bare socket that calls and two that are called: what they are sent is looked at as it is."""

    def __init__(self, kedge: KedgeProcess, hops: list[socket.socket]) -> None:
        self.kedge = kedge
        self.hops = hops
        self.caller = bound(CALLER_IP)

    def ask(self, method: str, number: int = 0, *, forwards: str = "", padding: int = 0) -> None:
        (host, port), branch = self.caller.getsockname(), f"z9hG4bK{method}{number}"
        head = [
            f"{method} sip:49@{self.kedge.ip} SIP/2.0", f"Via: SIP/2.0/UDP {host}:{port};branch={branch}",
            f"From: <sip:a@{host}>;tag=a{number}", f"To: <sip:49@{self.kedge.ip}>", f"Call-ID: own-{method}-{number}",
            f"CSeq: 1 {method}", f"Contact: <sip:a@{host}:{port}>", f"X-Padding: {'x' * padding}", "Content-Length: 0",
        ]  # fmt: skip
        head += [f"Max-Forwards: {forwards}"] if forwards else []
        self.caller.sendto(("\r\n".join(head) + "\r\n\r\n").encode(), self.kedge.address)

    def close(self) -> None:
        for one in (self.caller, *self.hops):
            one.close()


def bound(ip: str, port: int = 0) -> socket.socket:
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.settimeout(10)
    one.bind((ip, port))
    return one


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    hops = [bound(CALLEE_IP, free_port(CALLEE_IP)) for _ in range(2)]
    weights = (3, 1)
    route = {
        "name": "all", "relaySet": "voice", "responseTimeout": "32s",
        "nextHops": [
            {"address": CALLEE_IP, "port": one.getsockname()[1], "weight": weight}
            for one, weight in zip(hops, weights, strict=True)
        ],
    }  # fmt: skip
    with Rtpengine("127.0.0.15") as relay:
        kedge = KedgeProcess(
            folder=tmp_path_factory.mktemp("kedge"),
            relays=[relay],
            routes=[],
            peers={"phones": [f"{CALLER_IP}/32", f"{CALLEE_IP}/32"]},
            settings={"routes": [route]},
            sip_settings={"userAgent": "Kedge test/1", "maxForwards": 33, "maxDatagramBytes": 2000},
        )
        with kedge:
            site = Site(kedge, hops)
            yield site
            site.close()


def header(data: bytes, name: str) -> str:
    found = re.search(rf"^{name}: *(.*?)\r$", data.decode(), re.MULTILINE)
    return found[1] if found else ""


def test_a_response_of_kedges_own_says_so(site: Site) -> None:
    site.ask("OPTIONS")

    answer = site.caller.recv(65535)
    assert answer.startswith(b"SIP/2.0 200 ")
    assert header(answer, "Server") == "Kedge test/1"


def test_a_datagram_that_is_too_long_is_dropped_and_counted(site: Site) -> None:
    site.ask("OPTIONS", 1, padding=2000)
    site.ask("OPTIONS", 2)

    answer = site.caller.recv(65535)
    assert header(answer, "Call-ID") == "own-OPTIONS-2", "the one before has no answer"
    assert site.kedge.metric("kedge_sip_parse_errors_total", reason="too_large") == 1


def test_first_tries_are_shared_by_weight_and_max_forwards_is_ours_or_one_less(site: Site) -> None:
    forwards = {f"a{number}": "" if number % 2 else "11" for number in range(CALLS)}
    for number in range(CALLS):
        site.ask("INVITE", number, forwards=forwards[f"a{number}"])

    found: dict[str, tuple[int, str]] = {}
    deadline = time.monotonic() + 10
    while len(found) < CALLS:
        assert time.monotonic() < deadline, f"{len(found)} INVITEs"
        for one in select.select(site.hops, [], [], 1.0)[0]:
            data, source = one.recvfrom(65535)
            if data.startswith(b"INVITE "):
                found.setdefault(header(data, "Call-ID"), (site.hops.index(one), header(data, "Max-Forwards")))
                one.sendto(refusal(data), source)

    shares = Counter(hop for hop, _ in found.values())
    assert Counter(value for _, value in found.values()) == {"33": CALLS // 2, "10": CALLS // 2}
    # Three of four, of 60: fewer than 30 or more than 57 at the first one are less likely than one in 20,000.
    assert 30 <= shares[0] <= 57


def refusal(invite: bytes) -> bytes:
    kept = [
        line for line in invite.decode().split("\r\n") if line.startswith(("Via:", "From:", "To:", "Call-ID:", "CSeq:"))
    ]
    lines = [line + ";tag=b" if line.startswith("To:") else line for line in kept]
    return "\r\n".join(["SIP/2.0 486 Busy Here", *lines, "Content-Length: 0", "", ""]).encode()
