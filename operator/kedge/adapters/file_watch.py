"""Sees that files have changed: by their time, size and inode, looked at once a second.

That needs no inotify, so it sees what is swapped far away as well: a ConfigMap's volume changes a link above the file,
an NFS server tells nobody. A file is told of only when two looks in a row agree, so that one which is being written is
not read by halves. What is in the files is none of its business.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

from kedge.adapters.file_stamp import Stamp, stamp

POLL: Final = 1.0
"""Seconds between two looks at the files."""
_SETTLE: Final = 0.1
"""Seconds for which a changed file must stay as it is, at most a poll."""
_Stamps = tuple[Stamp | None, ...]


class FileWatch:
    """Watches a few files together."""

    def __init__(self, files: Sequence[Path], *, poll: float = POLL) -> None:
        self._files = tuple(files)
        self._poll = poll
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """Have the files read at once, changed or not. For the loop that ``changes`` runs on."""
        self._asked.set()

    async def changes(self) -> AsyncIterator[bool]:
        """Yield when the files are to be read: first of all, after each change, and when asked (True then)."""
        seen: _Stamps | None = None
        while True:
            asked = self._asked.is_set()
            self._asked.clear()
            stamps = self._look()
            if seen is not None and stamps != seen:
                stamps = await self._settled(stamps)
            if asked or stamps != seen:
                seen = stamps
                yield asked
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), self._poll)

    async def _settled(self, stamps: _Stamps) -> _Stamps:
        """Return the stamps of the files, as soon as nobody writes to them."""
        while True:
            await asyncio.sleep(min(_SETTLE, self._poll))
            again = self._look()
            if again == stamps:
                return stamps
            stamps = again

    def _look(self) -> _Stamps:
        return tuple(stamp(file) for file in self._files)
