"""``kedge check``: are these files as they must be, each of them and together?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from kedge.api.errors import ManifestError
from kedge.api.load import check_together, load_manifests, load_settings, unserved
from kedge.api.relayset import RelaySet
from kedge.api.settings import Settings


def check(files: Sequence[Path]) -> tuple[list[str], list[str]]:
    """Return what is right (a line a file) and what is wrong (a line a problem) with files of any kind.

    Settings are also held against the RelaySets of the other files, if there are any.
    """
    good: list[str] = []
    bad: list[str] = []
    settings: list[tuple[Path, Settings]] = []
    relay_sets: list[RelaySet] = []
    for file in files:
        try:
            if _is_settings(file):
                settings.append((file, load_settings(file)))
                good.append(f"{file}: settings are fine")
            else:
                manifests = load_manifests(file)
                found = [one for one in manifests if isinstance(one, RelaySet)]
                relay_sets += found
                refused = [str(problem) for one in found for problem in unserved(one, str(file))]
                if refused:
                    bad += refused
                    continue
                names = ", ".join(f"{one.kind} {one.metadata.name}" for one in manifests) or "nothing in it"
                good.append(f"{file}: {names}: fine")
        except ManifestError as error:
            bad += map(str, error.problems)
        except OSError as error:
            bad.append(f"{file}: {error.strerror or error}")
    if relay_sets:
        for file, one in settings:
            bad += map(str, check_together(one, relay_sets, name=str(file)))
    return good, bad


def _is_settings(file: Path) -> bool:
    """Settings have neither kind nor apiVersion; what cannot be read at all is for others to tell."""
    try:
        documents = list(yaml.safe_load_all(file.read_text(encoding="utf-8-sig")))
    except (yaml.YAMLError, ValueError):
        return False
    found = [one for one in documents if one is not None]
    return not any(isinstance(one, dict) and {"kind", "apiVersion"} & one.keys() for one in found)
