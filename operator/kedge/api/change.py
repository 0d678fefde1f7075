"""When a changed setting takes effect: in a process that runs, or at its next start. Marked at the models' fields.

A mark holds for all below its field, unless a field there has one of its own. What the process does with a new file,
what the documents say of each field, and when the chart rolls pods, all follow from these marks.
"""

from collections.abc import Container, Iterator
from enum import Enum, unique
from typing import Any, Final, TypeVar, get_args, get_origin

from pydantic.fields import FieldInfo

from kedge.api.model import Model, yaml_name

_Model = TypeVar("_Model", bound=Model)


@unique
class Change(Enum):
    """When a changed value takes effect."""

    LIVE = "at once"
    RESTART = "after a restart"
    OPERATOR = "after a restart of the operator"
    """No signaling process reads it, so that none need lose its calls for it."""


LIVE: Final = Change.LIVE
RESTART: Final = Change.RESTART
OPERATOR: Final = Change.OPERATOR


def marks(model: type[Model], path: str = "", above: Change | None = None) -> Iterator[tuple[str, Change | None]]:
    """Give each field of a model and of those in it, with what is marked; None for one that nobody has marked.

    Paths are in YAML names, with ``[]`` behind a list of objects: ``peers[].name``. A part of which some fields change
    live and others do not is left out; its fields are there.
    """
    for name, field in model.model_fields.items():
        change = _mark(field) or above
        below, brackets = _model_in(field.annotation)
        here = f"{path}{yaml_name(name)}"
        if change is not None or below is None:
            yield here, change
        if below is not None:
            yield from marks(below, f"{here}{brackets}.", change)


def differences(one: Model, other: Model, path: str = "") -> Iterator[str]:
    """Give the path of each field whose values differ; a list is one field."""
    for name in type(one).model_fields:
        here, first, second = f"{path}{yaml_name(name)}", getattr(one, name), getattr(other, name)
        if isinstance(first, Model) and isinstance(second, Model):
            yield from differences(first, second, f"{here}.")
        elif first != second:
            yield here


def as_far_as(running: _Model, wanted: _Model, waits: Container[Change | None], above: Change | None = None) -> _Model:
    """Return ``wanted`` as far as a process that runs can have it: fields with a mark of ``waits`` stay as they are."""
    kept: dict[str, Any] = {}
    for name, field in type(running).model_fields.items():
        old, new = getattr(running, name), getattr(wanted, name)
        change = _mark(field) or above
        if isinstance(old, Model) and isinstance(new, Model):
            kept[name] = as_far_as(old, new, waits, change)
        elif change in waits:
            kept[name] = old
    return wanted.model_copy(update=kept)


def _mark(field: FieldInfo) -> Change | None:
    return next((one for one in field.metadata if isinstance(one, Change)), None)


def _model_in(annotation: Any) -> tuple[type[Model] | None, str]:
    """Return the model that a field holds, with ``[]`` if it holds a list of them."""
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return annotation, ""
    for one in get_args(annotation):
        found, brackets = _model_in(one)
        if found is not None:
            return found, "[]" if get_origin(annotation) is tuple else brackets
    return None, ""
