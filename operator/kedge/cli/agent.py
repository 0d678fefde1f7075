"""What ``kedge agent`` starts: the hold, and the watch of the media address where it is asked for."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from kedge.adapters.http_server import HttpServer
from kedge.adapters.log import logging_to
from kedge.adapters.token_file import TokenFile, authorization
from kedge.agent.agent import Holder, MediaWatcher, health_routes
from kedge.agent.hold import HoldTimes
from kedge.agent.relay_config import AddressesError, RelayAddresses, filled, relay_config, split_addresses, write
from kedge.agent.relay_sessions import RelaySessions
from kedge.agent.reporting import Reporter
from kedge.api.settings import Log
from kedge.base.address import Address, format_address
from kedge.cli.process import StartError
from kedge.runtime.supervision import keep_running

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigOptions:
    """What the relay's configuration is made of; addresses have commas between them."""

    file: Path
    own: str
    families: tuple[str, ...]
    advertised: str = ""
    advertised_file: Path | None = None
    """Where addresses to advertise will stand; None where they stand in ``advertised``, or there are none."""


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
    config: ConfigOptions | None = None
    """The relay's configuration to be written first; None for none."""


def run_agent(options: AgentOptions) -> int:
    """Write the relay's configuration where asked to, and run until SIGTERM or SIGINT and a hold under way is over.

    Return the exit status.
    """
    with logging_to(sys.stderr, Log()):
        try:
            return asyncio.run(_run(options))
        except (StartError, AddressesError) as error:
            click.echo(f"kedge: {error}", err=True)
            return 1


async def _run(options: AgentOptions) -> int:
    end = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end.set)
    control = options.control
    if options.config is not None:
        writing = asyncio.create_task(_write_config(options.config, control[1]))
        ended = asyncio.create_task(end.wait())
        await asyncio.wait((writing, ended), return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if not writing.done():
            await _cancelled(writing)
            return 0
        control = writing.result()
    async with contextlib.AsyncExitStack() as stack:
        holder = Holder(RelaySessions(control), HoldTimes(deadline=options.deadline))
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


async def _write_config(options: ConfigOptions, port: int) -> Address:
    """Write the relay's configuration; return where it takes commands.

    Raises:
        AddressesError: the pod has not the addresses for it.
    """
    advertised = split_addresses(options.advertised)
    if options.advertised_file is not None:
        _log.info("waiting for an address to advertise in %s", options.advertised_file)
        advertised = await filled(options.advertised_file)
    addresses = RelayAddresses(
        own=split_addresses(options.own), families=options.families, advertised=advertised,
        must_advertise=options.advertised_file is not None,
    )  # fmt: skip
    text, control = relay_config(addresses, port)
    write(options.file, text)
    _log.info("the relay's addresses: %s", text.splitlines()[1])
    return control


async def _cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
