"""A settings file that changes under a process: what is put in force, what waits, what is refused, and who is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kedge.adapters.file_inventory import FilesError
from kedge.api.settings import Log, Settings
from kedge.cli.reload import OPERATOR_WAITS, SIGNALING_WAITS, Reloader, SettingsFiles
from kedge.runtime.stats import Reloads

RELAY_SET = """
apiVersion: kedge.media/v1alpha1
kind: RelaySet
metadata: { name: voice }
spec:
  engine: RTPEngine
  endpoints: [{ name: r1, address: 127.0.0.11 }]
"""
PEER = {"name": "pbx", "networks": ["192.0.2.0/24"]}
ROUTE = {"name": "all", "nextHops": [{"address": "192.0.2.9"}], "relaySet": "voice"}


class Process:
    """A process that takes settings, with its files in a folder."""

    def __init__(self, folder: Path, waits: frozenset[Any], *, relay_sets: bool) -> None:
        self.file, self.relay_sets = folder / "settings.yaml", folder / "relayset.yaml"
        self.write({"peers": [PEER]})
        self.relay_sets.write_text(RELAY_SET)
        files = SettingsFiles(settings=self.file, relay_sets=[self.relay_sets] if relay_sets else [])
        self.logs: list[Log] = []
        self.taken: list[Settings] = []
        self.told: asyncio.Queue[tuple[bool, str, str]] = asyncio.Queue()
        self.reloads = Reloads()
        self.reloader = Reloader(files, files.read(), self.logs.append, waits, poll=0.01)

    @property
    def results(self) -> dict[str, int]:
        """How often each result was counted, of those that were."""
        return {result: count for result, count in self.reloads.results.items() if count}

    def write(self, settings: dict[str, Any] | str) -> None:
        self.file.write_text(settings if isinstance(settings, str) else json.dumps(settings))

    async def take(self, settings: Settings) -> None:
        self.taken.append(settings)

    def tell(self, *, warning: bool, reason: str, message: str) -> None:
        self.told.put_nowait((warning, reason, message))

    async def run(self) -> None:
        await self.reloader.run(self.take, self.tell, self.reloads)

    async def ask(self) -> tuple[bool, str, str]:
        self.reloader.ask()
        return await self.told.get()


@asynccontextmanager
async def running(
    folder: Path, waits: frozenset[Any] = SIGNALING_WAITS, *, relay_sets: bool = False
) -> AsyncIterator[Process]:
    process = Process(folder, waits, relay_sets=relay_sets)
    task = asyncio.create_task(process.run())
    try:
        async with asyncio.timeout(10):
            yield process
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_can_change_is_put_in_force_and_told_by_its_fields(tmp_path: Path) -> None:
    async with running(tmp_path) as process:
        process.write({"sip": {"maxCalls": 9, "ringTimeout": "9s"}, "log": {"level": "debug"}})
        told = await process.told.get()

    message = "settings in force now: sip.maxCalls, sip.ringTimeout, peers, log.level"
    assert told == (False, "SettingsApplied", message)
    assert [(one.sip.max_calls, one.peers) for one in process.taken] == [(9, ())]
    assert [one.level.value for one in process.logs] == ["debug"]
    assert process.reloader.settings is process.taken[0]
    assert (process.results, process.reloads.current) == ({"Applied": 1}, True)


async def test_what_needs_a_restart_waits_and_the_rest_does_not(tmp_path: Path) -> None:
    async with running(tmp_path) as process:
        process.write({"sip": {"listen": [{"address": "192.0.2.1"}]}, "admin": {"port": 81}, "kube": {"resync": "9s"}})
        first = await process.told.get()
        process.write({"sip": {"listen": [{"address": "192.0.2.1"}], "maxCalls": 7}})
        second = await process.told.get()
        waits = process.reloads.current
        process.write({"sip": {"maxCalls": 7}})
        third = await process.told.get()

    message = "settings in force now: peers, kube.resync; waiting for a restart: sip.listen, admin.port"
    assert first == (True, "SettingsRestartNeeded", message)
    message = "settings in force now: sip.maxCalls, kube.resync; waiting for a restart: sip.listen"
    assert second == (True, "SettingsRestartNeeded", message)
    assert third == (False, "SettingsApplied", "the settings in force have not changed")
    assert {one.sip.listen for one in process.taken} == {Settings().sip.listen}
    assert (waits, process.reloads.current) == (False, True)
    assert process.results == {"RestartNeeded": 2, "Applied": 1}


async def test_a_process_with_the_operator_in_it_waits_with_the_operators_settings(tmp_path: Path) -> None:
    async with running(tmp_path, OPERATOR_WAITS) as process:
        process.write({"peers": [PEER], "kube": {"resync": "9s"}})
        _, reason, message = await process.told.get()

    assert reason == "SettingsRestartNeeded"
    assert message == "the settings in force have not changed; waiting for a restart: kube.resync"
    assert process.taken == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("sip: { maxCals: 3 }", "{file}:1: sip.maxCals: unknown field; did you mean maxCalls?"),
        ("sip: { userAgent: '${KEDGE_TEST_UNSET}' }", "the environment variable KEDGE_TEST_UNSET is not set"),
        ("sip: { maxCalls: 0 }\npeers: [{ name: a }]", "{file}:1: sip.maxCalls: 0 is not allowed"),
        ("peers: [", "{file}:1: is not YAML"),
        (
            "sip: { listen: [{ address: 127.0.0.1 }, { address: 127.0.0.2 }] }",
            "{file}:1: sip.listen: ",
        ),
    ],
    ids=["unknown", "unset variable", "two mistakes", "not YAML", "two sockets"],
)
async def test_a_wrong_file_changes_nothing_and_says_why_until_it_is_mended(
    tmp_path: Path, text: str, told: str
) -> None:
    async with running(tmp_path) as process:
        before = process.reloader.settings
        process.write(text)
        warning, reason, message = await process.told.get()
        refused = (process.reloads.current, process.taken, process.reloader.settings)
        process.write({"peers": [PEER]})
        mended = await process.told.get()

    assert (warning, reason) == (True, "SettingsRefused")
    assert message.startswith("the settings stay as they were: ")
    assert told.format(file=process.file) in message
    assert "\n" not in message
    assert refused == (False, [], before)
    assert mended == (False, "SettingsApplied", "the settings in force have not changed")
    assert (process.results, process.reloads.current) == ({"Refused": 1, "Applied": 1}, True)


async def test_variables_of_the_environment_are_put_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEDGE_TEST_ZONE", "east")
    async with running(tmp_path) as process:
        process.write("signaling: { zone: '${KEDGE_TEST_ZONE}' }")
        await process.told.get()

    assert process.taken[-1].signaling.zone == "east"


async def test_a_file_that_is_gone_changes_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as process:
        process.file.unlink()
        _, reason, message = await process.told.get()

    assert reason == "SettingsRefused"
    assert message == f"the settings stay as they were: {process.file}: No such file or directory"
    assert process.taken == []


async def test_routes_must_name_relay_sets_of_the_files_also_when_those_change(tmp_path: Path) -> None:
    async with running(tmp_path, relay_sets=True) as process:
        process.write({"peers": [PEER], "routes": [ROUTE | {"relaySet": "video"}]})
        _, refused, message = await process.told.get()
        process.relay_sets.write_text(RELAY_SET.replace("voice", "video"))
        _, applied, _ = await process.told.get()

    assert (refused, applied) == ("SettingsRefused", "SettingsApplied")
    assert "routes[0].relaySet: video is not allowed: must be a RelaySet that exists" in message
    assert [one.relay_set for one in process.taken[-1].routes] == ["video"]


async def test_who_asks_is_answered_and_a_remark_in_the_file_is_no_news(tmp_path: Path) -> None:
    async with running(tmp_path) as process:
        process.write(json.dumps({"peers": [PEER]}) + "\n# a remark\n")
        answer = await process.ask()

    assert answer == (False, "SettingsApplied", "the settings in force have not changed")
    assert process.told.empty()
    assert process.taken == []


def test_without_a_file_there_are_the_defaults() -> None:
    assert SettingsFiles(settings=None).read() == Settings()


def test_what_keeps_a_process_from_starting_is_told_as_later(tmp_path: Path) -> None:
    relay_sets = tmp_path / "relayset.yaml"
    relay_sets.write_text(RELAY_SET)
    file = tmp_path / "settings.yaml"
    file.write_text(json.dumps({"peers": [PEER], "routes": [ROUTE | {"relaySet": "video"}]}))

    with pytest.raises(FilesError, match=r"routes\[0\].relaySet: video"):
        SettingsFiles(settings=file, relay_sets=[relay_sets]).read()
