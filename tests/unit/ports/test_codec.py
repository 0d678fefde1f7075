from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge.ports.codec import CodecError, from_json, to_json
from kedge.ports.records import AnchorRecord, CallRecord, CallState, SignalingSnapshot

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
SNAPSHOTS = st.builds(
    SignalingSnapshot,
    at=FLOATS,
    calls=st.lists(
        st.builds(
            CallRecord,
            started=FLOATS,
            answered=st.none() | FLOATS,
            last_anchor=st.none() | st.builds(AnchorRecord, at=FLOATS, duration=FLOATS, gap=FLOATS),
        ),
        max_size=2,
    ).map(tuple),
    counters=st.dictionaries(st.text(), st.integers(), max_size=2),
)


@given(SNAPSHOTS)
def test_what_is_written_is_read_back(snapshot: SignalingSnapshot) -> None:
    assert from_json(SignalingSnapshot, json.loads(json.dumps(to_json(snapshot)))) == snapshot


def test_a_field_of_a_newer_replica_is_skipped_and_an_absent_default_is_filled_in() -> None:
    data = {"replica": "a", "at": 1, "weather": "fog"}

    assert from_json(SignalingSnapshot, data) == SignalingSnapshot(replica="a", at=1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"replica": None}, "SignalingSnapshot.replica must be of type str"),
        ({"at": "now"}, "SignalingSnapshot.at must be of type float"),
        ({"at": True}, "SignalingSnapshot.at must be of type float"),
        ({"relays": {}}, "SignalingSnapshot.relays must be a list"),
        ({"relays": [7]}, r"SignalingSnapshot.relays\[0\] must be an object"),
        ({"counters": {"x": "y"}}, "SignalingSnapshot.counters.x must be of type int"),
        ({"events": [{}]}, r"SignalingSnapshot.events\[0\].at is missing"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], says: str) -> None:
    with pytest.raises(CodecError, match=says):
        from_json(SignalingSnapshot, {"replica": "a", "at": 1.0} | change)


def test_an_unknown_state_is_named_with_those_that_are_known() -> None:
    call = to_json(CallRecord(**_call())) | {"state": "Dancing"}

    with pytest.raises(CodecError, match=r"CallRecord.state must be one of SettingUp, Active, Moving, Ended"):
        from_json(CallRecord, call)


def _call() -> dict[str, Any]:
    texts = ("id", "relay_set", "relay", "relay_uid", "caller", "callee", "caller_peer", "callee_peer", "call_id")
    return dict.fromkeys(texts, "x") | {"state": CallState.ACTIVE, "started": 0.0, "answered": None, "anchors": 0}
