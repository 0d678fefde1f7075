"""A Lease: the one record that says which of several processes acts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

NOBODY: Final = ""
"""The holder of a Lease that was released."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRecord:
    """What a Lease says. Its times are told to people alone; that each renewal differs from the last one matters."""

    holder: str
    duration: int
    """Seconds that others are to wait for a renewal; 0 where it says none."""
    acquired: int
    """Since when the holder has it, in unix microseconds by the holder's clock; 0 where it does not say."""
    renewed: int
    """When it was written last, likewise. Never goes back."""
    transitions: int
    """How often it went to another holder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenLease:
    """A Lease as the API server has it."""

    record: LeaseRecord
    version: str
    """The version to write against."""


class LeaseStore(Protocol):
    """Keeps one Lease. Each verb raises KubeError; none retries."""

    async def read(self) -> SeenLease | None:
        """Return the Lease, or None where there is none."""

    async def write(self, record: LeaseRecord, version: str | None) -> SeenLease:
        """Create the Lease where ``version`` is None, else replace just that version; return what it is now."""

    async def close(self) -> None:
        """Close all connections."""
