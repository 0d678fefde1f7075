from __future__ import annotations

from tests.unit.controller.worlds import NOW, event, pod, relay_set, snapshot

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


def test_what_happens_to_a_relay_is_told_of_its_pod_too() -> None:
    told = (
        snapshot(events=(event(), event("FailoverDone", message="10 of 10 calls moved"))),
        snapshot(replica="sig-1", events=(event(),)),
    )

    made = events_of(relay_set(), told, NOW, (pod("r1"), pod("r2")))

    about = sorted((one["regarding"]["kind"], one["regarding"]["name"], one["reason"]) for one in made.values())
    assert about == [
        ("Pod", "r1", "RelayDown"),
        ("RelaySet", "voice", "FailoverDone"),
        ("RelaySet", "voice", "RelayDown"),
    ]
    of_pod = next(one for one in made.values() if one["regarding"]["kind"] == "Pod")
    assert of_pod["regarding"] == {
        "apiVersion": "v1", "kind": "Pod", "namespace": "media", "name": "r1", "uid": "uid-r1",
    }  # fmt: skip
    assert of_pod["metadata"]["namespace"] == "media"


def test_a_new_pod_is_not_told_of_the_trouble_of_one_of_the_same_name_before_it() -> None:
    younger = pod("r1")
    younger["metadata"]["creationTimestamp"] = "2023-11-14T22:13:20Z"  # that is NOW

    made = events_of(relay_set(), (snapshot(events=(event(at=NOW - 5.0), event(at=NOW + 1.0))),), NOW + 2.0, (younger,))

    assert [one["eventTime"][17:19] for one in made.values() if one["regarding"]["kind"] == "Pod"] == ["21"]
