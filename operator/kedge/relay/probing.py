"""When one relay is probed, and what its answers are to its health: a loop of timers, without I/O.

A ping leaves every ``interval``. A first refusal brings a confirming ping forward, so that a killed daemon is known a
few milliseconds after the first probe that met its closed port; so does an agent's word of a dead link, at once. After
trouble, and about once a second, the relay is asked which instance it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from kedge.base.timers import Timer, TimerHeap, TimerTarget
from kedge.relay.backend import RelayReply, RelayUser
from kedge.relay.health import Health
from kedge.relay.link_health import LinkReport, ReportResult
from kedge.relay.model import RelayState
from kedge.relay.ng_client import REFUSED, RELAY_DOWN, TIMEOUT, NgClient, instance_of, uptime_of

_TICK: Final = 0  # kinds of timer
_CONFIRM: Final = 1
_LAPSE: Final = 2

_IDENTIFY: Final = -1  # tokens; those of pings count up from 0
_UPTIME: Final = -2
_UPTIME_INSTEAD: Final = -3

_OURS: Final = frozenset((TIMEOUT, REFUSED, RELAY_DOWN))
"""Errors that are not an answer of the relay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeSettings:
    """How relays are probed, beside the health policy of their set. Read once, at start."""

    confirm_after: float = 0.005
    """Seconds from a first refusal to the probe that shall confirm it."""
    identity_interval: float = 1.0
    """Seconds between two questions for the instance of a relay that is well, to catch a restart between two pings."""
    recovery: int = 3
    """Good probes in a row that bring a relay back that was Down."""
    own_network: float = 0.51
    """The share of a set's relays that must fall silent at once for this process to suspect its own network."""


class ProbeListener:
    """Who is told of one relay's probes. A native base class: it is called for every probe."""

    __slots__ = ()

    def on_tick(self, now: float) -> None:
        """Do what is to be done regularly."""
        raise NotImplementedError

    def on_probe(self, outcome: str, rtt: float, now: float) -> None:
        """Take a probe's outcome (``ok``, ``timeout``, ``refused``) and its round trip in seconds (0 without one)."""
        raise NotImplementedError

    def on_evidence(self, now: float) -> None:
        """Look at the relay's health again."""
        raise NotImplementedError

    def on_restart(self, now: float) -> None:
        """Take note that another instance answers."""
        raise NotImplementedError


class Prober(TimerTarget):
    """Probes one relay."""

    __slots__ = (
        "_asking",
        "_client",
        "_confirm",
        "_count",
        "_health",
        "_identity_at",
        "_lapse",
        "_listener",
        "_replies",
        "_sent",
        "_settings",
        "_tick",
        "_timers",
    )

    def __init__(
        self, client: NgClient, health: Health, timers: TimerHeap, settings: ProbeSettings, listener: ProbeListener
    ) -> None:
        self._client = client
        self._health = health
        self._timers = timers
        self._settings = settings
        self._listener = listener
        self._replies = _Replies(self)
        self._sent: dict[int, float] = {}
        self._count = 0
        self._asking = False
        self._identity_at = 0.0
        self._tick: Timer | None = None
        self._confirm: Timer | None = None
        self._lapse: Timer | None = None

    def start(self, now: float, phase: float) -> None:
        """Probe at once, then regularly; ``phase`` (0 to 1, of an interval) lets many relays take turns."""
        self._timers.cancel(self._confirm)
        self._confirm = self._timers.schedule(now, self, _CONFIRM)
        self._timers.cancel(self._tick)
        self._tick = self._timers.schedule(now + self._health.policy.interval * (0.5 + phase), self, _TICK)

    def stop(self) -> None:
        """Probe no more."""
        self._timers.cancel(self._tick)
        self._timers.cancel(self._confirm)
        self._timers.cancel(self._lapse)
        self._tick = self._confirm = self._lapse = None

    def on_timer(self, kind: int, now: float) -> None:
        """Send a ping, and arm the timer of the next one; or let an agent's word lapse."""
        if kind == _CONFIRM:
            self._confirm = None
            self._ping(now)
            return
        if kind == _LAPSE:
            self._lapse = None
            self._health.link.lapse(now)
            self._listener.on_evidence(now)
            return
        interval = self._health.policy.interval
        at = (self._tick.at if self._tick is not None else now) + interval
        self._tick = self._timers.schedule(at if at > now else now + interval, self, _TICK)
        self._ping(now)
        if now >= self._identity_at and self._health.control is RelayState.READY:
            self._health.identity_needed = True
            self._identify(now)
        self._listener.on_tick(now)

    def refused(self, now: float) -> None:
        """Take an ICMP error of the control socket."""
        self._client.on_refused(now)
        self._health.probe_refused()
        if self._health.confirm_due and self._confirm is None:
            self._confirm = self._timers.schedule(now + self._settings.confirm_after, self, _CONFIRM)
        self._listener.on_evidence(now)

    def link_told(self, report: LinkReport, now: float) -> ReportResult:
        """Take an agent's report; a first word of trouble has a probe sent at once, that shall confirm it."""
        link = self._health.link
        had = link.in_trouble
        result = self._health.link_told(report, now)
        if result is not ReportResult.TAKEN:
            return result
        self._timers.cancel(self._lapse)
        self._lapse = self._timers.schedule(link.until, self, _LAPSE) if link.in_trouble else None
        if link.in_trouble and not had and self._health.control is not RelayState.DOWN:
            self._timers.cancel(self._confirm)
            self._confirm = self._timers.schedule(now, self, _CONFIRM)
        self._listener.on_evidence(now)
        return result

    def _ping(self, now: float) -> None:
        self._health.probe_sent()
        self._sent[self._count] = now
        self._client.ping(self._replies, self._count, now, self._health.policy.timeout)
        self._count += 1

    def _identify(self, now: float) -> None:
        if not self._asking:
            self._asking = True
            self._client.identify(self._replies, _IDENTIFY, now, self._health.policy.timeout)

    def on_reply(self, token: int, reply: RelayReply, now: float) -> None:
        """Take the end of a probe."""
        if token >= 0:
            self._on_ping(self._sent.pop(token), reply.error, now)
        elif token == _IDENTIFY:
            self._asking = False
            self._on_identity(reply, now)
        elif reply.error not in _OURS:
            self._on_uptime(token, uptime_of(reply), now)

    def _on_ping(self, sent_at: float, error: str, now: float) -> None:
        if error == TIMEOUT:
            self._health.probe_lost(sent_at)
            self._listener.on_probe("timeout", 0.0, now)
        elif error == REFUSED:
            self._listener.on_probe("refused", 0.0, now)
            return  # ``refused`` has told the health, once for all probes under way
        elif error == RELAY_DOWN:
            return
        else:
            self._health.probe_answered(now)
            self._listener.on_probe("ok", now - sent_at, now)
            if self._health.identity_due:
                self._identify(now)
        self._listener.on_evidence(now)

    def _on_identity(self, reply: RelayReply, now: float) -> None:
        if reply.error in _OURS:
            return  # asked again at the next good probe
        instance = instance_of(reply)
        if not instance:
            # It takes no sessions at all (its limit is reached, or it drains): then its uptime must do.
            self._client.statistics(self._replies, _UPTIME_INSTEAD, now, self._health.policy.timeout)
            return
        self._identified(instance, None, now)
        if self._health.started is None:
            self._client.statistics(self._replies, _UPTIME, now, self._health.policy.timeout)

    def _on_uptime(self, token: int, uptime: float | None, now: float) -> None:
        if token == _UPTIME_INSTEAD:
            self._identified("", uptime, now)
        elif uptime is not None:
            self._health.uptime_told(uptime, now)

    def _identified(self, instance: str, uptime: float | None, now: float) -> None:
        self._identity_at = now + self._settings.identity_interval
        restarted = self._health.identified(instance, uptime, now)
        self._listener.on_evidence(now)
        if restarted:
            self._listener.on_restart(now)


class _Replies(RelayUser):
    """Hands the replies to a prober's commands to it."""

    __slots__ = ("prober",)

    def __init__(self, prober: Prober) -> None:
        self.prober = prober

    def on_relay_reply(self, token: int, reply: RelayReply, now: float) -> None:
        """Take the reply to a probe."""
        self.prober.on_reply(token, reply, now)
