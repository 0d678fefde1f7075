"""The commands that look into a running Kedge, against a real HTTP server; and what they say without one."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kedge.adapters.admin_http import AdminApi, EventFeed
from kedge.adapters.http_server import HttpServer
from kedge.cli.main import main
from kedge.cli.show import age
from kedge.ports.ports import CallWish
from kedge.ports.records import AnchorRecord, CallRecord, CallState, EventRecord, RelayRecord, SignalingSnapshot

NOW = time.time()
CALLS = tuple(
    CallRecord(
        id=f"call-{number}", relay_set="default/voice", relay=relay, relay_uid=relay, state=state, caller=caller,
        callee="sip:bob@192.0.2.2", caller_peer="trunk", callee_peer="pbx", call_id=f"{number}@x",
        started=NOW - 4.5 * 3600, answered=NOW - 4.4 * 3600, anchors=len(anchors),
        last_anchor=anchors[0] if anchors else None,
    )
    for number, relay, state, caller, anchors in (
        (1, "r1", CallState.ACTIVE, "sip:alice@192.0.2.1", []),
        (2, "r2", CallState.MOVING, "sip:\x1b[2J\x07evil@192.0.2.1", [
            AnchorRecord(source="r1", target="r2", reason="RelayDown", result="Moved", at=NOW, duration=0.1, gap=0.1),
        ]),
    )
)  # fmt: skip
RELAYS = tuple(
    RelayRecord(
        uid=name, name=name, relay_set="default/voice", address="127.0.0.1:2223", state=state, reason=reason,
        message=message, since=NOW - 5.5 * 3600, sessions=sessions, instance="i",
    )
    for name, state, reason, message, sessions in (
        ("r2", "Ready", "Probed", "it answers", 2),
        ("r1", "Down", "Refused", "nothing listens", 0),
    )
)  # fmt: skip
EVENTS = (
    EventRecord(at=NOW, warning=True, reason="RelayDown", message="relay r1 is Down", relay="r1"),
    EventRecord(at=NOW, warning=False, reason="FailoverDone", message="1 of 1 calls moved", relay="r1"),
)


class Server:
    """An admin API on a thread of its own."""

    def __init__(self) -> None:
        self.wishes: list[CallWish] = []
        self.answer = ""
        self.url = ""
        self._loop: asyncio.AbstractEventLoop
        self._end: asyncio.Event
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def __enter__(self) -> Server:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self._thread.join(10)

    def end(self) -> None:
        with suppress(RuntimeError):  # it has ended already
            self._loop.call_soon_threadsafe(self._end.set)

    def snapshot(self, *, calls: bool = True) -> SignalingSnapshot:
        return SignalingSnapshot(replica="r", at=NOW, relays=RELAYS, calls=CALLS if calls else (), events=EVENTS)

    async def _wish(self, wish: CallWish) -> str:
        self.wishes.append(wish)
        return self.answer

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        self.feed = EventFeed()
        server = HttpServer(("127.0.0.1", 0), AdminApi(self, self._wish, self.feed).routes())
        host, port = await server.start()
        self.url = f"http://{host}:{port}"
        self._ready.set()
        await self._end.wait()
        self.feed.close()
        await server.close()


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with Server() as made:
        yield made


@pytest.fixture
def server(running: Server) -> Server:
    running.wishes.clear()
    running.answer = ""
    return running


def kedge(server: Server, *words: str) -> Result:
    return CliRunner(env={"KEDGE_SERVER": server.url}).invoke(main, words)


def cells(line: str) -> list[str]:
    return [one.strip() for one in line.split("  ") if one.strip()]


def test_calls_are_a_table(server: Server) -> None:
    head, _, *rows = kedge(server, "calls").stdout.splitlines()

    assert cells(head) == ["CALL", "FROM", "TO", "RELAY", "STATE", "ANCHORS", "LAST MOVE", "AGE"]
    assert cells(rows[0]) == ["call-1", "sip:alice@192.0.2.1", "sip:bob@192.0.2.2", "r1", "Active", "0", "4h"]
    assert cells(rows[1])[3:7] == ["r2", "Moving", "1", "RelayDown from r1: Moved"]


def test_what_a_caller_puts_into_its_uri_does_not_steer_the_terminal(server: Server) -> None:
    out = kedge(server, "calls").stdout

    assert "sip:?[2J?evil@192.0.2.1" in out
    assert "\x1b" not in out
    assert "\x07" not in out


def test_calls_can_be_chosen_and_told_as_json(server: Server) -> None:
    chosen = json.loads(kedge(server, "calls", "--relay", "r2", "-o", "json").stdout)
    first = json.loads(kedge(server, "calls", "--limit", "1", "--output", "json").stdout)

    assert [one["id"] for one in chosen] == ["call-2"]
    assert [one["id"] for one in first] == ["call-1"]


def test_relays_are_a_table_in_the_order_of_their_names(server: Server) -> None:
    _, _, *rows = kedge(server, "relays").stdout.splitlines()

    assert [cells(row) for row in rows] == [
        ["r1", "default/voice", "127.0.0.1:2223", "Down", "0", "5h", "Refused: nothing listens"],
        ["r2", "default/voice", "127.0.0.1:2223", "Ready", "2", "5h", "Probed: it answers"],
    ]


def test_relays_are_told_as_json(server: Server) -> None:
    assert [one["state"] for one in json.loads(kedge(server, "relays", "-o", "json").stdout)] == ["Ready", "Down"]


def test_events_are_lines(server: Server) -> None:
    lines = kedge(server, "events").stdout.splitlines()

    assert [cells(line)[1:] for line in lines] == [
        ["RelayDown", "relay r1 is Down"],
        ["FailoverDone", "1 of 1 calls moved"],
    ]


def test_followed_events_end_with_the_server_and_are_json_lines_when_asked() -> None:
    with Server() as server:
        ended = threading.Timer(0, _when_followed, (server,))
        ended.start()
        lines = kedge(server, "events", "--follow", "-o", "json").stdout.splitlines()
        ended.join()

    assert [json.loads(line)["reason"] for line in lines] == ["RelayDown", "FailoverDone"]


def _when_followed(server: Server) -> None:
    deadline = time.monotonic() + 10
    while not server.feed.followers and time.monotonic() < deadline:
        threading.Event().wait(0.005)
    server.end()


def test_following_ends_with_an_interrupt_and_no_word() -> None:
    # As at a terminal: a shell has what it puts into the background, these tests perhaps, ignore the signal.
    command = ["env", "--default-signal=INT", sys.executable, "-m", "kedge.cli.main", "events", "--follow"]
    with (
        Server() as server,
        subprocess.Popen([*command, "--server", server.url], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process,
    ):
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        try:
            _, err = process.communicate(timeout=10)
        finally:
            process.kill()

    assert (process.returncode, err) == (130, b"")


def test_a_call_is_moved_and_hung_up(server: Server) -> None:
    moved = kedge(server, "move", "call-1", "r2")
    ended = kedge(server, "terminate", "call-2")

    assert (moved.exit_code, moved.stdout) == (0, "call-1 is being moved to r2\n")
    assert (ended.exit_code, ended.stdout) == (0, "call-2 is being hung up\n")
    assert server.wishes == [CallWish(call="call-1", relay="r2"), CallWish(call="call-2", terminate=True)]


def test_a_refusal_is_told_in_the_servers_words(server: Server) -> None:
    server.answer = "relay r1 is Down: nothing listens"

    result = kedge(server, "move", "call-1", "r1")

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "kedge: relay r1 is Down: nothing listens\n"


def test_a_call_of_any_name_is_only_a_name(server: Server) -> None:
    kedge(server, "move", "../../v1/x?y#z", "r2")

    assert [one.call for one in server.wishes] == ["../../v1/x?y#z"]


@contextmanager
def answering(body: bytes, got: list[bytes] | None = None) -> Iterator[str]:
    """Something that is not Kedge; ``got`` takes what it is asked."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        if got is not None:
            got.append(asked)
        writer.write(body)
        await writer.drain()
        writer.close()

    started, url = threading.Event(), ""
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        nonlocal url
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        url = "http://{}:{}".format(*server.sockets[0].getsockname())
        async with server:
            started.set()
            await end.wait()

    end = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert started.wait(10)
    try:
        yield url
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join(10)
        loop.close()


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "does not answer as Kedge does"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n[{}]",
            "does not answer as Kedge does: RelayRecord.uid is missing",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "does not answer as Kedge does"),
        (b"HTTP/1.1 500 Oh\r\nContent-Length: 4\r\n\r\nboom", "500 Oh: boom"),
        (b"SSH-2.0-OpenSSH\r\n", "cannot reach Kedge"),
    ],
)
def test_something_that_is_not_kedge_is_told(answer: bytes, told: str) -> None:
    with answering(answer) as url:
        result = CliRunner().invoke(main, ["relays", "--server", url])

    assert result.exit_code == 1
    assert result.stderr.startswith("kedge: ")
    assert told in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", [("calls",), ("relays",), ("events",), ("move", "a", "b"), ("terminate", "a")])
def test_no_server_is_told_with_what_to_do(command: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, [*command, "--server", "http://127.0.0.1:1"])

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("kedge: cannot reach Kedge at http://127.0.0.1:1: ")
    assert "--server" in result.stderr


@pytest.mark.parametrize("command", [("calls",), ("events",), ("plan", "rebalance"), ("drain", "r1")])
def test_a_file_without_a_token_is_told(server: Server, command: tuple[str, ...], tmp_path: Path) -> None:
    result = kedge(server, *command, "--token-file", str(tmp_path / "nowhere"))

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"kedge: --token-file: {tmp_path / 'nowhere'}: No such file or directory\n"


def test_whoever_a_server_redirects_to_gets_no_token(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("the-token-of-today")
    got: list[bytes] = []
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", got) as there:
        away = b"HTTP/1.1 302 Found\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % f"{there}/v1/calls".encode()
        with answering(away, got) as here:
            CliRunner().invoke(main, ["calls", "--server", here, "--token-file", str(tmp_path / "token")])

    assert [b"the-token-of-today" in one for one in got] == [True, False]


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(-1, "0s"), (119.9, "119s"), (120, "2m0s"), (599, "9m59s"), (600, "10m"), (10800, "3h"), (172800, "2d")],
)
def test_ages_are_short(seconds: float, told: str) -> None:
    assert age(seconds) == told


@pytest.mark.parametrize(
    "command",
    [
        "",
        "run",
        "signaling",
        "operator",
        "check",
        "calls",
        "relays",
        "events",
        "move",
        "terminate",
        "drain",
        "cordon",
        "uncordon",
        "rebalance",
        "plan drain",
        "plan loss",
        "plan rebalance",
    ],
)
def test_help_teaches_each_command(command: str) -> None:
    result = CliRunner().invoke(main, [*command.split(), "--help"])

    assert result.exit_code == 0
    assert "Usage: " in result.stdout
    assert not command or "Example" in result.stdout
