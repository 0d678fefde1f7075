"""Options that several commands share, and how a command finds whom to ask."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import click
from click.core import ParameterSource

from kedge.adapters.token_file import TokenFile, TokenFileError
from kedge.cli.client import DEFAULT_SERVER, Client
from kedge.cli.show import printable
from kedge.cli.target import Target, TargetError

_Command = TypeVar("_Command", bound=Callable[..., Any])
_TOLD: Final = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Whom:
    """Whom a command asks: the admin API of a running Kedge, or a cluster."""

    server: str
    token_file: str
    kube: bool
    kubeconfig: str
    context: str
    namespace: str

    @contextmanager
    def opened(self) -> Iterator[Target]:
        """Give what answers; what it refuses is told in one line, with exit status 1."""
        with target_errors():
            if not self.kube:
                yield client_of(self.server, self.token_file)
                return
            from kedge.cli.kube import KubeTarget  # brings in the cluster's client, which takes a moment

            with KubeTarget(self.kubeconfig, self.context, self.namespace) as cluster:
                yield cluster


@contextmanager
def target_errors() -> Iterator[None]:
    """Tell what is refused in one line, exit status 1."""
    try:
        yield
    except (TargetError, TokenFileError) as error:
        click.echo(f"kedge: {printable(' '.join(str(error).split()))}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)  # as a shell says it; this is how following ends
    except BrokenPipeError:
        sys.exit(0)  # the reader, ``head`` say, has seen enough


def client_of(server: str, token_file: str) -> Client:
    """Return a client that sends the first token of a file, if one is named; raises TokenFileError."""
    return Client(server, TokenFile(token_file, name="--token-file").load().first() if token_file else "")


def with_server(command: _Command) -> _Command:
    """Add ``--server`` and ``--token-file``."""
    option = click.option(
        "--server", envvar="KEDGE_SERVER", default=DEFAULT_SERVER, show_default=True, metavar="URL",
        help="Admin API of a running Kedge; KEDGE_SERVER in the environment says the same.",
    )  # fmt: skip
    token = click.option(
        "--token-file", envvar="KEDGE_TOKEN_FILE", default="", metavar="FILE",
        help="File with the token that the admin API asks for; KEDGE_TOKEN_FILE in the environment says the same.",
    )  # fmt: skip
    return option(token(command))


def with_output(command: _Command) -> _Command:
    """Add ``--output``."""
    option = click.option(
        "-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True,
        help="A table for people or JSON for programs.",
    )  # fmt: skip
    return option(command)


def with_cluster(command: _Command) -> _Command:
    """Add what says which cluster is meant."""
    kubeconfig = click.option(
        "--kubeconfig", default="", metavar="FILE",
        help="How the cluster is reached; else the pod's service account, KUBECONFIG, or ~/.kube/config.",
    )  # fmt: skip
    context = click.option("--context", default="", help="Context of the kubeconfig; else its current one.")
    namespace = click.option(
        "--namespace", "-n", default="", help="Where RelaySets are; else the pod's namespace or the context's."
    )
    return kubeconfig(context(namespace(command)))


def with_whom(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--server`` with its token, ``--kube`` and the cluster's options; hand them to the command as ``whom``."""

    @functools.wraps(command)
    def chosen(
        *, server: str, token_file: str, kube: bool, kubeconfig: str, context: str, namespace: str, **others: Any
    ) -> Any:  # fmt: skip
        whom = Whom(
            server=server, token_file=token_file, kube=_means_cluster(kube, bool(kubeconfig or context or namespace)),
            kubeconfig=kubeconfig, context=context, namespace=namespace,
        )  # fmt: skip
        return command(whom=whom, **others)

    option = click.option(
        "--kube", is_flag=True, help="Ask the cluster, by its API, not a Kedge; `kubectl kedge` does so by itself."
    )
    return with_server(option(with_cluster(chosen)))


def _means_cluster(kube: bool, cluster_named: bool) -> bool:
    """Decide by whose word is nearest: options, then the environment, then the program's name."""
    source = click.get_current_context().get_parameter_source
    by_option = source("server") is ParameterSource.COMMANDLINE
    told = cluster_named or (kube and source("kube") is ParameterSource.COMMANDLINE)
    if by_option and told:
        raise click.UsageError("--server asks a running Kedge, --kube and its options a cluster: give one of them")
    return told or (kube and source("server") not in _TOLD)
