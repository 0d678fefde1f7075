from __future__ import annotations

from kedge.controller.orphans import Orphans, others_than
from kedge.ports.kube import Manifest


def call(name: str, replica: str) -> Manifest:
    return {"metadata": {"name": name, "labels": {"kedge.media/replica": replica}}}


def test_only_objects_of_others_are_looked_for() -> None:
    assert others_than(["b", "a"]) == "kedge.media/replica,kedge.media/replica notin (a,b)"


def test_objects_of_a_silent_process_are_deleted_after_a_time_of_grace() -> None:
    orphans = Orphans(grace=100.0)
    found = [call("c1", "gone")]

    assert orphans.take(found, 0.0) == []
    assert orphans.take(found, 99.0) == []
    assert orphans.take(found, 100.0) == found


def test_a_process_that_answers_again_has_all_its_time_again() -> None:
    orphans = Orphans(grace=100.0)
    orphans.take([call("c1", "slow")], 0.0)
    orphans.take([], 60.0)

    assert orphans.take([call("c1", "slow")], 110.0) == []


def test_each_process_has_a_time_of_its_own() -> None:
    orphans = Orphans(grace=100.0)
    orphans.take([call("c1", "a")], 0.0)

    assert orphans.take([call("c1", "a"), call("c2", "b")], 100.0) == [call("c1", "a")]
