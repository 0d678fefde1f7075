"""The readiness gate follows what signaling's canaries tell, and touches no other condition."""

from __future__ import annotations

from typing import Any

import pytest

from kedge.controller.gates import MEDIA_READY, gates_of
from kedge.ports.records import RelayRecord, SignalingSnapshot


def pod(stands: str = "", *, gate: bool = True, ending: bool = False) -> dict[str, Any]:
    metadata = {"namespace": "voice", "name": "relay-a", "uid": "uid-a"}
    if ending:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    conditions = [{"type": "ContainersReady", "status": "True"}]
    if stands:
        conditions.append({"type": MEDIA_READY, "status": stands})
    gates = [{"conditionType": MEDIA_READY}] if gate else []
    return {"metadata": metadata, "spec": {"readinessGates": gates}, "status": {"conditions": conditions}}


def told(*ready: bool | None, uid: str = "uid-a") -> list[SignalingSnapshot]:
    """One snapshot for each signaling process, with what its canary at the relay came to."""
    return [
        SignalingSnapshot(
            replica=f"kedge-{number}",
            at=1.0,
            relays=(
                RelayRecord(
                    uid=uid, name="relay-a", relay_set="voice/voice", address="192.0.2.40:2223", state="Ready",
                    reason="Probed", message="", since=0.0, sessions=0, instance="1", media_ready=one,
                ),
            ),
        )
        for number, one in enumerate(ready)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("ready", "stands", "wanted"),
    [
        ((True,), "", "True"),
        ((False,), "", "False"),
        ((False, True), "False", "True"),
        ((None, True), "", "True"),
        ((False, None), "True", "False"),
    ],
)
def test_the_condition_is_what_any_canary_got_through(ready: tuple[bool | None, ...], stands: str, wanted: str) -> None:
    (manifest,) = gates_of([pod(stands)], told(*ready))

    (condition,) = manifest["status"]["conditions"]
    assert (condition["type"], condition["status"]) == (MEDIA_READY, wanted)
    assert manifest["metadata"] == {"namespace": "voice", "name": "relay-a", "uid": "uid-a"}


@pytest.mark.parametrize(
    ("live", "snapshots"),
    [
        (pod("True"), told(True)),
        (pod(""), told(None)),
        (pod(""), []),
        (pod("", gate=False), told(True)),
        (pod("", ending=True), told(True)),
        (pod(""), told(True, uid="another")),
    ],
    ids=["as it is", "no round has ended", "signaling is silent", "no gate", "ending", "another relay"],
)
def test_nothing_is_written_without_news(live: dict[str, Any], snapshots: list[SignalingSnapshot]) -> None:
    assert gates_of([live], snapshots) == ()
