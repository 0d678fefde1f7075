"""The phones' front door: ``PhoneFarm`` in this process, ``PhoneProcess`` in one of its own (no shared GIL).

``python -m tests.kit.phones '{"proxy": ["127.0.0.1", 5060]}'`` plays the phones and speaks JSON lines: it prints its
addresses first, then takes ``{"id": 1, "do": "place_calls", "with": {"count": 20}}`` and answers
``{"id": 1, "ok": ...}`` or ``{"id": 1, "error": "..."}``. Commands are the coroutines of ``PhoneFarm``, and ``quit``.
"""

import asyncio
import contextlib
import dataclasses
import gc
import itertools
import json
import sys
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from tests.kit.behaviour import Behaviour, Fault
from tests.kit.farm import ANYWHERE, PhoneFarm
from tests.kit.processes import ROOT, dying_with_parent
from tests.kit.results import CallReport, FarmReport, LegReport, ReInvite, plain, quantile
from tests.kit.wire import Address

__all__ = [
    "Behaviour", "CallReport", "FarmReport", "Fault", "LegReport", "PhoneFarm", "PhoneProcess", "PhonesError",
    "ReInvite", "quantile",
]  # fmt: skip

_COMMANDS = frozenset({
    "hang_up", "pause_rtp", "place_calls", "reinvite", "report", "summary", "update", "wait_answered", "wait_audio",
    "wait_over", "wait_reanchored", "wait_talking",
})  # fmt: skip
_LINE_LIMIT = 1 << 28  # a report of thousands of calls is one line


class PhonesError(Exception):
    """The phone process did not start, refused a command, or is gone."""


class PhoneProcess:
    """A phone farm in a process of its own: the coroutines of ``PhoneFarm``, with the same arguments and results."""

    def __init__(
        self,
        *,
        proxy: Address | None = None,
        caller: Address = ANYWHERE,
        callee: Address = ANYWHERE,
        caller_behaviour: Behaviour | None = None,
        callee_behaviour: Behaviour | None = None,
        prefix: str = "49",
        forget_after: float | None = None,
        favoured: bool = False,
    ) -> None:
        """Prepare it; the settings are those of ``PhoneFarm``.

        Args:
            favoured: Have the process go before others (needs root): phones are elsewhere in the world, and their share
                of this machine is not to be what is measured.
        """
        self._favoured = favoured
        self._settings = {
            "proxy": proxy, "caller": caller, "callee": callee, "caller_behaviour": caller_behaviour,
            "callee_behaviour": callee_behaviour, "prefix": prefix, "forget_after": forget_after,
        }  # fmt: skip
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._ids = itertools.count(1)
        self.caller_address: Address = caller
        self.callee_address: Address = callee

    @property
    def pid(self) -> int:
        """The process id, 0 before the start."""
        return 0 if self._process is None else self._process.pid

    async def start(self) -> None:
        """Start the process, and wait until its sockets are open.

        Raises:
            PhonesError: it ended at once (its error stands on stderr).
        """
        command = [sys.executable, "-m", "tests.kit.phones", _to_json(self._settings)]
        if self._favoured:
            command = ["nice", "--adjustment=-10", *command]
        command = dying_with_parent(command)
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, cwd=ROOT, limit=_LINE_LIMIT
        )
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise PhonesError(f"the phones did not start: exit status {await self._process.wait()}")
        ready = json.loads(line)
        self.caller_address = (ready["caller"][0], ready["caller"][1])
        self.callee_address = (ready["callee"][0], ready["callee"][1])
        self._reader = asyncio.create_task(self._read(self._process.stdout))

    async def stop(self) -> None:
        """End the process; calls are not hung up."""
        process = self._process
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                await process.stdin.wait_closed()
        try:
            await asyncio.wait_for(process.wait(), 2.0)
        except TimeoutError:
            process.kill()
            await process.wait()
        if self._reader is not None:
            await self._reader
        self._process = None

    async def __aenter__(self) -> Self:
        """Start."""
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        await self.stop()

    async def place_calls(
        self,
        count: int,
        *,
        rate: float = 100.0,
        rtp: bool = True,
        rtp_every: int = 1,
        hold: float | None = None,
        caller: Behaviour | None = None,
        callee: Behaviour | None = None,
        within: float = 10.0,
    ) -> list[int]:
        """Place calls and wait for their answers, as ``PhoneFarm.place_calls``."""
        numbers: list[int] = await self._ask(
            "place_calls", count=count, rate=rate, rtp=rtp, rtp_every=rtp_every, hold=hold, caller=caller,
            callee=callee, within=within,
        )  # fmt: skip
        return numbers

    async def hang_up(
        self,
        numbers: Iterable[int] | None = None,
        *,
        side: str = "caller",
        rate: float = 1000.0,
        within: float = 5.0,
    ) -> bool:
        """Hang up calls (None: all), as ``PhoneFarm.hang_up``."""
        return bool(await self._ask("hang_up", numbers=_listed(numbers), side=side, rate=rate, within=within))

    async def reinvite(
        self, numbers: Iterable[int] | None = None, *, side: str = "caller", direction: str = "sendrecv"
    ) -> None:
        """Let phones send re-INVITEs of their own."""
        await self._ask("reinvite", numbers=_listed(numbers), side=side, direction=direction)

    async def update(
        self, numbers: Iterable[int] | None = None, *, side: str = "caller", direction: str = "sendrecv"
    ) -> None:
        """Let phones send an UPDATE with an offer."""
        await self._ask("update", numbers=_listed(numbers), side=side, direction=direction)

    async def pause_rtp(self, paused: bool) -> None:
        """Stop all audio at its source, or let it go on."""
        await self._ask("pause_rtp", paused=paused)

    async def wait_reanchored(
        self, since: float, *, numbers: Iterable[int] | None = None, within: float = 10.0
    ) -> bool:
        """Wait until both phones of each living call had a re-INVITE ACKed after ``since``."""
        return bool(await self._ask("wait_reanchored", since=since, numbers=_listed(numbers), within=within))

    async def wait_audio(self, since: float, *, numbers: Iterable[int] | None = None, within: float = 10.0) -> bool:
        """Wait until both phones of each living call with RTP have received audio after ``since``."""
        return bool(await self._ask("wait_audio", since=since, numbers=_listed(numbers), within=within))

    async def wait_over(self, numbers: Iterable[int] | None = None, *, within: float = 10.0) -> bool:
        """Wait until both phones have left their calls, and all that they sent is answered."""
        return bool(await self._ask("wait_over", numbers=_listed(numbers), within=within))

    async def wait_answered(self, numbers: Iterable[int] | None = None, *, within: float = 10.0) -> bool:
        """Wait until all that both phones of each call sent is answered."""
        return bool(await self._ask("wait_answered", numbers=_listed(numbers), within=within))

    async def wait_talking(self, count: int, *, within: float = 10.0) -> bool:
        """Wait until exactly ``count`` calls are established at both phones."""
        return bool(await self._ask("wait_talking", count=count, within=within))

    async def report(self, since: float = 0.0) -> FarmReport:
        """Say what all phones saw; times compare with this process's ``time.monotonic()``."""
        return FarmReport.from_dict(await self._ask("report", since=since))

    async def summary(self, since: float = 0.0) -> dict[str, float]:
        """Say the main counts, cheaply, for a live view."""
        counts: dict[str, float] = await self._ask("summary", since=since)
        return counts

    async def _ask(self, command: str, **arguments: object) -> Any:
        if self._process is None or self._process.stdin is None or self._process.stdin.is_closing():
            raise PhonesError("the phone process is not running")
        number = next(self._ids)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        line = _to_json({"id": number, "do": command, "with": arguments})
        self._process.stdin.write(line.encode() + b"\n")
        return await answer

    async def _read(self, stdout: asyncio.StreamReader) -> None:
        while line := await stdout.readline():
            answer = json.loads(line)
            future = self._waiting.pop(answer["id"])
            if future.cancelled():
                continue
            if "error" in answer:
                future.set_exception(PhonesError(answer["error"]))
            else:
                future.set_result(answer["ok"])
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(PhonesError("the phone process has ended"))
        self._waiting.clear()


def _listed(numbers: Iterable[int] | None) -> list[int] | None:
    return None if numbers is None else list(numbers)


def _to_json(values: Mapping[str, object]) -> str:
    def encode(value: object) -> object:
        if isinstance(value, Behaviour):
            return dataclasses.asdict(value)
        raise TypeError(f"{value!r} has no JSON form")

    return json.dumps(values, default=encode)


def _from_json(values: dict[str, Any]) -> dict[str, Any]:
    for name in ("caller", "callee", "caller_behaviour", "callee_behaviour"):
        if isinstance(values.get(name), dict):
            values[name] = Behaviour.from_dict(values[name])
    for name in ("proxy", "caller", "callee"):
        if isinstance(values.get(name), list):
            values[name] = tuple(values[name])
    return values


async def _serve(settings: dict[str, Any]) -> None:
    """Play the phones until standard input ends."""
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader(limit=_LINE_LIMIT)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, sys.stdout)
    output = asyncio.StreamWriter(transport, protocol, None, loop)
    async with PhoneFarm(**_from_json(settings)) as farm:
        output.write(json.dumps({"caller": farm.caller_address, "callee": farm.callee_address}).encode() + b"\n")
        tasks: set[asyncio.Task[None]] = set()
        while line := await lines.readline():
            task = asyncio.create_task(_obey(farm, json.loads(line), output))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        for task in tasks:
            task.cancel()


async def _obey(farm: PhoneFarm, command: dict[str, Any], output: asyncio.StreamWriter) -> None:
    answer: dict[str, object] = {"id": command["id"]}
    try:
        if command["do"] not in _COMMANDS:
            raise ValueError(f"no such command: {command['do']}")
        result = await getattr(farm, command["do"])(**_from_json(command["with"]))
        answer["ok"] = plain(result) if isinstance(result, FarmReport) else result
    except (TypeError, ValueError, OSError) as error:
        answer["error"] = f"{type(error).__name__}: {error}"
    output.write(json.dumps(answer).encode() + b"\n")
    await output.drain()


def main() -> None:
    """Run as a program; the only argument is a JSON object with the arguments of ``PhoneFarm``."""
    gc.set_threshold(50_000, 50, 1000)  # a full collection of thousands of phones would stop all audio for 30 ms
    asyncio.run(_serve(json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}))


if __name__ == "__main__":
    main()
