"""What a RelaySet says of its calls and their media: the parts of its spec, one class each.

A rule that spans fields stands with the part that holds them all.
"""

from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field

from kedge.api.durations import DurationBounds
from kedge.api.model import IpAddress, LabelKey, ListType, Model, Rule

MOST_RELAYS = 256
"""Relays of one set; status names each, and an object of the API server must stay small."""


_PORTS_PER_CALL: Final = 4


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

    @property
    def calls(self) -> int:
        """Calls with one medium that the ports are enough for."""
        return (self.max - self.min + 1) // _PORTS_PER_CALL


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
    """PodIP, NodeInternalIP, NodeExternalIP (both need hostNetwork), Annotation or Static. NodeExternalIP needs the
    agent beside each relay, and an operator that may read nodes (``operator.readNodes`` of the chart)."""
    annotation: LabelKey | None = None
    """For Annotation: the pod annotation that holds the address; of two families, both with a comma between."""
    address: IpAddress | None = None
    """For Static: the address, for instance of a NAT in front of all relays. Another family keeps the pod's own."""


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
    """Address families of media; the control port has the first. Two, or one that is not the pod's first, need the
    agent beside each relay. What a phone offers in a family is relayed in that family."""


class PlacementPolicy(StrEnum):
    """How a relay is chosen for a call."""

    LEAST_LOADED = "LeastLoaded"


class ZonePolicy(StrEnum):
    """Whether a relay in the call's zone comes first."""

    PREFER = "Prefer"
    IGNORE = "Ignore"


class Placement(Model):
    """Which relay a call gets."""

    policy: PlacementPolicy = PlacementPolicy.LEAST_LOADED
    """LeastLoaded: the less loaded of two relays taken at random, so that replicas do not herd."""
    zones: ZonePolicy = ZonePolicy.PREFER
    """Prefer: a relay in the call's zone (the caller's peer's, else the callee's peer's, else the signaling process's)
    first, when it has room. Ignore: all are alike."""
    max_sessions_per_relay: Annotated[int, Field(ge=1, le=1_000_000)] = 4000
    """Calls on one relay at most; past it the relay is Full. A relay pod of ``replicas`` takes no more than its ports
    suffice for, four a call: the default ``portRange`` is enough for 3404."""
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
    imbalance_percent: Annotated[int, Field(ge=0, le=100)] = 10
    """How far a relay's load may be from its fair share before calls are moved; 0 asks for the share itself."""
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
    """How long the agent beside a relay holds back the end of its pod for the last calls. Without one it is 10 s."""
    unmovable: DrainUnmovable = DrainUnmovable.WAIT
    """Wait: calls that cannot move stay until their relay ends. Hangup: BYE to both sides at the deadline."""


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
