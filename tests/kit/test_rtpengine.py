"""A real rtpengine starts, answers, freezes, restarts and dies as the tests ask it to."""

import pytest
from tests.kit.processes import end
from tests.kit.rtpengine import Rtpengine, RtpengineError


def test_it_lives_freezes_and_dies() -> None:
    with Rtpengine() as relay:
        assert relay.pid > 0
        assert relay.ping()
        assert relay.sessions() == 0

        relay.freeze()
        assert not relay.ping(within=0.2)
        relay.thaw()
        assert relay.ping()

        first = relay.pid
        relay.restart()
        assert relay.pid != first
        assert relay.ping()

        relay.kill()
        assert relay.pid == 0
        assert not relay.ping(within=0.2)


def test_a_frozen_one_can_be_stopped() -> None:
    relay = Rtpengine().start()
    process = relay._process
    assert process is not None
    relay.freeze()

    relay.stop()

    assert process.poll() is not None
    end(process)


def test_one_that_cannot_start_shows_its_log() -> None:
    stranger = Rtpengine("192.0.2.1", ng_port=20000, first_media_port=20002)
    try:
        with pytest.raises(RtpengineError, match=r"(?s)does not answer.*192\.0\.2\.1"):
            stranger.start()
    finally:
        stranger.stop()
