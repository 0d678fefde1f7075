"""One call: a UAS dialog with the caller, a UAC dialog with the callee, and a session at a relay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kedge.relay.backend import RelayReply, RelayUser
from kedge.relay.model import RelayState
from kedge.sip.offer_answer import is_plausible

if TYPE_CHECKING:
    from collections.abc import Callable

    from kedge.call.bridge import Bridge
    from kedge.call.leg import Leg
    from kedge.call.reanchor import Move
    from kedge.call.setup import Setup
    from kedge.relay.fleet import Relay

SETTING_UP: Final = 0
ACTIVE: Final = 1
ENDED: Final = 2

CALLER_TAG: Final = "a"
CALLEE_TAG: Final = "b"


class Then(RelayUser):
    """Goes on with ``step(reply, now)`` when a relay has answered."""

    __slots__ = ("_step",)

    def __init__(self, step: Callable[[RelayReply, float], None]) -> None:
        self._step = step

    def on_relay_reply(self, token: int, reply: RelayReply, now: float) -> None:
        """Go on; the token is not needed, as each command has a continuation of its own."""
        self._step(reply, now)


def checked(reply: RelayReply, given: bytes) -> RelayReply:
    """Return a relay's reply, as an error if it holds what cannot be sent to anybody; ``given`` is what it got."""
    if reply.sdp is None or is_plausible(reply.sdp, given):
        return reply
    return RelayReply(None, "the relay's description is not whole")


class LastAnchor:
    """How the last re-anchoring of a call went."""

    __slots__ = ("at", "duration", "gap", "reason", "result", "source", "target")

    def __init__(
        self, *, source: str, target: str, reason: str, result: str, at: float, duration: float, gap: float
    ) -> None:
        self.source = source
        self.target = target
        self.reason = reason
        self.result = result
        self.at = at
        """Seconds of the monotonic clock."""
        self.duration = duration
        self.gap = gap


class Call:
    """A call and all that belongs to it. ``id`` is Kedge's own name, and the name of its Call object."""

    __slots__ = (
        "anchored_message",
        "anchored_reason",
        "anchors",
        "answered",
        "bridge",
        "callee",
        "caller",
        "emergency",
        "ended",
        "id",
        "last_anchor",
        "last_move_at",
        "mark",
        "move",
        "relay",
        "relay_instance",
        "relay_set",
        "rest_until",
        "session",
        "sessions_made",
        "setup",
        "started",
        "state",
        "zone",
    )

    caller: Leg
    callee: Leg

    def __init__(self, call_id: str, relay_set: str, mark: str, now: float) -> None:
        self.id = call_id
        self.relay_set = relay_set
        self.state = SETTING_UP
        self.started = now
        """Seconds of the monotonic clock, as all times here."""
        self.answered = 0.0
        self.ended = 0.0
        self.relay: Relay | None = None
        self.relay_instance = ""
        """Which run of the relay holds the session: another one has lost it."""
        self.session = ""
        """Name of the current session at the relay."""
        self.sessions_made = 0
        self.mark = mark
        """Of the process, in the name of each session: other processes have sessions at the same relays."""
        self.setup: Setup | None = None
        self.bridge: Bridge | None = None
        """A party's offer/answer exchange that is being carried over to the other."""
        self.move: Move | None = None
        self.anchors = 0
        self.last_anchor: LastAnchor | None = None
        self.last_move_at = 0.0
        self.rest_until = 0.0
        """Until then it is moved only if it must be, or if a person asks: its last move came to nothing good."""
        self.anchored_reason = "Settled"
        """Reason of the condition Anchored: anything but Settled and AnswersDiverge means False."""
        self.anchored_message = ""
        self.emergency = False
        self.zone = ""
        """The zone whose relays it prefers; empty where any is as good."""

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self.state != ENDED

    @property
    def settled(self) -> bool:
        """Whether no offer/answer exchange is under way on either leg, so that one of ours may begin."""
        return self.bridge is None and not self.caller.busy and not self.callee.busy

    @property
    def is_lost(self) -> bool:
        """Whether its session is gone: its relay is Down, or another instance answers there."""
        relay = self.relay
        return relay is None or relay.state is RelayState.DOWN or relay.instance != self.relay_instance

    @property
    def is_stranded(self) -> bool:
        """Whether a party's media goes nowhere: the session is gone, or a leg was not told where the new one is."""
        return self.is_lost or self.caller.session != self.session or self.callee.session != self.session

    def release(self) -> None:
        """Let go of all that knows the call: it is over. Without circles, reference counts free it at once."""
        self.setup = self.bridge = self.move = None
        for name in ("caller", "callee"):
            if hasattr(self, name):
                delattr(self, name)

    def new_session(self) -> str:
        """Return the name of a further session: unique at every relay, also for a second try at the same one."""
        self.sessions_made += 1
        return f"{self.mark}.{self.id}.{self.sessions_made}"
