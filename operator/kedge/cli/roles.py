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
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector

from kedge.adapters.file_inventory import FileInventory, FilesError, read_relay_sets
from kedge.adapters.http_server import HttpServer, health_routes, metrics_routes
from kedge.adapters.log import logging_to
from kedge.api.convert import DEFAULT_NAMESPACE
from kedge.api.errors import ManifestError
from kedge.api.load import check_together, load_settings
from kedge.api.settings import Settings
from kedge.base.address import format_address
from kedge.cli.cluster import Cluster, ClusterOptions, cluster_of
from kedge.cli.process import Parts, SignalingProcess, StartError, replica_name
from kedge.controller.leading import Leadership
from kedge.controller.operator import Operator
from kedge.runtime.supervision import keep_running

CANNOT_START: Final = 1
"""Exit status when an address cannot be bound, or nothing says where the cluster is."""
WRONG_FILES: Final = 2
"""Exit status when a file is wrong."""
_log = logging.getLogger(__name__)


def run_standalone(settings_file: Path | None, relay_set_files: Sequence[Path]) -> int:
    """Run signaling with relays from files and without a cluster; return the exit status."""

    async def work(settings: Settings) -> int:
        inventory = FileInventory(relay_set_files)
        parts = Parts(inventory=inventory, namespace=DEFAULT_NAMESPACE, replica=replica_name(settings))
        return await SignalingProcess(settings, parts).run()

    return _serve(settings_file, work, relay_set_files=relay_set_files)


def run_in_cluster(settings_file: Path | None, options: ClusterOptions) -> int:
    """Run the operator with signaling embedded; return the exit status."""

    async def work(settings: Settings) -> int:
        cluster = await cluster_of(settings, options)
        parts = replace(cluster.signaling(), beside=(cluster.operator_beside,))
        return await SignalingProcess(settings, parts).run()

    return _serve(settings_file, work)


def run_signaling(settings_file: Path | None, options: ClusterOptions) -> int:
    """Run signaling alone; return the exit status."""

    async def work(settings: Settings) -> int:
        cluster = await cluster_of(settings, options)
        return await SignalingProcess(settings, cluster.signaling()).run()

    return _serve(settings_file, work)


def run_operator(settings_file: Path | None, options: ClusterOptions) -> int:
    """Run the operator alone; return the exit status."""

    async def work(settings: Settings) -> int:
        return await _run_operator(settings, await cluster_of(settings, options))

    return _serve(settings_file, work)


def read_settings(file: Path | None) -> Settings:
    """Return the settings of ``file``, or the defaults without one.

    Raises:
        FilesError: the file cannot be read or used.
    """
    if file is None:
        return Settings()
    try:
        settings = load_settings(file)
    except ManifestError as error:
        raise FilesError(str(error)) from None
    except OSError as error:
        raise FilesError(f"{file}: {error.strerror or error}") from None
    if len(settings.sip.listen) > 1:
        raise FilesError(f"{file}: sip.listen: only one socket is supported so far")
    return settings


def _serve(
    settings_file: Path | None,
    work: Callable[[Settings], Coroutine[Any, Any, int]],
    *,
    relay_set_files: Sequence[Path] = (),
) -> int:
    """Read the files, and do the work with logs on; return the exit status."""
    try:
        settings = read_settings(settings_file)
        if relay_set_files:
            relay_sets = read_relay_sets(relay_set_files)
            problems = check_together(settings, relay_sets, name=str(settings_file or "settings"))
            if problems:
                raise FilesError("\n".join(map(str, problems)))
    except FilesError as error:
        click.echo(str(error), err=True)
        return WRONG_FILES
    with logging_to(sys.stderr, settings.log):
        try:
            return asyncio.run(work(settings))
        except StartError as error:
            click.echo(f"kedge: {error}", err=True)
            return CANNOT_START


async def _run_operator(settings: Settings, cluster: Cluster) -> int:
    """Run the operator until a signal; ``/readyz`` says whether it acts, or stands by while another does."""
    end = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end.set)
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
            registry = CollectorRegistry()
            ProcessCollector(registry=registry)
            PlatformCollector(registry=registry)
            address = (settings.metrics.address, settings.metrics.port)
            server = HttpServer(address, [*health_routes(lambda: True, readiness), *metrics_routes(registry)])
            try:
                _log.info("metrics on http://%s", format_address(await server.start()))
            except OSError as error:
                raise StartError(f"metrics: cannot bind TCP {format_address(address)}: {error.strerror}") from None
            stack.push_async_callback(server.close)
        task = asyncio.create_task(keep_running("the operator", run))
        _log.info("the operator serves namespace %s", cluster.namespace)
        await end.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return 0
