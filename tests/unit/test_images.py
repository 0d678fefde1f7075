"""What the images are built of: locked, and told in a bill of materials."""

from __future__ import annotations

import re
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
