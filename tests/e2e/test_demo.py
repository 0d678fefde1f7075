"""The demo as users run it: a process of its own that ends by itself, and leaves nothing behind however it ends."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.kit.processes import ROOT, dying_with_parent, end


def demo(*words: str) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        dying_with_parent([sys.executable, "-m", "demo", *words]), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=pipe,
        stderr=pipe, start_new_session=True,
    )  # fmt: skip


def session_of(process: subprocess.Popen[bytes]) -> list[str]:
    """Return the commands of all living processes in a process's session: what it has started, and itself."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == process.pid and fields[0] != "Z":
                found.append((stat.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, list[str], str, Path]:
    """Exit status, lines, errors and picture of one demo."""
    picture = tmp_path_factory.mktemp("demo") / "demo.svg"
    process = demo("--calls", "9", "--svg", str(picture))
    out, err = process.communicate(timeout=120)
    assert session_of(process) == []
    return process.returncode, out.decode().splitlines(), err.decode(), picture


def test_all_calls_outlive_relays_killed_frozen_added_and_drained(run: tuple[int, list[str], str, Path]) -> None:
    status, lines, err, _ = run

    assert lines[-1] == "demo: 9 calls, 9 kept, 0 lost"
    assert (status, err) == (0, "")


def test_it_tells_what_happens_and_what_the_phones_heard(run: tuple[int, list[str], str, Path]) -> None:
    text = "\n".join(run[1])

    gap = r"audio gap p50 \d+ ms, p99 \d+ ms, max \d+ ms"
    assert re.search(rf"^relay-\d killed \(SIGKILL\) under [2-9] calls: {gap}$", text, re.MULTILINE)
    assert re.search(rf"^relay-\d frozen \(SIGSTOP\) under [2-9] calls: {gap}$", text, re.MULTILINE)
    assert re.search(rf"^relay-\d returned and got \d calls?: {gap}$", text, re.MULTILINE)
    assert re.search(rf"^relay-4 joined and got [1-9] calls?: {gap}$", text, re.MULTILINE)
    assert re.search(rf"^relay-\d drained of [3-9] calls: {gap}$", text, re.MULTILINE)
    assert re.search(r"plan: rebalance: .* to relay-4", text)
    assert re.search(r"plan: drain: \d from relay-\d to relay-\d", text)
    assert re.search(r"is Down \(Refused\)", text)
    assert re.search(r"is Down \(ProbesLost\)", text)
    assert re.search(r"^SIP responses that were not 2xx: none$", text, re.MULTILINE)
    assert "\x1b" not in text


def test_the_picture_shows_it_and_loads_nothing_from_elsewhere(run: tuple[int, list[str], str, Path]) -> None:
    picture = run[3].read_text()

    assert picture.startswith("<svg")
    assert "demo:" in picture
    assert "SIGSTOP" in picture
    assert "progress" in picture
    assert "url(" not in re.sub(r"url\(#[^)]*\)", "", picture)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_ends_what_it_has_started(number: signal.Signals) -> None:
    process = demo("--calls", "2")
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if b"calls talk" in line:
                break
        assert len(session_of(process)) >= 6, "three relays, Kedge, the phones and the demo"
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
    finally:
        end(process)

    assert (process.returncode, err.decode()) == (130, "demo: interrupted\n")
    assert session_of(process) == []
