"""What people wish of calls in their Call objects: acted on, kept until it is so, and why it is not so yet.

Level-triggered: a wish is looked at when it comes and then every second, until it is fulfilled, taken back, or the call
has ended. So a relay that becomes Ready, a call that comes up and a move that has failed need tell nobody here. A wish
that was fulfilled is over: where the call goes later is no matter of its own.

``refusal`` is the one place that knows why a call cannot go to a relay, for objects and the admin API alike.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kedge.call.call import ACTIVE, Call
from kedge.ports.ports import NO_WISH, CallWish, LegWish
from kedge.ports.records import Condition, WishRecord
from kedge.relay.model import RelayState

if TYPE_CHECKING:
    from kedge.call.b2bua import B2bua
    from kedge.call.leg import Leg
    from kedge.relay.fleet import Fleet, Relay

_EVERY: Final = 1.0
"""Seconds between two looks at a wish."""
_AT_ONCE: Final = 200
"""Wishes looked at in one go: packets wait meanwhile."""
_LONGEST_REST: Final = 3600.0
"""Seconds between two tries at most: each failed one doubles the rest, as phones are asked each time."""
_FULFILLED: Final = Condition(status=True, reason="Fulfilled")
_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something that is wished cannot be: a word for programs and words for people."""

    reason: str
    message: str


class _Wish:
    """The newest wish of one call, and how far it is."""

    __slots__ = ("asked", "condition", "look_at", "reached", "rest", "rest_until", "tried", "wish")

    def __init__(self, wish: CallWish, now: float) -> None:
        self.wish = wish
        self.condition: Condition | None = None
        self.look_at = now
        self.tried = False
        """Whether the move was asked for at all since the wish came."""
        self.asked = False
        """Whether the move was asked for, and its end not seen yet."""
        self.reached = False
        self.rest = 0.0
        """Seconds waited after the last failure."""
        self.rest_until = now


class Wishes:
    """The wishes of one signaling process; on its loop.

    ``changed`` is called with each call whose record is to be made anew.
    """

    def __init__(self, b2bua: B2bua, fleet: Fleet, changed: Callable[[Call, float], None]) -> None:
        self._b2bua = b2bua
        self._fleet = fleet
        self._changed = changed
        self._known: dict[str, _Wish] = {}
        self._queue: deque[_Wish] = deque()
        """All that are known, and a few that were replaced; who waits longest first."""

    def put(self, wish: CallWish, now: float) -> None:
        """Take the newest wish of a call."""
        call = self._b2bua.calls.get(wish.call)
        if call is None:
            return  # it has just ended: its object goes
        old = self._known.get(wish.call)
        if old is not None and old.asked and wish.relay != old.wish.relay:
            self._b2bua.failover.take_back(call, now)
        one = self._known[wish.call] = _Wish(wish, now)
        self._queue.append(one)
        self._look_at(one, call, now)
        self._changed(call, now)  # also where only the generation is another: it says that this one was seen

    def look(self, now: float) -> bool:
        """Look again at those that it is time for; return whether there were any."""
        queue = self._queue
        looked = 0
        while queue and queue[0].look_at <= now and looked < _AT_ONCE:
            one = queue.popleft()
            if self._known.get(one.wish.call) is not one:
                continue
            looked += 1
            call = self._b2bua.calls.get(one.wish.call)
            if call is None:
                del self._known[one.wish.call]
                continue
            queue.append(one)
            self._look_at(one, call, now)
        return looked > 0

    def record(self, call: str) -> WishRecord | None:
        """Return what is to be told of a call's wish."""
        one = self._known.get(call)
        if one is None:
            return None
        open_relay = "" if one.reached else one.wish.relay
        return WishRecord(generation=one.wish.generation, relay=open_relay, fulfilled=one.condition)

    def refusal(self, call: Call, name: str) -> Refusal | None:
        """Return why a call cannot go to the relay of this name now, or None."""
        relay = self._fleet.find(call.relay_set, name)
        if relay is None:
            return self._unknown(call, name)
        if relay is call.relay or (call.move is not None and call.move.target is relay):
            return None
        if relay.state is RelayState.FULL or (relay.state is RelayState.READY and not relay.free):
            most = relay.policy.placement.max_sessions_per_relay
            return Refusal("RelayFull", f"relay {name} is full: it has {relay.sessions} of {most} sessions")
        if relay.state is not RelayState.READY:
            return Refusal("RelayNotReady", f"relay {name} is {relay.state.value}: {relay.message}")
        return None

    def _unknown(self, call: Call, name: str) -> Refusal:
        for other in self._fleet.relays.values():
            if other.name == name:
                said = f"relay {name} is of RelaySet {other.relay_set}, and the call is of {call.relay_set}"
                return Refusal("OtherRelaySet", said)
        return Refusal("NoSuchRelay", f"there is no relay {name} in RelaySet {call.relay_set}")

    # --- one wish ---------------------------------------------------------------------------------------------------

    def _look_at(self, one: _Wish, call: Call, now: float) -> None:
        one.look_at = now + _EVERY
        condition = self._judge(one, call, now)
        if condition == one.condition:
            return
        one.condition = condition
        if condition is not None:
            self._tell(one.wish, call, condition)
        self._changed(call, now)

    def _judge(self, one: _Wish, call: Call, now: float) -> Condition | None:
        """Act on a wish as far as can be; return what is so."""
        wish = one.wish
        moved = self._judge_relay(one, call, now) if wish.relay else None
        refused = _unsupported(call, wish)
        if refused is not None and (moved is None or moved.status):
            return Condition(status=False, reason=refused.reason, message=refused.message)
        if moved is None and _asks(wish.caller, wish.callee):
            return _FULFILLED
        return moved

    def _judge_relay(self, one: _Wish, call: Call, now: float) -> Condition | None:
        relay = self._fleet.find(call.relay_set, one.wish.relay)
        there = relay is not None and call.relay is relay and call.move is None
        one.reached = one.reached or there
        if one.reached:
            # Where it never had to leave, nothing was wished: this is the way back from a wish that is taken back.
            return _FULFILLED if there and one.tried else None
        refusal = self.refusal(call, one.wish.relay)
        pending = call.id in self._b2bua.failover.wants or call.move is not None
        if refusal is not None or relay is None:
            one.asked = one.asked and pending
            return None if refusal is None else Condition(status=False, reason=refusal.reason, message=refusal.message)
        if one.tried and pending:
            return _on_its_way(call, relay)
        if one.asked:
            return self._failed(one, call, now)
        if now < one.rest_until:
            return one.condition
        return self._ask(one, call, relay, now)

    def _ask(self, one: _Wish, call: Call, relay: Relay, now: float) -> Condition:
        one.tried = one.asked = True
        problem = self._b2bua.move_to(call, relay, now)
        if problem:
            return Condition(status=False, reason="NotMovable", message=problem)
        return _on_its_way(call, relay)

    def _failed(self, one: _Wish, call: Call, now: float) -> Condition:
        """The move that was asked for has ended elsewhere."""
        one.asked = False
        one.rest = min(2 * one.rest, _LONGEST_REST) if one.rest else self._b2bua.settings.rest
        one.rest_until = now + one.rest
        said = call.anchored_message or "the move was given up"
        message = f"{said}; the next try is {one.rest:.0f} s after this one"
        return Condition(status=False, reason="MoveFailed", message=message)

    def _tell(self, wish: CallWish, call: Call, condition: Condition) -> None:
        level = logging.INFO if condition.status or condition.reason in _PENDING else logging.WARNING
        extra = {"call": call.id, "call_id": call.caller.dialog.call_id, "relay": wish.relay}
        _LOG.log(level, "the wish in the call's object: %s %s", condition.reason, condition.message, extra=extra)


_PENDING: Final = frozenset({"Moving", "NotEstablished"})


def _on_its_way(call: Call, relay: Relay) -> Condition:
    if call.state != ACTIVE:
        said = f"the call is being set up, and moves to relay {relay.name} once it is up"
        return Condition(status=False, reason="NotEstablished", message=said)
    return Condition(status=False, reason="Moving", message=f"the call is on its way to relay {relay.name}")


def _asks(*legs: LegWish) -> bool:
    return any(leg != NO_WISH for leg in legs)


def _unsupported(call: Call, wish: CallWish) -> Refusal | None:
    """Return which fields of the legs ask for something that Kedge cannot change."""
    fields: list[str] = []
    for name, leg, wanted in (("caller", call.caller, wish.caller), ("callee", call.callee, wish.callee)):
        if wanted.transport not in ("", _transport_of(leg)):
            fields.append(f"spec.legs.{name}.transport")
        fields += [f"spec.legs.{name}.{one}" for one in ("interface", "address", "flags") if getattr(wanted, one)]
    if not fields:
        return None
    verb = "is" if len(fields) == 1 else "are"
    return Refusal("NotSupported", f"{', '.join(fields)} {verb} not acted on yet: the leg stays as it is")


def _transport_of(leg: Leg) -> str:
    """Return what a leg's media is in force as."""
    return "SRTP" if b"/SAVP" in leg.local else "RTP"
