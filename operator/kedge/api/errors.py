"""Says what is wrong with a manifest: which field, what was given, what is allowed.

pydantic knows all three, in words for Python programmers; here they become words for who wrote the
YAML. What a field allows is read off its JSON schema, so that a new field needs nothing here.
"""

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from pydantic import ValidationError

from kedge.api.durations import EXAMPLES
from kedge.api.durations import PATTERN as DURATION_PATTERN
from kedge.api.model import PATTERN_WORDS, Model
from kedge.base.errors import KedgeError

Location = tuple[str | int, ...]
"""Where a value stands: YAML names and list indices, from the outermost."""

_NOTHING: Final = object()
_LONGEST_VALUE: Final = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong."""

    path: str
    """The field by its YAML names: ``spec.media.portRange.min``; empty for the whole document."""
    value: str
    """What was given, as JSON; empty when nothing was."""
    allowed: str
    """What is allowed, to be read after "must be" or as a sentence of its own."""
    message: str
    """All of it in one line, without the file."""
    source: str = ""
    """The file."""
    line: int = 0
    """The line in the file, from 1; 0 when it is not known."""

    def __str__(self) -> str:
        """``FILE:LINE: FIELD: VALUE is not allowed: must be ...``."""
        place = self.source + (f":{self.line}" if self.line else "")
        return ": ".join(part for part in (place, self.path, self.message) if part)


class ManifestError(KedgeError):
    """A file that cannot be used as it is; its author has to change it."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = list(problems)


def refusal(location: Location, allowed: str, *, value: object = _NOTHING, source: str = "", line: int = 0) -> Problem:
    """The problem of a ``value`` at ``location`` for which ``allowed`` says what would do."""
    given = "" if value is _NOTHING else shown(value)
    return Problem(
        path=dotted(location),
        value=given,
        allowed=allowed,
        message=f"{given} is not allowed: {allowed}" if given else allowed,
        source=source,
        line=line,
    )


def problems_of(
    error: ValidationError,
    model: type[Model],
    data: Any,
    *,
    source: str = "",
    lines: Mapping[Location, int] | None = None,
) -> list[Problem]:
    """What is wrong with ``data``, which ``model`` refused with ``error``; ``lines`` says where its fields stand."""
    found = list(_single_errors(error))
    at_fault = {location[:end] for location, _, _ in found for end in range(len(location))}
    return [
        _problem(location, kind, message, model, data, source, lines or {})
        for location, kind, message in found
        # A list with a wrong item also counts as too short: the item is what its author has to mend.
        if not (kind == "too_short" and location in at_fault)
    ]


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """A hint at the likeliest of ``known``, else a list of them all."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6) or [
        one for one in known if one.lower() == name.lower()
    ]
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"


def dotted(location: Location) -> str:
    """``("spec", "endpoints", 0, "name")`` as ``spec.endpoints[0].name``."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def shown(value: object) -> str:
    """``value`` as it may stand in a line: JSON, strings without quotes unless empty, cut when long."""
    if isinstance(value, str) and value and value.isprintable():
        text = value
    else:
        text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 3] + "..."


def _single_errors(error: ValidationError) -> Iterator[tuple[Location, str, str]]:
    """Location, kind and message of each; a broken set of rules is taken apart."""
    for one in error.errors(include_url=False):
        location = tuple(part for part in one["loc"] if part != "[key]")
        if one["type"] != "rules":
            yield location, one["type"], one["msg"]
            continue
        for field, message in one["ctx"]["broken"]:
            yield location + _parts(field), "rule", message


def _parts(field: str) -> Location:
    return tuple(int(part) if part.isdigit() else part for part in field.split(".") if part)


def _problem(
    location: Location,
    kind: str,
    message: str,
    model: type[Model],
    data: Any,
    source: str,
    lines: Mapping[Location, int],
) -> Problem:
    line = next((lines[location[:end]] for end in range(len(location), -1, -1) if location[:end] in lines), 0)
    schema = _schema_at(model, location)
    if kind == "extra_forbidden":
        name = str(location[-1])
        known = sorted(_schema_at(model, location[:-1]).get("properties", ()))
        allowed = did_you_mean(name, known)
        return Problem(
            path=dotted(location),
            value=name,
            allowed=allowed,
            message=f"unknown field; {allowed}",
            source=source,
            line=line,
        )
    if kind == "missing":
        allowed = _allowed(schema)
        text = "is missing" + (f": {allowed}" if allowed else "")
        return Problem(path=dotted(location), value="", allowed=allowed, message=text, source=source, line=line)
    if kind in ("rule", "duration", "ip", "network"):
        allowed = message
    else:
        allowed = _allowed(schema) or message[:1].lower() + message[1:]
    value = _value_at(data, location)
    if kind == "rule" and value is _NOTHING and "default" in schema and not schema.get("properties"):
        default = schema["default"]
        text = f"{shown(default)} (the default) is not allowed: {allowed}"
        return Problem(
            path=dotted(location), value=shown(default), allowed=allowed, message=text, source=source, line=line
        )
    whole = kind == "rule" and isinstance(value, (dict, list))
    return refusal(location, allowed, value=_NOTHING if whole else value, source=source, line=line)


def _value_at(data: Any, location: Location) -> Any:
    for part in location:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return _NOTHING
    return data


@cache
def _schema(model: type[Model]) -> dict[str, Any]:
    return model.model_json_schema(mode="serialization")


def _schema_at(model: type[Model], location: Location) -> dict[str, Any]:
    """The JSON schema of what stands at ``location``; empty where the model knows nothing."""
    root = _schema(model)
    node = _plain(root, root)
    for part in location:
        if isinstance(part, int):
            below = node.get("items", {})
        else:
            patterns = node.get("patternProperties", {})
            others = next(iter(patterns.values()), None) or node.get("additionalProperties") or {}
            below = node.get("properties", {}).get(part, others)
        node = _plain(below, root)
    return node


def _plain(node: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    """``node`` with references and "or null" resolved."""
    if "$ref" in node:
        target = root["$defs"][node["$ref"].removeprefix("#/$defs/")]
        return _plain(target | {key: value for key, value in node.items() if key != "$ref"}, root)
    if "anyOf" in node:
        choice: dict[str, Any] = next((one for one in node["anyOf"] if one.get("type") != "null"), {})
        return _plain(choice, root)
    return node


def _allowed(schema: Mapping[str, Any]) -> str:
    """What ``schema`` allows, as a phrase; empty when it says nothing."""
    if "const" in schema or "enum" in schema:
        return "must be " + _listed([str(one) for one in schema.get("enum", [schema.get("const")])])
    kind = schema.get("type")
    if kind in ("integer", "number"):
        return f"must be a {'whole ' if kind == 'integer' else ''}number{_range(schema, 'minimum', 'maximum')}"
    if kind == "string":
        return _allowed_text(schema)
    if kind == "array":
        return f"must be a list{_count(schema, 'minItems', 'maxItems')}"
    return {"boolean": "must be true or false", "object": "must be a mapping of names to values"}.get(str(kind), "")


def _allowed_text(schema: Mapping[str, Any]) -> str:
    pattern = schema.get("pattern")
    if pattern == DURATION_PATTERN:
        return f"must be a duration with a unit, {EXAMPLES}"
    if schema.get("format") == "date-time":
        return "must be a point in time, such as 2026-01-31T12:00:00Z"
    words = PATTERN_WORDS.get(str(pattern), "a string" + (f" that matches {pattern}" if pattern else ""))
    longest = schema.get("maxLength")
    return f"must be {words}" + (f", at most {longest} characters" if longest else "")


def _listed(choices: Sequence[str]) -> str:
    return choices[0] if len(choices) == 1 else f"{', '.join(choices[:-1])} or {choices[-1]}"


def _range(schema: Mapping[str, Any], low: str, high: str) -> str:
    if low in schema and high in schema:
        return f" from {schema[low]} to {schema[high]}"
    if low in schema:
        return f", at least {schema[low]}"
    return f", at most {schema[high]}" if high in schema else ""


def _count(schema: Mapping[str, Any], low: str, high: str) -> str:
    if high not in schema:
        return ""
    return (
        " of 1 item" if schema.get(low, 0) == schema[high] == 1 else f" of {schema.get(low, 0)} to {schema[high]} items"
    )
