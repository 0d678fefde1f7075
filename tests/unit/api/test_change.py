"""Which settings take effect in a running process: every field says so, and the rest of Kedge follows from that."""

from __future__ import annotations

from typing import Annotated, Any

import pytest

from kedge.api.change import LIVE, OPERATOR, RESTART, Change, as_far_as, differences, marks
from kedge.api.model import Model
from kedge.api.settings import Settings

WAITS = frozenset({RESTART})


def settings(**given: Any) -> Settings:
    return Settings.parse(given)


def test_every_field_of_the_settings_says_when_a_change_takes_effect() -> None:
    assert [path for path, change in marks(Settings) if change is None] == []


def test_a_field_that_nobody_has_marked_is_found() -> None:
    class Part(Model):
        marked: Annotated[int, LIVE] = 1
        forgotten: int = 1

    class Whole(Model):
        parts: tuple[Part, ...] = ()
        all_of_it: Annotated[Part | None, RESTART] = None

    assert dict(marks(Whole)) == {
        "parts[].marked": LIVE, "parts[].forgotten": None,
        "allOfIt": RESTART, "allOfIt.marked": LIVE, "allOfIt.forgotten": RESTART,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("peers", LIVE),
        ("peers[].networks", LIVE),
        ("sip.maxCalls", LIVE),
        ("log.level", LIVE),
        ("signaling.replicas", LIVE),
        ("sip.listen", RESTART),
        ("admin.port", RESTART),
        ("kube.namespace", RESTART),
        ("kube.resync", OPERATOR),
    ],
)
def test_what_is_promised(path: str, change: Change) -> None:
    assert dict(marks(Settings))[path] is change


def test_what_can_be_had_is_taken_and_the_rest_is_told() -> None:
    running = settings(kube={"namespace": "a"})
    wanted = settings(
        sip={"maxCalls": 3, "listen": [{"address": "192.0.2.1"}]}, kube={"namespace": "b", "resync": "9s"}, admin=None,
        peers=[{"name": "pbx", "networks": ["192.0.2.9/32"]}],
    )  # fmt: skip

    taken = as_far_as(running, wanted, WAITS)

    assert sorted(differences(running, taken)) == ["kube.resync", "peers", "sip.maxCalls"]
    assert sorted(differences(taken, wanted)) == ["admin", "kube.namespace", "sip.listen"]
    assert (taken.sip.max_calls, taken.kube.namespace, taken.peers) == (3, "a", wanted.peers)


def test_with_the_operator_in_the_process_its_settings_wait_too() -> None:
    wanted = settings(kube={"leadership": {"retry": "1s"}})

    assert as_far_as(settings(), wanted, frozenset({RESTART, OPERATOR})) == settings()
    assert as_far_as(settings(), wanted, WAITS) == wanted
