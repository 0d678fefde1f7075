"""The part of the settings file that says how Kubernetes is used; most of it concerns the operator alone."""

from typing import Annotated, ClassVar

from pydantic import StringConstraints

from kedge.api.change import OPERATOR, RESTART
from kedge.api.durations import DurationBounds
from kedge.api.model import DnsLabel, Model, Rule


class Leadership(Model):
    """Which of several operators acts: the one that holds a Lease."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="duration(self.renewDeadline) < duration(self.leaseDuration)",
            message="must be shorter than leaseDuration: who leads must have stopped before another begins",
            field="renewDeadline",
            check=lambda self: self.renew_deadline < self.lease_duration,
        ),
        Rule(
            cel="duration(self.retry) + duration(self.retry) <= duration(self.renewDeadline)",
            message="must be at most half of renewDeadline, so that a renewal has a second chance",
            field="retry",
            check=lambda self: 2 * self.retry <= self.renew_deadline,
        ),
    )

    lease: DnsLabel = "kedge-operator"
    """The name of the Lease, in the namespace of the RelaySets."""
    lease_duration: Annotated[float, DurationBounds(1, 3600)] = 15.0
    """A Lease that was not renewed for so long may be taken by another operator; in whole seconds, rounded up."""
    renew_deadline: Annotated[float, DurationBounds(0.1, 3600)] = 10.0
    """An operator that could not renew its Lease for so long stops acting."""
    retry: Annotated[float, DurationBounds(0.05, 600)] = 2.0
    """Time between two renewals, and between two tries to get the Lease."""


class Kube(Model):
    """How Kubernetes is used; without effect in standalone mode."""

    namespace: Annotated[DnsLabel | None, RESTART] = None
    """Where RelaySets are; the process's own namespace when left out."""
    kubeconfig: Annotated[str, StringConstraints(max_length=4096), RESTART] = ""
    """A kubeconfig file; the usual places and the pod's service account when empty."""
    resync: Annotated[float, DurationBounds(1, 3600), OPERATOR] = 30.0
    """Time between two full comparisons of what is wanted and what is."""
    request_timeout: Annotated[float, DurationBounds(0.1, 300), RESTART] = 10.0
    """How long the API server may take for a request."""
    status_interval: Annotated[float, DurationBounds(0.1, 300), OPERATOR] = 5.0
    """Shortest time between two writes of a status that only differ in numbers."""
    leadership: Annotated[Leadership, OPERATOR] = Leadership()
    """Which of several operators acts."""
