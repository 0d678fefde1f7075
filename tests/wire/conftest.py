"""Kedge and its relays as processes of their own, and phone lines that no two tests share."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.kit.kedge import KedgeProcess, RouteRule
from tests.kit.ports import free_port
from tests.kit.rtp import TONE
from tests.kit.rtpengine import Rtpengine
from tests.kit.sipp import Sipp, SippResult, run_pair
from tests.kit.wire import Address
from tests.wire.cases import SCENARIOS

KEDGE_IP, CALLER_IP, CALLEE_IP, STRANGER_IP = "127.0.0.1", "127.0.0.20", "127.0.0.30", "127.0.0.99"
RELAY_IPS = ("127.0.0.11", "127.0.0.12", "127.0.0.13")
_LINES = 100
FAST_TIMERS = {"t1": "200ms", "t2": "1s", "t4": "1s"}
"""So that lost datagrams are sent again soon; SIPp keeps T1 = 500 ms."""


@dataclass(frozen=True, slots=True)
class Line:
    """A number, and the two places that calls to it go to: the second when the first one fails."""

    number: str
    caller: Address
    callee: Address
    second: Address


def make_lines() -> list[Line]:
    """Take ports for as many lines as there may be tests."""
    return [
        Line(
            f"49{number:03d}", (CALLER_IP, free_port(CALLER_IP)), *((CALLEE_IP, free_port(CALLEE_IP)) for _ in range(2))
        )
        for number in range(_LINES)
    ]


class System:
    """Kedge with its relays, and a way to talk through it."""

    def __init__(self, kedge: KedgeProcess, lines: list[Line]) -> None:
        self.kedge = kedge
        self._lines = iter(lines)

    @property
    def relays(self) -> list[Rtpengine]:
        """The relays, in the order of the RelaySet."""
        return list(self.kedge.relays)

    def line(self) -> Line:
        """Take a line."""
        return next(self._lines)

    def caller(self, name: str, folder: Path, line: Line, *, ip: str = CALLER_IP, **more: Any) -> Sipp:
        """Prepare a SIPp caller that calls the line through Kedge."""
        local = line.caller if ip == CALLER_IP else (ip, free_port(ip))
        scenario = SCENARIOS / f"caller-{name}.xml"
        return Sipp(scenario, folder, local=local, remote=self.kedge.address, **{"number": line.number, **more})

    def callee(self, name: str, folder: Path, line: Line, *, second: bool = False, **more: Any) -> Sipp:
        """Prepare a SIPp callee on the line."""
        local = line.second if second else line.callee
        return Sipp(SCENARIOS / f"callee-{name}.xml", folder, local=local, **more)

    def converse(self, caller: str, callee: str, folder: Path, **more: Any) -> tuple[SippResult, SippResult]:
        """Run a callee and a caller through Kedge, and return their results (callee, caller)."""
        line = self.line()
        return run_pair(self.callee(callee, folder, line, **more), self.caller(caller, folder, line, **more))


def _system(folder: Path, relays: list[Rtpengine], weights: Sequence[int] = ()) -> Iterator[System]:
    lines = make_lines()
    kedge = KedgeProcess(
        folder=folder,
        relays=relays,
        weights=weights,
        routes=[RouteRule(prefix=line.number, next_hops=[line.callee, line.second]) for line in lines],
        peers={"callers": [f"{CALLER_IP}/32"], "callees": [f"{CALLEE_IP}/32"]},
        ip=KEDGE_IP,
        sip_settings={"timers": FAST_TIMERS},
    )
    with kedge:
        yield System(kedge, lines)
        assert kedge.is_ready(), kedge.log[-4000:]


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Kedge with two relays that nobody kills."""
    with Rtpengine(RELAY_IPS[0]) as first, Rtpengine(RELAY_IPS[1]) as second:
        yield from _system(tmp_path_factory.mktemp("kedge"), [first, second])


@pytest.fixture
def mortal_system(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[System]:
    """Kedge with three relays, for one test that may kill them; an indirect parameter gives their weights."""
    weights: Sequence[int] = getattr(request, "param", (100, 100, 100))
    relays = [Rtpengine(ip) for ip, _ in zip(RELAY_IPS, weights, strict=False)]
    try:
        for relay in relays:
            relay.start()
        yield from _system(tmp_path, relays, weights)
    finally:
        for relay in relays:
            relay.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for SIPp's files, with a tone that it can send."""
    (tmp_path / "tone.ulaw").write_bytes(TONE * 50)
    return tmp_path
