from __future__ import annotations

from dataclasses import replace

from tests.unit.controller.worlds import KEY, event, failover, relay, snapshot

from kedge.controller.told import Told, news, numbers


def test_each_relay_set_gets_what_is_told_of_it_by_every_replica() -> None:
    other = relay("x1", relay_set="media/other")
    told = Told((
        snapshot(relay("r1"), other, failovers=(failover(),), events=(event(),), counters={"calls": 7}),
        snapshot(other, replica="sig-1"),
    ))  # fmt: skip

    first, second = told.of(KEY)

    assert [one.name for one in first.relays] == ["r1"]
    assert (len(first.failovers), len(first.events), first.counters) == (1, 1, {"calls": 7})
    assert (second.replica, second.relays) == ("sig-1", ()), "it answers, and that it knows no relay is told too"
    assert [[one.name for one in part.relays] for part in told.of("media/other")] == [["x1"], ["x1"]]


def test_a_relay_set_of_which_nothing_is_told_hears_that_somebody_answers() -> None:
    assert [one.replica for one in Told((snapshot(relay("r1")),)).of("media/new")] == ["sig-0"]
    assert Told().of("media/new") == ()


def test_counted_packets_are_no_news_and_a_spent_budget_is() -> None:
    before = (snapshot(relay("r1"), counters={"requests_received": 1, "records_limited": 0}),)
    packets = (snapshot(relay("r1"), counters={"requests_received": 9, "records_limited": 0}),)
    limited = (snapshot(relay("r1"), counters={"requests_received": 9, "records_limited": 1}),)

    assert (news(before), numbers(before)) == (news(packets), numbers(packets))
    assert news(packets) != news(limited)


def test_a_state_is_news_and_calls_are_numbers() -> None:
    one = relay("r1")
    before, calls, down = ((snapshot(each),) for each in (one, replace(one, sessions=5), replace(one, state="Down")))

    assert news(before) == news(calls)
    assert numbers(before) != numbers(calls)
    assert news(before) != news(down)
