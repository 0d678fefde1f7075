"""What signaling tells of itself: immutable records that are handed to status, Call objects, metrics and the CLI."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, unique


@unique
class CallState(Enum):
    """Where a call stands; the values stand in ``status.state`` of a Call."""

    SETTING_UP = "SettingUp"
    ACTIVE = "Active"
    MOVING = "Moving"
    ENDED = "Ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A Kubernetes condition without its times."""

    status: bool
    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnchorRecord:
    """The last re-anchoring of a call."""

    source: str
    """Name of the relay it left."""
    target: str
    reason: str
    """RelayDown, RelayRestarted, Drain, Requested, ..."""
    result: str
    """Moved, AnswersDiverge, HungUp, Failed, Ended."""
    at: float
    """Unix time, seconds."""
    duration: float
    """Seconds from the decision to the last ACK."""
    gap: float
    """Seconds, at most, without media: from the old relay's last sign of life to the last ACK; 0 if the relay lived."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WishRecord:
    """What became of the wish that stands in a call's object."""

    generation: int
    """The generation of the object whose wish was looked at."""
    relay: str = ""
    """The relay that the call is wanted on and is not on yet; empty where there is nothing left to do."""
    fulfilled: Condition | None = None
    """Whether it is so; None where nothing is wished that was not so anyway."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRecord:
    """One call, as others may see it. No keys, no SDP."""

    id: str
    """Kedge's name of the call: a DNS label, the name of its Call object."""
    relay_set: str
    """Key of its RelaySet, ``namespace/name``."""
    relay: str
    """Name of its relay, empty before there is one."""
    relay_uid: str
    state: CallState
    caller: str
    """From URI."""
    callee: str
    """To URI."""
    caller_peer: str
    callee_peer: str
    call_id: str
    """The caller's leg's SIP Call-ID."""
    started: float
    """Unix time, seconds, of the INVITE."""
    answered: float | None
    anchors: int
    """How often it was re-anchored."""
    last_anchor: AnchorRecord | None = None
    movable: Condition = Condition(status=True, reason="InDialog")
    anchored: Condition = Condition(status=True, reason="Settled")
    emergency: bool = False
    zone: str = ""
    """The zone whose relays it prefers."""
    wish: WishRecord | None = None
    """None until somebody has wished something of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayRecord:
    """One relay, as signaling sees it."""

    uid: str
    name: str
    relay_set: str
    address: str
    """Control address, host:port."""
    state: str
    reason: str
    """In CamelCase: Probed, ProbesLost, Refused, Restarted, PodDeleted, ..."""
    message: str
    since: float
    """Unix time, seconds, of the last change of state."""
    sessions: int
    """Calls of this replica on it."""
    instance: str
    """Which run of the daemon answers: changes when it restarts."""
    node: str = ""
    zone: str = ""
    weight: int = 1
    """Its share of calls against the other relays'."""
    capacity: int = 0
    """``maxSessionsPerRelay`` of its RelaySet."""
    intent: str = "Serve"
    """Serve, Cordon or Drain: what is wanted of it."""
    media_ready: bool | None = None
    """Whether a canary has passed through this instance, for the readiness gate; None: none has ended, or none runs."""
    outgoing: bool = False
    """Whether a rollout is about to replace it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailoverRecord:
    """What became of one loss of a relay."""

    relay_set: str
    relay: str
    reason: str
    started: float
    """Unix time, seconds."""
    calls: int
    moved: int
    failed: int
    """Hung up or kept without audio: not moved, and not ended by the parties themselves."""
    pending: int
    detection: float
    """Seconds from the last sign of life to the verdict."""
    gap_p50: float
    """Seconds."""
    gap_p99: float
    """Seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressRecord:
    """How far a planned move of many calls has got: a drain or a rebalance."""

    relay_set: str
    kind: str
    """Drain or Rebalance."""
    relay: str
    """Name of the relay that is drained; empty for a rebalance."""
    started: float
    """Unix time, seconds."""
    calls: int
    """Calls to move, in all."""
    moved: int
    failed: int
    """Calls that could not be moved, or have no room anywhere."""
    seconds_left: float
    """At the pace that is allowed."""
    done: bool
    message: str = ""
    """What holds it up, in plain words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneRecord:
    """How many calls of a RelaySet prefer relays of one zone."""

    relay_set: str
    zone: str
    calls: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRecord:
    """Something that a person may want to read of: becomes a Kubernetes Event, a log line, a line of the demo."""

    at: float
    """Unix time, seconds."""
    warning: bool
    reason: str
    """In CamelCase: RelayDown, RelayReady, FailoverDone, CallNotMoved, ..."""
    message: str
    relay_set: str = ""
    relay: str = ""
    call: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalingSnapshot:
    """What one signaling replica knows at one moment."""

    replica: str
    at: float
    """Unix time, seconds."""
    relays: tuple[RelayRecord, ...] = ()
    calls: tuple[CallRecord, ...] = ()
    failovers: tuple[FailoverRecord, ...] = ()
    """The last one of each RelaySet."""
    progress: tuple[ProgressRecord, ...] = ()
    """Drains and rebalances under way, and the last finished one of each RelaySet."""
    zones: tuple[ZoneRecord, ...] = ()
    """Calls by the zone that they prefer; those that prefer none are left out."""
    events: tuple[EventRecord, ...] = ()
    """The most recent ones, oldest first."""
    counters: dict[str, int] = field(default_factory=dict)
