"""Reads manifests and settings from YAML, with errors that name file, line and field.

YAML is read as kubectl reads it (YAML 1.1, timestamps stay text), save that a key given twice is
an error: the second would silently win, and the first is the one that the author looks at.

In settings, ``${NAME}`` in a value stands for an environment variable: what a pod only knows when it runs, such as its
address, reaches the one settings file of all replicas that way.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml
from pydantic import ValidationError

from kedge.api.call import Call
from kedge.api.errors import Location, ManifestError, Problem, did_you_mean, problems_of, refusal
from kedge.api.model import Model
from kedge.api.names import API_VERSION
from kedge.api.relayset import Engine, RelaySet
from kedge.api.settings import Settings

Manifest = RelaySet | Call
_Model = TypeVar("_Model", bound=Model)

_KINDS: Final[dict[str, type[RelaySet] | type[Call]]] = {"RelaySet": RelaySet, "Call": Call}
_SWITCHED_OFF: Final = frozenset({"admin", "metrics"})
"""Parts of the settings that null turns off."""
_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_MERGE_TAG: Final = "tag:yaml.org,2002:merge"


@dataclass(frozen=True, slots=True)
class _Document:
    data: Any
    lines: dict[Location, int]
    """The line of each value's key, from 1."""


class _Loader(yaml.SafeLoader):
    """YAML's safe subset, without timestamps: they stay strings, as in JSON."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load_manifests(source: str | Path, *, name: str = "") -> list[Manifest]:
    """The RelaySets and Calls of a file (a Path) or of YAML text (a str), in order.

    Args:
        source: The file, or the text itself.
        name: What errors call the source; the file's name when empty.

    Raises:
        ManifestError: Anything is wrong in any document; all of it is told at once.
        OSError: The file cannot be read.
    """
    text, name = _read(source, name)
    found: list[Manifest] = []
    problems: list[Problem] = []
    for document in _documents(text, name):
        try:
            found.append(_manifest(document, name))
        except ManifestError as error:
            problems += error.problems
    problems += _repeated(found, name)
    if problems:
        raise ManifestError(problems)
    return found


def load_settings(source: str | Path, *, name: str = "", environment: Mapping[str, str] | None = None) -> Settings:
    """The settings of a file (a Path) or of YAML text (a str); an empty one gives the defaults.

    Args:
        source: The file, or the text itself.
        name: What errors call the source; the file's name when empty.
        environment: What ``${NAME}`` in a value stands for; the process's own when left out.

    Raises:
        ManifestError: Anything is wrong with it, a variable that is not set too; all of it is told at once.
        OSError: The file cannot be read.
    """
    text, name = _read(source, name)
    documents = _documents(text, name) or [_Document({}, {})]
    if len(documents) > 1:
        raise ManifestError([refusal((), "settings are one YAML document", source=name)])
    document = _expanded(documents[0], os.environ if environment is None else environment, name)
    return _validated(Settings, _Document(_without_nulls(document.data, keep=_SWITCHED_OFF), document.lines), name)


def check_together(settings: Settings, relay_sets: Iterable[RelaySet], *, name: str = "") -> list[Problem]:
    """What is wrong between settings and RelaySets: routes that name a RelaySet that is not there.

    A route names a RelaySet as ``NAME``, or ``NAMESPACE/NAME``.
    """
    known = set()
    for one in relay_sets:
        known |= {one.metadata.name, f"{one.metadata.namespace or 'default'}/{one.metadata.name}"}
    return [
        refusal(
            ("routes", number, "relaySet"),
            f"must be a RelaySet that exists; {did_you_mean(route.relay_set, sorted(known))}",
            value=route.relay_set,
            source=name,
        )
        for number, route in enumerate(settings.routes)
        if route.relay_set not in known
    ]


def unserved(relay_set: RelaySet, source: str = "") -> list[Problem]:
    """What a RelaySet, good in itself, asks for that this version does not do."""
    engine = relay_set.spec.engine
    if engine is Engine.RTPENGINE:
        return []
    place = f"{source}: RelaySet {relay_set.metadata.name}" if source else ""
    return [refusal(("spec", "engine"), "only RTPEngine is supported so far", value=engine.value, source=place)]


def _read(source: str | Path, name: str) -> tuple[str, str]:
    if isinstance(source, str):
        return source, name
    try:
        return source.read_text(encoding="utf-8-sig"), name or str(source)
    except UnicodeDecodeError as error:
        raise ManifestError([refusal((), f"must be UTF-8 text: {error.reason}", source=name or str(source))]) from None


def _manifest(document: _Document, name: str) -> Manifest:
    data = document.data
    if not isinstance(data, dict):
        raise ManifestError([refusal((), "must be a RelaySet or a Call", value=data, source=name)])
    kind = data.get("kind")
    problems = []
    if not isinstance(kind, str) or kind not in _KINDS:
        hint = f"must be {' or '.join(_KINDS)}"
        problems.append(_refusal_of(document, "kind", hint, name))
    if data.get("apiVersion") != API_VERSION:
        problems.append(_refusal_of(document, "apiVersion", f"must be {API_VERSION}", name))
    if problems:
        raise ManifestError(problems)
    return _validated(_KINDS[str(kind)], _Document(_without_nulls(data), document.lines), name)


def _expanded(document: _Document, environment: Mapping[str, str], name: str) -> _Document:
    """``document`` with ``${NAME}`` replaced in its values; names of fields stay as they are."""
    problems: list[Problem] = []

    def expand(data: Any, location: Location) -> Any:
        if isinstance(data, dict):
            return {key: expand(value, (*location, key)) for key, value in data.items()}
        if isinstance(data, list):
            return [expand(value, (*location, index)) for index, value in enumerate(data)]
        if not isinstance(data, str):
            return data
        for variable in _VARIABLE.findall(data):
            if variable not in environment:
                hint = f"the environment variable {variable} is not set"
                line = document.lines.get(location, 0)
                problems.append(refusal(location, hint, value=data, source=name, line=line))
        return _VARIABLE.sub(lambda found: environment.get(found[1], found[0]), data)

    data = expand(document.data, ())
    if problems:
        raise ManifestError(problems)
    return _Document(data, document.lines)


def _refusal_of(document: _Document, field: str, allowed: str, name: str) -> Problem:
    line = document.lines.get((field,), document.lines.get((), 0))
    if field not in document.data:
        return refusal((field,), f"is missing: {allowed}", source=name, line=line)
    return refusal((field,), allowed, value=document.data[field], source=name, line=line)


def _without_nulls(data: Any, *, keep: frozenset[str] = frozenset()) -> Any:
    """``data`` without fields that are null, as the API server takes it: ``health:`` with nothing below is left out.

    Args:
        data: What was read.
        keep: Fields of the outermost mapping for which null means something.
    """
    if isinstance(data, list):
        return [_without_nulls(one) for one in data]
    if not isinstance(data, dict):
        return data
    return {key: _without_nulls(value) for key, value in data.items() if value is not None or key in keep}


def _validated(model: type[_Model], document: _Document, name: str) -> _Model:
    try:
        return model.parse(document.data)
    except ValidationError as error:
        raise ManifestError(problems_of(error, model, document.data, source=name, lines=document.lines)) from None


def _repeated(manifests: Sequence[Manifest], name: str) -> Iterator[Problem]:
    seen = set()
    for one in manifests:
        key = (one.kind, one.metadata.namespace or "default", one.metadata.name)
        if key in seen:
            yield refusal(("metadata", "name"), f"there is another {one.kind} of that name", value=key[2], source=name)
        seen.add(key)


def _documents(text: str, name: str) -> list[_Document]:
    """The documents of ``text``; empty ones are left out."""
    loader = _Loader(text)
    found = []
    try:
        while loader.check_node():
            node = loader.get_node()
            assert node is not None, "check_node says that there is one"
            lines: dict[Location, int] = {(): node.start_mark.line + 1}
            problems = list(_unfit(node, (), (), lines, name))
            if problems:
                raise ManifestError(problems)
            data = loader.construct_document(node)
            if data is not None:
                found.append(_Document(data, lines))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise ManifestError([refusal((), f"is not YAML: {error.problem}", source=name, line=line)]) from None
    except (yaml.YAMLError, ValueError) as error:
        raise ManifestError([refusal((), f"is not YAML: {error}", source=name)]) from None
    except RecursionError:
        raise ManifestError([refusal((), "is nested too deeply", source=name)]) from None
    finally:
        loader.dispose()
    return found


_PLAIN_TAGS: Final = frozenset(
    f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null", "merge", "value")
)


def _unfit(
    node: yaml.Node, location: Location, above: tuple[int, ...], lines: dict[Location, int], name: str
) -> Iterator[Problem]:
    """What JSON could not say: keys given twice, keys that are no strings, tags, an alias to what holds it.

    On the way, the line of each value is put into ``lines``.
    """
    line = node.start_mark.line + 1
    if id(node) in above:
        yield refusal(location, "must not hold itself", source=name, line=line)
        return
    if node.tag not in _PLAIN_TAGS:
        yield refusal(location, f"the tag {node.tag} is not allowed", source=name, line=line)
        return
    above = (*above, id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[*location, index] = item.start_mark.line + 1
            yield from _unfit(item, (*location, index), above, lines, name)
    elif isinstance(node, yaml.MappingNode):
        yield from _unfit_mapping(node, location, above, lines, name)


def _unfit_mapping(
    node: yaml.MappingNode, location: Location, above: tuple[int, ...], lines: dict[Location, int], name: str
) -> Iterator[Problem]:
    seen: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if key.tag == _MERGE_TAG:
            yield from _unfit(value, location, above, {}, name)
            continue
        if key.tag != "tag:yaml.org,2002:str":
            yield refusal(location, "names must be strings: put it in quotes", value=key.value, source=name, line=line)
            continue
        below = (*location, str(key.value))
        if key.value in seen:
            yield refusal(below, f"is given twice, first in line {seen[key.value]}", source=name, line=line)
        seen[key.value] = lines[below] = line
        yield from _unfit(value, below, above, lines, name)
