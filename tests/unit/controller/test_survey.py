"""What a resync finds at once is what asking for each RelaySet finds; where it cannot know, each is asked for."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.controller.fake_kube import FakeKube
from tests.unit.controller.worlds import SETTINGS, UID, pod, relay_set_manifest

from kedge.api.relayset import RelaySet
from kedge.controller.manifests import owned_manifests
from kedge.controller.survey import observe, survey
from kedge.ports.kube import Manifest

ENDPOINTS = [{"name": "r1", "address": "192.0.2.1"}]


def world(spec: dict[str, Any], *, owned: bool = True) -> tuple[FakeKube, RelaySet]:
    kube = FakeKube()
    manifest = relay_set_manifest(spec)
    kube.put(manifest)
    kube.put({"kind": "Pod", **pod("r1")})
    stranger: Manifest = {"kind": "Pod", **pod("x1")}
    stranger["metadata"]["labels"] = {"app": "other"}
    kube.put(stranger)
    relay_set = RelaySet.from_api(manifest)
    if owned:
        for _, made in owned_manifests(relay_set, SETTINGS):
            kube.put(made)
    return kube, relay_set


@pytest.mark.parametrize("spec", [{"replicas": 1}, {"endpoints": ENDPOINTS}], ids=["replicas", "endpoints"])
async def test_a_survey_has_what_each_would_be_asked_for(spec: dict[str, Any]) -> None:
    kube, relay_set = world(spec)

    found = (await survey(kube, "media")).of(relay_set)

    assert found == await observe(kube, relay_set)


async def test_pods_that_a_selector_may_choose_are_asked_for() -> None:
    kube, _ = world({"replicas": 1})
    chosen = RelaySet.from_api(relay_set_manifest({"selector": {"matchLabels": {"app": "other"}}}))

    assert (await survey(kube, "media")).of(chosen) is None


async def test_an_object_that_is_not_listed_is_asked_for() -> None:
    kube, relay_set = world({"replicas": 1}, owned=False)

    assert (await survey(kube, "media")).of(relay_set) is None


async def test_an_object_of_that_name_that_is_not_ours_is_not_taken_for_missing() -> None:
    kube, relay_set = world({"replicas": 1})
    foreign = kube.objects["Deployment", "media", "voice-relay"]
    foreign["metadata"] = {"name": "voice-relay", "namespace": "media", "uid": "other"}

    assert (await survey(kube, "media")).of(relay_set) is None
    assert len((await observe(kube, relay_set)).owned) == 3


async def test_a_name_that_is_too_long_for_a_label_is_found_by_its_label() -> None:
    kube = FakeKube()
    name = "v" * 80
    kube.put({"kind": "RelaySet", "metadata": {"name": name, "namespace": "media", "uid": UID}})

    (label,) = (await survey(kube, "media")).names.keys() - {f"media/{name}"}

    assert (await survey(kube, "media")).names[label] == f"media/{name}"
    assert len(label.partition("/")[2]) <= 63
