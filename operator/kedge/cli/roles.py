"""What ``kedge run`` and its like start. Anything wrong with files is told in plain lines, exit status 2."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from kedge.adapters.file_inventory import FileInventory, FilesError, read_relay_sets
from kedge.adapters.log import logging_to
from kedge.api.convert import DEFAULT_NAMESPACE
from kedge.api.errors import ManifestError
from kedge.api.load import check_together, load_settings
from kedge.api.settings import Settings
from kedge.cli.process import Parts, SignalingProcess, StartError, replica_name


def run(settings_file: Path | None, relay_set_files: Sequence[Path]) -> int:
    """Run without a cluster; return the exit status."""
    try:
        settings = read_settings(settings_file)
        relay_sets = read_relay_sets(relay_set_files)
        name = str(settings_file or "settings")
        problems = check_together(settings, relay_sets, name=name)
        if problems:
            raise FilesError("\n".join(map(str, problems)))
    except FilesError as error:
        click.echo(str(error), err=True)
        return 2
    parts = Parts(inventory=FileInventory(relay_set_files), namespace=DEFAULT_NAMESPACE, replica=replica_name(settings))
    return serve(settings, parts)


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


def serve(settings: Settings, parts: Parts) -> int:
    """Run signaling until a signal; return the exit status."""
    with logging_to(sys.stderr, settings.log):
        try:
            return asyncio.run(SignalingProcess(settings, parts).run())
        except StartError as error:
            click.echo(str(error), err=True)
            return 1
