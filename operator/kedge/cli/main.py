"""``kedge``: the commands, their help, and their exit statuses. What they do stands in files of their own."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from kedge.cli import roles

_EXAMPLES_RUN = """
\b
Examples:
  kedge run --settings settings.yaml --relayset relayset.yaml
  kedge run --relayset east.yaml --relayset west.yaml
"""
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="kedge-operator", prog_name="kedge")
def main() -> None:
    """Keeps the media of SIP calls alive: when a media relay dies, its calls are re-anchored on another."""


@main.command(epilog=_EXAMPLES_RUN)
@click.option("--settings", type=_FILE, help="Settings file: sockets, peers, routes. Without it, the defaults.")
@click.option(
    "--relayset", "relaysets", type=_FILE, multiple=True,
    help="File with RelaySets that name their relays by address (spec.endpoints). May be given several times, and is "
    "read again when it changes.",
)  # fmt: skip
def run(settings: Path | None, relaysets: tuple[Path, ...]) -> None:
    """Run all of Kedge in one process.

    With --relayset it needs no cluster: relays come from files, and `kedge calls`, `kedge relays` and `kedge move` talk
    to its admin API.
    """
    sys.exit(roles.run(settings, relaysets))


if __name__ == "__main__":
    main()
