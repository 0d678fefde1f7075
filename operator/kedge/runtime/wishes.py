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
from kedge.ports.ports import CallWish
from kedge.ports.records import Condition, WishRecord
from kedge.relay.model import RelayState
from kedge.sip.offer_answer import counterpart, is_encrypted, profile_of

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
_SRTP: Final = "SRTP"
_FULFILLED: Final = Condition(status=True, reason="Fulfilled")
_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something that is wished cannot be: a word for programs and words for people."""

    reason: str
    message: str


class _Errand:
    """One thing that is asked of the call layer for a wish, until it is so."""

    __slots__ = ("asked", "condition", "reached", "rest", "rest_until", "tried")

    def __init__(self) -> None:
        self.condition: Condition | None = None
        """How the last try ended."""
        self.tried = False
        """Whether it was asked for at all since the wish came."""
        self.asked = False
        """Whether it was asked for, and its end not seen yet."""
        self.reached = False
        self.rest = 0.0
        """Seconds waited after the last failure."""
        self.rest_until = 0.0

    def failed(self, reason: str, said: str, first_rest: float, now: float) -> Condition:
        """What was asked for has ended otherwise: rest, the longer the more often."""
        self.asked = False
        self.rest = min(2 * self.rest, _LONGEST_REST) if self.rest else first_rest
        self.rest_until = now + self.rest
        message = f"{said}; the next try is {self.rest:.0f} s after this one"
        self.condition = Condition(status=False, reason=reason, message=message)
        return self.condition


class _Wish:
    """The newest wish of one call, and how far it is."""

    __slots__ = ("condition", "conversions", "look_at", "move", "wish")

    def __init__(self, wish: CallWish, now: float) -> None:
        self.wish = wish
        self.condition: Condition | None = None
        self.look_at = now
        self.move = _Errand()
        self.conversions = (_Errand(), _Errand())
        """To another transport: of the caller's leg, and of the callee's."""

    @property
    def asked(self) -> bool:
        """Whether the call layer is at it."""
        return self.move.asked or any(one.asked for one in self.conversions)

    def differs(self, other: CallWish) -> bool:
        """Whether something else is wished now."""
        mine = self.wish
        return (mine.relay, mine.caller, mine.callee) != (other.relay, other.caller, other.callee)


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
        if old is not None and old.asked and old.differs(wish):
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
        open_relay = "" if one.move.reached else one.wish.relay
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
        """Act on a wish as far as can be; return what is so: of all that is not fulfilled the first."""
        wish = one.wish
        moved = self._judge_relay(one, call, now) if wish.relay else None
        if moved is not None and not moved.status:
            return moved
        converted = self._judge_transports(one, call, now)
        if converted is not None and not converted.status:
            return converted
        return _unsupported(wish) or converted or moved

    def _judge_relay(self, one: _Wish, call: Call, now: float) -> Condition | None:
        errand = one.move
        relay = self._fleet.find(call.relay_set, one.wish.relay)
        there = relay is not None and call.relay is relay and call.move is None
        errand.reached = errand.reached or there
        if errand.reached:
            errand.asked = False  # what else wants the call moved is no matter of this wish
            # Where it never had to leave, nothing was wished: this is the way back from a wish that is taken back.
            return _FULFILLED if there and errand.tried else None
        refusal = self.refusal(call, one.wish.relay)
        pending = self._pending(call)
        if refusal is not None or relay is None:
            errand.asked = errand.asked and pending
            return None if refusal is None else Condition(status=False, reason=refusal.reason, message=refusal.message)
        if errand.tried and pending:
            return _on_its_way(call, relay)
        if errand.asked:
            return self._failed(errand, call, "MoveFailed", now)
        if now < errand.rest_until:
            return errand.condition
        return self._ask(errand, call, relay, now)

    def _pending(self, call: Call) -> bool:
        """Whether the call layer has something to do with a call."""
        return call.id in self._b2bua.failover.wants or call.move is not None

    def _ask(self, errand: _Errand, call: Call, relay: Relay, now: float) -> Condition:
        errand.tried = errand.asked = True
        problem = self._b2bua.move_to(call, relay, now)
        if problem:
            return Condition(status=False, reason="NotMovable", message=problem)
        return _on_its_way(call, relay)

    def _failed(self, errand: _Errand, call: Call, reason: str, now: float) -> Condition:
        """What was asked for has ended otherwise."""
        said = call.anchored_message or "it was given up"
        return errand.failed(reason, said, self._b2bua.settings.rest, now)

    def _judge_transports(self, one: _Wish, call: Call, now: float) -> Condition | None:
        """Have both legs' media as is wished, one leg after the other; return what is so of the first that is not."""
        found: Condition | None = None
        legs = ((call.caller, one.wish.caller.transport), (call.callee, one.wish.callee.transport))
        for (leg, wanted), errand in zip(legs, one.conversions, strict=True):
            condition = self._judge_transport(errand, call, leg, wanted, now) if wanted else None
            if condition is not None and (found is None or found.status):
                found = condition
        return found

    def _judge_transport(self, errand: _Errand, call: Call, leg: Leg, wanted: str, now: float) -> Condition | None:
        name = "caller" if leg is call.caller else "callee"
        is_so = wanted == _transport_of(leg) and call.move is None  # else it may be the offer, and no answer yet
        errand.reached = errand.reached or is_so
        if errand.reached:
            errand.asked = False
            return _FULFILLED if is_so else None  # a party that has changed it since has done so by its own exchange
        if call.state != ACTIVE:
            said = f"the call is being set up, and the {name} is offered {wanted} once it is up"
            return Condition(status=False, reason="NotEstablished", message=said)
        pending = self._pending(call)
        if errand.asked and not pending:
            return self._failed(errand, call, "OfferFailed", now)
        if not errand.asked and now < errand.rest_until:
            return errand.condition
        if not pending:
            # An RTP profile without keys, or with keys in the description: others have keys that no relay can make.
            profile = counterpart(profile_of(leg.local), encrypted=wanted == _SRTP)
            if not profile:
                said = f"spec.legs.{name}.transport: the leg's media is neither all RTP/AVP nor all RTP/SAVP"
                return Condition(status=False, reason="NotSupported", message=said)
            errand.asked = True
            self._b2bua.failover.convert(leg, profile, now)
        later = "" if errand.asked else ", once another move of the call is over"
        return Condition(status=False, reason="Offering", message=f"the {name} is offered {wanted}{later}")

    def _tell(self, wish: CallWish, call: Call, condition: Condition) -> None:
        level = logging.INFO if condition.status or condition.reason in _PENDING else logging.WARNING
        extra = {"call": call.id, "call_id": call.caller.dialog.call_id, "relay": wish.relay}
        _LOG.log(level, "the wish in the call's object: %s %s", condition.reason, condition.message, extra=extra)


_PENDING: Final = frozenset({"Moving", "NotEstablished", "Offering"})


def _on_its_way(call: Call, relay: Relay) -> Condition:
    if call.state != ACTIVE:
        said = f"the call is being set up, and moves to relay {relay.name} once it is up"
        return Condition(status=False, reason="NotEstablished", message=said)
    return Condition(status=False, reason="Moving", message=f"the call is on its way to relay {relay.name}")


def _unsupported(wish: CallWish) -> Condition | None:
    """Return which fields of the legs ask for something that Kedge cannot change."""
    fields = [
        f"spec.legs.{name}.{one}"
        for name, wanted in (("caller", wish.caller), ("callee", wish.callee))
        for one in ("interface", "address", "flags")
        if getattr(wanted, one)
    ]
    if not fields:
        return None
    verb = "is" if len(fields) == 1 else "are"
    message = f"{', '.join(fields)} {verb} not acted on yet: the leg stays as it is"
    return Condition(status=False, reason="NotSupported", message=message)


def _transport_of(leg: Leg) -> str:
    """Return what a leg's media is in force as."""
    return _SRTP if is_encrypted(leg.local) else "RTP"
