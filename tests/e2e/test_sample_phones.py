"""The SIPp phones of ``manifests/samples/phones``, those of the quickstart: moved twice, and hung up."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path

from tests.e2e.harness import System
from tests.kit.ports import free_port
from tests.kit.rtp import TONE
from tests.kit.sipp import Sipp

from kedge.ports.records import CallState

PHONES = Path(__file__).parents[2] / "manifests" / "samples" / "phones"
CALLS = 4
MANUAL = {"rebalance": {"mode": "Manual"}}


@contextmanager
def pair(system: System, folder: Path, *, caller: Path = PHONES / "caller.xml") -> Iterator[tuple[Sipp, Sipp]]:
    """Run the phones, with calls from one to the other: callee and caller."""
    (folder / "tone.ulaw").write_bytes(TONE * 50)
    one = Sipp(PHONES / "callee.xml", folder, local=system.callee, calls=CALLS, rtp_echo=True, limit=60)
    other = Sipp(
        caller, folder, local=(system.caller_ip, free_port(system.caller_ip)), remote=system.kedge.address,
        number="49100", calls=CALLS, limit=60,
    )  # fmt: skip
    with one, other:
        yield one, other


async def all_are_on(system: System, relay: str, anchors: int) -> bool:
    """Whether all calls are up on a relay, and were moved so often."""
    calls = [one for one in await system.calls() if one.state is CallState.ACTIVE]
    return [(one.relay, one.anchors) for one in calls] == [(relay, anchors)] * CALLS


async def test_they_outlive_two_relays_and_are_hung_up(tmp_path: Path) -> None:
    async with System(tmp_path, joined=1, phones=False, relay_set=MANUAL) as system:
        with pair(system, tmp_path) as (callee, caller):
            await system.until(lambda: all_are_on(system, "relay-1", 0), "all calls are up")
            for number, (lost, other) in enumerate(pairwise(system.relays), start=1):
                await system.join(other)
                lost.kill()
                moved = partial(all_are_on, system, system.name_of(other), number)
                await system.until(moved, f"loss {number} has moved all calls")
            for one in await system.calls():
                assert (await system.post(f"/v1/calls/{one.id}/terminate", {}))[0] == 202
            assert caller.check().succeeded == callee.check().succeeded == CALLS
        await system.assert_clean()


async def test_they_hang_up_by_themselves_a_while_after_the_last_move(tmp_path: Path) -> None:
    text = (PHONES / "caller.xml").read_text()
    assert 'timeout="120000"' in text
    (tmp_path / "caller.xml").write_text(text.replace('timeout="120000"', 'timeout="2000"'))
    async with System(tmp_path, relays=2, joined=1, phones=False, relay_set=MANUAL) as system:
        with pair(system, tmp_path, caller=tmp_path / "caller.xml") as (callee, caller):
            await system.until(lambda: all_are_on(system, "relay-1", 0), "all calls are up")
            await system.join(system.relays[1])
            system.relays[0].kill()

            assert caller.check().succeeded == callee.check().succeeded == CALLS
            assert caller.check().received("INVITE") == CALLS
        await system.assert_clean()
