"""The sweep of a real rtpengine that Kedge shares with others: only what Kedge itself has left there goes."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.kit.kedge import KedgeProcess, RouteRule
from tests.kit.phones import PhoneFarm
from tests.kit.ports import free_port
from tests.kit.rtpengine import Rtpengine

CALLER_IP, CALLEE_IP = "127.0.0.21", "127.0.0.31"


@pytest.fixture
def relay() -> Iterator[Rtpengine]:
    with Rtpengine("127.0.0.14") as relay:
        yield relay


def own_sessions(relay: Rtpengine) -> set[str]:
    return {name for name in relay.session_names() if not name.startswith("kedge-probe")}


async def test_only_what_kedge_has_left_is_deleted(relay: Rtpengine, tmp_path: Path) -> None:
    callee = (CALLEE_IP, free_port(CALLEE_IP))
    kedge = KedgeProcess(
        folder=tmp_path,
        relays=[relay],
        routes=[RouteRule(prefix="49", next_hops=[callee])],
        peers={"phones": [f"{CALLER_IP}/32", f"{CALLEE_IP}/32"]},
        settings={"signaling": {"commands": {"sweepInterval": "1s"}}},
    )
    with kedge:
        async with PhoneFarm(caller=(CALLER_IP, 0), callee=callee, proxy=kedge.address) as farm:
            await farm.place_calls(1)
            (live,) = own_sessions(relay)
            mark = live.partition(".")[0]
            for name in (f"{mark}.call-gone.1", "0123456789abcdef.call-gone.1", "somebody-elses"):
                relay.make_session(name)

            deadline = time.monotonic() + 15
            while kedge.metric("kedge_orphans_deleted_total", relay="relay-1") < 1:
                assert time.monotonic() < deadline, kedge.log
                assert await farm.wait_audio(time.monotonic())

            assert own_sessions(relay) == {live, "0123456789abcdef.call-gone.1", "somebody-elses"}
            assert await farm.wait_audio(time.monotonic())
            await farm.hang_up()
    assert kedge.log.count("that belonged to no call") == 1
