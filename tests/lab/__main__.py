"""``python -m tests.lab``: build what the lab runs, and start one to play with."""

from __future__ import annotations

import logging
import shlex
import sys
from pathlib import Path

import click
from tests.lab import binaries, cleanup, images
from tests.lab.errors import LabError
from tests.lab.lab import Lab


@click.group()
def main() -> None:
    """A real Kubernetes on this machine: nodes, relay pods and all, in network namespaces of its own."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)


@main.command()
def build() -> None:
    """Build the Kubernetes programs, Helm and the images that are missing (minutes, the first time)."""
    programs = binaries.provide(binaries.SERVICE_PROGRAMS)
    click.echo(f"programs: {programs['kube-apiserver'].parent}")
    click.echo(f"helm: {binaries.helm()}")
    for name in (*images.names(), images.KEDGE):
        click.echo(f"image {name}: {images.build(name)}")


@main.command()
@click.option("--nodes", default=2, show_default=True, help="How many nodes; 0 is etcd and API server alone.")
@click.option("--services/--no-services", default=True, show_default=True, help="Run kube-proxy on the nodes.")
def up(nodes: int, services: bool) -> None:
    """Start a lab and leave it running."""
    lab = Lab.start(nodes, services=services)
    if nodes:
        lab.load_image(images.build(images.KEDGE))
    lab.disown()
    kubectl = _write_kubectl(lab)
    click.echo(
        f"nodes       {' '.join(f'{name}={address}' for name, address in lab.node_addresses.items()) or 'none'}\n"
        f"kubeconfig  {lab.kubeconfig}\n"
        f"kubectl     {kubectl} get nodes\n"
        f"reach pods  {shlex.join(lab.enter)} COMMAND\n"
        f"kedge       {shlex.join(lab.enter)} env KUBECONFIG={lab.kubeconfig} kedge run\n"
        f"images      {lab.relay_image} {images.KEDGE}\n"
        f"logs        {lab.directory / 'log'}\n"
        f"end it      python -m tests.lab down {lab.run}"
    )


@main.command()
@click.argument("run", nargs=-1)
def down(run: tuple[str, ...]) -> None:
    """End labs: those named, else all that ``up`` started or a killed test run left."""
    for name in run or sorted(cleanup.orphans() | cleanup.disowned()):
        cleanup.remove(name)
        click.echo(f"removed {name}")


def _write_kubectl(lab: Lab) -> Path:
    """A kubectl for people, which knows the way into the lab."""
    path = lab.directory / "kubectl.sh"
    path.write_text(f'#!/bin/sh\nexec {shlex.join(lab.kubectl_command)} "$@"\n')
    path.chmod(0o755)
    return path


if __name__ == "__main__":
    try:
        main()
    except LabError as error:
        sys.exit(f"lab: {error}")
