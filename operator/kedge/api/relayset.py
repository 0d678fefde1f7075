"""The RelaySet resource: a pool of media relays, and what is wanted of it.

Where the relays come from is said in one of three ways: ``replicas`` (and ``template``) asks the
operator for relay pods, ``selector`` takes pods that someone else runs, ``endpoints`` takes relays
by address, inside a cluster or without one. The parts of spec and status stand in files of their own and are
imported from here.
"""

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from kedge.api.meta import (
    LabelSelector,
    ObjectMeta,
    Resources,
    Toleration,
    TopologySpreadConstraint,
)
from kedge.api.model import (
    DnsLabel,
    DnsName,
    IpAddress,
    LabelKey,
    LabelValue,
    ListType,
    LongText,
    Model,
    Port,
    Rule,
    ShortText,
)
from kedge.api.names import API_VERSION
from kedge.api.policies import (
    MOST_RELAYS,
    Advertise,
    AdvertiseType,
    Canary,
    CanaryMode,
    Drain,
    DrainUnmovable,
    Failover,
    FailoverMode,
    FailoverOrder,
    Family,
    Health,
    Media,
    Placement,
    PlacementPolicy,
    PortRange,
    Rebalance,
    RebalanceMode,
    Records,
    RecordsPolicy,
    Unmovable,
    UpdateStrategy,
    ZonePolicy,
)
from kedge.api.relayset_status import (
    ConditionType,
    LastFailover,
    RelaySetState,
    RelaySetStatus,
    RelayState,
    RelayStatus,
)

__all__ = [
    "Advertise",
    "AdvertiseType",
    "Canary",
    "CanaryMode",
    "ConditionType",
    "Control",
    "Drain",
    "DrainUnmovable",
    "Endpoint",
    "EndpointIntent",
    "Engine",
    "Failover",
    "FailoverMode",
    "FailoverOrder",
    "Family",
    "Health",
    "LastFailover",
    "MOST_RELAYS",
    "Media",
    "Placement",
    "PlacementPolicy",
    "PortRange",
    "PullPolicy",
    "Rebalance",
    "RebalanceMode",
    "Records",
    "RecordsPolicy",
    "RelaySet",
    "RelaySetSpec",
    "RelaySetState",
    "RelaySetStatus",
    "RelayState",
    "RelayStatus",
    "Template",
    "Unmovable",
    "UpdateStrategy",
    "ZonePolicy",
]


class Engine(StrEnum):
    """The program that relays media."""

    RTPENGINE = "RTPEngine"
    RTPPROXY = "RTPProxy"


class PullPolicy(StrEnum):
    """When a node fetches the image."""

    ALWAYS = "Always"
    IF_NOT_PRESENT = "IfNotPresent"
    NEVER = "Never"


class Template(Model):
    """What differs from the pods that the operator would make by itself."""

    image: Annotated[str, StringConstraints(min_length=1, max_length=512)] | None = None
    """The relay's container image; the operator's default when left out."""
    image_pull_policy: PullPolicy | None = None
    """Always, IfNotPresent or Never."""
    args: Annotated[tuple[ShortText, ...], ListType(64)] = ()
    """Further arguments of the relay's command line, after the operator's own."""
    resources: Resources | None = None
    """CPU and memory of the relay's container. The operator requests 250m of CPU and 128Mi where nothing is said of
    them here: audio of a relay that requests no CPU stutters as soon as its node is busy."""
    node_selector: Annotated[dict[LabelKey, LabelValue], Field(max_length=32)] = Field(default_factory=dict)
    """Labels of the nodes that relays may run on."""
    priority_class_name: DnsName | None = None
    """PriorityClass of relay pods: calls should not have to move for pods that matter less."""
    tolerations: Annotated[tuple[Toleration, ...], ListType(32)] = ()
    """Taints of nodes that relay pods bear."""
    topology_spread_constraints: Annotated[
        tuple[TopologySpreadConstraint, ...],
        ListType(8, key="topologyKey"),
    ] = ()
    """How relay pods are spread; over nodes and zones, as far as can be, when left out."""
    labels: Annotated[dict[LabelKey, LabelValue], Field(max_length=32)] = Field(default_factory=dict)
    """Further labels of relay pods."""
    annotations: Annotated[dict[LabelKey, LongText], Field(max_length=32)] = Field(default_factory=dict)
    """Further annotations of relay pods."""


class EndpointIntent(StrEnum):
    """What is wanted of a relay by address."""

    SERVE = "Serve"
    CORDON = "Cordon"
    DRAIN = "Drain"


class Endpoint(Model):
    """A relay by address."""

    name: DnsLabel
    """The relay's name, unique in the set."""
    address: IpAddress
    """Where the relay takes commands."""
    port: Port = 2223
    """The UDP port of its control protocol."""
    media_address: IpAddress | None = None
    """Where it takes media, for display; the control address when left out."""
    zone: ShortText = ""
    """The zone that it stands in, for placement."""
    weight: Annotated[int, Field(ge=1, le=1000)] = 100
    """Its share of calls against the other relays of the set."""
    intent: EndpointIntent = EndpointIntent.SERVE
    """Serve, Cordon (no new calls) or Drain (its calls move away too, as when it is taken out of the list)."""


class Control(Model):
    """Where relay pods take commands; an endpoint says that for itself."""

    port: Port = 2223
    """The UDP port of the control protocol on each relay pod."""


def _endpoints_distinct(spec: "RelaySetSpec") -> bool:
    return len({(one.address, one.port) for one in spec.endpoints}) == len(spec.endpoints)


class RelaySetSpec(Model):
    """What is wanted of the relays."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="[has(self.template), has(self.selector), has(self.endpoints)].filter(given, given).size() <= 1",
            message="at most one of template, selector and endpoints may be given",
            check=lambda self: (self.template is not None) + (self.selector is not None) + bool(self.endpoints) <= 1,
        ),
        Rule(
            cel="!has(self.replicas) || !(has(self.selector) || has(self.endpoints))",
            message="must not be given with selector or endpoints: those relays are made by others",
            field="replicas",
            check=lambda self: self.replicas is None or (self.selector is None and not self.endpoints),
        ),
        Rule(
            cel="has(self.replicas) || has(self.selector) || has(self.endpoints)",
            message="is needed unless selector or endpoints says where the relays are",
            field="replicas",
            check=lambda self: self.replicas is not None or self.selector is not None or bool(self.endpoints),
        ),
        Rule(
            cel="!has(self.endpoints) || self.endpoints.all(a,"
            " self.endpoints.exists_one(b, a.address == b.address && a.port == b.port))",
            message="no two endpoints may have the same address and port",
            field="endpoints",
            check=_endpoints_distinct,
        ),
        Rule(
            cel="self.engine == 'RTPEngine' || self.health.canary.mode == 'Disabled'",
            message="a canary needs engine RTPEngine",
            field="health.canary.mode",
            check=lambda self: self.engine == Engine.RTPENGINE or self.health.canary.mode == CanaryMode.DISABLED,
        ),
        Rule(cel="self.engine == oldSelf.engine", message="the engine of a RelaySet cannot change", field="engine"),
        Rule(
            cel="has(self.selector) == has(oldSelf.selector) && has(self.endpoints) == has(oldSelf.endpoints)",
            message="a RelaySet cannot change between replicas, selector and endpoints",
        ),
    )

    engine: Engine
    """The program that relays media: RTPEngine. RTPProxy is a name for later: a set that asks for it gets no relays and
    no calls, and its condition Ready says why. It cannot change."""
    replicas: Annotated[int, Field(ge=0, le=MOST_RELAYS)] | None = None
    """Relay pods that the operator shall run."""
    template: Template | None = None
    """What differs from the operator's usual relay pod."""
    selector: LabelSelector | None = None
    """Take pods that someone else runs, a DaemonSet for instance, by their labels."""
    endpoints: Annotated[
        tuple[Endpoint, ...],
        ListType(MOST_RELAYS, minimum=1, key="name"),
        Field(exclude_if=lambda endpoints: not endpoints),
    ] = ()
    """Take relays by address."""
    control: Control = Control()
    """How relay pods are commanded."""
    media: Media = Media()
    """Where media flows."""
    placement: Placement = Placement()
    """Which relay a call gets."""
    health: Health = Health()
    """How relays are probed."""
    failover: Failover = Failover()
    """How calls leave a relay that is lost."""
    rebalance: Rebalance = Rebalance()
    """How calls are spread again when relays are added."""
    drain: Drain = Drain()
    """How a relay is emptied before its planned end."""
    update_strategy: UpdateStrategy = UpdateStrategy()
    """How relay pods are replaced."""
    records: Records = Records()
    """Which calls get a Call object."""

    @property
    def sessions_per_relay(self) -> int:
        """Calls that one relay may have: ``maxSessionsPerRelay``, or what the ports that Kedge gives it suffice for."""
        most = self.placement.max_sessions_per_relay
        return most if self.replicas is None else min(most, self.media.port_range.calls)


class RelaySet(Model):
    """A pool of media relays whose calls Kedge keeps alive."""

    api_version: Literal["kedge.media/v1alpha1"] = API_VERSION
    kind: Literal["RelaySet"] = "RelaySet"
    metadata: ObjectMeta
    spec: RelaySetSpec
    """What is wanted."""
    status: RelaySetStatus | None = None
    """What is; written by Kedge alone."""
