"""The CRDs: ``crds/`` is what the models say, in the form that an API server takes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from tests.unit.api.wrong_manifests import RULES, SCHEMA

from kedge.api.crd import crd_files, crds, main

CRDS = Path(__file__).parents[3] / "crds"


def _schemas(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, node
    for name, one in node.get("properties", {}).items():
        yield from _schemas(one, f"{path}.{name}")
    if "items" in node:
        yield from _schemas(node["items"], f"{path}[]")
    if "additionalProperties" in node:
        yield from _schemas(node["additionalProperties"], f"{path}{{}}")


def _all_schemas() -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{kind['spec']['names']['kind']}{path}", node)
        for kind in crds().values()
        for part in ("spec", "status")
        for path, node in _schemas(
            kind["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"][part], f".{part}"
        )
    ]


def test_files_are_what_the_models_say() -> None:
    assert {path.name: path.read_text(encoding="utf-8") for path in CRDS.iterdir()} == crd_files(), "run `make crds`"


@pytest.mark.parametrize(("path", "node"), _all_schemas(), ids=[path for path, _ in _all_schemas()])
def test_schemas_are_structural_bounded_and_described(path: str, node: dict[str, Any]) -> None:
    refused = {"$ref", "const", "discriminator", "patternProperties", "exclusiveMinimum", "title", "oneOf", "allOf"}
    assert not refused & node.keys()
    if "anyOf" in node:
        assert node["x-kubernetes-int-or-string"] is True
        return
    assert node["type"] in ("object", "array", "string", "integer", "boolean")
    if node["type"] == "string":
        assert "enum" in node or "maxLength" in node or node.get("format") == "date-time"
    if node["type"] == "array":
        assert node["maxItems"] > 0
        assert node["x-kubernetes-list-type"] in ("atomic", "map", "set")
    if node["type"] == "object" and "properties" not in node:
        assert node["maxProperties"] > 0
    if not path.endswith(("[]", "{}")):
        assert node["description"]


def _rules() -> Iterator[tuple[str, str]]:
    for path, node in _all_schemas():
        for rule in node.get("x-kubernetes-validations", ()):
            if "oldSelf" not in rule["rule"]:
                yield path, rule["message"]


def test_each_rule_of_a_relay_set_is_tried_with_a_manifest_that_breaks_it() -> None:
    bounds = "must be from "  # each duration has such a rule; they come from one place
    tried = [one.says for one in RULES + SCHEMA]

    untried = [(path, text) for path, text in _rules() if not any(text.startswith(says) for says in tried)]

    assert [(path, text) for path, text in untried if not text.startswith(bounds)] == []


def test_defaults_are_those_of_the_models() -> None:
    spec = crds()["kedge.media_relaysets.yaml"]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"][
        "spec"
    ]
    health = spec["properties"]["health"]

    assert health["properties"]["interval"]["default"] == "100ms"
    assert health["default"]["canary"] == {"mode": "Disabled", "interval": "1s", "threshold": 2}
    assert "default" not in spec["properties"]["replicas"]
    assert spec["required"] == ["engine"]


def test_command_writes_and_then_finds_nothing_to_do(tmp_path: Path) -> None:
    runner = CliRunner()

    assert runner.invoke(main, ["--check", str(tmp_path)]).exit_code == 1
    assert not list(tmp_path.iterdir())
    assert runner.invoke(main, [str(tmp_path / "crds")]).exit_code == 0
    again = runner.invoke(main, ["--check", str(tmp_path / "crds")])
    assert (again.exit_code, again.output) == (0, "")
    written = {path.name: yaml.safe_load(path.read_text()) for path in (tmp_path / "crds").iterdir()}
    assert written == crds()
