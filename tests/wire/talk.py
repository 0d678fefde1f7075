"""Two softphones in a call through Kedge, with three relays that may be killed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

from tests.kit.kedge import KedgeProcess, RouteRule
from tests.kit.rtpengine import Rtpengine
from tests.kit.softphones import Softphone, both_hear, until

ALICE, BOB = "127.0.1.2", "127.0.1.3"
NUMBER = "49100"
"""Bob's."""
_RELAYS = ("127.0.1.11", "127.0.1.12", "127.0.1.13")
_PATIENT = {"interval": "50ms", "timeout": "50ms", "threshold": 20}
"""A relay that gets no CPU for a while is not lost: how often phones are told of another one is counted."""
A = TypeVar("A", bound=Softphone)
B = TypeVar("B", bound=Softphone)


class Talk(Generic[A, B]):
    """A call, its phones and its relays."""

    def __init__(self, kedge: KedgeProcess, alice: A, bob: B) -> None:
        self.kedge, self.alice, self.bob = kedge, alice, bob

    @property
    def busy(self) -> Rtpengine:
        """The relay that carries the call."""
        return next(relay for relay in self.kedge.relays if relay.pid and relay.sessions())

    def both_hear(self) -> bool:
        """Say whether both hear the other from now on."""
        return both_hear(self.alice, self.bob)

    def kill_relay(self) -> None:
        """Kill the relay of the call, and wait until another one has it."""
        dead = self.busy
        dead.kill()
        assert until(lambda: self.sessions() == 1), self.kedge.log[-3000:]

    def sessions(self) -> int:
        """Return how many sessions all living relays have."""
        return sum(relay.sessions() for relay in self.kedge.relays if relay.pid)


@contextmanager
def talking(folder: Path, alice: A, bob: B) -> Iterator[Talk[A, B]]:
    """Let alice call bob; both hear."""
    relays = [Rtpengine(ip) for ip in _RELAYS]
    kedge = KedgeProcess(
        folder=folder, relays=relays, routes=[RouteRule(prefix="49", next_hops=[bob.sip])],
        peers={"callers": [f"{ALICE}/32"], "callees": [f"{BOB}/32"]}, ip="127.0.1.1", health=_PATIENT,
    )  # fmt: skip
    try:
        for relay in relays:
            relay.start()
        with kedge, alice, bob:
            alice.dial(f"sip:{NUMBER}@{kedge.address[0]}:{kedge.address[1]}")
            talk = Talk(kedge, alice, bob)
            assert talk.both_hear()
            yield talk
            assert "Traceback" not in kedge.log, kedge.log
    finally:
        for relay in relays:
            relay.stop()
