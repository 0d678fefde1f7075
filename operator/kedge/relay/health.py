"""From evidence to a verdict on one relay: Ready, Suspect or Down. A pure state machine; ``probing`` feeds it.

The theory: one witness may err, so one sign only makes a relay Suspect (it gets no new call), and its calls are moved
(Down) only when a witness insists, or two kinds of witness agree.

    evidence                                 verdict
    no contact yet                           Suspect NotProbedYet; a daemon that starts may take its time, so Down
                                             (as below) comes after ten times ``threshold`` losses and refusals
    one probe lost                           Suspect ProbeLost
    ``threshold`` probes lost in a row       Down ProbesLost; while most relays of the set are silent: Suspect
                                             MostRelaysLost, for the fault may be the observer's own network;
                                             once fewer are silent, ``threshold`` more losses make it Down
    one refusal (ICMP)                       Suspect Refused, and a confirming probe at once
    a refusal after that probe               Down Refused
    a loss and a refusal                     Down Refused
    a loss or refusal, and not ready as      Down BackendNotReady
    the API has it
    a loss or refusal, and gone from the     Down Deleted
    inventory
    an agent's LinkDown or AddressRemoved    Suspect with that reason, and a confirming probe at once
    the same, and a loss or refusal          Down with that reason: the word came through the network, so it is not ours
                                             that is cut
    the same, while probes answer            Suspect while the word stands: answers may take another way than media
    not ready, or gone, while probes answer  none
    a good probe when Suspect, then identity Ready
    ``recovery`` good probes in a row when   Ready
    Down, then identity

That is what its control port tells. What RTP through it tells is judged apart, in ``media_health``, and the worse of
the two verdicts stands: pings do not bring back a relay whose media is dead, and canaries none that is silent. What an
agent says, and for how long it counts, is kept in ``link_health``. A lost canary and an agent's word do not add up to
Down: both speak of the media's way alone, and canaries make sure of it by themselves.

A relay is known by the instance that answers: random for each run of the daemon. After any loss or refusal nothing is
Ready before it was asked for again. Another one means that the sessions are gone: ``identified`` says so.
A lost probe is no loss if the relay has answered anything since it was sent: it is slow, then, and not silent.
"""

from __future__ import annotations

from typing import Final

from kedge.relay.link_health import LinkHealth, LinkReport, ReportResult
from kedge.relay.media_health import MediaGuard, MediaHealth
from kedge.relay.model import HealthPolicy, RelayState

_PATIENCE: Final = 10
"""How many times ``threshold`` a relay that never was Ready may fail before it is Down: it may be starting."""
_UPTIME_SLACK: Final = 1.5
"""Seconds: uptime comes in whole seconds, and the reply takes its time."""


class Guard:
    """Knows of the other relays of the set. A native base class, as mypyc likes it."""

    __slots__ = ()

    def network_suspect(self, health: Health) -> bool:
        """Return whether so many relays fell silent together with ``health`` that the network here is suspected."""
        raise NotImplementedError


class Health:
    """What is held of one relay's health. Times are in seconds of a monotonic clock."""

    __slots__ = (
        "_confirmed",
        "_confirming",
        "_doubted_at",
        "_guard",
        "_heard",
        "_message",
        "_reason",
        "_sure_at",
        "backend_ready",
        "control",
        "deleted",
        "failures",
        "good",
        "held",
        "identity_needed",
        "instance",
        "link",
        "lost",
        "media",
        "policy",
        "recovery",
        "refused",
        "replaced_since",
        "silent_since",
        "started",
        "was_ready",
    )

    def __init__(
        self,
        policy: HealthPolicy,
        *,
        recovery: int,
        guard: Guard | None = None,
        backend_ready: bool = True,
        media_guard: MediaGuard | None = None,
    ) -> None:
        self.policy = policy
        self._guard = guard
        self.recovery = recovery
        """Good probes in a row that bring a relay back that was Down."""
        self.media = MediaHealth(recovery, media_guard)
        """What canaries tell."""
        self.link = LinkHealth()
        """What its agent tells."""
        self.control = RelayState.SUSPECT
        """What its control port tells: ``READY``, ``SUSPECT`` or ``DOWN``."""
        self._reason = "NotProbedYet"
        self._message = "it has not answered yet"
        self.was_ready = False
        """Whether it ever was Ready: else it holds no call, and there is nothing to lose."""
        self._heard = -1.0
        self.lost = 0
        """Probes lost in a row."""
        self.failures = 0
        """Losses and refusals since the last good probe."""
        self.silent_since: float | None = None
        """When the first of the probes was sent that are lost in a row."""
        self.good = 0
        """Good probes in a row since it was Down."""
        self.refused = False
        """Whether the last contact was an ICMP refusal. The network works, then."""
        self._confirming = False
        self._confirmed = False
        self.backend_ready = backend_ready
        self.deleted = False
        self.held = False
        """Whether the guard holds back a verdict by lost probes alone."""
        self.identity_needed = True
        self.replaced_since = -1.0
        """When the run before this one was last seen for sure: its sessions are gone since then, at most."""
        self._sure_at = -1.0
        self._doubted_at: float | None = None
        self.instance = ""
        """Which run of the daemon answers; empty when it is not known."""
        self.started: float | None = None
        """When that run began, as its uptime tells, give or take a second."""

    @property
    def verdict(self) -> RelayState:
        """``READY``, ``SUSPECT`` or ``DOWN``: the worst of what control port, media and agent tell."""
        if self._media_speaks:
            return self.media.verdict
        return RelayState.SUSPECT if self._link_speaks else self.control

    @property
    def reason(self) -> str:
        """Why, in CamelCase."""
        if self._link_speaks:
            return self.link.state.value
        return self.media.reason if self._media_speaks or self._media_doubted else self._reason

    @property
    def message(self) -> str:
        """Why, in a sentence."""
        if self._link_speaks:
            return self.link.message
        return self.media.message if self._media_speaks or self._media_doubted else self._message

    @property
    def _link_speaks(self) -> bool:
        return self.link.in_trouble and self.control is RelayState.READY and not self._media_speaks

    @property
    def _media_speaks(self) -> bool:
        if self.media.verdict is RelayState.READY or self.control is RelayState.DOWN:
            return False
        return self.media.verdict is RelayState.DOWN or self.control is RelayState.READY

    @property
    def _media_doubted(self) -> bool:
        return self.media.held and self.control is RelayState.READY

    @property
    def last_seen(self) -> float:
        """The last sign of life (seconds; negative: none yet): of its media, once that is dead and nothing else is."""
        if self._media_speaks and self.media.verdict is RelayState.DOWN and self.media.ready:
            return min(self._heard, self.media.passed_at)
        return self._heard

    @property
    def confirm_due(self) -> bool:
        """Whether a first refusal waits for its confirming probe."""
        return self.refused and not self._confirming and self.control is not RelayState.DOWN

    @property
    def identity_due(self) -> bool:
        """Whether it is time to ask which instance answers."""
        return self.identity_needed and (self.control is not RelayState.DOWN or self.good >= self._good_needed)

    @property
    def _good_needed(self) -> int:
        return self.recovery if self.was_ready else 1

    def seen(self, now: float) -> None:
        """Take any sign of life."""
        self._heard = max(self._heard, now)

    def probe_sent(self) -> None:
        """Take note that a probe leaves: a refusal from now on is another one than the first."""
        self._confirming = self.refused

    def probe_answered(self, now: float) -> None:
        """Take a good probe."""
        self.seen(now)
        self.lost = self.failures = 0
        self.silent_since = None
        self.held = False
        self.refused = self._confirming = self._confirmed = False
        if self.control is RelayState.DOWN:
            self.good += 1

    def probe_lost(self, sent_at: float) -> None:
        """Take the loss of a probe that was sent at ``sent_at``."""
        if self._heard >= sent_at:
            return
        self.lost += 1
        self.failures += 1
        self.good = 0
        self._doubt_identity()
        if self.silent_since is None:
            self.silent_since = sent_at
        self.judge()

    def probe_refused(self) -> None:
        """Take an ICMP refusal."""
        self._confirmed = self._confirmed or self._confirming
        self.refused = True
        self.failures += 1
        self.good = 0
        self._doubt_identity()
        self.judge()

    def _doubt_identity(self) -> None:
        self.identity_needed = True
        if self._doubted_at is None:
            self._doubted_at = self._heard

    def identified(self, instance: str, uptime: float | None, now: float) -> bool:
        """Take the answer to who answers; return whether it is another instance, whose sessions are gone.

        Args:
            instance: its id; empty when the relay could not say (it refuses even probe sessions).
            uptime: whole seconds, or None when it was not asked for; decides when ``instance`` is empty.
            now: in seconds.
        """
        self.seen(now)
        self.identity_needed = self.refused or self.lost > 0  # it has gone silent since the question was sent
        restarted = self._is_other(instance, uptime, now)
        if restarted:
            self.replaced_since = self._sure_at if self._doubted_at is None else self._doubted_at
            self.started = None
            self.media.reset()
        self._sure_at = now
        if instance:
            self.instance = instance
        if uptime is not None:
            self.started = now - uptime
        if self.identity_needed:
            return restarted
        self._doubted_at = None
        if self.control is RelayState.SUSPECT or self.good >= self._good_needed:
            self._become_ready()
        if restarted:
            self._reason, self._message = "Restarted", "another instance answers: its sessions are gone"
        return restarted

    def _is_other(self, instance: str, uptime: float | None, now: float) -> bool:
        if instance and self.instance:
            return instance != self.instance
        if uptime is None or self.started is None:
            return False
        return now - uptime > self.started + _UPTIME_SLACK

    def uptime_told(self, uptime: float, now: float) -> None:
        """Take the uptime (whole seconds) beside a known instance; one that went back asks for the identity."""
        if self._is_other("", uptime, now):
            self.identity_needed = True
        else:
            self.started = now - uptime

    def set_backend(self, *, ready: bool) -> None:
        """Take what the API has of pod and node: it counts only beside other evidence."""
        self.backend_ready = ready
        self.judge()

    def set_deleted(self, deleted: bool) -> None:
        """Take whether the relay is gone from the inventory: it counts only beside other evidence."""
        self.deleted = deleted
        self.judge()

    def link_told(self, report: LinkReport, now: float) -> ReportResult:
        """Take what its agent says of its link."""
        result = self.link.take(report, now)
        if result is ReportResult.TAKEN and self.link.in_trouble:
            self.judge()
        return result

    def _become_ready(self) -> None:
        self.control, self.was_ready, self.good = RelayState.READY, True, 0
        self._reason, self._message = "Probed", "it answers"

    def judge(self) -> None:
        """Weigh the evidence that speaks against the relay; without any, nothing changes."""
        if self.control is RelayState.DOWN or not (self.lost or self.refused):
            return
        losses = f"{self.lost} probe{'s' if self.lost > 1 else ''} lost in a row"
        seen = "its port refuses" if self.refused else losses
        if not self.was_ready and self.failures < self.policy.threshold * _PATIENCE:
            self._message = f"it has not answered yet: {seen}"
        elif self._confirmed:
            self._say(RelayState.DOWN, "Refused", "nothing listens on its control port, twice")
        elif self.lost and self.refused:
            self._say(RelayState.DOWN, "Refused", f"its port refuses, and {losses}")
        elif self.deleted:
            self._say(RelayState.DOWN, "Deleted", f"gone from the inventory, and {seen}")
        elif not self.backend_ready:
            self._say(RelayState.DOWN, "BackendNotReady", f"its pod or node is not ready, and {seen}")
        elif self.link.in_trouble:
            self._say(RelayState.DOWN, self.link.state.value, f"{self.link.message}, and {seen}")
        elif self.lost < self.policy.threshold:
            self._say(RelayState.SUSPECT, "Refused" if self.refused else "ProbeLost", seen)
        elif self._guard is not None and self._guard.network_suspect(self):
            message = f"{losses}, as by most relays of its set: the network here may be at fault"
            self.held = True
            self._say(RelayState.SUSPECT, "MostRelaysLost", message)
        elif self.held:
            # The network is back, but this relay's probe may have left before: it gets as many chances again.
            self.held, self.lost = False, 0
            self._say(RelayState.SUSPECT, "ProbeLost", "silent, but no longer with most of its set")
        else:
            self._say(RelayState.DOWN, "ProbesLost", losses)

    def _say(self, verdict: RelayState, reason: str, message: str) -> None:
        self.control, self._reason, self._message = verdict, reason, message
