"""Wishes for a rebalance, as a RelaySet's annotation tells them: each is acted on once, by whoever sees it first."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from kedge.ports.records import SignalingSnapshot
from kedge.relay.model import InventorySnapshot, RebalancePolicy, RelaySetPolicy
from kedge.runtime.bookkeeper import Bookkeeper
from kedge.runtime.planner import Planner

SET = "default/edge"


class Books:
    """A bookkeeper that keeps events only."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def snapshot(self, *, calls: bool = True) -> SignalingSnapshot:
        return SignalingSnapshot(replica="r", at=0.0)

    def event(self, *, reason: str, message: str, **_: object) -> None:
        self.events.append((reason, message))


def planner() -> tuple[Planner, Books]:
    books = Books()
    return Planner(cast(Any, None), cast(Bookkeeper, books)), books


def wish(at: str, *, allowed: bool = True) -> InventorySnapshot:
    policy = RelaySetPolicy(key=SET, rebalance=RebalancePolicy(allowed=allowed), rebalance_at=at)
    return InventorySnapshot(relay_sets=(policy,))


def ago(seconds: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat()


def begun(planner: Planner) -> int:
    return sum(1 for one in planner.progress() if one.kind == "Rebalance")


@pytest.mark.parametrize(("value", "expected"), [("2020-01-01T00:00:00Z", 1), ("please", 1), ("", 0)])
def test_a_new_value_is_a_wish(value: str, expected: int) -> None:
    asked, _ = planner()
    asked.apply(wish(""))

    asked.apply(wish(value))

    assert begun(asked) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(3600, 0), (5, 1), ("please", 0), ("2020-01-01T00:00:00", 0)],
    ids=["long ago", "while none was running", "no time", "no zone"],
)
def test_a_wish_that_was_there_before_is_acted_on_only_if_nobody_can_have_seen_it(
    value: str | int, expected: int
) -> None:
    asked, _ = planner()

    asked.apply(wish(ago(value) if isinstance(value, int) else value))

    assert begun(asked) == expected


def test_the_same_wish_is_acted_on_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, _ = planner()
    made: list[str] = []
    monkeypatch.setattr(asked, "rebalance", made.append)
    asked.apply(wish(""))

    for value in ("1", "1", "2", "2"):
        asked.apply(wish(value))

    assert made == [SET, SET]


def test_a_wish_that_the_policy_forbids_is_told() -> None:
    asked, books = planner()
    asked.apply(wish("", allowed=False))

    asked.apply(wish("1", allowed=False))

    assert begun(asked) == 0
    assert books.events == [("RebalanceRefused", f"RelaySet {SET} has rebalance.mode Disabled")]
