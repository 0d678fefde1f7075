"""baresip, a softphone with a SIP stack that is neither ours nor SIPp's, talks through Kedge and outlives relays."""

from pathlib import Path

import pytest
from tests.kit.baresip import Baresip
from tests.kit.softphones import hears, until
from tests.wire.talk import ALICE, BOB, NUMBER, Talk, talking


def pair(folder: Path, *encryption: str) -> tuple[Baresip, Baresip]:
    """Make alice and bob, and say how they encrypt."""
    return (
        Baresip(folder / "alice", ALICE, user="alice", encryption=encryption[0]),
        Baresip(folder / "bob", BOB, user=NUMBER, tone=880, encryption=encryption[1]),
    )


def end(talk: Talk[Baresip, Baresip]) -> None:
    """Hang up, and see that nothing is left."""
    talk.alice.do("hangup")
    talk.bob.wait_for("CALL_CLOSED")
    assert until(lambda: not talk.sessions())


@pytest.mark.parametrize(
    ("encryption", "enabled"),
    [(("", ""), 0), (("srtp-mand", "srtp-mand"), 3), (("srtp-mand", "srtp"), 3), (("", "srtp"), 0)],
    ids=["rtp", "srtp", "srtp-if-offered", "rtp-if-not"],
)
def test_audio_survives_two_relays_one_after_the_other(
    tmp_path: Path, encryption: tuple[str, str], enabled: int
) -> None:
    with talking(tmp_path, *pair(tmp_path, *encryption)) as talk:
        for _ in range(2):
            talk.kill_relay()
            assert talk.both_hear(), talk.kedge.log[-3000:]
        assert talk.bob.log.count("SRTP is Enabled") == enabled, "by the call, and by each move"
        end(talk)


def test_a_held_call_stays_held_through_a_move(tmp_path: Path) -> None:
    # What comes after a resume is not asked: baresip 1.0 stays silent then even without anybody in between.
    with talking(tmp_path, *pair(tmp_path, "", "")) as talk:
        talk.alice.do("hold")
        assert until(lambda: not hears(talk.alice) and not hears(talk.bob)), "they hear on although the call is held"
        offers = talk.bob.log.count("got re-INVITE")

        talk.kill_relay()

        assert until(lambda: talk.bob.log.count("got re-INVITE") == offers + 1), "bob was not told of the new relay"
        assert not hears(talk.alice)
        assert not hears(talk.bob)
        end(talk)
