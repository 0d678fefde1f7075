"""How a test phone behaves, troubles included: plain data, so that it travels to a phone process as JSON."""

from dataclasses import dataclass
from typing import Literal

CODECS = ("PCMU", "PCMA", "telephone-event")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Datagrams of one kind that are lost, or sent several times, at one phone."""

    direction: Literal["in", "out"]
    kind: str
    """A method (``ACK``), or a status and a method (``200 INVITE``)."""
    count: int = 1
    """How many datagrams this happens to."""
    copies: int = 0
    """How often the datagram arrives: 0 is lost, 2 is doubled."""
    phase: Literal["setup", "call", "any"] = "any"
    """``setup`` until the first 200's ACK, ``call`` after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """What a phone does. All times in seconds."""

    codecs: tuple[str, ...] = CODECS
    """What it offers, and accepts, in this order."""
    video: bool = False
    """Offers video as well; whoever it is offered to refuses it, and it sends none."""
    srtp: Literal["", "able", "wanted"] = ""
    """SRTP with keys in the description: refused with 488, taken if it is offered, or offered by itself as well."""
    ring_after: float = 0.0
    """Callee: from the INVITE to the 180."""
    answer_after: float = 0.02
    """Callee: from the INVITE to the final response; negative: rings for ever."""
    answer_status: int = 200
    """Callee: the final response to the INVITE."""
    early_media: bool = False
    """Callee: a 183 with SDP instead of the 180, and audio from then on."""
    cancel_after: float = -1.0
    """Caller: from the INVITE to the CANCEL; negative: never."""

    reinvite_statuses: tuple[int, ...] = ()
    """Final responses to the first re-INVITEs, in order; 0: no answer at all. After these: 200."""
    reinvite_status: int = 200
    """Final response to each re-INVITE after those of ``reinvite_statuses``; 0: no answer at all."""
    reinvite_after: float = 0.0
    """From a re-INVITE to its final response; a 100 is sent at once when it is not 0."""
    retry_after: int = 0
    """Retry-After in responses of 500 and 503, whole seconds; 0: none."""
    reinvite_codecs: tuple[str, ...] | None = None
    """Accept only these in a re-INVITE."""
    move_port: bool = False
    """Take another RTP port in each 200 to a re-INVITE."""
    answer_without_sdp: bool = False
    """The 200 to a re-INVITE has no body."""
    hang_up_on_reinvite: bool = False
    """A re-INVITE finds the phone hanging up: it sends BYE, and answers the re-INVITE with 487."""
    glares: int = 0
    """So many re-INVITEs cross with one of the phone's own: both are refused with 491."""
    any_audio: bool = False
    """Count audio of whoever sends it, not just of the phone at the other end; and have audio in calls of others."""
    faults: tuple[Fault, ...] = ()
    """Lost and repeated datagrams."""

    @classmethod
    def from_dict(cls, values: dict[str, object]) -> "Behaviour":
        """Make a behaviour from what ``dataclasses.asdict`` and JSON made of one."""
        made = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        faults = values.get("faults", ())
        assert isinstance(faults, (list, tuple))
        made["faults"] = tuple(Fault(**fault) for fault in faults)
        return cls(**made)  # type: ignore[arg-type]
