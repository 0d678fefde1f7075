from hypothesis import given
from hypothesis import strategies as st

from kedge.relay.plan import NO_CAPACITY, LossPlan, LostCall, Target, plan_loss


def calls(count: int) -> list[LostCall]:
    return [LostCall(f"c{number}") for number in range(count)]


def count_by_target(plan: LossPlan) -> dict[str, int]:
    counts: dict[str, int] = {}
    for _, uid in plan.moves:
        counts[uid] = counts.get(uid, 0) + 1
    return counts


def test_emergency_calls_first_then_the_longest_silent() -> None:
    lost = [
        LostCall("young", silent_since=9.0),
        LostCall("old", silent_since=1.0),
        LostCall("sos", emergency=True, silent_since=9.0),
        LostCall("same", silent_since=1.0),
    ]
    plan = plan_loss(lost, [Target(uid="a", sessions=0, free=10)])
    assert [call for call, _ in plan.moves] == ["sos", "old", "same", "young"]


def test_calls_even_out_what_the_targets_have() -> None:
    targets = [Target(uid="a", sessions=10, free=100), Target(uid="b", sessions=0, free=100)]
    assert count_by_target(plan_loss(calls(30), targets)) == {"a": 10, "b": 20}


def test_calls_spread_by_weight() -> None:
    targets = [Target(uid="a", sessions=0, free=100, weight=1), Target(uid="b", sessions=0, free=100, weight=3)]
    assert count_by_target(plan_loss(calls(40), targets)) == {"a": 10, "b": 30}


def test_what_does_not_fit_is_listed_and_emergency_calls_are_not_among_it() -> None:
    lost = [*calls(3), LostCall("sos", emergency=True)]
    plan = plan_loss(lost, [Target(uid="a", sessions=4, free=1), Target(uid="b", sessions=9, free=1)])
    assert plan.moves == (("sos", "a"), ("c0", "b"))
    assert plan.unplaced == (("c1", NO_CAPACITY), ("c2", NO_CAPACITY))


def test_without_targets_nothing_is_placed() -> None:
    full = [Target(uid="a", sessions=1, free=0), Target(uid="b", sessions=0, free=5, weight=0)]
    for targets in ([], full):
        assert plan_loss(calls(2), targets).unplaced == (("c0", NO_CAPACITY), ("c1", NO_CAPACITY))


TARGETS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(1, 4)), max_size=6).map(
    lambda rows: [
        Target(uid=f"t{number}", sessions=sessions, free=free, weight=weight)
        for number, (sessions, free, weight) in enumerate(rows)
    ]
)


@given(st.integers(0, 80), TARGETS)
def test_every_call_once_capacity_kept_and_nothing_left_while_there_is_room(count: int, targets: list[Target]) -> None:
    plan = plan_loss(calls(count), targets)
    assert [call for call, _ in (*plan.moves, *plan.unplaced)] == [f"c{number}" for number in range(count)]
    counts = count_by_target(plan)
    assert all(counts.get(target.uid, 0) <= target.free for target in targets)
    assert len(plan.moves) == min(count, sum(target.free for target in targets))


@given(st.integers(0, 60), TARGETS)
def test_no_call_would_be_better_off_elsewhere(count: int, targets: list[Target]) -> None:
    counts = count_by_target(plan_loss(calls(count), targets))
    for used in targets:
        for other in targets:
            took, has = counts.get(used.uid, 0), counts.get(other.uid, 0)
            if took and has < other.free:
                assert (used.sessions + took) / used.weight <= (other.sessions + has + 1) / other.weight
