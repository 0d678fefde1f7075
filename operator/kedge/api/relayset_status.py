"""What is true of a RelaySet's relays, as its status tells it."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from kedge.api.durations import DurationBounds
from kedge.api.meta import Conditions, Timestamp
from kedge.api.model import ListType, Model, ShortText
from kedge.api.policies import MOST_RELAYS


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
    """From the relay's last sign of life to the verdict."""
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
