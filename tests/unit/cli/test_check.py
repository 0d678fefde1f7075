"""``kedge check``: what it says of files, and its exit status."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from kedge.cli.main import main

SAMPLES = Path(__file__).parents[3] / "manifests" / "samples"
RELAY_SET = """
apiVersion: kedge.media/v1alpha1
kind: RelaySet
metadata: { name: voice }
spec:
  engine: RTPEngine
  endpoints: [{ name: r1, address: 127.0.0.11 }]
"""
SETTINGS = """
peers: [{ name: trunk, networks: [127.0.0.20/32] }]
routes:
  - name: all
    nextHops: [{ address: 127.0.0.20 }]
    relaySet: voice
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "relayset.yaml").write_text(RELAY_SET)
    (tmp_path / "settings.yaml").write_text(SETTINGS)
    return tmp_path


def check(*files: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["check", *files])
    return result.exit_code, result.stdout, result.stderr


def test_the_samples_are_fine() -> None:
    status, out, err = check(*map(str, sorted(SAMPLES.glob("*.yaml"))))

    assert (status, err) == (0, "")
    assert all(line.endswith("fine") for line in out.splitlines())


def test_good_files_are_named_with_what_is_in_them(folder: Path) -> None:
    assert check("settings.yaml", "relayset.yaml") == (
        0,
        "settings.yaml: settings are fine\nrelayset.yaml: RelaySet voice: fine\n",
        "",
    )


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        ("relayset.yaml", "RTPEngine", "rtpengine", "relayset.yaml:6: spec.engine: rtpengine is not allowed: "),
        (
            "relayset.yaml",
            "RTPEngine",
            "RTPProxy",
            "relayset.yaml: RelaySet voice: spec.engine: RTPProxy is not allowed: only RTPEngine is supported so far",
        ),
        ("settings.yaml", "peers", "peer", "settings.yaml:2: peer: unknown field; did you mean peers?"),
        ("settings.yaml", "127.0.0.20/32", "127.0.0.20/8", "settings.yaml:2: peers[0].networks[0]: "),
        ("relayset.yaml", "kind: RelaySet", "kind: Relayset", "relayset.yaml:3: kind: Relayset is not allowed: "),
        ("relayset.yaml", "}", "", "relayset.yaml:"),
    ],
    ids=["manifest", "engine", "settings", "value", "kind", "no YAML"],
)
def test_a_problem_is_a_line_with_its_place(folder: Path, file: str, old: str, new: str, told: str) -> None:
    path = folder / file
    path.write_text(path.read_text().replace(old, new, 1))

    status, _, err = check(file)

    assert status == 1
    assert any(line.startswith(told) for line in err.splitlines()), err


def test_settings_are_held_against_the_relay_sets_beside_them(folder: Path) -> None:
    (folder / "settings.yaml").write_text(SETTINGS.replace("voice", "voize"))

    alone, together = check("settings.yaml"), check("settings.yaml", "relayset.yaml")

    assert alone[0] == 0
    assert together[0] == 1
    assert "routes[0].relaySet: voize is not allowed" in together[2]
    assert "did you mean" in together[2]


def test_a_file_that_is_not_there_is_told(folder: Path) -> None:
    assert check("nowhere.yaml") == (1, "", "nowhere.yaml: No such file or directory\n")
