"""From canaries to a verdict on the media of one relay. A pure state machine; ``canary`` feeds it.

A canary is RTP of our own that goes through a relay in both directions. A relay that answers its control port and
moves no packets (its ports filtered, its kernel module stuck, its media network cut) is found by nothing else.

The theory: one packet that is missing is packet loss, no evidence; so a round sends what is missing once more before
it is lost, and it is lost only if the control port then answers that it knows the session. Such a round is one sign.
But between us and the media ports there is more than the relay: a firewall, a policy, a network of our own. So a lost
round speaks against a relay only as long as the same canary passes at another relay of its set: the witness.

    rounds                                   verdict on the media
    none yet, or passed                      Ready
    one lost                                 Suspect CanaryLost: it gets no new call
    ``threshold`` lost in a row              Down MediaLost: its calls are moved
    lost, and at most relays of the set      Suspect MostCanariesLost; once fewer are lost, ``threshold`` more lost
                                             rounds make it Down
    lost, and no other relay of the set      Ready, with the reason MediaUnproven: the fault is more likely ours, and
    passes (or there is none)                there would be no relay to move its calls to
    ``recovery`` passed in a row when Down   Ready
    another instance answers                 Ready: what was held against the one before is forgotten

A lost round is not weighed with lost probes (one network that stumbles loses both), nor with what the API has of the
pod (its readiness may follow from the canary itself): two kinds of evidence count as two only if they are independent.
"""

from __future__ import annotations

from kedge.relay.model import CanaryPolicy, RelayState


class Doubt:
    """Why a lost round may not be the fault of the relay."""

    __slots__ = ("message", "reason", "verdict")

    def __init__(self, verdict: RelayState, reason: str, message: str) -> None:
        self.verdict = verdict
        """What the media is held to be meanwhile."""
        self.reason = reason
        self.message = message


class MediaGuard:
    """Knows of the canaries of the other relays of the set. A native base class, as mypyc likes it."""

    __slots__ = ()

    def doubt(self, media: MediaHealth, policy: CanaryPolicy) -> Doubt | None:
        """Return why a lost round of ``media`` shall not count; None when it shall."""
        raise NotImplementedError


class MediaHealth:
    """What is held of the media of one relay. Times are in seconds of a monotonic clock."""

    __slots__ = (
        "_guard",
        "good",
        "held",
        "lost",
        "lost_since",
        "message",
        "passed_at",
        "ready",
        "reason",
        "recovery",
        "verdict",
    )

    def __init__(self, recovery: int, guard: MediaGuard | None = None) -> None:
        self._guard = guard
        self.recovery = recovery
        """Rounds passed in a row that bring back media that was dead."""
        self.passed_at = -1.0
        """When a round passed last, by whatever instance; negative: never."""
        self.reset()

    def reset(self) -> None:
        """Forget all: another instance answers. It has to show anew that it moves packets."""
        self.ready: bool | None = None
        """Whether a round has passed since this instance runs; None before the end of the first one."""
        self._clear()

    def stop(self) -> None:
        """No canary runs any more: nothing is held against the relay, and what was once shown stays."""
        self._clear()

    def _clear(self) -> None:
        self.verdict = RelayState.READY
        """``READY``, ``SUSPECT`` or ``DOWN``."""
        self.reason = self.message = ""
        self.lost = 0
        """Rounds lost in a row."""
        self.lost_since: float | None = None
        """When the first of them began."""
        self.good = 0
        """Rounds passed in a row since it was Down."""
        self.held = False
        """Whether the guard doubts that the relay is at fault."""

    def passed(self, now: float) -> None:
        """Take a round whose packets all came out."""
        self.ready = True
        self.passed_at = now
        self.lost, self.lost_since = 0, None
        self.good += 1
        if self.verdict is not RelayState.DOWN or self.good >= self.recovery:
            self._clear()

    def round_lost(self, began: float, way: str, policy: CanaryPolicy) -> None:
        """Take a lost round, that began at ``began`` (seconds); ``way`` says for people what did not come out."""
        self.ready = bool(self.ready)
        self.lost += 1
        self.good = 0
        if self.lost_since is None:
            self.lost_since = began
        if self.verdict is not RelayState.DOWN:
            self._judge(way, policy)

    def _judge(self, way: str, policy: CanaryPolicy) -> None:
        seen = f"it answers, but {self.lost} canar{'ies' if self.lost > 1 else 'y'} lost in a row ({way})"
        doubt = self._guard.doubt(self, policy) if self._guard is not None else None
        if doubt is not None:
            self.held = True
            self.verdict, self.reason, self.message = doubt.verdict, doubt.reason, f"{seen}; {doubt.message}"
        elif self.held and policy.threshold > 1:
            # The others pass again, but this round may have begun before: it gets as many chances again.
            self.held, self.lost = False, 0
            self.verdict, self.reason, self.message = RelayState.SUSPECT, "CanaryLost", seen
        elif self.lost < policy.threshold:
            self.verdict, self.reason, self.message = RelayState.SUSPECT, "CanaryLost", seen
        else:
            self.held = False
            self.verdict, self.reason, self.message = RelayState.DOWN, "MediaLost", seen
