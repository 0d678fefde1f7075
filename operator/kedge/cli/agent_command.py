"""The command ``kedge agent``: its options. What it starts stands in ``agent``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from kedge.api.durations import parse_duration
from kedge.base.address import Address

_CONTROL_PORT: Final = 2223
_LISTEN_PORT: Final = 9902
_SIGNALING_PORT: Final = 8080


def _address(default_port: int) -> Callable[[Any], Address]:
    """Return what reads ``host``, ``host:port`` or ``[address]:port``."""

    def read(value: Any) -> Address:
        text = str(value)
        host, separator, port = text.rpartition(":")
        if not separator or text.endswith("]") or (":" in host and not host.endswith("]")):
            host, port = text, str(default_port)  # no port, though an IPv6 address has colons
        if not host.strip("[]") or not (port.isascii() and port.isdigit() and int(port) < 65536):
            raise click.BadParameter(f"{text!r} is no HOST:PORT")
        return host.strip("[]"), int(port)

    return read


def _duration(value: Any) -> float:
    try:
        return parse_duration(str(value))
    except ValueError as error:
        raise click.BadParameter(f"{value!r} {error}") from None


def _families(value: Any) -> tuple[str, ...]:
    found = value if isinstance(value, tuple) else tuple(str(value).split(","))
    if not found or len(set(found)) < len(found) or not {*found} <= {"IPv4", "IPv6"}:
        raise click.BadParameter(f"{value!r} is no list of IPv4 and IPv6")
    return found


@click.command(
    epilog="""
\b
Example:
  kedge agent --control 10.0.0.7:2223 --listen 10.0.0.7:9902 --deadline 2m
"""
)
@click.option(
    "--control", envvar="KEDGE_RELAY_CONTROL", required=True, type=_address(_CONTROL_PORT), metavar="HOST:PORT",
    help="Control port of the relay beside the agent; KEDGE_RELAY_CONTROL says the same.",
)  # fmt: skip
@click.option(
    "--listen", envvar="KEDGE_AGENT_LISTEN", default=f"127.0.0.1:{_LISTEN_PORT}", type=_address(_LISTEN_PORT),
    show_default=True, metavar="HOST:PORT", help="Where /v1/hold and /healthz are served, over HTTP.",
)  # fmt: skip
@click.option(
    "--deadline", envvar="KEDGE_DRAIN_DEADLINE", default="2m", type=_duration, show_default=True,
    metavar="DURATION", help="How long the end of the pod is held at most.",
)  # fmt: skip
@click.option(
    "--media-address", envvar="KEDGE_MEDIA_ADDRESS", default="", metavar="IP",
    help="Address that media comes to: its link is watched, for relays with their node's network.",
)  # fmt: skip
@click.option(
    "--signaling", envvar="KEDGE_SIGNALING", type=_address(_SIGNALING_PORT), metavar="HOST:PORT",
    help="Admin API of signaling, which is told when the link goes; all addresses of the name are told.",
)  # fmt: skip
@click.option(
    "--token-file", envvar="KEDGE_TOKEN_FILE", default="", metavar="FILE",
    help="File with the token for reports; KEDGE_TOKEN_FILE says the same. It is read again when it changes.",
)  # fmt: skip
@click.option(
    "--relay-config", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="Write the relay's configuration here before anything else: its addresses. --control has its port then.",
)  # fmt: skip
@click.option("--addresses", default="", metavar="IP,...", help="For --relay-config: the pod's addresses.")
@click.option(
    "--families", default="IPv4", show_default=True, type=_families, metavar="FAMILY,...",
    help="For --relay-config: families of media, IPv4 and IPv6; the control port has the first.",
)  # fmt: skip
@click.option("--advertised", default="", metavar="IP,...", help="For --relay-config: what phones are told instead.")
@click.option(
    "--advertised-file", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="As --advertised, from a file that is waited for.",
)  # fmt: skip
@click.option("--relay-uid", envvar="POD_UID", default="", help="UID of the relay's pod, by which signaling knows it.")
def agent(
    control: Address, listen: Address, deadline: float, media_address: str, signaling: Address | None, token_file: str,
    relay_uid: str,
    relay_config: Path | None, addresses: str, families: tuple[str, ...], advertised: str, advertised_file: Path | None,
) -> None:  # fmt: skip
    """Run beside a relay, in its pod: hold the pod's end until the calls have left, and watch its link.

    GET /v1/hold answers once the relay holds no call, is gone, or --deadline has passed. It is meant for the preStop
    hook of the relay's container.
    """
    if media_address and not (signaling and relay_uid):
        raise click.UsageError("--media-address needs --signaling and --relay-uid: who is told, and of whom")
    from kedge.cli.agent import AgentOptions, ConfigOptions, run_agent  # netlink: other commands need not wait for it

    config = None
    if relay_config is not None:
        config = ConfigOptions(
            file=relay_config, own=addresses, families=families, advertised=advertised, advertised_file=advertised_file
        )
    options = AgentOptions(
        control=control, listen=listen, deadline=deadline, watch=media_address, relay_uid=relay_uid,
        signaling=signaling, token_file=token_file, config=config,
    )  # fmt: skip
    sys.exit(run_agent(options))
