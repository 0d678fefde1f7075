"""How a relay of the fleet looks to a plan."""

from __future__ import annotations

from kedge.relay.model import Intent, RelayState
from kedge.relay.plan_model import PlanRelay
from kedge.relay.relay import Relay


def picture_of(relay: Relay, *, others: int = 0, replicas: int = 1) -> PlanRelay:
    """Return the relay as plans see it.

    Args:
        relay: The relay.
        others: Sessions that other signaling processes have on it; 0 if unknown.
        replicas: Signaling processes that share the room that is left.
    """
    description = relay.description
    return PlanRelay(
        uid=relay.uid,
        name=relay.name,
        zone=description.zone,
        weight=description.weight,
        serving=relay.serving,
        leaving=relay.intent is Intent.DRAIN or relay.state is RelayState.DOWN,
        sessions=relay.sessions,
        capacity=relay.policy.placement.max_sessions_per_relay,
        others=others,
        replicas=replicas,
    )
