"""What ``kedge agent`` starts: the hold, and the watch of the media address where it is asked for."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from dataclasses import dataclass

import click

from kedge.adapters.http_server import HttpServer
from kedge.adapters.log import logging_to
from kedge.adapters.token_file import TokenFile, authorization
from kedge.agent.agent import Holder, MediaWatcher, health_routes
from kedge.agent.hold import HoldTimes
from kedge.agent.relay_sessions import RelaySessions
from kedge.agent.reporting import Reporter
from kedge.api.settings import Log
from kedge.base.address import Address, format_address
from kedge.cli.process import StartError
from kedge.runtime.supervision import keep_running

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentOptions:
    """As the command line says."""

    control: Address
    """The relay's control port."""
    listen: Address
    deadline: float
    """Seconds that the pod is held at most."""
    watch: str = ""
    """The address that media comes to; empty: it is not watched."""
    relay_uid: str = ""
    signaling: Address | None = None
    """Who is told."""
    token_file: str = ""
    """Holds the token for reports. It may come later, or never: a relay shall not wait for it."""


def run_agent(options: AgentOptions) -> int:
    """Run until SIGTERM or SIGINT, and until a hold that is under way is over; return the exit status."""
    with logging_to(sys.stderr, Log()):
        try:
            return asyncio.run(_run(options))
        except StartError as error:
            click.echo(f"kedge: {error}", err=True)
            return 1


async def _run(options: AgentOptions) -> int:
    end = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end.set)
    async with contextlib.AsyncExitStack() as stack:
        holder = Holder(RelaySessions(options.control), HoldTimes(deadline=options.deadline))
        stack.push_async_callback(holder.close)
        watcher = None
        if options.watch and options.signaling is not None:
            reporter = await stack.enter_async_context(_reporter(options, options.signaling))
            watcher = MediaWatcher(options.watch, reporter.tell)
            task = asyncio.create_task(keep_running("the watch of the media address", watcher.run))
            stack.push_async_callback(_cancelled, task)
        server = HttpServer(options.listen, [*holder.routes(), *health_routes(holder, watcher)])
        try:
            bound = await server.start()
        except OSError as error:
            raise StartError(f"cannot bind TCP {format_address(options.listen)}: {error.strerror}") from None
        stack.push_async_callback(server.close)
        _log.info("the agent serves on http://%s", format_address(bound))
        await end.wait()
        await holder.held()
    return 0


def _reporter(options: AgentOptions, signaling: Address) -> Reporter:
    if not options.token_file:
        return Reporter(options.relay_uid, signaling)
    tokens = TokenFile(options.token_file, name="--token-file")
    return Reporter(options.relay_uid, signaling, authorization=lambda: authorization(tokens.first()))


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
