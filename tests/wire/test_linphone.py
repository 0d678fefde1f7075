"""linphone, a softphone of many features with yet another SIP stack, talks through Kedge and outlives relays."""

from pathlib import Path

import pytest
from tests.kit.baresip import Baresip
from tests.kit.linphone import Linphone
from tests.kit.softphones import hears, until
from tests.wire.talk import ALICE, BOB, NUMBER, talking


@pytest.mark.parametrize("encryption", ["none", "srtp"])
def test_a_call_with_video_and_audio_survives_two_relays(tmp_path: Path, encryption: str) -> None:
    alice, bob = (
        Linphone(tmp_path / user, ip, user=user, encryption=encryption, video=True)
        for user, ip in (("alice", ALICE), (NUMBER, BOB))
    )
    with talking(tmp_path, alice, bob) as talk:
        for moves in (1, 2):
            talk.kill_relay()
            assert talk.both_hear(), talk.kedge.log[-3000:]
            assert (streams(alice), streams(bob)) == (moves + 1, moves + 1), "told once of each relay"
        alice.do("terminate")
        bob.wait_for("ended")
        assert until(lambda: not talk.sessions())


def streams(phone: Linphone) -> int:
    """Return how often it has set up its audio."""
    return phone.log.count("Media streams established")


def test_video_that_another_phone_does_not_know_costs_no_relay(tmp_path: Path) -> None:
    alice = Linphone(tmp_path / "alice", ALICE, user="alice", video=True)
    bob = Baresip(tmp_path / "bob", BOB, user=NUMBER)
    with talking(tmp_path, alice, bob) as talk:
        for _ in range(2):
            talk.kill_relay()
            assert talk.both_hear(), talk.kedge.log[-3000:]


def test_it_is_called_by_another_phone(tmp_path: Path) -> None:
    alice = Baresip(tmp_path / "alice", ALICE, user="alice")
    bob = Linphone(tmp_path / "bob", BOB, user=NUMBER, video=True)
    with talking(tmp_path, alice, bob) as talk:
        talk.kill_relay()
        assert talk.both_hear(), talk.kedge.log[-3000:]


def test_a_call_that_moved_while_it_was_held_is_resumed(tmp_path: Path) -> None:
    alice, bob = Linphone(tmp_path / "alice", ALICE, user="alice"), Linphone(tmp_path / "bob", BOB, user=NUMBER)
    with talking(tmp_path, alice, bob) as talk:
        alice.do("pause")
        assert until(lambda: not hears(alice)), "she hears on although the call is held"
        talk.kill_relay()
        assert not hears(alice)

        alice.do("resume")

        assert talk.both_hear(), "they hear each other again"
        talk.kill_relay()
        assert talk.both_hear()
