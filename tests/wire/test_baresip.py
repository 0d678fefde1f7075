"""baresip, a softphone with a SIP stack that is neither ours nor SIPp's, talks through Kedge and outlives relays."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.kit.baresip import Baresip
from tests.kit.kedge import KedgeProcess, RouteRule
from tests.kit.rtpengine import Rtpengine

RELAYS = ("127.0.1.11", "127.0.1.12", "127.0.1.13")


class Talk:
    """Two softphones in a call through Kedge."""

    def __init__(self, kedge: KedgeProcess, alice: Baresip, bob: Baresip) -> None:
        self.kedge, self.alice, self.bob = kedge, alice, bob
        self.relays = list(kedge.relays)

    @property
    def busy(self) -> Rtpengine:
        """The relay that carries the call."""
        return next(relay for relay in self.relays if relay.pid and relay.sessions())

    def both_hear(self, *, within: float = 5.0) -> bool:
        """Say whether both decode a further 300 ms of audio (16 bytes a millisecond) from now on."""
        before = self.alice.heard_bytes() + 4800, self.bob.heard_bytes() + 4800
        return until(lambda: self.alice.heard_bytes() > before[0] and self.bob.heard_bytes() > before[1], within=within)


def until(holds: Callable[[], bool], *, within: float = 5.0) -> bool:
    """Look every 20 ms whether something holds."""
    deadline = time.monotonic() + within
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture
def encryption() -> tuple[str, str]:
    """How alice and bob encrypt; a test says otherwise by its parameters."""
    return "", ""


@pytest.fixture
def talk(tmp_path: Path, encryption: tuple[str, str]) -> Iterator[Talk]:
    """Alice has called bob, and both hear."""
    relays = [Rtpengine(ip) for ip in RELAYS]
    alice = Baresip(tmp_path / "alice", "127.0.1.2", user="alice", encryption=encryption[0])
    bob = Baresip(tmp_path / "bob", "127.0.1.3", user="49100", tone=880, encryption=encryption[1])
    kedge = KedgeProcess(
        folder=tmp_path, relays=relays, routes=[RouteRule(prefix="49", next_hops=[bob.sip])],
        peers={"callers": ["127.0.1.2/32"], "callees": ["127.0.1.3/32"]}, ip="127.0.1.1",
    )  # fmt: skip
    try:
        for relay in relays:
            relay.start()
        with kedge, alice, bob:
            alice.do("dial", f"sip:49100@{kedge.address[0]}:{kedge.address[1]}")
            alice.wait_for("CALL_ESTABLISHED")
            bob.wait_for("CALL_ESTABLISHED")
            talk = Talk(kedge, alice, bob)
            assert talk.both_hear()
            yield talk
            assert "Traceback" not in kedge.log, kedge.log
    finally:
        for relay in relays:
            relay.stop()


@pytest.mark.parametrize(
    ("encryption", "enabled"),
    [(("", ""), 0), (("srtp-mand", "srtp-mand"), 3), (("srtp-mand", "srtp"), 3), (("", "srtp"), 0)],
    ids=["rtp", "srtp", "srtp-if-offered", "rtp-if-not"],
)
def test_audio_survives_two_relays_one_after_the_other(talk: Talk, enabled: int) -> None:
    for _ in range(2):
        dead = talk.busy
        dead.kill()

        assert talk.both_hear(), talk.kedge.log[-3000:]
        assert talk.busy is not dead
    assert talk.bob.log.count("SRTP is Enabled") == enabled, "by the call, and by each move"

    talk.alice.do("hangup")
    talk.bob.wait_for("CALL_CLOSED")
    assert until(lambda: not any(relay.sessions() for relay in talk.relays if relay.pid))


def test_a_held_call_stays_held_through_a_move(talk: Talk) -> None:
    # What comes after a resume is not asked: baresip 1.0 stays silent then even without anybody in between.
    talk.alice.do("hold")
    assert until(lambda: not grows(talk.alice) and not grows(talk.bob)), "they hear on although the call is held"
    offers = talk.bob.log.count("got re-INVITE")
    dead = talk.busy
    dead.kill()

    assert until(lambda: talk.bob.log.count("got re-INVITE") == offers + 1), "bob was not told of the new relay"
    assert until(lambda: sum(relay.sessions() for relay in talk.relays if relay.pid) == 1)
    assert not grows(talk.alice)
    assert not grows(talk.bob)
    talk.bob.do("hangup")
    talk.alice.wait_for("CALL_CLOSED")


def grows(phone: Baresip) -> bool:
    """Say whether a phone decodes more audio within half a second."""
    before = phone.heard_bytes()
    return until(lambda: phone.heard_bytes() > before + 1600, within=0.5)
