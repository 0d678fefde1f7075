from __future__ import annotations

from typing import Any

import pytest
from tests.unit.controller.worlds import pod

from kedge.controller.pods import failing, homeless


def waiting(name: str, reason: str, message: str = "", *, where: str = "containerStatuses") -> dict[str, Any]:
    made = pod(name, phase="Pending")
    made["status"][where] = [{"name": "relay", "state": {"waiting": {"reason": reason, "message": message}}}]
    return made


@pytest.mark.parametrize("where", ["containerStatuses", "initContainerStatuses"])
def test_a_container_that_does_not_start_is_told_with_the_kubelets_words(where: str) -> None:
    pods = [pod("r1"), waiting("r2", "ImagePullBackOff", 'Back-off pulling image "x"', where=where)]
    assert failing(pods) == 'pod r2 does not start: ImagePullBackOff: Back-off pulling image "x"'


def test_of_several_the_first_is_told_and_how_many_more() -> None:
    assert failing([waiting(name, "CrashLoopBackOff", "m") for name in ("r1", "r2", "r3")]) == (
        "pod r1 does not start: CrashLoopBackOff: m and 2 more"
    )


def test_a_pod_that_is_on_its_way_is_no_trouble() -> None:
    assert failing([waiting("r1", "ContainerCreating"), waiting("r2", "PodInitializing"), pod("r3")]) == ""
    assert homeless([pod("r1")]) == ""


def test_a_pod_without_a_node_is_told_with_the_schedulers_words() -> None:
    made = pod("r1", phase="Pending")
    made["status"]["conditions"] = [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}]
    assert homeless([made]) == "pod r1 has no node: 0/3 nodes are available"
