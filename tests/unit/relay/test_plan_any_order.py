"""Plans made anew whatever has happened meanwhile: losses, returns, drains, scale-outs, calls set up and hung up.

The model acts on a plan as far as it gets; then something else happens, and the next plan starts from what is.
"""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.unit.relay.plans import NOW, QUIET, REST, Set, limit, sets

from kedge.relay.plan import Plan, PlanCall, PlanRelay, plan_drain, plan_loss, plan_rebalance

MOST = 6
PICK = st.integers(0, 99)
ZONES = ("", "a", "b")


@QUIET
@given(sets(), st.integers(0, 30), st.sampled_from([0, 10]))
def test_a_plan_that_is_broken_off_and_made_anew_takes_no_more_moves(some: Set, done: int, imbalance: int) -> None:
    def plan(of: Set) -> Plan:
        return plan_rebalance(of.relays, of.calls, imbalance=imbalance, rest=REST, now=NOW)

    whole = plan(some)
    moves = whole.moves[:done]
    loads = dict(whole.before)
    for move in moves:
        loads[move.source] -= 1
        loads[move.target] += 1
    again = plan(some.after(replace(whole, moves=moves, after=loads)))
    assert len(moves) + len(again.moves) == len(whole.moves)
    assert not {move.call for move in moves} & {move.call for move in again.moves}


class AnyOrder(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.relays: dict[str, PlanRelay] = {}
        self.calls: dict[str, PlanCall] = {}
        self.made = 0
        for _ in range(3):
            self.scale_out(0, 0)

    # --- what happens -------------------------------------------------------------------------------------------------

    @rule(zone=PICK, weight=PICK)
    def scale_out(self, zone: int, weight: int) -> None:
        if len(self.relays) < MOST:
            uid = f"r{len(self.relays)}"
            self.relays[uid] = PlanRelay(
                uid=uid, name=uid, zone=ZONES[zone % 3], weight=1 + weight % 3, capacity=12, others=0
            )

    @rule(which=PICK)
    def lose_or_drain(self, which: int) -> None:
        self._set(which, serving=False, leaving=True)

    @rule(which=PICK)
    def cordon(self, which: int) -> None:
        self._set(which, serving=False, leaving=False)

    @rule(which=PICK)
    def come_back(self, which: int) -> None:
        self._set(which, serving=True, leaving=False)

    def _set(self, which: int, *, serving: bool, leaving: bool) -> None:
        uid = sorted(self.relays)[which % len(self.relays)]
        self.relays[uid] = replace(self.relays[uid], serving=serving, leaving=leaving)

    @rule(which=PICK, zone=PICK, count=st.integers(1, 8), movable=st.integers(0, 5))
    def set_up(self, which: int, zone: int, count: int, movable: int) -> None:
        for _ in range(count):
            free = [uid for uid, relay in self.relays.items() if relay.target and relay.room]
            if free:
                uid, self.made = free[which % len(free)], self.made + 1
                call = PlanCall(f"c{self.made:03d}", uid, zone=ZONES[zone % 3], movable=movable > 0)
                self.calls[call.id] = call
                self._count(uid, 1)

    @precondition(lambda self: self.calls)
    @rule(which=PICK, count=st.integers(1, 5))
    def hang_up(self, which: int, count: int) -> None:
        for _ in range(min(count, len(self.calls))):
            call = self.calls.pop(sorted(self.calls)[which % len(self.calls)])
            self._count(call.relay, -1)

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    # --- what is done about it ----------------------------------------------------------------------------------------

    @rule(done=st.integers(0, 10), imbalance=st.sampled_from([0, 10]))
    def rebalance_as_far_as_it_gets(self, done: int, imbalance: int) -> None:
        self._act(self._plan(imbalance), done)

    @rule(done=st.integers(0, 10))
    def empty_as_far_as_it_gets(self, done: int) -> None:
        leaving = {uid for uid, relay in self.relays.items() if relay.leaving}
        plan = plan_drain if done % 2 else plan_loss
        self._act(plan(self.relays.values(), self.calls.values(), leaving), done)

    @rule()
    def all_is_quiet(self) -> None:
        """Nothing more happens: one plan, and every call is where it may be, or has a reason."""
        self.now += REST
        plan = self._plan(10)
        self._act(plan, len(plan.moves))
        listed = {left.call for left in (*plan.unplaced, *plan.unmovable)}
        for call in self.calls.values():
            assert not self.relays[call.relay].leaving or call.id in listed
        if not any(left.reason != "Unmovable" for left in plan.unmovable) and all(
            call.movable and not call.zone for call in self.calls.values()
        ):
            assert plan.balanced or plan.unplaced
        room = sum(relay.room for relay in self.relays.values() if relay.target)
        waiting = [left for left in plan.unplaced if self.relays[left.relay].leaving]
        assert not (room and waiting)
        assert self._plan(10).moves == ()

    def _plan(self, imbalance: float) -> Plan:
        return plan_rebalance(self.relays.values(), self.calls.values(), imbalance=imbalance, rest=REST, now=self.now)

    def _act(self, plan: Plan, done: int) -> None:
        assert len({move.call for move in plan.moves}) == len(plan.moves)
        for move in plan.moves[:done]:
            call, target = self.calls[move.call], self.relays[move.target]
            assert call.relay == move.source
            assert target.target
            assert target.room
            if plan.kind.value == "Rebalance" and not self.relays[move.source].leaving:
                assert call.last_move_at is None or self.now - call.last_move_at >= REST
            self._count(move.source, -1)
            self._count(move.target, 1)
            self.calls[call.id] = call._replace(relay=move.target, last_move_at=self.now)

    def _count(self, uid: str, change: int) -> None:
        self.relays[uid] = replace(self.relays[uid], sessions=self.relays[uid].sessions + change)

    @invariant()
    def no_relay_is_over_its_capacity(self) -> None:
        for relay in self.relays.values():
            assert relay.sessions == sum(call.relay == relay.uid for call in self.calls.values())
            assert relay.sessions <= max(relay.capacity, limit(relay))


AnyOrder.TestCase.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
TestAnyOrder = AnyOrder.TestCase
