"""All relays that this process knows: kept as the inventory has them, probed, judged, and picked for calls.

Level-triggered: ``apply`` takes the whole inventory, and the outcome depends on the newest one alone. Absence from it
is never death: such a relay drains, and is Down only when a probe fails as well.

One guard spans relays. When most relays of a set fall silent within the same window, the fault is more likely in the
network of this process: verdicts by lost probes alone are held back then, until other evidence comes, or fewer are
silent. A relay that refuses is not silent: its refusal has come through the network. Another one does the same for
canaries; ``media_health`` says why a lost canary takes a witness.
"""

from __future__ import annotations

import random
from typing import Final

from kedge.base.address import Address
from kedge.base.ids import Ids
from kedge.base.timers import TimerHeap
from kedge.relay.canary import Canaries, Canary, CanaryOwner
from kedge.relay.health import Guard, Health
from kedge.relay.link_health import LinkReport, ReportResult
from kedge.relay.media_health import Doubt, MediaGuard, MediaHealth
from kedge.relay.model import CanaryPolicy, Intent, InventorySnapshot, RelayDescription, RelaySetPolicy, RelayState
from kedge.relay.ng_client import NgClient, NgSettings
from kedge.relay.placement import pick_of_two
from kedge.relay.probing import ProbeListener, Prober, ProbeSettings
from kedge.relay.relay import FleetListener, Relay

__all__ = ["Fleet", "FleetListener", "Relay"]

_GUARD_FROM: Final = 3
"""Relays of a set from which on the guard works; of two, one that is silent may well be dead, and so may both."""
_GUARD_SILENT: Final = 2
"""Silent relays from which on it works."""


class _SetGuard(Guard):
    """Watches over one set."""

    __slots__ = ("fleet", "relay_set")

    def __init__(self, fleet: Fleet, relay_set: str) -> None:
        self.fleet = fleet
        self.relay_set = relay_set

    def network_suspect(self, health: Health) -> bool:
        """Count who fell silent together with ``health``, and who can be reached."""
        since = health.silent_since
        if since is None:
            return False
        window = health.policy.interval * health.policy.threshold + health.policy.timeout
        members = [
            each.health
            for each in self.fleet.relays.values()
            if each.relay_set == self.relay_set and each.health.was_ready  # one that never answered is no witness
        ]
        silent = sum(
            1
            for each in members
            if each.silent_since is not None and not each.refused and abs(each.silent_since - since) <= window
        )
        # Those that have been silent for longer bear no witness either, unless they refuse.
        reachable = sum(1 for each in members if each.silent_since is None or each.refused)
        return self.fleet.is_storm(len(members), silent, reachable)


class _SetMediaGuard(MediaGuard):
    """Watches over the canaries of one set."""

    __slots__ = ("fleet", "relay_set")

    def __init__(self, fleet: Fleet, relay_set: str) -> None:
        self.fleet = fleet
        self.relay_set = relay_set

    def doubt(self, media: MediaHealth, policy: CanaryPolicy) -> Doubt | None:
        """Count whose canaries are lost together with those of ``media``, and whose pass."""
        since = media.lost_since
        if since is None:
            return None
        period = policy.interval + policy.timeout
        members = [
            each.health.media
            for each in self.fleet.relays.values()
            if each.relay_set == self.relay_set and each.health.media.ready is not None
        ]
        lost = sum(
            1
            for each in members
            if each.lost_since is not None and abs(each.lost_since - since) <= period * policy.threshold
        )
        passing = sum(1 for each in members if each.lost_since is None and each.passed_at >= since - period)
        if not passing:
            message = "nor does one pass at any other relay of its set: RTP from here may not reach them"
            return Doubt(RelayState.READY, "MediaUnproven", message)
        if self.fleet.is_storm(len(members), lost, passing):
            message = "as at most relays of its set: the network here may be at fault"
            return Doubt(RelayState.SUSPECT, "MostCanariesLost", message)
        return None


class _Probes(ProbeListener):
    """Tells the fleet of one relay's probes."""

    __slots__ = ("fleet", "prober", "relay")

    def __init__(self, fleet: Fleet, relay: Relay, timers: TimerHeap, settings: ProbeSettings) -> None:
        self.fleet = fleet
        self.relay = relay
        self.prober = Prober(relay.client, relay.health, timers, settings, self)

    def on_tick(self, now: float) -> None:
        """Bring its state up to date with its sessions, and let it go when it is gone and empty."""
        self.fleet.review(self.relay, now)

    def on_probe(self, outcome: str, rtt: float, now: float) -> None:
        """Pass it on."""
        self.fleet.listener.on_probe(self.relay, outcome, rtt, now)

    def on_evidence(self, now: float) -> None:
        """Bring its state up to date with its health."""
        self.fleet.publish(self.relay, now)
        self.fleet.review_canary(self.relay, now)

    def on_restart(self, now: float) -> None:
        """Pass it on."""
        self.fleet.canary_of(self.relay).renew(now)
        self.fleet.listener.on_relay_restarted(self.relay, now)


class _Media(CanaryOwner):
    """Tells the fleet of one relay's canary."""

    __slots__ = ("canary", "fleet", "relay")

    def __init__(self, fleet: Fleet, relay: Relay, timers: TimerHeap, ids: Ids) -> None:
        self.fleet = fleet
        self.relay = relay
        self.canary = Canary(relay.client, relay.health, timers, ids, fleet.canaries, self)

    def media_addresses(self) -> tuple[Address, Address] | None:
        """Ask who runs the fleet."""
        return self.fleet.listener.media_addresses(self.relay)

    def on_canary(self, outcome: str, rtt: float, now: float) -> None:
        """Pass it on, and bring the relay's state up to date."""
        self.fleet.listener.on_probe(self.relay, outcome, rtt, now)
        self.fleet.publish(self.relay, now)


class Fleet:
    """The relays of all sets; see the module."""

    __slots__ = (
        "_ids",
        "_media",
        "_ng",
        "_probes",
        "_rng",
        "_serving",
        "_settings",
        "_timers",
        "canaries",
        "listener",
        "relays",
        "sets",
    )

    def __init__(
        self, timers: TimerHeap, ids: Ids, listener: FleetListener, rng: random.Random, ng: NgSettings,
        probes: ProbeSettings | None = None,
    ) -> None:  # fmt: skip
        self._timers = timers
        self._ids = ids
        self.listener = listener
        self._rng = rng
        self._ng = ng
        self._settings = probes if probes is not None else ProbeSettings()
        self.relays: dict[str, Relay] = {}
        """By uid."""
        self.sets: dict[str, RelaySetPolicy] = {}
        """By key."""
        self.canaries = Canaries()
        """Holds the packets to send, and takes those that arrive."""
        self._probes: dict[str, _Probes] = {}
        self._media: dict[str, _Media] = {}
        self._serving: dict[str, list[Relay]] = {}

    # --- the inventory ---

    def apply(self, snapshot: InventorySnapshot, now: float) -> None:
        """Make the fleet what the inventory says; a relay that is gone from it drains, and goes when it is empty."""
        self.sets = {policy.key: policy for policy in snapshot.relay_sets}
        described = {description.uid: description for description in snapshot.relays}
        known = list(self.relays.values())
        had = [relay.intent for relay in known]
        # All of it is taken in before anybody is told: calls that leave one relay must not go to the next one to drain.
        for relay in known:
            self._take(relay, described.pop(relay.uid, None), now)
        for description in described.values():
            self._add(description, now)
        self._serving.clear()
        for relay, intent in zip(known, had, strict=True):
            self._intent_changed(relay, intent, now)
            self.review_canary(relay, now)
            self._let_go(relay, now)

    def reload(self, ng: NgSettings, probes: ProbeSettings) -> None:
        """Command relays, and judge them, in another way from now on."""
        self._ng, self._settings = ng, probes
        for relay in self.relays.values():
            relay.client.reload(ng)

    def wish(self, relay: Relay, intent: Intent, now: float) -> None:
        """Take what a person wants of a relay, beside what the inventory says: the stronger of both holds."""
        had = relay.intent
        relay.wish = intent
        relay.intent = _stronger(Intent.DRAIN if relay.removed else relay.description.intent, intent)
        self._serving.clear()
        self._intent_changed(relay, had, now)

    def _intent_changed(self, relay: Relay, had: Intent, now: float) -> None:
        self.publish(relay, now)
        if relay.intent is Intent.DRAIN and had is not Intent.DRAIN and relay.state is not RelayState.DOWN:
            self.listener.on_relay_drain(relay, now)

    def _policy(self, key: str) -> RelaySetPolicy:
        return self.sets.get(key) or RelaySetPolicy(key=key)

    def _add(self, description: RelayDescription, now: float) -> None:
        policy = self._policy(description.relay_set)
        client = NgClient(description.name, self._timers, self._ids, self._ng)
        health = Health(
            policy.health,
            recovery=self._settings.recovery,
            guard=_SetGuard(self, description.relay_set),
            backend_ready=description.backend_ready,
            media_guard=_SetMediaGuard(self, description.relay_set),
        )
        relay = Relay(description, policy, client, health, now)
        self.relays[relay.uid] = relay
        self._media[relay.uid] = _Media(self, relay, self._timers, self._ids)
        self._probes[relay.uid] = probes = _Probes(self, relay, self._timers, self._settings)
        self.listener.on_relay_added(relay, now)
        probes.prober.start(now, self._rng.random())

    def _take(self, relay: Relay, description: RelayDescription | None, now: float) -> None:
        """Take the newest description, or None when the inventory does not have the relay any more."""
        relay.removed = description is None
        relay.health.set_deleted(relay.removed)
        if description is None:
            relay.intent = Intent.DRAIN
            return
        readdressed = description.control != relay.description.control
        relay.description, relay.intent = description, _stronger(description.intent, relay.wish)
        relay.policy = self._policy(description.relay_set)
        relay.health.policy = relay.policy.health
        relay.health.set_backend(ready=description.backend_ready)
        if readdressed:
            self._readdress(relay, now)

    def _readdress(self, relay: Relay, now: float) -> None:
        """Let the listener open another socket. Whether the same instance answers there is asked at once."""
        relay.health.identity_needed = True
        self.listener.on_relay_removed(relay, now)
        self.listener.on_relay_added(relay, now)
        self._probes[relay.uid].prober.start(now, self._rng.random())

    def _let_go(self, relay: Relay, now: float) -> None:
        """Forget a relay that is gone from the inventory, holds no call, and has nothing left to answer."""
        if relay.held > 0:
            return
        if relay.removed and relay.sessions <= 0:
            self.review_canary(relay, now)  # its session is to be deleted first
        if relay.removed and relay.sessions <= 0 and relay.client.idle and relay.uid in self.relays:
            del self.relays[relay.uid]
            self._probes.pop(relay.uid).prober.stop()
            del self._media[relay.uid]
            self._serving.pop(relay.relay_set, None)
            relay.client.close(now)
            self.listener.on_relay_removed(relay, now)

    # --- placement ---

    def pick(self, relay_set: str, *, avoid: Relay | None = None, zone: str = "") -> Relay | None:
        """Return a relay of ``relay_set`` for a call, or None: none is Ready and has room. Reserves nothing.

        One of ``zone`` comes first, where the set's policy says so.
        """
        if zone and not self._policy(relay_set).placement.zones:
            zone = ""
        serving = self._serving.get(relay_set)
        if serving is None:
            serving = [relay for relay in self.relays.values() if relay.relay_set == relay_set and relay.serving]
            self._serving[relay_set] = serving
        return pick_of_two(serving, self._rng, avoid, zone)

    def find(self, relay_set: str, name: str) -> Relay | None:
        """Return the relay that a person calls ``name``; of several, one that the inventory still has."""
        found = [relay for relay in self.relays.values() if relay.relay_set == relay_set and relay.name == name]
        return min(found, key=lambda relay: relay.removed, default=None)

    def reserve(self, relay: Relay) -> None:
        """Count one more call on it."""
        relay.sessions += 1

    def release(self, relay: Relay) -> None:
        """Count one call less. ``Full`` and a removal are looked at with the next probe."""
        relay.sessions -= 1

    def hold(self, relay: Relay) -> None:
        """Keep it, whatever the inventory says: a call is about to leave it, and may come back."""
        relay.held += 1

    def unhold(self, relay: Relay) -> None:
        """Take one ``hold`` back; what was to be deleted there has been asked for."""
        relay.held -= 1

    # --- its sockets and its agent ---

    def on_datagram(self, relay: Relay, data: bytes, now: float) -> None:
        """Take a datagram from its control socket; any reply is a sign of life."""
        relay.client.on_datagram(data, now)
        relay.health.seen(relay.client.heard)

    def on_refused(self, relay: Relay, now: float) -> None:
        """Take an ICMP port unreachable (ECONNREFUSED) from its control socket: process gone, host and network alive.

        Not for host or network unreachable, which may be made by our own kernel: those are silence. When ``send`` tells
        of it, it speaks of an earlier datagram and has not sent this one: send again.
        """
        probes = self._probes.get(relay.uid)
        if probes is not None:
            probes.prober.refused(now)

    def link_told(self, report: LinkReport, now: float) -> ReportResult:
        """Take what the agent beside a relay says of its link."""
        probes = self._probes.get(report.relay)
        return probes.prober.link_told(report, now) if probes is not None else ReportResult.UNKNOWN

    # --- canaries ---

    def canary_of(self, relay: Relay) -> Canary:
        """Return the canary of a relay of this fleet."""
        return self._media[relay.uid].canary

    def review_canary(self, relay: Relay, now: float) -> None:
        """Begin or end a relay's canary: one that is emptied and empty shall not be kept by a session of ours."""
        media = self._media.get(relay.uid)
        if media is not None:
            media.canary.review(now, wanted=relay.intent is not Intent.DRAIN or relay.sessions > 0)

    def stop_canaries(self, now: float) -> None:
        """Delete the sessions of all canaries, as this process is about to end; the commands are in ``out``, once."""
        for media in self._media.values():
            media.canary.stop(now)

    # --- judgement ---

    def is_storm(self, members: int, silent: int, reachable: int) -> bool:
        """Whether so many relays of a set fell silent together that the fault is more likely ours than theirs."""
        share = self._settings.own_network * (silent + reachable)
        return members >= _GUARD_FROM and silent >= _GUARD_SILENT and silent >= share

    def review(self, relay: Relay, now: float) -> None:
        """Look at what changes without evidence: how full it is, and whether it may go."""
        self.publish(relay, now)
        if relay.removed:
            self._let_go(relay, now)

    def publish(self, relay: Relay, now: float) -> None:
        """Derive the state from health, intent and sessions; tell of it when it has changed."""
        old = relay.state
        relay.state, relay.reason, relay.message = _state_of(relay)
        if relay.state is old:
            return
        relay.since = now
        self._serving.pop(relay.relay_set, None)
        self.listener.on_relay_state(relay, old, now)
        if relay.state is RelayState.DOWN:
            relay.client.abort(now)
            if relay.health.was_ready or relay.sessions > 0:
                self.listener.on_relay_lost(relay, relay.reason, now)


def _stronger(one: Intent, other: Intent) -> Intent:
    """Return the intent that takes more away: Drain over Cordon over Serve."""
    order = (Intent.SERVE, Intent.CORDON, Intent.DRAIN)
    return max(one, other, key=order.index)


def _state_of(relay: Relay) -> tuple[RelayState, str, str]:
    """Return state, reason and message of a relay: health first, then what is wanted, then how full it is."""
    health = relay.health
    if health.verdict is not RelayState.READY:
        return health.verdict, health.reason, health.message
    if relay.removed:
        return RelayState.DRAINING, "Deleted", "gone from the inventory; kept until its calls have left"
    if relay.intent is Intent.DRAIN:
        return RelayState.DRAINING, "Draining", "it is to lose its calls"
    if relay.intent is Intent.CORDON:
        return RelayState.CORDONED, "Cordoned", "it is to get no new calls"
    limit = relay.policy.placement.max_sessions_per_relay
    # A little hysteresis, so that a relay at its limit does not change its state with every call.
    if relay.sessions >= limit or (relay.state is RelayState.FULL and relay.sessions > limit - limit // 50):
        return RelayState.FULL, "AtCapacity", f"{limit} sessions are its limit"
    return RelayState.READY, health.reason, health.message
