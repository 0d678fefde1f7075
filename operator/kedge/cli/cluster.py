"""Puts together what runs in a cluster: inventory and Call objects for signaling, and the operator."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from kedge.adapters.kube_calls import KubeCallStore
from kedge.adapters.kube_client import KubeClient
from kedge.adapters.kube_inventory import KubeInventory
from kedge.adapters.kube_lease import KubeLease
from kedge.adapters.kube_view import SIGNALING_SELECTOR, HttpView, InProcessView
from kedge.adapters.token_file import Bearer
from kedge.api.settings import Settings
from kedge.cli.namespace import namespace_of
from kedge.cli.process import Beside, Parts, StartError, replica_name
from kedge.cli.tokens import bearer_of
from kedge.controller.fenced import FencedKube
from kedge.controller.leadership import Elector, LeaseTimes
from kedge.controller.leading import Leadership
from kedge.controller.manifests import ManifestSettings
from kedge.controller.operator import Operator, OperatorSettings
from kedge.ports.kube import KubeError
from kedge.ports.ports import SignalingView
from kedge.ports.records import SignalingSnapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions:
    """Which cluster is meant, as the command line says; what is empty is found out."""

    kubeconfig: str = ""
    context: str = ""
    namespace: str = ""
    relay_image: str = ""
    """The rtpengine image for RelaySets that name none."""
    agent_image: str = ""
    """Kedge's own image, for the agent beside each relay; empty for none."""
    signaling_networks: tuple[str, ...] = ()
    """Networks from which signaling commands relays when it uses the network of its nodes."""
    signaling_service: str = ""
    """Service of signaling that agents report to; empty for none."""
    report_secret: str = ""
    """Secret with the token that they report with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A cluster that can be reached in principle: its configuration is there."""

    settings: Settings
    options: ClusterOptions
    namespace: str
    token: Bearer = str
    """What signaling pods are asked with."""

    def client(self) -> KubeClient:
        """Return a client for the loop that it will be used on."""
        kube = self.settings.kube
        return KubeClient(
            self.options.kubeconfig or kube.kubeconfig, self.options.context, request_timeout=kube.request_timeout
        )

    def signaling(self) -> Parts:
        """Return the parts of a signaling process whose relays and Call objects are in the cluster."""
        client, replica = self.client(), replica_name(self.settings)
        inventory = KubeInventory(client, namespace=self.namespace)
        store = KubeCallStore(
            client, namespace=self.namespace, replica=replica, policies=inventory.record_policy
        )  # fmt: skip
        return Parts(
            inventory=inventory, namespace=self.namespace, replica=replica, store=store,
            limited=lambda: store.limited, close=(client.close,),
        )  # fmt: skip

    def operator_beside(self, snapshot: Callable[[], SignalingSnapshot]) -> Beside:
        """Return the operator for a process that has signaling in it."""

        async def run() -> None:
            leadership = self.leadership()
            await leadership.run(lambda: self._operator(self.client(), InProcessView(snapshot), leadership).run())

        return Beside(name="the operator", run=run)

    def operator(self, leadership: Leadership) -> Operator:
        """Return an operator that asks signaling pods over HTTP; a new one for each run."""
        client = self.client()
        view = HttpView(client, namespace=self.namespace, port=self._admin_port, token=self.token)
        return self._operator(client, view, leadership)

    def leadership(self) -> Leadership:
        """Return a candidate for the lead of operators; a new one for each run, as none can come back."""
        wanted = self.settings.kube.leadership
        times = LeaseTimes(
            duration=wanted.lease_duration, renew_deadline=wanted.renew_deadline, retry=wanted.retry
        )  # fmt: skip
        identity = f"{replica_name(self.settings)}_{secrets.token_hex(8)}"
        return Leadership(
            Elector(identity, times), KubeLease(self.client(), namespace=self.namespace, name=wanted.lease)
        )  # fmt: skip

    @property
    def _admin_port(self) -> int:
        admin = self.settings.admin
        return admin.port if admin is not None else 0

    def _operator(self, client: KubeClient, view: SignalingView, leadership: Leadership) -> Operator:
        labels = dict(one.split("=", 1) for one in SIGNALING_SELECTOR.split(","))
        manifests = ManifestSettings(
            image=self.options.relay_image, signaling_labels=labels, signaling_namespace=self.namespace,
            signaling_networks=self.options.signaling_networks, agent_image=self.options.agent_image,
            signaling_service=self.options.signaling_service, admin_port=self._admin_port,
            report_secret=self.options.report_secret,
        )  # fmt: skip
        kube = self.settings.kube
        settings = OperatorSettings(
            manifests=manifests, namespace=self.namespace, resync=kube.resync, status_interval=kube.status_interval
        )
        return Operator(settings, FencedKube(client, lambda: leadership.leads), view)


async def cluster_of(settings: Settings, options: ClusterOptions) -> Cluster:
    """Return the cluster that is meant; it need not answer just now.

    Raises:
        StartError: nothing says where it is.
        TokenFileError: the token for signaling's admin API cannot be read.
    """
    cluster = Cluster(settings=settings, options=options, namespace="")
    client = cluster.client()
    try:
        await client.credentials()
    except KubeError as error:
        raise StartError(
            f"no cluster: {error.message}. Name one with --kubeconfig, or relays in files with `kedge run --relayset`"
        ) from None
    finally:
        await client.close()
    return Cluster(
        settings=settings, options=options, namespace=_namespace(settings, options), token=bearer_of(settings.admin)
    )


def _namespace(settings: Settings, options: ClusterOptions) -> str:
    kubeconfig = options.kubeconfig or settings.kube.kubeconfig
    return namespace_of(kubeconfig, options.context, options.namespace or settings.kube.namespace or "")
