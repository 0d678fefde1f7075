"""Writes ``crds/*.yaml`` from the models: structural schemas that the API server takes.

usage: python -m kedge.api.crd [--check] OUTDIR

pydantic's JSON schema says more than a structural schema may. What the API server refuses is
rewritten: ``$ref`` is put in place, ``anyOf`` with null becomes an optional field, ``const`` an enum,
``patternProperties`` an ``additionalProperties`` with a schema; ``additionalProperties: false`` goes, since the
API server prunes unknown fields, or refuses them when it is asked to be strict, as kubectl asks.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click
import yaml
from pydantic.json_schema import GenerateJsonSchema

from kedge.api.call import Call
from kedge.api.durations import PATTERN, format_duration
from kedge.api.model import Model
from kedge.api.names import CALLS, GROUP, RELAYSETS, VERSION
from kedge.api.relayset import RelaySet

_HEADER: Final = "# Generated from the models in operator/kedge/api by `make crds`; do not edit.\n"
_DROPPED: Final = ("title", "additionalProperties", "propertyNames", "patternProperties", "$ref", "anyOf", "const")

_Schema = dict[str, Any]


def _column(name: str, type_: str, path: str, description: str, *, wide: bool = False) -> _Schema:
    column: _Schema = {"name": name, "type": type_, "jsonPath": path, "description": description}
    return column | ({"priority": 1} if wide else {})


_AGE: Final = _column("Age", "date", ".metadata.creationTimestamp", "Time since the object was made.")

_RELAYSET_COLUMNS: Final = (
    _column("Engine", "string", ".spec.engine", "The program that relays media."),
    _column("Desired", "integer", ".spec.replicas", "Relay pods wanted."),
    _column("Ready", "integer", ".status.readyReplicas", "Relays that are Ready."),
    _column("Calls", "integer", ".status.calls", "Calls on all relays."),
    _column("State", "string", ".status.state", "The conditions in one word."),
    _AGE,
)
_CALL_COLUMNS: Final = (
    _column("From", "string", ".status.from", "The calling party."),
    _column("To", "string", ".status.to", "The called party."),
    _column("Relay", "string", ".status.relay", "The relay that carries the call."),
    _column("State", "string", ".status.state", "What the call does."),
    _column("Anchors", "integer", ".status.anchors", "How often the call was re-anchored."),
    _AGE,
    _column("Wish", "string", '.status.conditions[?(@.type=="Fulfilled")].reason', "What became of a wish.", wide=True),
    _column("Owner", "string", ".status.owner", "The signaling process that holds the call.", wide=True),
    _column("Call-ID", "string", ".status.callId", "The SIP Call-ID on the caller's side.", wide=True),
)
_SCALE: Final = {
    "specReplicasPath": ".spec.replicas",
    "statusReplicasPath": ".status.replicas",
    "labelSelectorPath": ".status.selector",
}


class _Generator(GenerateJsonSchema):
    """pydantic's schema, plus the rules of each model and defaults as the API server is to fill them in."""

    def model_schema(self, schema: Any) -> _Schema:
        json_schema = super().model_schema(schema)
        model = schema["cls"]
        if issubclass(model, Model) and model.rules:
            json_schema["x-kubernetes-validations"] = [
                {"rule": rule.cel, "message": rule.message} | ({"fieldPath": f".{rule.field}"} if rule.field else {})
                for rule in model.rules
            ]
        return json_schema

    def encode_default(self, dft: Any) -> Any:
        """A model's default is written out: the API server runs its rules before it fills in the defaults below."""
        return dft.dump() if isinstance(dft, Model) else super().encode_default(dft)


def _structural(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> _Schema:
    """``node`` without what a structural schema may not hold; ``definitions`` are those that it refers to."""
    merged = _without_null(_resolved(node, definitions), definitions)
    schema: _Schema = {key: value for key, value in merged.items() if key not in _DROPPED}
    if "description" in schema:
        schema["description"] = " ".join(schema["description"].split())
    if "const" in merged:
        schema |= {"type": "string", "enum": [merged["const"]]}
    if schema.get("x-kubernetes-int-or-string"):
        schema |= {"anyOf": [{"type": "integer"}, {"type": "string"}]}
        schema.pop("type", None)
    if "default" in schema:
        schema |= _default(schema)
    if "properties" in schema:
        schema["properties"] = {key: _structural(one, definitions) for key, one in merged["properties"].items()}
    if "items" in schema:
        schema["items"] = _structural(merged["items"], definitions)
    values = merged.get("additionalProperties") or next(iter(merged.get("patternProperties", {}).values()), None)
    if values:
        schema["additionalProperties"] = _structural(values, definitions)
    return schema


def _default(schema: _Schema) -> _Schema:
    """The default as the API server is to fill it in; none for what is merely empty."""
    default = schema.pop("default")
    if default in (None, "", [], ()) or (default == {} and "properties" not in schema):
        return {}
    return {"default": format_duration(default) if schema.get("pattern") == PATTERN else default}


def _resolved(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> _Schema:
    """``node`` with what it refers to in place; what stands beside a reference wins."""
    if "$ref" not in node:
        return dict(node)
    target = definitions[node["$ref"].removeprefix("#/$defs/")]
    return _resolved(target, definitions) | {key: value for key, value in node.items() if key != "$ref"}


def _without_null(node: _Schema, definitions: Mapping[str, Any]) -> _Schema:
    """An optional field is one that may be absent; null is no value of it."""
    choices = [one for one in node.get("anyOf", ()) if one.get("type") != "null"]
    if "anyOf" not in node:
        return node
    if len(choices) != 1:
        raise ValueError(f"a structural schema has no unions: {node}")
    return _resolved(choices[0], definitions) | {key: value for key, value in node.items() if key != "anyOf"}


def _version(model: type[Model], columns: tuple[_Schema, ...], subresources: _Schema) -> _Schema:
    raw = model.model_json_schema(schema_generator=_Generator)
    definitions = raw.get("$defs", {})
    parts = {name: _structural(raw["properties"][name], definitions) for name in ("spec", "status")}
    schema = {
        "type": "object",
        "description": " ".join(raw["description"].split()),
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": "The version of this schema."},
            "kind": {"type": "string", "description": "The kind of this object."},
            "metadata": {"type": "object"},
            **parts,
        },
    }
    return {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": subresources,
        "additionalPrinterColumns": list(columns),
        "schema": {"openAPIV3Schema": schema},
    }


def _definition(kind: str, plural: str, short: list[str], version: _Schema) -> _Schema:
    names: _Schema = {
        "kind": kind,
        "listKind": f"{kind}List",
        "plural": plural,
        "singular": kind.lower(),
        "categories": ["kedge"],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": names | ({"shortNames": short} if short else {}),
            "versions": [version],
        },
    }


def crds() -> dict[str, _Schema]:
    """The CustomResourceDefinitions by file name, as JSON-ready data."""
    relayset = _version(RelaySet, _RELAYSET_COLUMNS, {"status": {}, "scale": dict(_SCALE)})
    call = _version(Call, _CALL_COLUMNS, {"status": {}})
    return {
        f"{GROUP}_{RELAYSETS}.yaml": _definition("RelaySet", RELAYSETS, ["rly"], relayset),
        f"{GROUP}_{CALLS}.yaml": _definition("Call", CALLS, [], call),
    }


class _Dumper(yaml.SafeDumper):
    """No anchors: the same list twice is written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def crd_files() -> dict[str, str]:
    """The text of each file of ``crds/`` by its name."""
    return {name: _HEADER + yaml.dump(one, Dumper=_Dumper, sort_keys=False, width=110) for name, one in crds().items()}


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; fail when a file is not what would be written.")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def main(folder: Path, *, check: bool) -> None:
    """Write the CustomResourceDefinitions to FOLDER."""
    stale = []
    for name, text in crd_files().items():
        path = folder / name
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(str(path))
        if not check:
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    for path_name in stale:
        click.echo(f"{path_name}: {'differs from the models; run `make crds`' if check else 'written'}", err=check)
    sys.exit(1 if check and stale else 0)


if __name__ == "__main__":
    main()
