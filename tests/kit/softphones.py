"""What real softphones have in common here, whatever their SIP stack is."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from tests.kit.wire import Address


class Softphone(Protocol):
    """A phone that answers by itself, speaks a tone, and writes what it hears. A context manager."""

    @property
    def sip(self) -> Address:
        """Where it takes calls."""

    @property
    def log(self) -> str:
        """What it has printed."""

    def dial(self, uri: str) -> None:
        """Call somebody, and wait for the answer."""

    def heard_bytes(self) -> int:
        """Return how much audio it has decoded and written: 16 bytes a millisecond or more, while it hears any."""

    def __enter__(self) -> Self:
        """Start it."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""


def until(holds: Callable[[], bool], *, within: float = 5.0) -> bool:
    """Look every 20 ms whether something holds."""
    deadline = time.monotonic() + within
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def both_hear(one: Softphone, other: Softphone, *, within: float = 5.0) -> bool:
    """Say whether both decode a further 300 ms of audio from now on."""
    before = one.heard_bytes() + 4800, other.heard_bytes() + 4800
    return until(lambda: one.heard_bytes() > before[0] and other.heard_bytes() > before[1], within=within)


def hears(phone: Softphone) -> bool:
    """Say whether a phone decodes 100 ms of audio and more within half a second."""
    before = phone.heard_bytes()
    return until(lambda: phone.heard_bytes() > before + 1600, within=0.5)
