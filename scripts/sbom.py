"""Writes the software bill of materials of Kedge's image: what a lock file pins, as CycloneDX JSON on standard output.

usage: sbom.py LOCK. Run with the Python that has the packages installed: it knows their licences. Two runs over the
same lock give the same text, so that images can be compared.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Final

PACKAGE: Final = "kedge-operator"
_PINNED: Final = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)", re.MULTILINE)
_PLAIN_LICENSE: Final = 64
"""Some packages put the whole text into the field; what is longer than a name is left out."""

Json = dict[str, Any]


def pins(lock: str) -> Mapping[str, str]:
    """Return name and version of each package that a lock file pins, in its order."""
    return dict(_PINNED.findall(lock))


def bill_of_materials(lock: str) -> Json:
    """Return the CycloneDX document of Kedge and what ``lock`` pins."""
    components = [_component("library", name, version) for name, version in pins(lock).items()]
    kedge = _component("application", PACKAGE, metadata.version(PACKAGE))
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": kedge},
        "components": components,
        "dependencies": [{"ref": kedge["bom-ref"], "dependsOn": [one["bom-ref"] for one in components]}],
    }


def _component(kind: str, name: str, version: str) -> Json:
    purl = f"pkg:pypi/{re.sub(r'[-_.]+', '-', name).lower()}@{version}"
    component: Json = {"type": kind, "bom-ref": purl, "name": name, "version": version, "purl": purl}
    license_name = _license(name)
    if license_name:
        component["licenses"] = [{"license": {"name": license_name}}]
    return component


def _license(name: str) -> str:
    """Return the licence that an installed package names; empty where it does not."""
    try:
        about = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return ""
    said = next((about[field].strip() for field in ("License-Expression", "License") if field in about), "")
    return said if len(said) <= _PLAIN_LICENSE and "\n" not in said else ""


def main() -> None:
    """Read the lock file that the command line names, and write the document."""
    lock = Path(sys.argv[1]).read_text(encoding="utf-8")
    sys.stdout.write(json.dumps(bill_of_materials(lock), indent=2) + "\n")


if __name__ == "__main__":
    main()
