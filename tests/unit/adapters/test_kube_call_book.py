from __future__ import annotations

from dataclasses import replace

import pytest

from kedge.adapters.kube_call_book import CallBook, SeenCall, Verb, Write
from kedge.ports.ports import CallWish, LegWish
from kedge.ports.records import CallRecord, CallState, Condition, WishRecord
from kedge.relay.model import RecordPolicy

KEY = "media/voice"


def record(call: str = "c1", *, relay: str = "r1", started: float = 0.0, anchors: int = 0) -> CallRecord:
    return CallRecord(
        id=call,
        relay_set=KEY,
        relay=relay,
        relay_uid=f"uid-{relay}",
        state=CallState.ACTIVE,
        caller="sip:a@192.0.2.1",
        callee="sip:b@192.0.2.2",
        caller_peer="trunk",
        callee_peer="pbx",
        call_id="x",
        started=started,
        answered=started,
        anchors=anchors,
    )


def book(policy: RecordPolicy | None = None) -> CallBook:
    chosen = policy or RecordPolicy(after=0.0)
    return CallBook(lambda key: chosen)


def write_all(calls: CallBook, now: float) -> list[Write]:
    """Carry out, with success, all that the budget allows at ``now``."""
    writes = calls.next_writes(now)
    for write in writes:
        calls.done(write, now)
    return writes


def kinds(writes: list[Write]) -> list[tuple[Verb, str]]:
    return [(one.verb, one.call) for one in writes]


def seen(relay: str = "r1", *, terminate: bool = False, generation: int = 0, callee: str = "") -> SeenCall:
    legs = LegWish(transport=callee)
    return SeenCall(relay_set=KEY, relay=relay, terminate=terminate, uid="u1", generation=generation, callee=legs)


def looked_at(generation: int, relay: str = "", *, on: str = "r1", done: bool = False) -> CallRecord:
    """A record that tells what became of a wish."""
    condition = Condition(status=done, reason="Whatever")
    return replace(record(relay=on), wish=WishRecord(generation=generation, relay=relay, fulfilled=condition))


def test_a_call_is_created_updated_and_deleted() -> None:
    calls = book()
    calls.put(record(), 1.0)
    created = write_all(calls, 1.0)
    calls.put(replace(record(), state=CallState.MOVING), 2.0)
    updated = write_all(calls, 2.0)
    calls.remove("c1", 3.0)
    deleted = write_all(calls, 3.0)

    assert [kinds(one) for one in (created, updated, deleted)] == [
        [(Verb.CREATE, "c1")],
        [(Verb.UPDATE, "c1")],
        [(Verb.DELETE, "c1")],
    ]
    assert not updated[0].relocate
    assert calls.next_writes(4.0) == []


def test_only_the_newest_record_is_written_and_the_same_one_not_again() -> None:
    calls = book()
    for anchors in range(5):
        calls.put(record(anchors=anchors), 1.0)
    writes = write_all(calls, 1.0)
    calls.put(record(anchors=4), 2.0)

    assert [one.record.anchors for one in writes if one.record is not None] == [4]
    assert calls.next_writes(2.0) == []


def test_a_record_that_changes_while_it_is_written_is_written_again() -> None:
    calls = book()
    calls.put(record(), 1.0)
    (write,) = calls.next_writes(1.0)
    calls.put(record(relay="r2", anchors=1), 1.1)
    assert calls.next_writes(1.5) == []

    calls.done(write, 1.5)

    (again,) = calls.next_writes(2.0)
    assert (again.verb, again.relocate) == (Verb.UPDATE, True)


def test_young_calls_and_calls_without_a_relay_have_no_object() -> None:
    calls = book(RecordPolicy(after=10.0))
    calls.put(record("young", started=0.0), 1.0)
    calls.put(record("ended", started=0.0), 1.0)
    calls.put(record("nowhere", relay="", started=0.0), 1.0)
    calls.remove("ended", 5.0)

    assert calls.next_writes(9.9) == []
    assert calls.next_look(9.9) == 10.0
    assert kinds(write_all(calls, 10.0)) == [(Verb.CREATE, "young")]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (RecordPolicy(after=0.0), ["moved", "still"]),
        (RecordPolicy(after=0.0, all_calls=False), ["moved"]),
        (RecordPolicy(after=0.0, all_calls=False, moved_calls=False), []),
    ],
)
def test_the_policy_chooses(policy: RecordPolicy, expected: list[str]) -> None:
    calls = book(policy)
    calls.put(record("still"), 1.0)
    calls.put(record("moved", anchors=1), 1.0)

    assert sorted(one.call for one in write_all(calls, 10.0) + write_all(calls, 20.0)) == expected


def test_writes_keep_to_the_rate_and_a_create_counts_twice() -> None:
    calls = book(RecordPolicy(after=0.0, writes_per_second=10.0))
    for number in range(100):
        calls.put(record(f"c{number}"), 0.0)

    created = sum(len(write_all(calls, tick / 10)) for tick in range(101))

    assert 49 <= created <= 52


def test_there_are_never_more_objects_than_allowed_and_an_end_makes_room() -> None:
    calls = book(RecordPolicy(after=0.0, max_objects=2, writes_per_second=1000.0))
    for number in range(4):
        calls.put(record(f"c{number}"), 0.0)

    first = write_all(calls, 1.0)
    limited = calls.limited(1.0)
    calls.remove("c0", 2.0)
    second = write_all(calls, 2.0)

    assert kinds(first) == [(Verb.CREATE, "c0"), (Verb.CREATE, "c1")]
    assert limited == "media/voice: 2 calls have no object, 2 is the most"
    assert kinds(second) == [(Verb.DELETE, "c0")]
    assert kinds(write_all(calls, 3.0)) == [(Verb.CREATE, "c2")]


def test_falling_behind_is_told_and_catching_up_ends_it() -> None:
    calls = book(RecordPolicy(after=0.0, writes_per_second=1.0))
    for number in range(20):
        calls.put(record(f"c{number}"), 0.0)
    write_all(calls, 0.0)

    assert calls.limited(5.0) == ""
    assert "objects are 11 s behind" in calls.limited(11.0)
    for tick in range(100):
        write_all(calls, 11.0 + tick)
    assert calls.limited(111.0) == ""


def test_a_write_that_failed_comes_again() -> None:
    calls = book()
    calls.put(record(), 1.0)
    (write,) = calls.next_writes(1.0)
    calls.failed(write, 1.5)

    assert kinds(write_all(calls, 2.0)) == [(Verb.CREATE, "c1")]


def test_a_hopeless_write_waits_for_the_next_change() -> None:
    calls = book()
    calls.put(record(), 1.0)
    (write,) = calls.next_writes(1.0)
    calls.failed(write, 1.5, hopeless=True)

    assert calls.next_writes(2.0) == []
    calls.put(record(anchors=1), 3.0)
    assert kinds(write_all(calls, 3.0)) == [(Verb.CREATE, "c1")]


def test_a_hopeless_delete_is_given_up() -> None:
    calls = book()
    calls.put(record(), 1.0)
    write_all(calls, 1.0)
    calls.remove("c1", 2.0)
    (write,) = calls.next_writes(2.0)
    calls.failed(write, 2.5, hopeless=True)

    assert calls.next_writes(10.0) == []


def test_an_object_that_is_not_there_is_made_and_one_that_is_there_is_updated() -> None:
    calls = book()
    calls.put(record(), 1.0)
    (create,) = calls.next_writes(1.0)
    calls.failed(create, 1.0, exists=True)
    (update,) = calls.next_writes(2.0)
    calls.failed(update, 2.0, missing=True)

    assert (update.verb, update.relocate) == (Verb.UPDATE, True)
    assert kinds(write_all(calls, 3.0)) == [(Verb.CREATE, "c1")]


def test_a_call_that_ends_while_it_is_created_is_deleted() -> None:
    calls = book()
    calls.put(record(), 1.0)
    (write,) = calls.next_writes(1.0)
    calls.remove("c1", 1.1)
    calls.done(write, 1.2)

    assert kinds(write_all(calls, 2.0)) == [(Verb.DELETE, "c1")]


def test_what_we_wrote_is_no_wish_and_what_others_wrote_is_one_once() -> None:
    calls = book()
    calls.put(record(), 1.0)
    write_all(calls, 1.0)

    assert calls.saw("c1", seen("r1"), 1.1) is None
    assert calls.saw("c1", seen("r2"), 2.0) == CallWish(call="c1", relay="r2")
    assert calls.saw("c1", seen("r2"), 3.0) is None
    assert calls.saw("c1", seen("r2", terminate=True), 4.0) == CallWish(call="c1", relay="r2", terminate=True)
    assert calls.saw("c1", seen("r2", terminate=True), 5.0) is None


def test_our_own_relocation_is_no_wish_even_when_it_is_seen_before_it_is_answered() -> None:
    calls = book()
    calls.put(record(), 1.0)
    write_all(calls, 1.0)
    calls.put(record(relay="r2", anchors=1), 2.0)
    (write,) = calls.next_writes(2.0)

    assert write.relocate
    assert calls.saw("c1", seen("r1"), 2.1) is None, "as it was"
    assert calls.saw("c1", seen("r2"), 2.2) is None, "as we are writing it"
    calls.failed(write, 2.3)  # no answer, but it was carried out
    assert calls.saw("c1", seen("r2"), 2.4) is None


def test_the_way_back_after_a_move_is_a_wish() -> None:
    calls = book()
    calls.put(record(), 1.0)
    write_all(calls, 1.0)
    calls.put(record(relay="r2", anchors=1), 2.0)
    write_all(calls, 2.0)

    assert calls.saw("c1", seen("r1"), 3.0) == CallWish(call="c1", relay="r1")


def created(calls: CallBook) -> None:
    """Have an object of generation 1."""
    calls.put(record(), 1.0)
    (write,) = calls.next_writes(1.0)
    calls.done(write, 1.0, generation=1)


def test_an_open_wish_stays_in_the_spec_while_the_call_moves_elsewhere() -> None:
    calls = book()
    created(calls)
    assert calls.saw("c1", seen("r9", generation=2), 2.0) == CallWish(call="c1", relay="r9", generation=2)

    calls.put(record(relay="r2", anchors=1), 3.0)  # signaling has not seen the wish yet
    (before,) = write_all(calls, 3.0)
    calls.put(looked_at(2, "r9", on="r3"), 4.0)
    (after,) = write_all(calls, 4.0)

    assert [(one.relocate, one.follow) for one in (before, after)] == [(True, False), (True, False)]


def test_a_wish_that_was_fulfilled_is_over_and_the_spec_follows_again() -> None:
    calls = book()
    created(calls)
    calls.saw("c1", seen("r2", generation=2), 2.0)
    calls.put(looked_at(2, on="r2", done=True), 3.0)
    (arrived,) = calls.next_writes(3.0)
    calls.done(arrived, 3.0, generation=2)
    assert calls.saw("c1", seen("r2", generation=2), 3.1) is None

    calls.put(looked_at(2, on="r3"), 4.0)
    (further,) = calls.next_writes(4.0)
    calls.done(further, 4.0, generation=3)

    assert (further.relocate, further.follow) == (True, True)
    assert calls.saw("c1", seen("r3", generation=3), 4.1) == CallWish(call="c1")


def test_a_spec_that_is_set_back_takes_the_wish_back_even_while_it_is_open() -> None:
    calls = book()
    created(calls)
    calls.saw("c1", seen("r9", generation=2), 2.0)
    calls.put(looked_at(2, "r9"), 2.5)

    assert calls.saw("c1", seen("r1", generation=3), 3.0) == CallWish(call="c1", relay="r1", generation=3)


def test_our_own_spec_over_a_wish_that_crossed_it_is_no_wish_for_where_it_was() -> None:
    calls = book()
    created(calls)
    calls.put(record(relay="r2", anchors=1), 2.0)
    (write,) = calls.next_writes(2.0)
    calls.saw("c1", seen("r9", generation=2), 2.1)
    calls.done(write, 2.2, generation=3)
    calls.put(record(relay="r3", anchors=2), 2.3)

    assert calls.saw("c1", seen("r2", generation=3), 2.4) == CallWish(call="c1")


def test_what_the_api_server_had_before_our_own_write_is_no_wish() -> None:
    calls = book()
    created(calls)
    calls.put(record(relay="r2", anchors=1), 2.0)
    (write,) = calls.next_writes(2.0)
    calls.done(write, 2.1, generation=2)

    assert calls.saw("c1", seen("r1", generation=1), 2.2) is None, "told late"


def test_the_same_wish_written_again_is_told_again() -> None:
    calls = book()
    created(calls)
    calls.saw("c1", seen("r9", generation=2), 2.0)

    assert calls.saw("c1", seen("r9", generation=4), 3.0) == CallWish(call="c1", relay="r9", generation=4)


def test_a_wish_about_a_leg_is_told_and_holds_nothing_up() -> None:
    calls = book()
    created(calls)
    wish = calls.saw("c1", seen(generation=2, callee="SRTP"), 2.0)
    calls.put(record(relay="r2", anchors=1), 3.0)
    (write,) = write_all(calls, 3.0)

    assert wish == CallWish(call="c1", callee=LegWish(transport="SRTP"), generation=2)
    assert (write.relocate, write.follow) == (True, True)


def test_a_wish_ends_with_its_object() -> None:
    calls = book()
    created(calls)
    calls.saw("c1", seen("r9", generation=2), 2.0)

    assert calls.saw("c1", None, 3.0) == CallWish(call="c1")
    assert kinds(write_all(calls, 20.0)) == [(Verb.CREATE, "c1")]


def test_leftovers_are_deleted_by_uid_and_only_once() -> None:
    calls = book()
    assert calls.saw("old", seen(terminate=True), 1.0) is None
    calls.saw("old", seen("r9"), 1.1)

    writes = write_all(calls, 2.0)

    assert [(one.verb, one.call, one.uid) for one in writes] == [(Verb.DELETE, "old", "u1")]
    assert write_all(calls, 3.0) == []


def test_a_deleted_object_of_a_live_call_comes_back_after_a_while() -> None:
    calls = book(RecordPolicy(after=10.0))
    calls.put(record(), 20.0)
    write_all(calls, 20.0)

    assert calls.saw("c1", None, 30.0) is None
    assert calls.next_writes(39.0) == []
    assert kinds(write_all(calls, 40.0)) == [(Verb.CREATE, "c1")]
