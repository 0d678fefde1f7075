"""The settings file of a process: read and checked at the start, and in the same way whenever it has changed.

What a file says is put in force as far as a process that runs can have it; what is left is told to wait for a restart.
A wrong file is told with field and reason, and all stays as it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from kedge.adapters.file_inventory import FilesError, read_relay_sets
from kedge.adapters.file_watch import POLL, FileWatch
from kedge.api.change import OPERATOR, RESTART, Change, as_far_as, differences
from kedge.api.errors import ManifestError
from kedge.api.load import check_together, load_settings
from kedge.api.settings import Log, Settings
from kedge.runtime.stats import APPLIED, REFUSED, RESTART_NEEDED, Reloads

SIGNALING_WAITS: Final = frozenset({RESTART})
"""What a process without the operator can only take at its start."""
OPERATOR_WAITS: Final = frozenset({RESTART, OPERATOR})
"""The same for a process that has the operator in it."""


class Tell(Protocol):
    """Takes what a person may want to read."""

    def __call__(self, *, warning: bool, reason: str, message: str) -> None:
        """Say it; ``reason`` is in CamelCase, as that of an Event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsFiles:
    """A settings file, and the RelaySet files that it has to agree with."""

    settings: Path | None
    relay_sets: Sequence[Path] = ()

    def read(self) -> Settings:
        """Return the settings, or the defaults where there is no file.

        Raises:
            FilesError: a file cannot be read or used, or one does not agree with the others.
        """
        settings = Settings() if self.settings is None else _read(self.settings)
        if self.relay_sets:
            name = str(self.settings or "settings")
            problems = check_together(settings, read_relay_sets(self.relay_sets), name=name)
            if problems:
                raise FilesError("\n".join(map(str, problems)))
        return settings

    def all(self) -> list[Path]:
        """Return the files, as far as there are any."""
        return [*([] if self.settings is None else [self.settings]), *self.relay_sets]


def _read(file: Path) -> Settings:
    try:
        return load_settings(file)
    except ManifestError as error:
        raise FilesError(str(error)) from None
    except OSError as error:
        raise FilesError(f"{file}: {error.strerror or error}") from None


class Reloader:
    """Holds the settings in force, and brings them up to date with their file."""

    def __init__(
        self, files: SettingsFiles, settings: Settings, set_log: Callable[[Log], None],
        waits: frozenset[Change] = SIGNALING_WAITS, *, poll: float = POLL,
    ) -> None:  # fmt: skip
        self.settings = settings
        """Those in force."""
        self._files = files
        self._set_log = set_log
        self._waits = waits
        self._watch = FileWatch(files.all(), poll=poll)
        self._standing: tuple[str, list[str]] = (APPLIED, [])
        """What was said last of the file: the result, and what waits for a restart."""

    def ask(self) -> None:
        """Look at once, and say what was found; for SIGHUP."""
        self._watch.ask()

    async def run(self, take: Callable[[Settings], Awaitable[None]], tell: Tell, reloads: Reloads) -> None:
        """Bring the settings up to date until cancelled; ``take`` puts others in force."""
        async for asked in self._watch.changes():
            try:
                wanted = await asyncio.to_thread(self._files.read)
            except FilesError as error:
                self._standing = (REFUSED, [])
                reloads.count(REFUSED, current=False)
                message = f"the settings stay as they were: {'; '.join(str(error).splitlines())}"
                tell(warning=True, reason=f"Settings{REFUSED}", message=message)
            else:
                await self._take(wanted, asked, take, tell, reloads)

    async def _take(
        self, wanted: Settings, asked: bool, take: Callable[[Settings], Awaitable[None]], tell: Tell, reloads: Reloads
    ) -> None:
        settings = as_far_as(self.settings, wanted, self._waits)
        changed, waiting = list(differences(self.settings, settings)), list(differences(settings, wanted))
        if changed:
            self._set_log(settings.log)
            await take(settings)
            self.settings = settings
        result = RESTART_NEEDED if waiting else APPLIED
        if changed or asked or self._standing != (result, waiting):
            self._standing = (result, waiting)
            reloads.count(result, current=not waiting)
            tell(warning=bool(waiting), reason=f"Settings{result}", message=_message(changed, waiting))


def _message(changed: list[str], waiting: list[str]) -> str:
    done = f"settings in force now: {', '.join(changed)}" if changed else "the settings in force have not changed"
    return f"{done}; waiting for a restart: {', '.join(waiting)}" if waiting else done
