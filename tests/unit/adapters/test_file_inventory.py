"""RelaySets from files: what they become, what is refused and how, and what a change does to a running inventory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kedge.adapters.file_inventory import FileInventory, FilesError, read_relay_sets, snapshot_of
from kedge.relay.model import InventorySnapshot

GOOD = """
apiVersion: kedge.media/v1alpha1
kind: RelaySet
metadata: { name: voice }
spec:
  engine: RTPEngine
  endpoints:
    - { name: r1, address: 127.0.0.11 }
    - { name: r2, address: 127.0.0.12, port: 2224, zone: b }
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "relayset.yaml"
    made.write_text(GOOD)
    return made


def test_endpoints_become_relays(file: Path) -> None:
    snapshot = snapshot_of(read_relay_sets([file]))

    assert [one.key for one in snapshot.relay_sets] == ["default/voice"]
    assert [(one.name, one.control, one.zone) for one in snapshot.relays] == [
        ("r1", ("127.0.0.11", 2223), ""),
        ("r2", ("127.0.0.12", 2224), "b"),
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (GOOD.replace("RTPEngine", "RTPEngin"), "{file}:6: spec.engine: RTPEngin is not allowed: must be RTPEngine"),
        (
            GOOD.partition("  endpoints")[0] + "  replicas: 3\n",
            "{file}: RelaySet voice: spec.endpoints: is missing: without a cluster relays are known by address",
        ),
        (
            GOOD.replace("RTPEngine", "RTPProxy"),
            "{file}: RelaySet voice: spec.engine: RTPProxy is not allowed: only RTPEngine is supported so far",
        ),
        ("", "{file}: holds no RelaySet"),
    ],
    ids=["wrong engine", "no endpoints", "unsupported engine", "empty"],
)
def test_what_cannot_be_used_is_told_by_file_and_field(file: Path, text: str, told: str) -> None:
    file.write_text(text)

    with pytest.raises(FilesError) as caught:
        read_relay_sets([file])

    assert told.format(file=file) in str(caught.value)


def test_the_problems_of_all_files_are_told_at_once(file: Path, tmp_path: Path) -> None:
    twin, missing = tmp_path / "twin.yaml", tmp_path / "missing.yaml"
    twin.write_text(GOOD)

    with pytest.raises(FilesError) as caught:
        read_relay_sets([file, twin, missing])

    assert str(caught.value).splitlines() == [
        f"{twin}: RelaySet voice: metadata.name: voice is not allowed: {file} has a RelaySet of that name",
        f"{missing}: No such file or directory",
    ]


def write(file: Path, text: str | None) -> None:
    if text is None:
        file.unlink()
    else:
        file.write_text(text)


class Ear(logging.Handler):
    """Hears the first line that is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: asyncio.Future[logging.LogRecord] = asyncio.get_running_loop().create_future()

    def emit(self, record: logging.LogRecord) -> None:
        if not self.heard.done():
            self.heard.set_result(record)


@asynccontextmanager
async def watching(file: Path) -> AsyncIterator[asyncio.Queue[InventorySnapshot]]:
    told: asyncio.Queue[InventorySnapshot] = asyncio.Queue()
    task = asyncio.create_task(FileInventory([file], poll=0.01).run(told.put_nowait))
    try:
        yield told
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_changed_file_is_told_anew_and_an_unchanged_one_is_not(file: Path) -> None:
    async with asyncio.timeout(10), watching(file) as told:
        first = await told.get()
        write(file, GOOD + "# a remark changes nothing\n")
        write(file, GOOD.replace("127.0.0.12", "127.0.0.13"))
        second = await told.get()

    assert [one.control[0] for one in first.relays] == ["127.0.0.11", "127.0.0.12"]
    assert [one.control[0] for one in second.relays] == ["127.0.0.11", "127.0.0.13"]
    assert told.empty()


async def test_a_relay_is_drained_by_its_file_and_taken_back(file: Path) -> None:
    drained = GOOD.replace("127.0.0.11 }", "127.0.0.11, intent: Drain }")
    async with asyncio.timeout(10), watching(file) as told:
        seen = [await told.get()]
        for text in (drained, GOOD):
            write(file, text)
            seen.append(await told.get())

    assert [[one.intent.value for one in each.relays] for each in seen] == [
        ["Serve", "Serve"], ["Drain", "Serve"], ["Serve", "Serve"],
    ]  # fmt: skip


def test_an_intent_that_is_none_is_told_with_what_is_allowed(file: Path) -> None:
    file.write_text(GOOD.replace("127.0.0.11 }", "127.0.0.11, intent: Leave }"))

    with pytest.raises(FilesError, match="intent: Leave is not allowed: must be Serve, Cordon or Drain"):
        read_relay_sets([file])


@pytest.mark.parametrize("wrong", ["{", None], ids=["not YAML", "gone"])
async def test_a_wrong_file_leaves_the_last_good_inventory(
    file: Path, wrong: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ear = Ear()
    monkeypatch.setattr(logging.getLogger("kedge.adapters.file_inventory"), "handlers", [ear])
    async with asyncio.timeout(10), watching(file) as told:
        await told.get()
        write(file, wrong)
        line = await ear.heard
        assert told.empty()
        write(file, GOOD.replace("r2", "r3"))
        mended = await told.get()

    assert line.levelno == logging.ERROR
    assert str(file) in line.getMessage()
    assert [one.name for one in mended.relays] == ["r1", "r3"]
