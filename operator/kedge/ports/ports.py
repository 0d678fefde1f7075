"""The ports: what runs inside Kedge sees of the world only through these."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from kedge.ports.records import CallRecord, SignalingSnapshot
from kedge.relay.model import InventorySnapshot


class RelayInventory(Protocol):
    """Which relays exist and what is wanted of each: pods of RelaySets, or files.

    It runs on a loop of its own and never makes signaling wait: it only hands over whole snapshots.
    """

    async def run(self, publish: Callable[[InventorySnapshot], None]) -> None:
        """Call ``publish`` (thread-safe) with every new snapshot until cancelled. Silence means: as it was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LegWish:
    """What a person wants of one leg. What is empty is left as it is."""

    transport: str = ""
    """RTP or SRTP."""
    interface: str = ""
    address: str = ""
    flags: tuple[str, ...] = ()


NO_WISH: Final = LegWish()
"""All is to be left as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallWish:
    """What a person wants of one call. Level-triggered: the same wish again is harmless.

    The newest one counts: it takes back what the one before asked for beyond it.
    """

    call: str
    """Kedge's name of the call."""
    relay: str = ""
    """Name of the relay that it should be on; empty for no wish."""
    terminate: bool = False
    caller: LegWish = NO_WISH
    callee: LegWish = NO_WISH
    generation: int = 0
    """The generation of the Call object that it stands in; 0 where it stands in none."""


class CallStore(Protocol):
    """Keeps records of calls where people can see them, and brings back their wishes. Nothing depends on it."""

    def put(self, record: CallRecord) -> None:
        """Take the newest record of a call. Thread-safe, never blocks; the store writes when its budget allows."""

    def remove(self, call: str) -> None:
        """Let the record of an ended call go. Thread-safe, never blocks."""

    async def run(self, wish: Callable[[CallWish], None]) -> None:
        """Write records within the budget, and call ``wish`` (thread-safe) for each that is seen, until cancelled.

        A wish that is taken back is told too, as one that wants less, or nothing.
        """


class SignalingView(Protocol):
    """How the operator sees signaling: in process, or over HTTP."""

    async def snapshots(self) -> tuple[SignalingSnapshot, ...]:
        """Return what each reachable replica knows now."""
