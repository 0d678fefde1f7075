"""Writes what in ``charts/`` and ``manifests/`` follows from other files, so that nothing is said twice by hand.

The chart's CRDs are those of ``crds/``; its roles have the rules of ``manifests/rbac.yaml``; in its schema of values,
``settings`` is what the models of the settings file say, and so is which of them need new pods;
``manifests/kedge.yaml`` is the chart with default values, but for its Secrets: a token that everybody has is none.

usage: python -m scripts.chart [--check]
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from kedge.api.change import OPERATOR, RESTART, Change, marks
from kedge.api.settings import Settings

ROOT: Final = Path(__file__).resolve().parents[1]
CHART: Final = ROOT / "charts" / "kedge"
MANIFESTS: Final = ROOT / "manifests"
SCHEMA: Final = CHART / "values.schema.json"
NAMESPACE: Final = "kedge"
"""Namespace of the rendered manifests; kustomize sets another."""
KUBE: Final = "--kube-version=1.34.4"
"""What Helm takes a cluster to be when it only renders."""
_MODELS: Final = "settings."
"""Before the names of the settings' models in the schema."""
_VARIABLE: Final = r"\$\{[A-Za-z_][A-Za-z0-9_]*\}"
_ELSEWHERE: Final = frozenset(("ServiceAccount", "Role", "RoleBinding", "Secret"))
"""Kinds that are not in the rendered manifests: those of ``rbac.yaml``, and what is random."""
_HELM_ONLY: Final = ("helm.sh/chart", "app.kubernetes.io/managed-by")
_GENERATED: Final = "# Written by `make chart` from the chart with default values: change that.\n"

Json = dict[str, Any]


def derived(helm: Path) -> dict[Path, str]:
    """Return each file that follows from others, with the text that it shall have."""
    files: dict[Path, str] = {}
    crds = sorted((ROOT / "crds").glob("*.yaml"))
    for crd in crds:
        files[CHART / "crds" / crd.name] = crd.read_text(encoding="utf-8")
    for role, rules in _roles().items():
        text = yaml.safe_dump(rules, sort_keys=False, width=120)
        files[CHART / "files" / f"rules-{role}.yaml"] = text
    for role, waits in (("signaling", {RESTART}), ("operator", {RESTART, OPERATOR})):
        files[CHART / "files" / f"restart-{role}.json"] = json.dumps(restart_fields(waits)) + "\n"
    files[SCHEMA] = json.dumps(schema(json.loads(SCHEMA.read_text(encoding="utf-8"))), indent=2) + "\n"
    files[MANIFESTS / "crds.yaml"] = "---\n".join(crd.read_text(encoding="utf-8") for crd in crds)
    return files | {MANIFESTS / "kedge.yaml": _GENERATED + plain_manifests(helm)}


def restart_fields(waits: Container[Change]) -> list[str]:
    """Return the paths of the settings that pods take at their start only; a whole part stands for its fields."""
    found: list[str] = []
    for path, change in marks(Settings):
        inside = any(path.startswith((f"{one}.", f"{one}[]")) for one in found)
        if change in waits and not inside:
            found.append(path)
    return found


def schema(now: Json) -> Json:
    """Return the schema of values with its ``settings`` made anew; the rest of it is written by hand."""
    made = Settings.model_json_schema(by_alias=True, ref_template=f"#/$defs/{_MODELS}{{model}}")
    models = {f"{_MODELS}{name}": one for name, one in made.pop("$defs").items()}
    by_hand = {name: one for name, one in now["$defs"].items() if not name.startswith(_MODELS)}
    # What the chart itself must know of the settings cannot be left out.
    made["required"] = ["sip", "metrics"]
    made["properties"]["metrics"] = {"$ref": f"#/$defs/{_MODELS}Metrics"}
    properties = {**now["properties"], "settings": _for_helm(made)}
    return {**now, "properties": properties, "$defs": by_hand | {name: _for_helm(one) for name, one in models.items()}}


def _for_helm(node: Any) -> Any:
    """Drop what JSON Schema does not know or Helm need not hear, and let variables stand where a format is asked."""
    if isinstance(node, list):
        return [_for_helm(one) for one in node]
    if not isinstance(node, dict):
        return node
    left_out = {"x-kubernetes-validations", "default"}
    left_out |= {"title"} if isinstance(node.get("title"), str) else set()
    found = {key: _for_helm(value) for key, value in node.items() if key not in left_out}
    if found.get("type") == "string" and "pattern" in found:
        found["pattern"] = f"({found['pattern']})|{_VARIABLE}"
        found.pop("maxLength", None)
    return found


def plain_manifests(helm: Path) -> str:
    """Return the chart with default values but for its roles and Secrets, as it is without Helm."""
    found = render(helm, "--skip-schema-validation")  # the schema there may be what is to be made anew
    documents = [_without_helm(one) for one in found if one["kind"] not in _ELSEWHERE]
    return "---\n".join(yaml.safe_dump(one, sort_keys=False, width=120) for one in documents)


def render(helm: Path, *words: str) -> list[Json]:
    """Return the objects that the chart makes, without those of `helm test`.

    Raises:
        subprocess.CalledProcessError: Helm refuses the values.
    """
    command = [str(helm), "template", "kedge", str(CHART), f"--namespace={NAMESPACE}", "--skip-tests", KUBE, *words]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def _without_helm(node: Any) -> Any:
    if isinstance(node, list):
        return [_without_helm(one) for one in node]
    if not isinstance(node, dict):
        return node
    return {key: _without_helm(value) for key, value in node.items() if key not in _HELM_ONLY}


def _roles() -> dict[str, list[Json]]:
    documents = yaml.safe_load_all((MANIFESTS / "rbac.yaml").read_text(encoding="utf-8"))
    return {one["metadata"]["name"].removeprefix("kedge-"): one["rules"] for one in documents if one["kind"] == "Role"}


def _stale(files: dict[Path, str]) -> Iterator[Path]:
    for path, text in files.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            yield path


def main() -> None:
    """Write the files, or with ``--check`` tell which of them are stale."""
    from tests.lab import binaries

    if "--check" in sys.argv[1:]:
        stale = _stale(derived(binaries.helm()))
        sys.exit("".join(f"{path.relative_to(ROOT)} is stale: run `make chart`\n" for path in stale) or 0)
    for _ in range(2):  # what Helm renders follows from the files that the first round has written
        files = derived(binaries.helm())
        for path in _stale(files):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(files[path], encoding="utf-8")
            sys.stdout.write(f"wrote {path.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
