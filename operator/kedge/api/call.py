"""The Call resource: a view of one call, and the place for wishes about it.

It holds no keys, no SDP and nothing that a call depends on: those who may read Calls are many, and
deleting one never hangs up.
"""

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from kedge.api.durations import DurationBounds
from kedge.api.meta import Conditions, ObjectMeta, Timestamp
from kedge.api.model import DnsName, ListType, Model, Rule, ShortText
from kedge.api.names import API_VERSION
from kedge.api.relayset import Engine

RelayName = Annotated[str, StringConstraints(min_length=1, max_length=253)]


class Transport(StrEnum):
    """How a leg's media is carried."""

    RTP = "RTP"
    SRTP = "SRTP"


class Leg(Model):
    """One side of the call."""

    transport: Transport | None = None
    """RTP or SRTP; without it, as the leg is."""
    interface: Annotated[str, StringConstraints(max_length=63)] = ""
    """The relay's interface on this side, where it has several."""
    address: Annotated[str, StringConstraints(max_length=64)] = ""
    """Where the phone's media is, as address:port."""
    flags: Annotated[
        tuple[Annotated[str, StringConstraints(max_length=63)], ...],
        ListType(32),
    ] = ()
    """Flags that the relay is given for this side."""


class Legs(Model):
    """Both sides of the call."""

    caller: Leg = Leg()
    """The side that called."""
    callee: Leg = Leg()
    """The side that was called."""


class WantedCallState(StrEnum):
    """What is wanted of a call."""

    ACTIVE = "Active"
    TERMINATED = "Terminated"


class CallSpec(Model):
    """What a person wants of the call."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.relaySet == oldSelf.relaySet", message="the relay set of a call cannot change", field="relaySet"
        ),
        Rule(cel="self.engine == oldSelf.engine", message="the engine of a call cannot change", field="engine"),
        Rule(
            cel="oldSelf.state != 'Terminated' || self.state == 'Terminated'",
            message="a call that was terminated cannot be made active again",
            field="state",
        ),
    )

    relay_set: DnsName
    """The RelaySet whose relays carry the call."""
    relay: RelayName
    """The relay that shall carry the call; change it, and the call moves."""
    engine: Engine = Engine.RTPENGINE
    """The program that relays the call's media."""
    legs: Legs = Legs()
    """Both sides of the call."""
    state: WantedCallState = WantedCallState.ACTIVE
    """Active, or Terminated to hang up."""


class CallState(StrEnum):
    """What a call does."""

    SETTING_UP = "SettingUp"
    ACTIVE = "Active"
    MOVING = "Moving"
    ENDED = "Ended"


class ReanchorResult(StrEnum):
    """How a move of a call ended."""

    MOVED = "Moved"
    ANSWERS_DIVERGE = "AnswersDiverge"
    ROLLED_BACK = "RolledBack"
    HUNG_UP = "HungUp"
    FAILED = "Failed"
    ENDED = "Ended"
    NO_RELAY = "NoRelay"
    TARGET_LOST = "TargetLost"


class LastReanchor(Model):
    """The call's last move."""

    from_: RelayName
    """The relay that it left."""
    to: RelayName
    """The relay that it was to go to."""
    reason: ShortText
    """Why it was moved: RelayDown, RelayRestarted, Drain, Requested, ..."""
    result: ReanchorResult
    """Moved, AnswersDiverge, RolledBack, HungUp, Failed, Ended (by the parties); NoRelay, TargetLost: tried again."""
    duration: Annotated[float, DurationBounds()]
    """From the decision to the last ACK."""
    gap: Annotated[float, DurationBounds()] | None = None
    """For how long media stood still, at most."""
    at: Timestamp
    """When it ended."""


class CallStatus(Model):
    """What is true of the call."""

    state: CallState | None = None
    """SettingUp, Active, Moving or Ended."""
    owner: ShortText = ""
    """The signaling process that holds the call's dialogs."""
    relay: Annotated[str, StringConstraints(max_length=253)] = ""
    """The relay that carries the call."""
    from_: ShortText = ""
    """The calling party's URI."""
    to: ShortText = ""
    """The called party's URI."""
    call_id: ShortText = ""
    """The SIP Call-ID on the caller's side."""
    started: Timestamp | None = None
    """When the call was answered."""
    anchors: Annotated[int, Field(ge=0)] = 0
    """How often the call was re-anchored."""
    last_reanchor: LastReanchor | None = None
    """Its last move."""
    conditions: Conditions = ()
    """Movable, Anchored and, once something is wished, Fulfilled; each with a reason."""


class Call(Model):
    """One call through Kedge: what is, and what is wanted. Deleting it does not hang up."""

    api_version: Literal["kedge.media/v1alpha1"] = API_VERSION
    kind: Literal["Call"] = "Call"
    metadata: ObjectMeta
    spec: CallSpec
    """What a person wants."""
    status: CallStatus | None = None
    """What is; written by Kedge alone."""
