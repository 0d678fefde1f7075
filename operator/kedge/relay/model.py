"""The words that all of the relay layer shares: what a relay is, what is wanted of it, what was seen of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum, unique

from kedge.base.address import Address


@unique
class Engine(Enum):
    """The kind of relay daemon."""

    RTPENGINE = "RTPEngine"
    RTPPROXY = "RTPProxy"


@unique
class RelayState(Enum):
    """What Kedge holds of a relay; the values stand in ``status.relays[].state``."""

    READY = "Ready"
    SUSPECT = "Suspect"
    DOWN = "Down"
    DRAINING = "Draining"
    CORDONED = "Cordoned"
    FULL = "Full"


@unique
class Intent(Enum):
    """What somebody wants of a relay, as the inventory shows it."""

    SERVE = "Serve"
    CORDON = "Cordon"
    """Take no new call; keep those that are there."""
    DRAIN = "Drain"
    """Take no new call and lose those that are there: its end is near (a pod's deletion, a node's drain)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayDescription:
    """One relay as the inventory knows it. A relay is its ``uid`` (pod UID) and instance, never its address."""

    uid: str
    """Identity over renames and readdressing: the pod's UID, or the endpoint's set and name."""
    name: str
    """The pod's or endpoint's name: what a person sees."""
    relay_set: str
    """Key of its RelaySet (``namespace/name``)."""
    control: Address
    """Where its control protocol (ng) listens."""
    node: str = ""
    zone: str = ""
    weight: int = 1
    intent: Intent = Intent.SERVE
    backend_ready: bool = True
    """False once the API shows pod or node as not ready: a slow witness, worth something only beside another."""
    outgoing: bool = False
    """Whether a rollout is about to replace it: calls that must move had better go elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryPolicy:
    """How RTP of our own is sent through the relays of a set."""

    interval: float = 1.0
    """Seconds between two rounds: one packet in each direction."""
    timeout: float = 0.5
    """Seconds until a round is lost, at most ``interval``; what is missing at half of it is sent once more."""
    threshold: int = 2
    """Rounds lost in a row from which on the media of a relay is dead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthPolicy:
    """How relays of a set are probed (seconds)."""

    interval: float = 0.1
    """Seconds between two probes of one relay."""
    timeout: float = 0.1
    """Seconds until a probe without reply counts as lost."""
    threshold: int = 3
    """Probes lost in a row that make a relay Down."""
    canary: CanaryPolicy | None = None
    """None: media is not probed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailoverPolicy:
    """How calls are moved off a lost relay."""

    automatic: bool = True
    rate: float = 5000.0
    """re-INVITEs a second, over all peers."""
    rate_per_peer: float = 2500.0
    """re-INVITEs a second to one peer."""
    retries: int = 3
    """Further tries for one call after a failed one (another relay, a later time)."""
    emergency_first: bool = True
    """Whether emergency calls go before those that have been silent for longer."""
    hang_up_unmovable: bool = True
    """Whether a call whose relay is dead and that cannot be moved is ended (else it is kept, without audio)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementPolicy:
    """Where calls go."""

    max_sessions_per_relay: int = 4000
    spare_relays: int = 1
    """How many relays the set shall be able to lose and still hold all its calls."""
    zones: bool = True
    """Whether calls prefer relays of their zone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RebalancePolicy:
    """How calls are spread again over the relays of a set."""

    on_scale_out: bool = True
    """Whether a relay that joins or returns is given its share of the calls that there are."""
    allowed: bool = True
    """Whether calls are moved at all only to even out load; if not, not even on demand."""
    imbalance: float = 10.0
    """How far a relay may be from its fair share, in percent."""
    rate: float = 50.0
    """Calls moved in a second."""
    rest: float = 60.0
    """Seconds for which a call that was moved is left in peace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainPolicy:
    """How a relay is emptied while it lives."""

    deadline: float = 600.0
    """Seconds until the calls that are still there get what ``hang_up_unmovable`` says."""
    hang_up_unmovable: bool = False
    """Whether calls that cannot be moved are ended at once; else they stay until the relay's end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordPolicy:
    """Which calls get a Call object."""

    all_calls: bool = True
    moved_calls: bool = True
    after: float = 10.0
    """Seconds of age from which a call is recorded."""
    max_objects: int = 5000
    writes_per_second: float = 50.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RelaySetPolicy:
    """A RelaySet as signaling needs it: its key and policies. Made from the resource by ``kedge.api.convert``."""

    key: str
    """``namespace/name``."""
    engine: Engine = Engine.RTPENGINE
    health: HealthPolicy = field(default_factory=HealthPolicy)
    failover: FailoverPolicy = field(default_factory=FailoverPolicy)
    placement: PlacementPolicy = field(default_factory=PlacementPolicy)
    rebalance: RebalancePolicy = field(default_factory=RebalancePolicy)
    drain: DrainPolicy = field(default_factory=DrainPolicy)
    records: RecordPolicy = field(default_factory=RecordPolicy)
    rebalance_at: str = ""
    """When somebody asked for the load to be evened out (RFC 3339); each new value is one wish. Empty for never."""

    def share(self, replicas: int) -> RelaySetPolicy:
        """Return the part of it that each of so many signaling processes may use.

        What is allowed in a second, and the sessions of a relay, are divided by their number: none of them knows what
        the others do, and yet together they never pass what the RelaySet allows.
        """
        if replicas <= 1:
            return self
        failover, placement, rebalance = self.failover, self.placement, self.rebalance
        sessions = max(1, placement.max_sessions_per_relay // replicas)
        return replace(
            self,
            failover=replace(failover, rate=failover.rate / replicas, rate_per_peer=failover.rate_per_peer / replicas),
            placement=replace(placement, max_sessions_per_relay=sessions),
            rebalance=replace(rebalance, rate=rebalance.rate / replicas),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class InventorySnapshot:
    """All RelaySets and relays that are known at one moment. Level-triggered: the newest snapshot replaces the last."""

    relay_sets: tuple[RelaySetPolicy, ...] = ()
    relays: tuple[RelayDescription, ...] = ()

    def share(self, replicas: int) -> InventorySnapshot:
        """Return it with each RelaySet's ``share`` for one of so many signaling processes."""
        return replace(self, relay_sets=tuple(one.share(replicas) for one in self.relay_sets))
