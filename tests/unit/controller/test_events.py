from __future__ import annotations

from tests.unit.controller.worlds import NOW, event, relay_set, snapshot

from kedge.controller.events import events_of


def test_replicas_that_tell_the_same_make_one_event_and_other_news_another() -> None:
    told = (
        snapshot(events=(event(at=NOW - 3.0), event(at=NOW - 3.0, message="r1 is lost"))),
        snapshot(replica="sig-1", events=(event(at=NOW - 2.5),)),
    )

    made = events_of(relay_set(), told, NOW)

    assert sorted(one["note"] for one in made.values()) == ["r1 is lost", "r1 refuses"]


def test_the_same_loss_another_time_is_another_event() -> None:
    told = (snapshot(events=(event(at=NOW - 100.0), event(at=NOW - 1.0))),)

    assert len(events_of(relay_set(), told, NOW)) == 2


def test_last_nights_events_are_no_news() -> None:
    assert events_of(relay_set(), (snapshot(events=(event(at=NOW - 3600.0),)),), NOW) == {}


def test_a_note_fits_though_its_letters_take_two_bytes() -> None:
    made = events_of(relay_set(), (snapshot(events=(event(message="ü" * 2000),)),), NOW)

    assert len(next(iter(made.values()))["note"].encode()) == 1024
