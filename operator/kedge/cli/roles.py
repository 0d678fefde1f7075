"""What ``kedge run``, ``signaling`` and ``operator`` start. Anything wrong with files is told in plain lines."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click

from kedge.adapters.file_inventory import FileInventory, FilesError
from kedge.adapters.http_server import HttpServer, health_routes, metrics_routes
from kedge.adapters.log import logging_to
from kedge.adapters.metrics import operator_registry
from kedge.adapters.token_file import TokenFileError
from kedge.api.change import Change
from kedge.api.convert import DEFAULT_NAMESPACE
from kedge.api.settings import Settings
from kedge.base.address import format_address
from kedge.cli.cluster import Cluster, ClusterOptions, cluster_of
from kedge.cli.process import Parts, SignalingProcess, StartError, cancelled_at_end, replica_name
from kedge.cli.reload import OPERATOR_WAITS, SIGNALING_WAITS, Reloader, SettingsFiles
from kedge.controller.leading import Leadership
from kedge.controller.operator import Operator
from kedge.runtime.stats import Reloads
from kedge.runtime.supervision import keep_running

CANNOT_START: Final = 1
"""Exit status when an address cannot be bound, a file with tokens cannot be used, or no cluster is named."""
WRONG_FILES: Final = 2
"""Exit status when a file is wrong."""
_log = logging.getLogger(__name__)


def run_standalone(settings_file: Path | None, relay_set_files: Sequence[Path]) -> int:
    """Run signaling with relays from files and without a cluster; return the exit status."""

    async def work(reloader: Reloader) -> int:
        inventory, replica = FileInventory(relay_set_files), replica_name(reloader.settings)
        parts = Parts(inventory=inventory, namespace=DEFAULT_NAMESPACE, replica=replica)
        return await SignalingProcess(reloader, parts).run()

    return _serve(SettingsFiles(settings=settings_file, relay_sets=relay_set_files), work, SIGNALING_WAITS)


def run_in_cluster(settings_file: Path | None, options: ClusterOptions) -> int:
    """Run the operator with signaling embedded; return the exit status."""

    async def work(reloader: Reloader) -> int:
        cluster = await cluster_of(reloader.settings, options)
        parts = replace(cluster.signaling(), beside=(cluster.operator_beside,))
        return await SignalingProcess(reloader, parts).run()

    return _serve(SettingsFiles(settings=settings_file), work, OPERATOR_WAITS)


def run_signaling(settings_file: Path | None, options: ClusterOptions) -> int:
    """Run signaling alone; return the exit status."""

    async def work(reloader: Reloader) -> int:
        cluster = await cluster_of(reloader.settings, options)
        return await SignalingProcess(reloader, cluster.signaling()).run()

    return _serve(SettingsFiles(settings=settings_file), work, SIGNALING_WAITS)


def run_operator(settings_file: Path | None, options: ClusterOptions) -> int:
    """Run the operator alone; return the exit status."""

    async def work(reloader: Reloader) -> int:
        return await _run_operator(reloader, await cluster_of(reloader.settings, options))

    return _serve(SettingsFiles(settings=settings_file), work, OPERATOR_WAITS)


def _serve(files: SettingsFiles, work: Callable[[Reloader], Coroutine[Any, Any, int]], waits: frozenset[Change]) -> int:
    """Read the files, and do the work with logs on; return the exit status."""
    try:
        settings = files.read()
    except FilesError as error:
        click.echo(str(error), err=True)
        return WRONG_FILES
    with logging_to(sys.stderr, settings.log) as set_log:
        try:
            return asyncio.run(work(Reloader(files, settings, set_log, waits)))
        except (StartError, TokenFileError) as error:
            click.echo(f"kedge: {error}", err=True)
            return CANNOT_START


async def _run_operator(reloader: Reloader, cluster: Cluster) -> int:
    """Run the operator until a signal; ``/readyz`` says whether it acts, or stands by while another does."""
    end, settings, reloads = asyncio.Event(), reloader.settings, Reloads()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end.set)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reloader.ask)
    candidate: list[Leadership] = []
    current: list[Operator] = []

    async def work() -> None:
        current[:] = [cluster.operator(candidate[0])]
        await current[0].run()

    async def run() -> None:
        candidate[:] = [cluster.leadership()]
        await candidate[0].run(work)

    def readiness() -> str:
        if candidate and not candidate[0].leads and candidate[0].holder:
            return ""  # another leads, or did when the API server was last heard
        return "" if current and current[0].alive else "the operator is not at work"

    async with contextlib.AsyncExitStack() as stack:
        if settings.metrics is not None:
            address = (settings.metrics.address, settings.metrics.port)
            metrics = metrics_routes(operator_registry(reloads))
            server = HttpServer(address, [*health_routes(lambda: True, readiness), *metrics])
            try:
                _log.info("metrics on http://%s", format_address(await server.start()))
            except OSError as error:
                raise StartError(f"metrics: cannot bind TCP {format_address(address)}: {error.strerror}") from None
            stack.push_async_callback(server.close)
        tasks = await stack.enter_async_context(cancelled_at_end())
        tasks.append(asyncio.create_task(keep_running("the operator", run)))
        watch = keep_running("the watch of settings", lambda: reloader.run(_take_none, _tell, reloads))
        tasks.append(asyncio.create_task(watch))
        _log.info("the operator serves namespace %s", cluster.namespace)
        await end.wait()
    return 0


async def _take_none(settings: Settings) -> None:
    """Take what changes while an operator runs: nothing beside its log."""


def _tell(*, warning: bool, reason: str, message: str) -> None:
    _log.log(logging.WARNING if warning else logging.INFO, message, extra={"event": reason})
