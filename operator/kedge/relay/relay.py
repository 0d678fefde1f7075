"""One relay as the fleet holds it, and what whoever runs the fleet is told of it."""

from __future__ import annotations

from kedge.base.address import Address
from kedge.relay.health import Health
from kedge.relay.model import Intent, RelayDescription, RelaySetPolicy, RelayState
from kedge.relay.ng_client import NgClient


class Relay:
    """One relay: what the inventory says of it, its client, its health, and the state that follows from both."""

    __slots__ = (
        "client",
        "description",
        "health",
        "held",
        "intent",
        "message",
        "policy",
        "reason",
        "removed",
        "sessions",
        "since",
        "state",
        "wish",
    )

    def __init__(
        self, description: RelayDescription, policy: RelaySetPolicy, client: NgClient, health: Health, now: float
    ) -> None:
        self.description = description
        self.policy = policy
        """The policies of its RelaySet."""
        self.client = client
        self.health = health
        self.state = RelayState.SUSPECT
        self.reason = health.reason
        self.message = health.message
        self.since = now
        """When the state changed last (seconds, monotonic)."""
        self.sessions = 0
        """Calls of this process on it, reserved ones included."""
        self.held = 0
        """Moves under way that began here: they may come back, and delete what is left here when they end."""
        self.intent = description.intent
        """What is wanted of it; a relay that is gone from the inventory drains."""
        self.wish = Intent.SERVE
        """What a person has asked for at the admin API; holds until it is taken back or the process ends."""
        self.removed = False
        """Whether it is gone from the inventory; it is kept until no call is on it, and no move may come back."""

    @property
    def uid(self) -> str:
        """Its identity in the inventory."""
        return self.description.uid

    @property
    def name(self) -> str:
        """What a person calls it."""
        return self.description.name

    @property
    def relay_set(self) -> str:
        """Key of its RelaySet."""
        return self.description.relay_set

    @property
    def instance(self) -> str:
        """Which run of its daemon answers; empty before it was asked."""
        return self.health.instance

    @property
    def media_ready(self) -> bool | None:
        """Whether a canary has passed through this instance; None: none has ended yet, or there are none."""
        return self.health.media.ready

    @property
    def free(self) -> int:
        """How many more sessions it may get."""
        return max(0, self.policy.placement.max_sessions_per_relay - self.sessions)

    @property
    def serving(self) -> bool:
        """Whether new calls may go there, if there is room."""
        return self.health.verdict is RelayState.READY and self.intent is Intent.SERVE and self.description.weight > 0

    def __repr__(self) -> str:
        return f"<Relay {self.relay_set} {self.name} {self.state.value} {self.reason} {self.sessions}>"


class FleetListener:
    """Who runs a fleet. A native base class; all times are seconds of the monotonic clock."""

    __slots__ = ()

    def on_relay_added(self, relay: Relay, now: float) -> None:
        """Open a connected UDP socket to ``relay.description.control``; its client's ``out`` is sent there."""
        raise NotImplementedError

    def on_relay_removed(self, relay: Relay, now: float) -> None:
        """Close its socket. It is gone from the inventory and holds no call; or it has another address.

        In the latter case ``on_relay_added`` follows at once, for the same object.
        """
        raise NotImplementedError

    def on_relay_lost(self, relay: Relay, reason: str, now: float) -> None:
        """Move its calls: it is Down, and its commands under way have just ended with ``relay down``.

        ``relay.health.last_seen`` is its last sign of life.
        """
        raise NotImplementedError

    def on_relay_restarted(self, relay: Relay, now: float) -> None:
        """Anchor its calls anew, there or elsewhere: another instance answers, and their sessions are gone."""
        raise NotImplementedError

    def on_relay_drain(self, relay: Relay, now: float) -> None:
        """Move its calls while it lives: it is to drain."""
        raise NotImplementedError

    def on_relay_state(self, relay: Relay, old: RelayState, now: float) -> None:
        """Take note of a change of ``relay.state`` (records, events, metrics); comes before what follows from it."""
        raise NotImplementedError

    def on_probe(self, relay: Relay, outcome: str, rtt: float, now: float) -> None:
        """Count a probe: ``ok`` (with its round trip in seconds), ``timeout`` or ``refused``.

        Or a round of its canary: ``media_ok`` (with the time until both packets were here, in seconds), ``media_lost``.
        """
        raise NotImplementedError

    def media_addresses(self, relay: Relay) -> tuple[Address, Address] | None:
        """Return two addresses of ours, open for RTP, that ``relay`` can send to; None: no canary then, for now."""
        return None
