"""Files that change under a watch: written, swapped as a ConfigMap's volume does it, gone, and asked for."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path, PosixPath

import pytest

from kedge.adapters.file_watch import FileWatch

PATIENCE = 10.0
"""Seconds after which a test fails that waits in vain."""


class Looks:
    """What is read of a file whenever the watch says so."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.watch = FileWatch([file], poll=0.01)
        self.read: asyncio.Queue[tuple[str, bool]] = asyncio.Queue()

    async def run(self) -> None:
        async for asked in self.watch.changes():
            self.read.put_nowait((self.file.read_text() if self.file.exists() else "", asked))


@asynccontextmanager
async def watching(file: Path) -> AsyncIterator[Looks]:
    looks = Looks(file)
    task = asyncio.create_task(looks.run())
    try:
        async with asyncio.timeout(PATIENCE):
            yield looks
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Volume:
    """A ConfigMap as a kubelet mounts it: the file is a link through ``..data``, which is swapped in one step."""

    def __init__(self, folder: Path, text: str) -> None:
        self.folder = folder
        self.count = 0
        self.file = folder / "settings.yaml"
        self.write(text)
        self.file.symlink_to("..data/settings.yaml")

    def write(self, text: str) -> None:
        self.count += 1
        made = self.folder / f"..{self.count}"
        made.mkdir()
        (made / "settings.yaml").write_text(text)
        os.utime(made / "settings.yaml", (1.0, 1.0))  # of equal time and size: only the inode is another
        new = self.folder / "..data_tmp"
        new.symlink_to(made.name)
        new.rename(self.folder / "..data")


async def test_a_file_is_read_at_first_and_after_each_change(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("one")
    async with watching(file) as looks:
        seen = [await looks.read.get()]
        for text in ("two", "three"):
            file.write_text(text)
            seen.append(await looks.read.get())

    assert seen == [("one", False), ("two", False), ("three", False)]


async def test_the_swap_of_a_mounted_config_map_is_seen(tmp_path: Path) -> None:
    volume = Volume(tmp_path, "one")
    async with watching(volume.file) as looks:
        seen = [await looks.read.get()]
        for text in ("two", "six"):
            volume.write(text)
            seen.append(await looks.read.get())

    assert [text for text, _ in seen] == ["one", "two", "six"]


async def test_a_file_that_goes_and_comes_is_told_of_both_times(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("one")
    async with watching(file) as looks:
        await looks.read.get()
        file.unlink()
        gone = await looks.read.get()
        file.write_text("one")
        back = await looks.read.get()

    assert (gone, back) == (("", False), ("one", False))


@pytest.mark.parametrize("change", [lambda file: None, lambda file: file.write_text("two")], ids=["as it was", "other"])
async def test_who_asks_has_it_read_changed_or_not(tmp_path: Path, change: Callable[[Path], object]) -> None:
    file = tmp_path / "file"
    file.write_text("one")
    async with watching(file) as looks:
        await looks.read.get()
        change(file)
        looks.watch.ask()
        text, asked = await looks.read.get()

    assert (text, asked) == (file.read_text(), True)


class Written(PosixPath):
    """A file that grows a little with each of the first looks at it after ``begin``."""

    left = 0

    def begin(self) -> None:
        self.write_text("")
        Written.left = 5

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        if Written.left:
            Written.left -= 1
            with self.open("a") as file:
                file.write("more ")
        return super().stat(follow_symlinks=follow_symlinks)


async def test_a_file_that_is_being_written_is_not_read_by_halves(tmp_path: Path) -> None:
    file = Written(tmp_path / "file")
    file.write_text("whole")
    async with watching(file) as looks:
        await looks.read.get()
        file.begin()
        text, _ = await looks.read.get()

    assert text == 5 * "more "
    assert looks.read.empty()
