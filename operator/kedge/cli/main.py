"""``kedge``: the commands, their help and their exit statuses. What they do stands in files of their own."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from kedge.cli.check import check as check_files
from kedge.cli.client import DEFAULT_SERVER, Client, ServerError
from kedge.cli.show import as_json, as_json_line, call_table, console_of, event_line, relay_table

_FILE: Final = click.Path(dir_okay=False, path_type=Path)
_Command = TypeVar("_Command", bound=Callable[..., Any])


def _with_server(command: _Command) -> _Command:
    option = click.option(
        "--server", envvar="KEDGE_SERVER", default=DEFAULT_SERVER, show_default=True, metavar="URL",
        help="Admin API of a running Kedge; KEDGE_SERVER in the environment says the same.",
    )  # fmt: skip
    return option(command)


def _with_output(command: _Command) -> _Command:
    option = click.option(
        "-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True,
        help="A table for people or JSON for programs.",
    )  # fmt: skip
    return option(command)


@contextmanager
def _server_errors() -> Iterator[None]:
    """Tell what the server says in one line, exit status 1."""
    try:
        yield
    except ServerError as error:
        click.echo(f"kedge: {error}", err=True)
        sys.exit(1)
    except BrokenPipeError:
        sys.exit(0)  # the reader, ``head`` say, has seen enough


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="kedge-operator", prog_name="kedge")
def main() -> None:
    """Kedge keeps the media of SIP calls alive.

    When a media relay dies, drains or freezes, Kedge re-anchors its calls on a healthy relay with re-INVITEs, and the
    audio goes on. `kedge run` is all of it in one process; `kedge calls`, `kedge relays` and `kedge events` look into a
    running one, `kedge move` moves a call by hand.
    """


@main.command(
    epilog="""
\b
Examples:
  kedge run --settings settings.yaml --relayset relayset.yaml
  kedge run --relayset east.yaml --relayset west.yaml
"""
)
@click.option("--settings", type=_FILE, help="Settings file: sockets, peers, routes. Without it, the defaults.")
@click.option(
    "--relayset", "relaysets", type=_FILE, multiple=True,
    help="File with RelaySets that name their relays by address (spec.endpoints); may be given several times, and is "
    "read again when it changes.",
)  # fmt: skip
def run(settings: Path | None, relaysets: tuple[Path, ...]) -> None:
    """Run all of Kedge in one process.

    With --relayset it needs no cluster: relays come from files, and the other commands talk to its admin API.

    Exit status: 0 after SIGTERM or SIGINT, 1 when it cannot start or SIP has failed, 2 when a file is wrong.
    """
    from kedge.cli import roles  # it brings in all of Kedge, which the other commands need not wait for

    if not relaysets:
        raise click.UsageError("name at least one RelaySet file with --relayset")
    sys.exit(roles.run(settings, relaysets))


@main.command(
    epilog="""
\b
Examples:
  kedge check relayset.yaml
  kedge check settings.yaml relayset.yaml     (also whether they fit together)
"""
)
@click.argument("files", nargs=-1, required=True, type=_FILE, metavar="FILE...")
def check(files: tuple[Path, ...]) -> None:
    """Check files before Kedge gets them: RelaySets, Calls, settings.

    Each problem is a line with file, line, field, value and what is allowed. Exit status 1 if there is any.
    """
    good, bad = check_files(files)
    for line in good:
        click.echo(line)
    for line in bad:
        click.echo(line, err=True)
    sys.exit(1 if bad else 0)


@main.command(
    epilog="""
\b
Examples:
  kedge calls
  kedge calls --relay relay-2 -o json
"""
)
@_with_server
@_with_output
@click.option("--relay", default="", help="Only calls on this relay.")
@click.option("--limit", type=click.IntRange(min=1), help="So many at most.")
def calls(server: str, output: str, relay: str, limit: int | None) -> None:
    """List calls: who, on which relay, and how often they were moved."""
    with _server_errors():
        found = Client(server).calls(relay=relay, limit=limit)
        _show(found, output, lambda: call_table(found, time.time()))


@main.command(
    epilog="""
\b
Examples:
  kedge relays
  kedge relays -o json --server http://10.0.0.5:8080
"""
)
@_with_server
@_with_output
def relays(server: str, output: str) -> None:
    """List relays: their state, why it is so, and how many calls they carry."""
    with _server_errors():
        found = Client(server).relays()
        _show(found, output, lambda: relay_table(found, time.time()))


@main.command(
    epilog="""
\b
Examples:
  kedge events
  kedge events --follow
"""
)
@_with_server
@_with_output
@click.option("-f", "--follow", is_flag=True, help="Stay, and show events as they come.")
def events(server: str, output: str, follow: bool) -> None:
    """Show what happened of late: relays lost and found, failovers, calls that could not be moved."""
    with _server_errors():
        client, console = Client(server), console_of()
        if not follow and output == "json":
            click.echo(as_json(client.events()))
            return
        for event in client.follow_events() if follow else client.events():
            if output == "json":
                click.echo(as_json_line(event))
            else:
                console.print(event_line(event), soft_wrap=True)


@main.command(
    epilog="""
\b
Example:
  kedge move call-fb69695da8e9c34c relay-3
"""
)
@_with_server
@click.argument("call")
@click.argument("relay")
def move(server: str, call: str, relay: str) -> None:
    """Move CALL to RELAY, without a gap that could be heard. `kedge calls` shows what became of it."""
    with _server_errors():
        Client(server).move(call, relay)
    click.echo(f"{call} is being moved to {relay}")


@main.command(
    epilog="""
\b
Example:
  kedge terminate call-fb69695da8e9c34c
"""
)
@_with_server
@click.argument("call")
def terminate(server: str, call: str) -> None:
    """Hang up CALL, on both sides."""
    with _server_errors():
        Client(server).terminate(call)
    click.echo(f"{call} is being hung up")


def _show(records: Sequence[object], output: str, table: Callable[[], object]) -> None:
    if output == "json":
        click.echo(as_json(records))
    else:
        console_of().print(table())


if __name__ == "__main__":
    main()
