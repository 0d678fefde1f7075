"""The commands that steer whole relays and RelaySets: ``plan``, ``drain``, ``cordon``, ``uncordon``, ``rebalance``."""

from __future__ import annotations

import sys
from typing import Final

import click

from kedge.cli.follow import DrainWatch, Look, RebalanceWatch, follow
from kedge.cli.options import Whom, with_output, with_whom
from kedge.cli.plan_view import plan_view, read_plan
from kedge.cli.show import as_json_text, console_of, printable
from kedge.cli.target import Target, TargetError
from kedge.ports.records import RelayRecord, SignalingSnapshot
from kedge.relay.model import Intent

_WAIT: Final = 660.0
"""Seconds that ``--wait`` waits: a little longer than the usual deadline of a drain."""

_set_option: Final = click.option(
    "--set", "relay_set", default="", metavar="SET", help="RelaySet, where several have a relay of that name."
)
_calls_option: Final = click.option("--calls", is_flag=True, help="Name each call, too.")
_timeout_option: Final = click.option(
    "--timeout", type=click.FloatRange(min=0), default=_WAIT, show_default=True, metavar="SECONDS",
    help="With --wait: give up waiting after so long. What was asked for goes on.",
)  # fmt: skip


@click.group()
def plan() -> None:
    """Show what a drain, a loss or a rebalance would do. Nothing is done.

    A plan says how many calls go from where to where, what each relay carries before and after, how long it takes at
    the pace that the RelaySet allows, and which calls stay and why. It is made from what is now, by the same code that
    acts: `kedge drain` and `kedge rebalance` do what their plan says, if nothing changes meanwhile.
    """


@plan.command(
    "drain",
    epilog="""
\b
Examples:
  kedge plan drain relay-2
  kedge plan drain relay-2 --calls -o json
""",
)
@with_whom
@with_output
@_set_option
@_calls_option
@click.argument("relay")
def plan_drain(whom: Whom, output: str, relay_set: str, calls: bool, relay: str) -> None:
    """Show what `kedge drain RELAY` would do."""
    _show_plan(whom, output, "Drain", relay=relay, relay_set=relay_set, calls=calls)


@plan.command(
    "loss",
    epilog="""
\b
Example:
  kedge plan loss relay-2
""",
)
@with_whom
@with_output
@_set_option
@_calls_option
@click.argument("relay")
def plan_loss(whom: Whom, output: str, relay_set: str, calls: bool, relay: str) -> None:
    """Show what would become of calls if RELAY died now: is there room for them all?

    A failover does not wait for a plan; it chooses among the two emptier of random relays. So the numbers of each
    relay are near these, not the same.
    """
    _show_plan(whom, output, "Loss", relay=relay, relay_set=relay_set, calls=calls)


@plan.command(
    "rebalance",
    epilog="""
\b
Examples:
  kedge plan rebalance voice
  kedge plan rebalance                 (where there is one RelaySet)
""",
)
@with_whom
@with_output
@_calls_option
@click.argument("relay_set", metavar="[SET]", default="")
def plan_rebalance(whom: Whom, output: str, calls: bool, relay_set: str) -> None:
    """Show what `kedge rebalance SET` would do: the fewest moves that bring every relay into balance."""
    _show_plan(whom, output, "Rebalance", relay_set=relay_set, calls=calls)


@click.command(
    epilog="""
\b
Examples:
  kedge plan drain relay-2             (look first)
  kedge drain relay-2 --wait           (exit status 0: it is empty, and can be stopped)
  kedge drain relay-2 --undo           (it serves again; calls come back by a rebalance)
  kubectl kedge drain voice-5f6d8-x2x7q -n media --wait
"""
)
@with_whom
@_set_option
@click.option("--wait", is_flag=True, help="Stay until no call is left on it, and show how far it is.")
@_timeout_option
@click.option("--undo", is_flag=True, help="Take a drain back: the relay serves again, and keeps what it still has.")
@click.argument("relay")
def drain(whom: Whom, relay_set: str, wait: bool, timeout: float, undo: bool, relay: str) -> None:
    """Move all calls off RELAY, and give it no new ones.

    The relay lives while its calls move, so the parties hear nothing of it. Calls move at the pace of the RelaySet's
    spec.failover; those that cannot move stay until they end (spec.drain says for how long). In a cluster the relay's
    pod is annotated with kedge.media/drain (the pod goes on running), or its endpoint in the RelaySet gets the intent.

    Exit status: 0, or 1 if calls could not be moved or the relay is not known.
    """
    if undo and wait:
        raise click.UsageError("--undo is done at once: leave out --wait")
    with whom.opened() as target:
        if undo:
            _serve(whom, target, relay, relay_set)
            click.echo(f"the drain of {printable(relay)} is taken back: it serves again")
            return
        before = target.snapshot() if wait else None
        found = _find(before, relay, relay_set) if before is not None else None
        _wish(target, relay, Intent.DRAIN, found.relay_set if found is not None else relay_set)
        if found is None or before is None:
            click.echo(f"{printable(relay)} is being drained; `kedge relays` shows what is left on it")
            return
        _finish(_followed(whom, target, DrainWatch(found, before.at), timeout))


@click.command(
    epilog="""
\b
Example:
  kedge cordon relay-2
"""
)
@with_whom
@_set_option
@click.argument("relay")
def cordon(whom: Whom, relay_set: str, relay: str) -> None:
    """Give RELAY no new calls. Those that it has stay on it. `kedge uncordon` takes it back."""
    with whom.opened() as target:
        _wish(target, relay, Intent.CORDON, relay_set)
    click.echo(f"{printable(relay)} is cordoned: it gets no new calls")


@click.command(
    epilog="""
\b
Example:
  kedge uncordon relay-2
"""
)
@with_whom
@_set_option
@click.argument("relay")
def uncordon(whom: Whom, relay_set: str, relay: str) -> None:
    """Let RELAY serve again, after a cordon or a drain."""
    with whom.opened() as target:
        _serve(whom, target, relay, relay_set)
    click.echo(f"{printable(relay)} serves again")


@click.command(
    epilog="""
\b
Examples:
  kedge rebalance voice --dry-run      (only show the plan)
  kedge rebalance voice --wait
  kubectl kedge rebalance voice -n media
"""
)
@with_whom
@with_output
@click.option("--dry-run", is_flag=True, help="Show the plan, do nothing; the same as `kedge plan rebalance`.")
@click.option("--wait", is_flag=True, help="Stay until it is done, and show how far it is.")
@_timeout_option
@click.argument("relay_set", metavar="[SET]", default="")
def rebalance(whom: Whom, output: str, dry_run: bool, wait: bool, timeout: float, relay_set: str) -> None:
    """Even out the calls of a RelaySet's relays, with as few moves as will do.

    A set in balance moves nothing. How far from its fair share a relay may be, how many calls move in a second, and for
    how long a moved call is left in peace, stands in the RelaySet's spec.rebalance. SET may be left out where there is
    only one.

    Exit status: 0, or 1 if it is refused, or not in balance at the end of --wait.
    """
    if dry_run:
        _show_plan(whom, output, "Rebalance", relay_set=relay_set)
        return
    if wait and whom.kube:
        hint = "or wait with `kubectl wait --for=condition=Balanced rly/SET`"
        raise click.UsageError(f"--wait needs signaling's admin API: name it with --server; {hint}")
    with whom.opened() as target:
        before = target.snapshot().at if wait else 0.0
        key = target.rebalance(relay_set)
        if not wait:
            click.echo(f"{printable(key)} is being rebalanced; `kedge relays` shows calls per relay")
            return
        _finish(_followed(whom, target, RebalanceWatch(key, before), timeout))


def _wish(target: Target, relay: str, intent: Intent, relay_set: str) -> None:
    target.wish(relay, intent, relay_set=_key(target, relay, relay_set))


def _serve(whom: Whom, target: Target, relay: str, relay_set: str) -> None:
    """Take wishes back. Those of a pod or a RelaySet are not the admin API's to take."""
    _wish(target, relay, Intent.SERVE, relay_set)
    if whom.kube:
        return  # the status follows later
    found = _find(target.snapshot(), relay, relay_set)
    if found.intent != Intent.SERVE.value:
        raise TargetError(
            f"{relay} stays in intent {found.intent}, as its RelaySet or pod says so, or it is gone there"
        )


def _key(target: Target, relay: str, relay_set: str) -> str:
    """Return the key of the set that a person named, with its namespace or without."""
    if not relay_set or "/" in relay_set:
        return relay_set
    return _find(target.snapshot(), relay, relay_set).relay_set


def _show_plan(
    whom: Whom, output: str, kind: str, *, relay: str = "", relay_set: str = "", calls: bool = False
) -> None:  # fmt: skip
    with whom.opened() as target:
        key = _key(target, relay, relay_set) if relay else relay_set
        found = target.plan(kind, relay=relay, relay_set=key, calls=calls)
        if output == "json":
            click.echo(as_json_text(found))
        else:
            console_of().print(plan_view(read_plan(found)))


def _find(snapshot: SignalingSnapshot, relay: str, relay_set: str) -> RelayRecord:
    """Return the record of a relay. A set may be named with its namespace or without."""
    found = [one for one in snapshot.relays if one.name == relay and _is_set(one, relay_set)]
    if len(found) != 1:
        known = ", ".join(sorted(one.name for one in snapshot.relays)) or "none"
        what = f"several relays are called {relay}: say which with --set" if found else f"there is no relay {relay}"
        raise TargetError(f"{what}; relays: {known}")
    return found[0]


def _is_set(relay: RelayRecord, name: str) -> bool:
    return name in ("", relay.relay_set, relay.relay_set.partition("/")[2])


def _followed(whom: Whom, target: Target, watch: DrainWatch | RebalanceWatch, timeout: float) -> Look:
    interval = 1.0 if whom.kube else 0.25
    console = console_of(sys.stderr)
    return follow(lambda now: watch.look(target.snapshot(), now), console, interval=interval, timeout=timeout)


def _finish(look: Look) -> None:
    """Tell how it ended; the exit status says whether all is well."""
    click.echo(printable(look.text), err=not look.ok)
    sys.exit(0 if look.ok else 1)
