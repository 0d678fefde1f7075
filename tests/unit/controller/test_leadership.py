from __future__ import annotations

import itertools
import math
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.controller.elections import NEVER, Candidate, Clock, Election, Passage, candidates

from kedge.controller.leadership import Elector, LeaseTimes, Left, Read, Wait, Write
from kedge.ports.lease import LeaseRecord, SeenLease

TIMES = LeaseTimes()
HEALTHY = Passage()


def healthy(identity: str, now: float) -> Passage:
    return HEALTHY


def lease(holder: str, *, renewed: int = 1, duration: int = 15, version: str = "1") -> SeenLease:
    record = LeaseRecord(holder=holder, duration=duration, acquired=1, renewed=renewed, transitions=3)
    return SeenLease(record=record, version=version)


def elector(name: str = "a") -> Elector:
    return Elector(name, TIMES, rand=lambda: 0.0)


def read(one: Elector, seen: SeenLease | None, now: float) -> None:
    assert one.next_action(now, now) == Read()
    one.on_lease(seen, now)


def write(one: Elector, now: float, *, wall: float = 1.0) -> Write:
    action = one.next_action(now, wall)
    assert isinstance(action, Write), action
    return action


def accept(one: Elector, action: Write, now: float, version: str = "2") -> None:
    one.on_lease(SeenLease(record=action.record, version=version), now)


def leading(now: float = 0.0) -> Elector:
    one = elector()
    read(one, None, now)
    accept(one, write(one, now), now)
    assert one.leads(now)
    return one


# One elector, step by step.


def test_a_lease_that_is_not_there_is_created() -> None:
    one = elector()
    read(one, None, 0.0)

    action = write(one, 0.0, wall=1_700_000_000.0)

    assert action.version is None
    stamp = 1_700_000_000_000_000
    assert action.record == LeaseRecord(holder="a", duration=15, acquired=stamp, renewed=stamp, transitions=0)


def test_a_released_lease_is_taken_at_once_and_counts_one_more_transition() -> None:
    one = elector()
    read(one, lease("", version="7"), 0.0)

    action = write(one, 0.0)

    assert (action.version, action.record.holder, action.record.transitions) == ("7", "a", 4)


def test_nobody_leads_by_a_write_that_is_only_sent() -> None:
    one = elector()
    read(one, None, 0.0)

    write(one, 0.0)

    assert not one.leads(0.0)


def test_a_held_lease_is_taken_once_it_was_unchanged_for_its_own_duration() -> None:
    one = elector()
    read(one, lease("b", duration=40), 100.0)
    read(one, lease("b", duration=40), 102.0)

    read(one, lease("b", duration=40), 139.9)

    assert one.next_action(139.95, 0.0) == Wait(140.0)
    assert write(one, 140.0).record.transitions == 4


def test_a_renewal_that_is_seen_starts_the_wait_anew() -> None:
    one = elector()
    read(one, lease("b", renewed=1), 0.0)
    read(one, lease("b", renewed=2, version="2"), 14.0)

    read(one, lease("b", renewed=2, version="2"), 16.0)

    assert isinstance(one.next_action(16.0, 0.0), Wait)
    assert isinstance(one.next_action(29.0, 0.0), Write)


def test_what_others_write_on_the_object_is_no_renewal() -> None:
    one = elector()
    read(one, lease("b", version="1"), 0.0)

    read(one, lease("b", version="2"), 14.0)

    assert write(one, 15.0).version == "2"


def test_a_lead_counts_from_when_the_write_was_sent() -> None:
    one = elector()
    read(one, None, 0.0)

    accept(one, write(one, 1.0), 4.0)

    assert one.leads(10.9)
    assert not one.leads(11.0)


def test_an_answer_that_comes_after_the_deadline_makes_no_leader() -> None:
    one = elector()
    read(one, None, 0.0)

    accept(one, write(one, 0.0), 10.0)

    assert not one.leads(10.0)


def test_a_leader_renews_and_every_renewal_differs_though_the_wall_clock_goes_back() -> None:
    one = leading()

    action = write(one, 2.0, wall=-500.0)

    assert action.record.renewed > 1_000_000
    assert (action.record.acquired, action.record.transitions, action.version) == (1_000_000, 0, "2")


def test_a_leader_that_cannot_renew_stops_and_does_not_lead_again_by_reading() -> None:
    one = leading()
    for at in (2.0, 6.0):
        one.next_action(at, 0.0)
        one.on_error(at + 1.0)
    assert one.leads(9.9)
    assert not one.leads(10.0)

    read(one, lease("a"), 10.0)

    assert not one.leads(10.0)
    accept(one, write(one, 10.0), 10.1)
    assert one.leads(10.1)


def test_a_leader_that_sees_another_holder_stops_at_once() -> None:
    one = leading()
    write(one, 2.0)
    one.on_error(2.1)  # a conflict

    read(one, lease("b"), 4.2)

    assert not one.leads(4.2)


def test_a_write_without_answer_is_looked_after_before_the_next() -> None:
    one = leading()
    write(one, 2.0)
    one.on_error(7.0)

    assert one.next_action(9.0, 0.0) == Read()


def test_an_answer_to_a_request_that_was_given_up_counts_for_nothing() -> None:
    one = elector()
    read(one, None, 0.0)
    action = write(one, 0.0)
    one.on_error(5.0)

    accept(one, action, 5.1)

    assert not one.leads(5.1)


def test_a_lease_that_was_deleted_is_waited_for_as_if_it_were_there() -> None:
    one = elector()
    read(one, lease("b"), 0.0)
    read(one, None, 14.0)

    assert one.next_action(14.9, 0.0) == Wait(15.0)
    assert write(one, 15.0).version is None


def test_leaving_releases_the_lease() -> None:
    one = leading()

    one.leave(1.0)
    action = write(one, 1.0)
    accept(one, action, 1.1, "3")

    assert not one.leads(1.0)
    assert (action.record.holder, action.record.duration, action.version) == ("", 1, "2")
    assert one.next_action(1.1, 0.0) == Left()


def test_leaving_amid_a_renewal_looks_first() -> None:
    one = leading()
    write(one, 2.0)

    one.leave(2.5)
    read(one, lease("a", version="5"), 2.5)

    assert write(one, 2.5).version == "5"


def test_a_follower_leaves_without_a_write() -> None:
    one = elector()
    read(one, lease("b"), 0.0)

    one.leave(1.0)

    assert one.next_action(1.0, 0.0) == Left()


@pytest.mark.parametrize("wrong", [{"duration": 10.0}, {"retry": 10.0}, {"retry": 0.0}, {"renew_deadline": 20.0}])
def test_times_that_would_let_two_lead_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="not 0 < retry"):
        replace(TIMES, **wrong)


def test_an_elector_needs_a_name() -> None:
    with pytest.raises(ValueError, match="identity"):
        Elector("", TIMES)


# Several electors and one API server.


def test_another_leads_soon_after_the_leader_was_killed() -> None:
    election = Election(candidates(2, TIMES), healthy)
    election.run(5.0)
    assert election.leading() == ("a",)

    election.kill("a")
    election.run(5.0 + TIMES.duration + TIMES.retry)

    assert election.leading() == ("b",)


def test_another_leads_after_one_retry_when_the_leader_leaves() -> None:
    election = Election(candidates(3, TIMES), healthy)
    election.run(5.0)

    election.leave("a")
    election.run(5.0 + 1.5 * TIMES.retry)

    assert len(election.leading()) == 1
    assert election.leading() != ("a",)


def test_a_leader_that_is_cut_off_stops_before_another_begins() -> None:
    def weather(identity: str, now: float) -> Passage:
        return Passage(there=NEVER) if identity == "a" and now > 5.0 else HEALTHY

    election = Election(candidates(2, TIMES), weather)
    election.run(60.0)

    assert [who for _, who in election.leaders] == [(), ("a",), (), ("b",)]


def test_a_leader_whose_answers_are_lost_stops_and_keeps_others_out() -> None:
    """Its writes reach the API server: it cannot know, and nobody may take the Lease."""

    def weather(identity: str, now: float) -> Passage:
        return Passage(back=NEVER) if identity == "a" and now > 5.0 else HEALTHY

    election = Election(candidates(2, TIMES), weather)
    election.run(14.5)
    assert election.leading() == ()
    election.run(60.0)

    assert election.leading() == ("b",)  # without a reply, it cannot write again: it knows no version


def test_a_leader_goes_on_with_an_api_server_that_takes_four_seconds() -> None:
    election = Election(candidates(2, TIMES), lambda identity, now: Passage(2.0, 2.0))
    election.run(300.0)

    assert len(election.leaders) == 2
    assert election.leading() in (("a",), ("b",))


def test_nobody_leads_while_the_api_server_is_away_and_one_does_when_it_is_back() -> None:
    def weather(identity: str, now: float) -> Passage:
        return Passage(there=NEVER) if 5.0 < now < 605.0 else HEALTHY

    election = Election(candidates(3, TIMES), weather)
    election.run(20.0)
    assert election.leading() == ()
    election.run(605.0 + TIMES.request_timeout + 2 * TIMES.retry)

    assert len(election.leading()) == 1


def test_wall_clocks_matter_to_nobody() -> None:
    clocks = [Clock(wall=lambda real: 4e9 - 1000 * real), Clock(offset=-50.0, wall=lambda real: 0.0)]
    election = Election(candidates(2, TIMES, clocks), healthy)
    election.run(300.0)

    assert [who for _, who in election.leaders] in ([(), ("a",)], [(), ("b",)])


# Any weather.

_SECONDS = st.sampled_from([0.001, 0.02, 0.5, 2.0, 4.0, 4.9, 7.0, 12.0, 25.0])
_PASSAGES = st.builds(Passage, there=_SECONDS | st.just(NEVER), back=_SECONDS | st.just(NEVER))
_MOSTLY_WELL = st.one_of(st.just(HEALTHY), st.just(HEALTHY), _PASSAGES)
_WALLS = st.sampled_from(
    [
        lambda real: real,
        lambda real: 1.0,
        lambda real: -3.0 * real,
        lambda real: 4e9 if int(real / 7) % 2 else 1.0,
        lambda real: math.floor(real / 10) * 10.0,
    ]
)
_CLOCKS = st.builds(Clock, offset=st.floats(-1e6, 1e6), rate=st.sampled_from([0.95, 1.0, 1.05]), wall=_WALLS)
_HAPPENINGS = st.sampled_from(["", "", "leave a", "leave b", "kill a", "kill b"])


@st.composite
def _elections(draw: st.DrawFn) -> tuple[Election, float]:
    """An election in bad weather, and the time from which the API server is well."""
    number = draw(st.integers(2, 3))
    passages = draw(st.lists(_MOSTLY_WELL, max_size=60))
    cuts = [draw(st.lists(st.floats(0.0, 120.0), max_size=6).map(sorted)) for _ in range(number)]
    fair_from = 150.0

    def weather(identity: str, now: float) -> Passage:
        if now >= fair_from:
            return HEALTHY
        cut = cuts["abc".index(identity)]
        if sum(1 for one in cut if one <= now) % 2:
            return Passage(there=NEVER)
        return passages.pop() if passages else HEALTHY

    clocks = [draw(_CLOCKS) for _ in range(number)]
    jitter = draw(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=5))
    election = Election(
        [
            Candidate(Elector(name, TIMES, rand=partial(next, itertools.cycle(jitter))), clock)
            for name, clock in zip("abc"[:number], clocks, strict=True)
        ],
        weather,
    )
    happening = draw(_HAPPENINGS)
    if happening and number == 3:  # so that there are two left
        verb, who = happening.split()
        what = election.kill if verb == "kill" else election.leave
        election.at(draw(st.floats(0.0, 120.0)), lambda: what(who))
    return election, fair_from


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_elections())
def test_there_are_never_two_leaders(made: tuple[Election, float]) -> None:
    election, fair_from = made

    election.run(fair_from + 60.0)

    assert [who for who in election.leaders if len(who[1]) > 1] == []


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_elections())
def test_there_is_a_leader_soon_once_the_api_server_is_well(made: tuple[Election, float]) -> None:
    election, fair_from = made
    # A request of before, and a retry; a write of before that still arrives; a duration and the retry that sees it end.
    slack = TIMES.request_timeout + 25.0 + 2.4 * TIMES.retry
    bound = (slack + math.ceil(TIMES.duration) + 1.2 * TIMES.retry) / 0.95

    election.run(fair_from + bound)

    assert len(election.leading()) == 1
    since = election.now
    election.run(since + 120.0)
    assert list(election.gaps(since)) == []
