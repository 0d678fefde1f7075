"""What the images are built of: locked, and told in a bill of materials."""

from __future__ import annotations

import os
import re
import subprocess
from importlib import metadata
from pathlib import Path

from scripts import sbom

ROOT = Path(__file__).parents[2]
RUNTIME = ROOT / "requirements" / "runtime.lock"


def pinned(path: Path) -> set[str]:
    """Each pin with its hashes, as one text."""
    return set(re.findall(r"^\S+==\S+(?: \\\n +--hash=\S+)+", path.read_text(encoding="utf-8"), re.MULTILINE))


def test_what_builds_the_wheel_is_locked_as_for_developers() -> None:
    build = pinned(ROOT / "images" / "kedge" / "build.lock")

    assert {one.split("==")[0] for one in build} >= {"hatchling"}
    assert build <= pinned(ROOT / "requirements" / "dev.lock")


def test_the_bill_of_materials_has_all_that_is_locked_and_kedge_itself() -> None:
    bill = sbom.bill_of_materials(RUNTIME.read_text(encoding="utf-8"))

    purls = {one["purl"] for one in bill["components"]}
    assert len(purls) == len(bill["components"]) == len(pinned(RUNTIME))
    assert f"pkg:pypi/aiohttp@{metadata.version('aiohttp')}" in purls
    assert bill["metadata"]["component"]["version"] == metadata.version(sbom.PACKAGE)
    assert set(bill["dependencies"][0]["dependsOn"]) == purls


def test_a_licence_is_told_by_name_and_never_by_its_whole_text() -> None:
    lock = "click==1.0 \\\n    --hash=sha256:00\nkubernetes==37.0 \\\n    --hash=sha256:00\nnot-installed==1 \\\n"

    components = sbom.bill_of_materials(lock)["components"]

    assert components[0]["licenses"] == [{"license": {"name": "BSD-3-Clause"}}]
    assert "licenses" not in components[2]
    assert all(len(one["licenses"][0]["license"]["name"]) < 65 for one in components[:2])


def build(tmp_path: Path, *words: str, **environment: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run ``scripts/images.sh`` with a builder that only writes down what it is asked."""
    said = tmp_path / "said"
    builder = tmp_path / "buildah"
    builder.write_text(f'#!/bin/sh\necho "$*" >>{said}\n')
    builder.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [ROOT / "scripts" / "images.sh", *words], check=False, capture_output=True, text=True, timeout=60,
        env={**os.environ, "PATH": path, **environment},
    )  # fmt: skip
    return done, said.read_text().splitlines() if said.exists() else []


def test_images_are_built_and_saved_by_what_builder_there_is(tmp_path: Path) -> None:
    done, said = build(tmp_path, TAG="1.2", BASE="a-base:1", ARCHIVES=str(tmp_path / "archives"))

    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in said] == ["bud", "push", "bud", "push"]
    assert "--build-arg VERSION=1.2" in said[0]
    assert "--build-arg BASE=a-base:1" in said[0]
    assert said[0].endswith("-f images/kedge/Containerfile -t localhost/kedge:1.2 .")
    assert said[1].endswith(f"oci-archive:{tmp_path}/archives/kedge.tar:localhost/kedge:1.2")
    assert said[2].endswith("-f images/rtpengine/Containerfile -t localhost/kedge-rtpengine:1.2 .")


def test_one_image_is_built_where_one_is_named_and_none_for_a_word_that_says_nothing(tmp_path: Path) -> None:
    done, said = build(tmp_path, "rtpengine")
    wrong, unsaid = build(tmp_path, "everything")

    assert done.returncode == 0, done.stderr
    assert len(said) == 1
    assert wrong.returncode == 2
    assert "usage: images.sh" in wrong.stderr
    assert unsaid == said, "nothing more"
