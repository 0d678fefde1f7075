"""Calls that wait to be moved: for their turn, for a relay with room, or for their peer's budget.

Emergencies go first, then calls without audio, then the rest.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from kedge.call.want import Want

URGENT: Final = 0
SILENT: Final = 1
"""Of a call whose session is gone: the longest silent first, as relays are lost one after the other."""
QUIET: Final = 2
"""Of a call that has audio: off a relay that drains, say."""
_RELEASED: Final = 200
"""Calls held back by a peer's budget that are looked at in one go."""


class MoveQueue:
    """Each want stands here once at most; its ``queued`` says whether it does. ``rank`` says in which line."""

    __slots__ = ("_lines", "_paced", "_rank", "_waiting")

    def __init__(self, rank: Callable[[Want], int]) -> None:
        self._rank = rank
        self._lines: tuple[deque[Want], ...] = (deque(), deque(), deque())
        self._waiting: deque[Want] = deque()
        """Wants for which no relay has room, or that are to be tried again a little later."""
        self._paced: dict[str, deque[Want]] = {}
        """Wants that a peer's budget holds back, by the peer's name: others overtake them."""

    def __bool__(self) -> bool:
        return any(self._lines) or self.waits

    @property
    def waits(self) -> bool:
        """Whether any wait for something else than their turn."""
        return bool(self._waiting or self._paced)

    def put(self, want: Want) -> None:
        """Queue up, if it does not stand here already."""
        if not want.queued:
            want.queued = True
            self._lines[self._rank(want)].append(want)

    def take(self) -> Want | None:
        """Return the one whose turn it is."""
        urgent, silent, quiet = self._lines
        line = urgent or silent or quiet
        if not line:
            return None
        want = line.popleft()
        want.queued = False
        return want

    def put_back(self, want: Want) -> None:
        """It is still the turn of the one that was just taken."""
        want.queued = True
        self._lines[self._rank(want)].appendleft(want)

    def later(self, want: Want) -> None:
        """Stand aside until ``release_waiting``."""
        if not want.queued:
            want.queued = True
            self._waiting.append(want)

    def hold(self, want: Want, peer: str) -> None:
        """Stand aside until ``release_paced``."""
        want.queued = True
        self._paced.setdefault(peer, deque()).append(want)

    def release_waiting(self) -> None:
        """Put all forward that stood aside."""
        waiting, self._waiting = self._waiting, deque()
        for want in waiting:
            want.queued = False
            self.put(want)

    def release_paced(self) -> None:
        """Put forward as many as a peer's budget can have gained, and leave the rest; emergencies come first anyway."""
        for peer in list(self._paced):
            held = self._paced[peer]
            for _ in range(min(len(held), _RELEASED)):
                want = held.popleft()
                want.queued = False
                self.put(want)
            if not held:
                del self._paced[peer]
