"""The Kubernetes API as the controller sees it: a handful of verbs on plain manifests.

It is a port so that controllers can be run against a fake, and so that only one adapter knows the client library.
Watching is no part of it: the controller's watches are kopf's, the adapters have their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

from kedge.api.names import CALLS, GROUP, RELAYSETS, VERSION
from kedge.base.errors import KedgeError

NAMESPACE_ENDS: Final = "NamespaceTerminating"
"""Reason of a refusal to make anything in a namespace that is being deleted."""
Manifest: TypeAlias = dict[str, Any]
"""An object of the API server as JSON data."""


class KubeError(KedgeError):
    """The API server refused a request. ``status`` is the HTTP status, 0 where there was no answer."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}" if status else f"{reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message

    @property
    def is_missing(self) -> bool:
        """The object, its namespace or its kind does not exist."""
        return self.status == 404

    @property
    def is_conflict(self) -> bool:
        """The object exists already, or has changed meanwhile."""
        return self.status == 409

    @property
    def is_denied(self) -> bool:
        """No right to it, now: an API server that has just started denies everything until it has read its roles."""
        return self.status in (401, 403) and self.reason != NAMESPACE_ENDS

    @property
    def is_expired(self) -> bool:
        """The resource version is too old to go on from: list again."""
        return self.status == 410


class KubeUnavailableError(KubeError):
    """No answer, or one that says "later" (429, 5xx): the API server's fault or the network's; try again."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object and where the API server keeps it."""

    group: str
    version: str
    kind: str
    plural: str

    @property
    def api_version(self) -> str:
        """As it stands in a manifest."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str, name: str = "", subresource: str = "") -> str:
        """Return the URL path; an empty namespace means all of them."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        scope = f"/namespaces/{namespace}" if namespace else ""
        parts = [f"{root}{scope}/{self.plural}", name, subresource]
        return "/".join(part for part in parts if part)


RELAY_SET_KIND: Final = Kind(GROUP, VERSION, "RelaySet", RELAYSETS)
CALL_KIND: Final = Kind(GROUP, VERSION, "Call", CALLS)
NODE_KIND: Final = Kind("", "v1", "Node", "nodes")
"""Of no namespace: an empty one is meant."""
POD_KIND: Final = Kind("", "v1", "Pod", "pods")
DEPLOYMENT_KIND: Final = Kind("apps", "v1", "Deployment", "deployments")
DISRUPTION_BUDGET_KIND: Final = Kind("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets")
NETWORK_POLICY_KIND: Final = Kind("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies")
LEASE_KIND: Final = Kind("coordination.k8s.io", "v1", "Lease", "leases")
EVENT_KIND: Final = Kind("events.k8s.io", "v1", "Event", "events")


@dataclass(frozen=True, slots=True, kw_only=True)
class KubeCredentials:
    """How to reach the API server, for a library that brings its own client."""

    server: str
    ca_path: str | None = None
    certificate_path: str | None = None
    private_key_path: str | None = None
    authorization: str | None = None
    """Value of the Authorization header: scheme and token."""
    insecure: bool = False


class KubeApi(Protocol):
    """The verbs that controllers need. Each raises KubeError; none retries."""

    async def get(self, kind: Kind, namespace: str, name: str) -> Manifest | None:
        """Return the object, or None where there is none."""

    async def list_objects(self, kind: Kind, namespace: str, selector: str = "") -> list[Manifest]:
        """Return the objects of a namespace (empty: of all) that a label selector matches, each as ``get`` does."""

    async def create(self, kind: Kind, manifest: Manifest) -> Manifest:
        """Create the object that the manifest names."""

    async def apply(self, kind: Kind, manifest: Manifest, *, subresource: str = "") -> Manifest:
        """Make what the manifest says so by server-side apply, taking the fields from whoever has them."""

    async def patch(self, kind: Kind, namespace: str, name: str, patch: Manifest) -> Manifest:
        """Merge ``patch`` into an object (not its status)."""

    async def patch_status(self, kind: Kind, namespace: str, name: str, status: Manifest) -> Manifest:
        """Merge ``status`` into an object's status."""

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str = "") -> bool:
        """Delete the object (where ``uid`` is given, only that one); return whether it was there."""

    async def credentials(self) -> KubeCredentials:
        """Return how this client reaches the API server now; tokens are refreshed by asking again."""

    async def close(self) -> None:
        """Close all connections."""
