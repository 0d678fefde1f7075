"""Wishes in Call objects, on the real call layer: fulfilled, refused with a reason, tried again, taken back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.call.daemon import Daemon
from tests.unit.call.world import CALLER, Talk, World, profile_and_key

from kedge.call.call import Call
from kedge.ports.ports import NO_WISH, CallWish, LegWish
from kedge.ports.records import Condition
from kedge.relay.model import Intent, InventorySnapshot, PlacementPolicy, RelayDescription, RelaySetPolicy
from kedge.runtime.wishes import Wishes


class Wished:
    """A world with a call on r1, and the wishes for it."""

    def __init__(self, *, relays: int = 3, rest: float = 60.0) -> None:
        self.world = World(relays, settings={"rest": rest})
        self.changed: list[Call] = []
        self.wishes = Wishes(self.world.b2bua, self.world.fleet, lambda call, now: self.changed.append(call))
        self.talk = self.place("r1")
        self.generation = 1

    def place(self, relay: str) -> Talk:
        for name in self.world.daemons:
            self.world.intend(name, Intent.SERVE if name == relay else Intent.CORDON)
        talk = self.world.call()
        for name in self.world.daemons:
            self.world.intend(name, Intent.SERVE)
        return talk

    def put(self, relay: str = "", *, caller: LegWish = NO_WISH, callee: LegWish = NO_WISH) -> None:
        self.generation += 1
        self.wishes.put(
            CallWish(call=self.talk.id, relay=relay, caller=caller, callee=callee, generation=self.generation),
            self.world.now,
        )

    def run(self, seconds: float) -> None:
        """Let time pass, with a look every tenth of a second as the signaling loop does."""
        for _ in range(round(seconds * 10)):
            self.world.run(0.1)
            self.wishes.look(self.world.now)

    @property
    def condition(self) -> Condition | None:
        record = self.wishes.record(self.talk.id)
        return None if record is None else record.fulfilled

    @property
    def reason(self) -> str:
        return "" if self.condition is None else self.condition.reason

    def sent(self) -> int:
        """How many re-INVITEs the caller was sent."""
        return len(self.world.sent("INVITE", CALLER))


def test_a_wish_that_can_be_fulfilled_is_and_says_so() -> None:
    wished = Wished()

    wished.put("r2")
    on_the_way = wished.condition
    wished.run(2.0)

    wished.world.assert_anchored(wished.talk, "r2")
    assert on_the_way == Condition(status=False, reason="Moving", message="the call is on its way to relay r2")
    assert wished.condition == Condition(status=True, reason="Fulfilled")
    record = wished.wishes.record(wished.talk.id)
    assert record is not None
    assert (record.generation, record.relay) == (2, "")


def test_nothing_is_told_of_a_call_of_which_nothing_was_wished() -> None:
    assert Wished().wishes.record("c") is None


@pytest.mark.parametrize(
    ("relay", "reason", "says"),
    [
        ("r9", "NoSuchRelay", "there is no relay r9 in RelaySet default/edge"),
        ("r2", "RelayNotReady", "relay r2 is Cordoned: "),
        ("x1", "OtherRelaySet", "relay x1 is of RelaySet default/other, and the call is of default/edge"),
        ("r3", "RelayFull", "relay r3 is full: it has 1 of 1 sessions"),
    ],
)
def test_a_wish_that_cannot_be_fulfilled_says_why(relay: str, reason: str, says: str) -> None:
    wished = Wished()
    world = wished.world
    wished.place("r3")
    world.policy = replace(world.policy, placement=PlacementPolicy(max_sessions_per_relay=1))
    world.intend("r2", Intent.CORDON)
    apply_with_another_set(world)
    world.run(0.5)

    wished.put(relay)
    wished.run(3.0)

    assert wished.condition is not None
    assert not wished.condition.status
    assert wished.condition.reason == reason
    assert wished.condition.message.startswith(says)
    assert wished.talk.relay == "r1"
    assert wished.sent() == 0, "a relay that cannot have the call costs the phones nothing"
    assert wished.wishes.refusal(wished.talk.call, relay) is not None, "the admin API says the same"


def apply_with_another_set(world: World) -> None:
    world.daemons["x1"] = Daemon("127.0.0.9")
    other = RelayDescription(uid="uid-x1", name="x1", relay_set="default/other", control=("127.0.0.9", 2223))
    world.fleet.apply(
        InventorySnapshot(
            relay_sets=(world.policy, RelaySetPolicy(key="default/other")),
            relays=(*world.descriptions.values(), other),
        ),
        world.now,
    )


def test_a_relay_that_becomes_ready_gets_the_call_that_was_wished_there() -> None:
    wished = Wished()
    wished.world.intend("r2", Intent.CORDON)
    wished.put("r2")
    wished.run(2.0)
    assert wished.reason == "RelayNotReady"

    wished.world.intend("r2", Intent.SERVE)
    wished.run(3.0)

    assert wished.reason == "Fulfilled"
    wished.world.assert_anchored(wished.talk, "r2")


def test_a_full_relay_gets_it_once_it_has_room() -> None:
    wished = Wished()
    other = wished.place("r2")
    wished.world.policy = replace(wished.world.policy, placement=PlacementPolicy(max_sessions_per_relay=1))
    wished.world.apply()
    wished.put("r2")
    wished.run(2.0)
    assert wished.reason == "RelayFull"

    other.caller.bye()
    wished.run(3.0)

    assert wished.reason == "Fulfilled"
    wished.world.assert_anchored(wished.talk, "r2")


def test_setting_it_back_clears_the_condition() -> None:
    wished = Wished()
    wished.put("r9")
    assert wished.reason == "NoSuchRelay"

    wished.put("r1")
    assert wished.condition is None
    wished.run(5.0)

    assert wished.condition is None
    record = wished.wishes.record(wished.talk.id)
    assert record is not None
    assert record.relay == "", "nothing is open: the spec may follow the call again"
    assert wished.talk.relay == "r1"
    assert wished.sent() == 0


def test_setting_it_back_while_the_call_moves_brings_it_back() -> None:
    wished = Wished()
    wished.world.daemons["r2"].delay = 0.5
    wished.put("r2")
    wished.world.run(0.2)
    assert wished.talk.call.move is not None

    wished.put("r1")
    wished.run(5.0)

    wished.world.assert_anchored(wished.talk, "r1")
    assert wished.reason == "Fulfilled"


def test_a_wish_that_waits_for_its_turn_is_taken_back_without_a_move() -> None:
    wished = Wished()
    wished.talk.caller.reinvite()
    wished.world.run(0.0015)
    assert not wished.talk.call.settled, "so the move waits"
    wished.put("r2")
    assert wished.reason == "Moving"

    wished.put("r1")
    wished.run(3.0)

    assert wished.condition is None
    assert wished.talk.relay == "r1"
    assert wished.world.books.moves == []


def test_a_relay_that_is_lost_before_the_call_could_leave_is_no_failed_move() -> None:
    wished = Wished()
    wished.talk.caller.reinvite()
    wished.world.run(0.0015)
    assert not wished.talk.call.settled, "so the move waits"
    wished.put("r2")
    wished.world.intend("r2", Intent.CORDON)
    wished.run(2.0)
    assert wished.reason == "RelayNotReady"

    wished.world.intend("r2", Intent.SERVE)
    wished.run(3.0)

    assert wished.reason == "Fulfilled"


def test_a_wish_that_is_withdrawn_leaves_the_call_where_it_is() -> None:
    wished = Wished()
    wished.put("r9")

    wished.put("")
    wished.run(2.0)

    assert wished.condition is None
    assert wished.talk.relay == "r1"


def test_a_refused_move_is_told_and_tried_again_after_a_rest_that_grows() -> None:
    wished = Wished(rest=10.0)
    wished.talk.callee.replies.extend([488, 488])

    wished.put("r2")
    wished.run(3.0)
    first = wished.condition
    before = wished.sent()
    wished.run(5.0)
    assert wished.sent() == before, "the phones are left alone meanwhile"
    wished.run(6.0)
    second = wished.condition
    wished.run(25.0)

    assert first == Condition(
        status=False,
        reason="MoveFailed",
        message="right answered 488; the next try is 10 s after this one",
    )
    assert second is not None
    assert second.message.endswith("the next try is 20 s after this one")
    assert wished.reason == "Fulfilled"
    wished.world.assert_anchored(wished.talk, "r2")


def test_a_wish_written_again_is_tried_at_once() -> None:
    wished = Wished()
    wished.talk.callee.replies.append(488)
    wished.put("r2")
    wished.run(3.0)
    assert wished.reason == "MoveFailed"

    wished.put("r2")
    wished.run(2.0)

    assert wished.reason == "Fulfilled"


def test_a_wish_for_a_call_that_rings_waits_for_the_answer() -> None:
    wished = Wished()
    world = wished.world
    world.right.ringing = ((0.0, 180, False), (4.0, 200, True))
    party = world.left.invite()
    world.run(1.0)
    call = next(one for one in world.b2bua.calls.values() if one.id != wished.talk.id)
    assert call.relay is not None
    target = next(name for name in world.daemons if name != call.relay.name)

    wished.wishes.put(CallWish(call=call.id, relay=target, generation=2), world.now)
    waiting = wished.wishes.record(call.id)
    wished.run(6.0)

    assert waiting is not None
    assert waiting.fulfilled is not None
    assert waiting.fulfilled.reason == "NotEstablished"
    world.assert_anchored(world.talk_of(party), target)


def test_an_open_wish_outlives_the_loss_of_the_calls_relay() -> None:
    wished = Wished()
    wished.world.intend("r2", Intent.CORDON)
    wished.put("r2")
    wished.world.lose(wished.talk)
    wished.run(1.0)
    assert (wished.talk.relay, wished.reason) == ("r3", "RelayNotReady")

    wished.world.intend("r2", Intent.SERVE)
    wished.run(3.0)

    wished.world.assert_anchored(wished.talk, "r2")
    assert wished.reason == "Fulfilled"


def test_a_wish_that_was_fulfilled_is_over_when_the_call_has_to_leave() -> None:
    wished = Wished()
    wished.put("r2")
    wished.run(2.0)

    wished.world.lose(wished.talk)
    wished.run(1.0)
    wished.world.daemons["r2"].restart(wished.world.now)
    wished.run(10.0)

    assert wished.condition is None
    assert wished.talk.relay != "r2"


@pytest.mark.parametrize(
    ("caller", "callee", "fields"),
    [
        (NO_WISH, LegWish(transport="RTP", address="192.0.2.9:4000"), "spec.legs.callee.address is"),
        (LegWish(interface="inside"), NO_WISH, "spec.legs.caller.interface is"),
        (LegWish(address="192.0.2.9:4000"), NO_WISH, "spec.legs.caller.address is"),
        (LegWish(flags=("record",)), LegWish(flags=("x",)), "spec.legs.caller.flags, spec.legs.callee.flags are"),
    ],
)
def test_what_cannot_be_changed_of_a_leg_is_named(caller: LegWish, callee: LegWish, fields: str) -> None:
    wished = Wished()

    wished.put(caller=caller, callee=callee)

    assert wished.condition == Condition(
        status=False, reason="NotSupported", message=f"{fields} not acted on yet: the leg stays as it is"
    )
    wished.put()
    assert wished.condition is None


def test_a_transport_that_the_leg_has_anyway_is_fulfilled() -> None:
    wished = Wished()

    wished.put(callee=LegWish(transport="RTP"))

    assert wished.reason == "Fulfilled"
    assert wished.sent() == 0


def test_a_leg_is_offered_the_transport_that_is_wished() -> None:
    wished = Wished()
    wished.talk.callee.spare_key = "ofBob"

    wished.put(callee=LegWish(transport="SRTP"))
    on_the_way = wished.condition
    wished.run(2.0)

    assert on_the_way == Condition(status=False, reason="Offering", message="the callee is offered SRTP")
    assert wished.reason == "Fulfilled"
    assert spoken(wished.talk) == ["RTP/AVP", "RTP/SAVP"]
    wished.world.assert_anchored(wished.talk, "r1")

    wished.put(callee=LegWish(transport="RTP"))
    wished.run(2.0)

    assert wished.reason == "Fulfilled"
    assert spoken(wished.talk) == ["RTP/AVP", "RTP/AVP"]
    wished.world.assert_anchored(wished.talk, "r1")


def spoken(talk: Talk) -> list[str]:
    return [profile_and_key(party.local)[0] for party in (talk.caller, talk.callee)]


def test_a_relay_and_both_transports_are_brought_about_one_after_the_other() -> None:
    wished = Wished()
    wished.talk.caller.spare_key, wished.talk.callee.spare_key = "ofAlice", "ofBob"

    wished.put("r2", caller=LegWish(transport="SRTP"), callee=LegWish(transport="SRTP"))
    seen = [wished.reason]
    for _ in range(60):
        wished.run(0.1)
        seen.append(wished.reason)

    assert list(dict.fromkeys(seen)) == ["Moving", "Offering", "Fulfilled"]
    assert spoken(wished.talk) == ["RTP/SAVP", "RTP/SAVP"]
    wished.world.assert_anchored(wished.talk, "r2")


def test_a_transport_that_a_party_refuses_is_offered_again_after_a_rest_and_the_other_partys_all_the_same() -> None:
    wished = Wished(rest=10.0)
    wished.talk.callee.spare_key = "ofBob"

    wished.put(caller=LegWish(transport="SRTP"), callee=LegWish(transport="SRTP"))
    wished.run(6.0)
    refused, offers = wished.condition, wished.sent()
    assert spoken(wished.talk) == ["RTP/AVP", "RTP/SAVP"]
    wished.talk.caller.spare_key = "ofAlice"
    wished.run(3.0)
    assert wished.sent() == offers, "the phones are left alone meanwhile"
    wished.run(6.0)

    assert refused == Condition(
        status=False, reason="OfferFailed", message="left answered 488; the next try is 10 s after this one"
    )
    assert wished.reason == "Fulfilled"
    assert spoken(wished.talk) == ["RTP/SAVP", "RTP/SAVP"]
    wished.world.assert_anchored(wished.talk)


def test_an_offer_that_is_not_answered_yet_is_not_taken_for_how_it_is() -> None:
    wished = Wished()
    wished.world.tamper = lambda packet: 2.5 if packet.word == "488 INVITE" else 0.0
    wished.put(callee=LegWish(transport="SRTP"))
    wished.run(2.0)
    meanwhile = wished.reason
    wished.run(3.0)

    assert (meanwhile, wished.reason) == ("Offering", "OfferFailed")


def test_a_party_that_changes_its_transport_afterwards_is_left_alone() -> None:
    wished = Wished()
    wished.talk.callee.spare_key = "ofBob"
    wished.put(callee=LegWish(transport="SRTP"))
    wished.run(2.0)
    wished.talk.callee.key = wished.talk.callee.spare_key = ""
    wished.talk.callee.reinvite()
    offers = wished.sent()
    wished.run(5.0)

    assert wished.condition is None
    assert spoken(wished.talk) == ["RTP/AVP", "RTP/AVP"]
    assert wished.sent() <= offers + 1, "it was told of the callee's own exchange, at most"


def test_a_transport_wished_while_the_call_moves_is_offered_after_that() -> None:
    wished = Wished()
    wished.talk.callee.spare_key = "ofBob"
    wished.world.daemons["r2"].delay = 0.5
    wished.world.daemons["r3"].delay = 0.5
    wished.world.intend("r1", Intent.DRAIN)
    wished.run(0.2)
    assert wished.talk.call.move is not None

    wished.put(callee=LegWish(transport="SRTP"))
    waiting = wished.condition
    wished.run(5.0)

    assert waiting is not None
    assert waiting.message == "the callee is offered SRTP, once another move of the call is over"
    assert wished.reason == "Fulfilled"
    assert spoken(wished.talk) == ["RTP/AVP", "RTP/SAVP"]


def test_a_transport_wished_for_a_call_that_rings_waits_for_the_answer() -> None:
    wished = Wished()
    world = wished.world
    world.right.ringing = ((0.0, 180, False), (4.0, 200, True))
    world.right.spare_key = "ofBob"
    party = world.left.invite()
    world.run(1.0)
    call = next(one for one in world.b2bua.calls.values() if one.id != wished.talk.id)

    wished.wishes.put(CallWish(call=call.id, callee=LegWish(transport="SRTP"), generation=2), world.now)
    waiting = wished.wishes.record(call.id)
    wished.run(6.0)

    assert waiting is not None
    assert waiting.fulfilled is not None
    assert waiting.fulfilled.reason == "NotEstablished"
    assert spoken(world.talk_of(party)) == ["RTP/AVP", "RTP/SAVP"]


def test_media_whose_keys_no_relay_can_make_is_not_asked_for() -> None:
    wished = Wished()
    leg = wished.talk.call.callee
    leg.local = leg.local.replace(b"RTP/AVP", b"UDP/TLS/RTP/SAVP")

    wished.put(callee=LegWish(transport="RTP"))
    wished.run(2.0)

    assert wished.condition == Condition(
        status=False, reason="NotSupported",
        message="spec.legs.callee.transport: the leg's media is neither all RTP/AVP nor all RTP/SAVP",
    )  # fmt: skip
    assert wished.sent() == 0


def test_a_transport_that_is_wished_no_more_is_not_offered() -> None:
    wished = Wished()
    wished.talk.callee.spare_key = "ofBob"
    wished.talk.caller.reinvite()
    wished.world.run(0.0015)
    assert not wished.talk.call.settled, "so the offer waits"
    wished.put(callee=LegWish(transport="SRTP"))

    wished.put()
    wished.run(3.0)

    assert wished.condition is None
    assert spoken(wished.talk) == ["RTP/AVP", "RTP/AVP"]
    assert wished.world.books.moves == []


@pytest.mark.parametrize("conversion", [False, True])
def test_a_wish_that_was_fulfilled_takes_nothing_back_of_what_else_moves_the_call(conversion: bool) -> None:
    wished = Wished()
    world = wished.world
    wished.talk.callee.spare_key = "ofBob"
    wished.put("" if conversion else "r2", callee=LegWish(transport="SRTP" if conversion else ""))
    wished.run(2.0)
    assert wished.reason == "Fulfilled"
    wished.talk.caller.reinvite()
    world.run(0.0015)
    assert not wished.talk.call.settled, "so the next move waits"
    world.b2bua.failover.carry_out([(wished.talk.id, "uid-r3")], "Rebalance", world.now)

    wished.put()
    wished.run(2.0)

    world.assert_anchored(wished.talk, "r3")


def test_one_wish_that_cannot_be_does_not_hold_up_the_other() -> None:
    wished = Wished()

    wished.put("r2", callee=LegWish(interface="inside"))
    wished.run(2.0)

    wished.world.assert_anchored(wished.talk, "r2")
    assert wished.reason == "NotSupported"


def test_wishes_of_calls_that_have_ended_are_forgotten() -> None:
    wished = Wished()
    wished.put("r9")
    call = wished.talk.id
    wished.talk.caller.bye()
    wished.run(2.0)

    assert wished.wishes.record(call) is None
    wished.wishes.put(CallWish(call=call, relay="r2"), wished.world.now)
    assert not wished.wishes.look(wished.world.now + 10)
    wished.world.assert_empty()


def test_thousands_of_wishes_are_looked_at_in_portions() -> None:
    wished = Wished()
    talks = [wished.talk, *(wished.place("r1") for _ in range(2))]
    for _ in range(200):
        for talk in talks:
            wished.wishes.put(CallWish(call=talk.id, relay="r9", generation=2), wished.world.now)

    wished.changed.clear()

    assert wished.wishes.look(wished.world.now + 5)
    assert not wished.wishes.look(wished.world.now + 5), "those that were replaced are no more"
    assert wished.changed == [], "nothing has changed: no record is made anew"
