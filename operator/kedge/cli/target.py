"""What commands ask, and of whom: a running Kedge by its admin API, or a cluster by the objects in it."""

from __future__ import annotations

from typing import Any, Protocol

from kedge.base.errors import KedgeError
from kedge.ports.records import CallRecord, RelayRecord, SignalingSnapshot
from kedge.relay.model import Intent


class TargetError(KedgeError):
    """Whoever was asked cannot be reached, or refuses; the message says which, in words for a person."""


class Target(Protocol):
    """Looks and wishes. Every method raises ``TargetError``."""

    def calls(self, *, relay: str = "", limit: int | None = None) -> list[CallRecord]:
        """Return calls, of one relay if it is named."""

    def relays(self) -> list[RelayRecord]:
        """Return all relays."""

    def snapshot(self) -> SignalingSnapshot:
        """Return what is known now, without the calls."""

    def plan(self, kind: str, *, relay: str = "", relay_set: str = "", calls: bool = False) -> dict[str, Any]:
        """Return what would be done (``Plan.as_dict``); nothing is."""

    def move(self, call: str, relay: str) -> None:
        """Ask for a call to be moved."""

    def terminate(self, call: str) -> None:
        """Ask for a call to be hung up."""

    def wish(self, relay: str, intent: Intent, *, relay_set: str = "") -> None:
        """Say what is wanted of a relay."""

    def rebalance(self, relay_set: str) -> str:
        """Ask for the load of a set to be evened out; return the set's key, ``namespace/name``."""
