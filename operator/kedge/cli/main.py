"""``kedge``: the commands, their help and their exit statuses. What they do stands in files of their own."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from kedge.cli import steer
from kedge.cli.agent_command import agent
from kedge.cli.check import check as check_files
from kedge.cli.options import Whom, client_of, target_errors, with_cluster, with_output, with_server, with_whom
from kedge.cli.show import as_json, as_json_line, call_table, console_of, event_line, relay_table

_FILE: Final = click.Path(dir_okay=False, path_type=Path)
_Command = TypeVar("_Command", bound=Callable[..., Any])


def _with_settings(command: _Command) -> _Command:
    option = click.option(
        "--settings",
        type=_FILE,
        help="Settings file: sockets, peers, routes; read again when it changes and on SIGHUP. Defaults without it.",
    )
    return option(command)


def _with_relay_image(command: _Command) -> _Command:
    image = click.option(
        "--relay-image", envvar="KEDGE_RELAY_IMAGE", default="kedge-rtpengine:latest", show_default=True,
        help="rtpengine image for RelaySets that name none; KEDGE_RELAY_IMAGE says the same.",
    )  # fmt: skip
    agent = click.option(
        "--agent-image", envvar="KEDGE_AGENT_IMAGE", default="",
        help="Kedge's own image, for the agent beside each relay, which holds its end until the calls have left; "
        "KEDGE_AGENT_IMAGE says the same. Without it, the end is held for 10 s.",
    )  # fmt: skip
    networks = click.option(
        "--signaling-network", "signaling_networks", multiple=True, metavar="CIDR",
        help="Network from which signaling commands relays if it uses its node's network; may be given several times.",
    )  # fmt: skip
    service = click.option(
        "--signaling-service", envvar="KEDGE_SIGNALING_SERVICE", default="", metavar="NAME",
        help="Headless Service of signaling in the namespace of the relays, which agents of relays with their node's "
        "network tell of a dead link; KEDGE_SIGNALING_SERVICE says the same. Without it, they watch no link.",
    )  # fmt: skip
    secret = click.option(
        "--report-secret", envvar="KEDGE_REPORT_SECRET", default="", metavar="NAME",
        help="Secret in that namespace with the token for reports under the key `token`; KEDGE_REPORT_SECRET says the "
        "same.",
    )  # fmt: skip
    return image(agent(networks(service(secret(command)))))


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="kedge-operator", prog_name="kedge")
def main() -> None:
    """Kedge keeps the media of SIP calls alive.

    When a media relay dies, drains or freezes, Kedge re-anchors its calls on a healthy relay with re-INVITEs, and the
    audio goes on. `kedge run` is all of it in one process; `kedge calls`, `kedge relays` and `kedge events` look into a
    running one, `kedge move` moves a call by hand. `kedge plan` shows what `kedge drain` and `kedge rebalance` would
    do.

    As `kubectl kedge` the same commands work on the objects of a cluster.
    """


@main.command(
    epilog="""
\b
Examples:
  kedge run --settings settings.yaml --relayset relayset.yaml      (without a cluster)
  kedge run --relayset east.yaml --relayset west.yaml
  kedge run --settings settings.yaml --kubeconfig ~/.kube/config --namespace voice
"""
)
@_with_settings
@click.option(
    "--relayset", "relaysets", type=_FILE, multiple=True,
    help="File with RelaySets that name their relays by address (spec.endpoints); may be given several times, and is "
    "read again when it changes. No cluster is used then.",
)  # fmt: skip
@with_cluster
@_with_relay_image
def run(settings: Path | None, relaysets: tuple[Path, ...], **cluster: Any) -> None:
    """Run all of Kedge in one process: signaling, and the operator where there is a cluster.

    With --relayset it needs no cluster: relays come from files. Without it, RelaySets come from the cluster that the
    process is in, or from that of the kubeconfig.

    Exit status: 0 after SIGTERM or SIGINT, 1 when it cannot start or SIP has failed, 2 when a file is wrong.
    """
    # They bring in all of Kedge, which other commands need not wait for.
    from kedge.cli import roles
    from kedge.cli.cluster import ClusterOptions

    if not relaysets:
        sys.exit(roles.run_in_cluster(settings, ClusterOptions(**cluster)))
    if cluster["kubeconfig"] or cluster["context"] or cluster["namespace"]:
        raise click.UsageError("--relayset is for running without a cluster: leave out --kubeconfig and the like")
    sys.exit(roles.run_standalone(settings, relaysets))


@main.command(
    epilog="""
\b
Example:
  kedge signaling --settings /etc/kedge/settings.yaml
"""
)
@_with_settings
@with_cluster
def signaling(settings: Path | None, **cluster: Any) -> None:
    """Run signaling alone: the B2BUA, which watches relays in a cluster and moves calls by itself.

    It needs neither the operator nor, once it knows the relays, the API server.
    """
    from kedge.cli import roles
    from kedge.cli.cluster import ClusterOptions

    sys.exit(roles.run_signaling(settings, ClusterOptions(**cluster)))


@main.command(
    epilog="""
\b
Example:
  kedge operator --relay-image registry.example/kedge-rtpengine:1
"""
)
@_with_settings
@with_cluster
@_with_relay_image
def operator(settings: Path | None, **cluster: Any) -> None:
    """Run the operator alone: RelaySets become relay pods, and their status tells what signaling sees.

    No SIP goes through it, and no failover waits for it. Of several, one acts: the one that holds the
    Lease; the others stand by.
    """
    from kedge.cli import roles
    from kedge.cli.cluster import ClusterOptions

    sys.exit(roles.run_operator(settings, ClusterOptions(**cluster)))


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
@with_whom
@with_output
@click.option("--relay", default="", help="Only calls on this relay.")
@click.option("--limit", type=click.IntRange(min=1), help="So many at most.")
def calls(whom: Whom, output: str, relay: str, limit: int | None) -> None:
    """List calls: who, on which relay, and how often they were moved.

    In a cluster: those that have a Call object, which are calls of some seconds' age.
    """
    with whom.opened() as target:
        found = target.calls(relay=relay, limit=limit)
        _show(found, output, lambda: call_table(found, time.time()))


@main.command(
    epilog="""
\b
Examples:
  kedge relays
  kedge relays -o json --server http://10.0.0.5:8080 --token-file ~/.kedge-token
"""
)
@with_whom
@with_output
def relays(whom: Whom, output: str) -> None:
    """List relays: their state, why it is so, and how many calls they carry."""
    with whom.opened() as target:
        found = target.relays()
        _show(found, output, lambda: relay_table(found, time.time()))


@main.command(
    epilog="""
\b
Examples:
  kedge events
  kedge events --follow
"""
)
@with_server
@with_output
@click.option("-f", "--follow", is_flag=True, help="Stay, and show events as they come.")
def events(server: str, token_file: str, output: str, follow: bool) -> None:
    """Show what happened of late: relays lost and found, failovers, calls that could not be moved."""
    with target_errors():
        client, console = client_of(server, token_file), console_of()
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
@with_whom
@click.argument("call")
@click.argument("relay")
def move(whom: Whom, call: str, relay: str) -> None:
    """Move CALL to RELAY, without a gap that could be heard. `kedge calls` shows what became of it."""
    with whom.opened() as target:
        target.move(call, relay)
    click.echo(f"{call} is being moved to {relay}")


@main.command(
    epilog="""
\b
Example:
  kedge terminate call-fb69695da8e9c34c
"""
)
@with_whom
@click.argument("call")
def terminate(whom: Whom, call: str) -> None:
    """Hang up CALL, on both sides."""
    with whom.opened() as target:
        target.terminate(call)
    click.echo(f"{call} is being hung up")


def _show(records: Sequence[object], output: str, table: Callable[[], object]) -> None:
    if output == "json":
        click.echo(as_json(records))
    else:
        console_of().print(table())


for _one in (agent, steer.plan, steer.drain, steer.cordon, steer.uncordon, steer.rebalance):
    main.add_command(_one)


def kubectl_plugin() -> None:
    """Run as ``kubectl kedge``: commands ask the cluster, unless they are told of a server."""
    asking = {"kube": True}
    defaults: dict[str, Any] = dict.fromkeys(main.commands, asking)
    defaults["plan"] = dict.fromkeys(steer.plan.commands, asking)
    main(prog_name="kubectl kedge", default_map=defaults)


if __name__ == "__main__":
    main()
