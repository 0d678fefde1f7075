"""The RelaySet resource: a pool of media relays, and what is wanted of it (design: one set, one policy).

Where the relays come from is said in one of three ways: ``replicas`` (and ``template``) asks the
operator for relay pods, ``selector`` takes pods that someone else runs, ``endpoints`` takes relays
by address, inside a cluster or without one.
"""

import operator
from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from kedge.api.durations import DurationBounds
from kedge.api.meta import (
    Conditions,
    LabelSelector,
    ObjectMeta,
    Resources,
    Timestamp,
    Toleration,
    TopologySpreadConstraint,
)
from kedge.api.model import DnsLabel, IpAddress, LabelKey, LabelValue, ListType, LongText, Model, Port, Rule, ShortText
from kedge.api.names import API_VERSION

MOST_RELAYS = 256
"""Relays of one set; status names each, and an object of the API server must stay small."""


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
    """CPU and memory of the relay's container."""
    node_selector: Annotated[dict[LabelKey, LabelValue], Field(max_length=32)] = Field(default_factory=dict)
    """Labels of the nodes that relays may run on."""
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


class Control(Model):
    """Where relay pods take commands; an endpoint says that for itself."""

    port: Port = 2223
    """The UDP port of the control protocol on each relay pod."""


class PortRange(Model):
    """UDP ports of media. A call needs four with RTCP: two for each side."""

    rules = (
        Rule(
            cel="self.min < self.max",
            message="must be below portRange.max",
            field="min",
            check=lambda self: self.min < self.max,
        ),
        Rule(
            cel="self.min >= self.max || self.max - self.min >= 99",
            message="must leave at least 100 ports from portRange.min on",
            field="max",
            check=lambda self: self.min >= self.max or self.max - self.min >= 99,
        ),
    )

    min: Annotated[int, Field(ge=1024, le=65535)] = 16384
    """The lowest port."""
    max: Annotated[int, Field(ge=1024, le=65535)] = 29999
    """The highest port. The default ends below NodePorts (30000-32767) and ephemeral ports (from 32768)."""


class AdvertiseType(StrEnum):
    """Which address of a relay the phones are told."""

    POD_IP = "PodIP"
    NODE_INTERNAL_IP = "NodeInternalIP"
    NODE_EXTERNAL_IP = "NodeExternalIP"
    ANNOTATION = "Annotation"
    STATIC = "Static"


class Advertise(Model):
    """The address that relays write into SDP."""

    rules = (
        Rule(
            cel="(self.type == 'Static') == has(self.address)",
            message="an address belongs to type Static, and is needed there",
            field="address",
            check=lambda self: (self.type == AdvertiseType.STATIC) == (self.address is not None),
        ),
        Rule(
            cel="(self.type == 'Annotation') == has(self.annotation)",
            message="the name of an annotation belongs to type Annotation, and is needed there",
            field="annotation",
            check=lambda self: (self.type == AdvertiseType.ANNOTATION) == (self.annotation is not None),
        ),
    )

    type: AdvertiseType = AdvertiseType.POD_IP
    """PodIP, NodeInternalIP, NodeExternalIP (both need hostNetwork), Annotation or Static."""
    annotation: LabelKey | None = None
    """For Annotation: the pod annotation that holds the address."""
    address: IpAddress | None = None
    """For Static: the address, for instance of a NAT in front of all relays."""


class Family(StrEnum):
    """A family of IP addresses."""

    IPV4 = "IPv4"
    IPV6 = "IPv6"


class Media(Model):
    """Where media flows."""

    rules = (
        Rule(
            cel="!self.hostNetwork || self.portRange.max < 30000 || self.portRange.min > 32767",
            message="must stay clear of NodePorts, 30000-32767, with hostNetwork",
            field="portRange",
            check=lambda self: not self.host_network or self.port_range.max < 30000 or self.port_range.min > 32767,
        ),
        Rule(
            cel="self.hostNetwork || !(self.advertise.type in ['NodeInternalIP', 'NodeExternalIP'])",
            message="NodeInternalIP and NodeExternalIP need hostNetwork: true",
            field="advertise",
            check=lambda self: (
                self.host_network
                or self.advertise.type not in (AdvertiseType.NODE_INTERNAL_IP, AdvertiseType.NODE_EXTERNAL_IP)
            ),
        ),
    )

    port_range: PortRange = PortRange()
    """UDP ports of media on each relay."""
    host_network: bool = False
    """Whether relay pods use their node's network; a node then holds one relay."""
    advertise: Advertise = Advertise()
    """The address that phones are told."""
    families: Annotated[tuple[Family, ...], ListType(2, minimum=1, is_set=True)] = (Family.IPV4,)
    """Address families of media, the preferred one first."""


class PlacementPolicy(StrEnum):
    """How a relay is chosen for a call."""

    LEAST_LOADED = "LeastLoaded"


class ZonePolicy(StrEnum):
    """Whether a relay in the signaling process's own zone comes first."""

    PREFER = "Prefer"
    IGNORE = "Ignore"


class Placement(Model):
    """Which relay a call gets."""

    policy: PlacementPolicy = PlacementPolicy.LEAST_LOADED
    """LeastLoaded: the less loaded of two relays taken at random, so that replicas do not herd."""
    zones: ZonePolicy = ZonePolicy.PREFER
    """Prefer: a relay in the signaling process's zone first, when it has room. Ignore: all are alike."""
    max_sessions_per_relay: Annotated[int, Field(ge=1, le=1_000_000)] = 4000
    """Calls on one relay at most; past it the relay is Full."""
    spare_relays: Annotated[int, Field(ge=0, le=64)] = 1
    """So many relays may fail at once and their calls still fit on the others; else the set is Degraded."""


class CanaryMode(StrEnum):
    """Whether media itself is probed."""

    DISABLED = "Disabled"
    ENABLED = "Enabled"


class Canary(Model):
    """RTP sent through the relay, to find one that answers commands while its media is dead."""

    mode: CanaryMode = CanaryMode.DISABLED
    """Enabled or Disabled."""
    interval: Annotated[float, DurationBounds(0.1, 60)] = 1.0
    """Time between two canaries of one relay."""
    threshold: Annotated[int, Field(ge=1, le=100)] = 2
    """Canaries lost in a row that count as evidence against the relay."""


class RestartDetection(StrEnum):
    """How a restarted relay, which has lost its sessions, is told from one that never went."""

    UPTIME = "Uptime"
    LOOP_PROTECT = "LoopProtect"
    DISABLED = "Disabled"


class Health(Model):
    """How relays are probed."""

    rules = (
        Rule(
            cel="duration(self.timeout) <= duration(self.interval)",
            message="must not be longer than health.interval",
            field="timeout",
            check=lambda self: self.timeout <= self.interval,
        ),
    )

    interval: Annotated[float, DurationBounds(0.05, 30)] = 0.1
    """Time between two probes of one relay."""
    timeout: Annotated[float, DurationBounds(0.01, 30)] = 0.1
    """How long the answer to a probe may take."""
    threshold: Annotated[int, Field(ge=1, le=100)] = 3
    """Probes lost in a row after which a relay is Down."""
    restart_detection: RestartDetection = RestartDetection.UPTIME
    """Uptime: its uptime went back. LoopProtect: its random instance id changed (RTPEngine only). Or Disabled."""
    canary: Canary = Canary()
    """Probes of media itself."""


class FailoverMode(StrEnum):
    """Who starts a failover."""

    AUTOMATIC = "Automatic"
    MANUAL = "Manual"


class FailoverOrder(StrEnum):
    """Which calls of a lost relay go first."""

    EMERGENCY_FIRST = "EmergencyFirst"
    LONGEST_SILENT_FIRST = "LongestSilentFirst"


class Unmovable(StrEnum):
    """What becomes of a call that cannot be moved off a lost relay."""

    KEEP = "Keep"
    HANGUP = "Hangup"


class Failover(Model):
    """How calls leave a relay that is lost."""

    rules = (
        Rule(
            cel="self.ratePerPeer <= self.rate",
            message="must not be above failover.rate",
            field="ratePerPeer",
            check=lambda self: self.rate_per_peer <= self.rate,
        ),
    )

    mode: FailoverMode = FailoverMode.AUTOMATIC
    """Automatic, or Manual: calls wait for ``kedge move``."""
    rate: Annotated[int, Field(ge=1, le=1_000_000)] = 5000
    """re-INVITEs a second in all, shared out among signaling replicas."""
    rate_per_peer: Annotated[int, Field(ge=1, le=1_000_000)] = 2500
    """re-INVITEs a second to one peer, shared out likewise."""
    retries: Annotated[int, Field(ge=0, le=20)] = 3
    """Further tries of a call whose move failed for a passing reason (491, 500, 503, 504)."""
    order: FailoverOrder = FailoverOrder.EMERGENCY_FIRST
    """EmergencyFirst: emergency calls, then the longest silent. LongestSilentFirst: no call is preferred."""
    unmovable: Unmovable = Unmovable.HANGUP
    """Hangup: BYE to both sides of a call that cannot be moved. Keep: leave it, silent, to its phones."""


class RebalanceMode(StrEnum):
    """When calls are moved only to even out load."""

    ON_SCALE_OUT = "OnScaleOut"
    MANUAL = "Manual"
    DISABLED = "Disabled"


class Rebalance(Model):
    """How calls are spread again when relays are added."""

    mode: RebalanceMode = RebalanceMode.ON_SCALE_OUT
    """OnScaleOut: when a relay is added. Manual: on ``kedge rebalance``. Disabled: never."""
    imbalance_percent: Annotated[int, Field(ge=1, le=100)] = 10
    """How far above the mean a relay's load may be before calls are moved."""
    rate: Annotated[int, Field(ge=1, le=100_000)] = 50
    """Calls moved in a second at most."""
    rest: Annotated[float, DurationBounds(0, 86400)] = 60.0
    """Shortest time between two moves of one call."""


class DrainUnmovable(StrEnum):
    """What becomes of a call that cannot be moved off a draining relay."""

    WAIT = "Wait"
    HANGUP = "Hangup"


class Drain(Model):
    """How a relay is emptied before its planned end."""

    deadline: Annotated[float, DurationBounds(1, 86400)] = 600.0
    """How long a relay's end is held back for its last calls."""
    unmovable: DrainUnmovable = DrainUnmovable.WAIT
    """Wait: calls that cannot move stay until the deadline. Hangup: BYE to both sides at once."""


class UpdateStrategy(Model):
    """How relay pods are replaced."""

    rules = (
        Rule(
            cel="self.maxSurge > 0 || self.maxUnavailable > 0",
            message="maxSurge and maxUnavailable must not both be 0",
            field="maxUnavailable",
            check=lambda self: self.max_surge > 0 or self.max_unavailable > 0,
        ),
    )

    max_surge: Annotated[int, Field(ge=0, le=MOST_RELAYS)] = 1
    """Relay pods above ``replicas`` while they are replaced."""
    max_unavailable: Annotated[int, Field(ge=0, le=MOST_RELAYS)] = 0
    """Relay pods below ``replicas`` while they are replaced."""


class RecordsPolicy(StrEnum):
    """Which calls get a Call object."""

    ALL = "All"
    MOVED = "Moved"
    NONE = "None"


class Records(Model):
    """The Call objects of this set's calls, and what they may cost the API server."""

    policy: RecordsPolicy = RecordsPolicy.ALL
    """All calls, those that were Moved, or None."""
    after: Annotated[float, DurationBounds(0, 86400)] = 10.0
    """Age from which a call gets its object; most short calls then cost nothing."""
    max: Annotated[int, Field(ge=0, le=100_000)] = 5000
    """Call objects at most; past it the condition RecordsLimited says so."""
    writes_per_second: Annotated[int, Field(ge=1, le=1000)] = 50
    """Writes of Call objects in a second at most."""


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
        Rule(
            cel="self.engine == 'RTPEngine' || self.health.restartDetection != 'LoopProtect'",
            message="LoopProtect needs engine RTPEngine",
            field="health.restartDetection",
            check=lambda self: (
                self.engine == Engine.RTPENGINE or self.health.restart_detection != RestartDetection.LOOP_PROTECT
            ),
        ),
        Rule(cel="self.engine == oldSelf.engine", message="the engine of a RelaySet cannot change", field="engine"),
        Rule(
            cel="has(self.selector) == has(oldSelf.selector) && has(self.endpoints) == has(oldSelf.endpoints)",
            message="a RelaySet cannot change between replicas, selector and endpoints",
        ),
    )

    engine: Engine
    """The program that relays media: RTPEngine or RTPProxy. It cannot change."""
    replicas: Annotated[int, Field(ge=0, le=MOST_RELAYS)] | None = None
    """Relay pods that the operator shall run."""
    template: Template | None = None
    """What differs from the operator's usual relay pod."""
    selector: LabelSelector | None = None
    """Take pods that someone else runs, a DaemonSet for instance, by their labels."""
    endpoints: Annotated[
        tuple[Endpoint, ...],
        ListType(MOST_RELAYS, minimum=1, key="name"),
        Field(exclude_if=operator.not_),
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


class RelayState(StrEnum):
    """What a relay is good for."""

    READY = "Ready"
    SUSPECT = "Suspect"
    DOWN = "Down"
    DRAINING = "Draining"
    CORDONED = "Cordoned"
    FULL = "Full"


class RelayStatus(Model):
    """One relay as it is."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=253)]
    """The pod's or the endpoint's name."""
    state: RelayState
    """Ready, Suspect, Down, Draining, Cordoned or Full."""
    reason: ShortText = ""
    """Why it is in this state, in one CamelCase word: Probed, ProbesLost, Refused, Restarted, ..."""
    message: ShortText = ""
    """Why it is in this state, in plain words."""
    since: Timestamp | None = None
    """When it came into this state."""
    node: ShortText = ""
    """The node that it runs on."""
    zone: ShortText = ""
    """The zone that it stands in."""
    control: ShortText = ""
    """Where it takes commands, as address:port."""
    addresses: Annotated[tuple[ShortText, ...], ListType(8)] = ()
    """Where it takes media."""
    sessions: Annotated[int, Field(ge=0)] = 0
    """Calls on it."""
    instance: ShortText = ""
    """Tells this run of the relay from the one before a restart."""


class LastFailover(Model):
    """What the last failover did."""

    relay: Annotated[str, StringConstraints(max_length=253)]
    """The relay that was lost."""
    reason: ShortText
    """How it was known to be lost."""
    at: Timestamp
    """When it was known."""
    calls: Annotated[int, Field(ge=0)]
    """Calls that were on it."""
    moved: Annotated[int, Field(ge=0)]
    """Calls that another relay carries now."""
    failed: Annotated[int, Field(ge=0)]
    """Calls that could not be moved."""
    detection: Annotated[float, DurationBounds()] | None = None
    """From the first sign of trouble to the verdict."""
    gap_p50: Annotated[float, DurationBounds()] | None = None
    """Half of the calls were without media for no longer than this."""
    gap_p99: Annotated[float, DurationBounds()] | None = None
    """99 of 100 calls were without media for no longer than this."""


class RelaySetState(StrEnum):
    """The conditions in one word, for the printer column."""

    PENDING = "Pending"
    PROGRESSING = "Progressing"
    READY = "Ready"
    DEGRADED = "Degraded"
    DOWN = "Down"


class ConditionType(StrEnum):
    """Conditions of a RelaySet."""

    READY = "Ready"
    PROGRESSING = "Progressing"
    DEGRADED = "Degraded"
    BALANCED = "Balanced"
    RECORDS_LIMITED = "RecordsLimited"


class RelaySetStatus(Model):
    """What is true of the relays."""

    observed_generation: Annotated[int, Field(ge=0)] | None = None
    """The generation of the spec that this status is about."""
    state: RelaySetState | None = None
    """The conditions in one word: Pending, Progressing, Ready, Degraded or Down."""
    replicas: Annotated[int, Field(ge=0)] = 0
    """Relays that exist."""
    ready_replicas: Annotated[int, Field(ge=0)] = 0
    """Relays that are Ready."""
    selector: Annotated[str, StringConstraints(max_length=2048)] = ""
    """Labels of the relay pods, for a HorizontalPodAutoscaler."""
    calls: Annotated[int, Field(ge=0)] = 0
    """Calls on all relays of the set."""
    relays: Annotated[
        tuple[RelayStatus, ...],
        ListType(MOST_RELAYS * 2, key="name"),
    ] = ()
    """Each relay. Written when a state changes, else at most once in five seconds."""
    last_failover: LastFailover | None = None
    """What the last failover did."""
    conditions: Conditions = ()
    """Ready, Progressing, Degraded, Balanced and RecordsLimited."""


class RelaySet(Model):
    """A pool of media relays whose calls Kedge keeps alive."""

    api_version: Literal["kedge.media/v1alpha1"] = API_VERSION
    kind: Literal["RelaySet"] = "RelaySet"
    metadata: ObjectMeta
    spec: RelaySetSpec
    """What is wanted."""
    status: RelaySetStatus | None = None
    """What is; written by Kedge alone."""
