"""Snapshots as JSON and back: what the admin API serves and the operator's view reads.

Only what the records are made of: frozen dataclasses, enums, tuples, optional fields, string maps and scalars. An
unknown field is skipped, so that replicas of two versions understand each other while they are being replaced.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from kedge.base.errors import KedgeError

T = TypeVar("T")


class CodecError(KedgeError):
    """The data does not fit the type: the sender's fault."""


def to_json(value: Any) -> Any:
    """Return JSON-ready data of a record."""
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (tuple, list)):
        return [to_json(one) for one in value]
    if isinstance(value, dict):
        return {key: to_json(one) for key, one in value.items()}
    kind: Any = type(value)
    return {name: to_json(getattr(value, name)) for name in _field_names(kind)}


def from_json(kind: type[T], data: Any) -> T:
    """Return the record of type ``kind`` that ``data`` holds.

    Raises:
        CodecError: a field is missing or of the wrong type; the message names it.
    """
    any_kind: Any = kind
    result: T = _decoder(any_kind)(data, kind.__name__)
    return result


_Decode = Callable[[Any, str], Any]


@cache
def _field_names(kind: type) -> tuple[str, ...]:
    return tuple(one.name for one in fields(kind))


@cache
def _decoder(kind: Any) -> _Decode:
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _optional(next(one for one in args if one is not type(None)))
    if origin is tuple:
        return _sequence(args[0])
    if origin is dict:
        return _mapping(args[1])
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _enum(kind)
    if is_dataclass(kind):
        return _record(kind)
    return _scalar(kind)


def _optional(inner: Any) -> _Decode:
    decode = _decoder(inner)
    return lambda data, where: None if data is None else decode(data, where)


def _sequence(inner: Any) -> _Decode:
    decode = _decoder(inner)

    def sequence(data: Any, where: str) -> Any:
        if not isinstance(data, list):
            raise CodecError(f"{where} must be a list")
        return tuple(decode(one, f"{where}[{index}]") for index, one in enumerate(data))

    return sequence


def _mapping(inner: Any) -> _Decode:
    decode = _decoder(inner)

    def mapping(data: Any, where: str) -> Any:
        if not isinstance(data, dict):
            raise CodecError(f"{where} must be an object")
        return {str(key): decode(one, f"{where}.{key}") for key, one in data.items()}

    return mapping


def _enum(kind: type[Enum]) -> _Decode:
    def enum(data: Any, where: str) -> Any:
        try:
            return kind(data)
        except ValueError:
            raise CodecError(f"{where} must be one of {', '.join(str(one.value) for one in kind)}") from None

    return enum


def _scalar(kind: type) -> _Decode:
    allowed = (int, float) if kind is float else (kind,)

    def scalar(data: Any, where: str) -> Any:
        if not isinstance(data, allowed) or (isinstance(data, bool) and kind is not bool):
            raise CodecError(f"{where} must be of type {kind.__name__}")
        return data

    return scalar


def _record(kind: Any) -> _Decode:
    hints = get_type_hints(kind)
    parts = [
        (one.name, _decoder(hints[one.name]), one.default is MISSING and one.default_factory is MISSING)
        for one in fields(kind)
    ]

    def record(data: Any, where: str) -> Any:
        if not isinstance(data, dict):
            raise CodecError(f"{where} must be an object")
        values = {}
        for name, decode, needed in parts:
            if name in data:
                values[name] = decode(data[name], f"{where}.{name}")
            elif needed:
                raise CodecError(f"{where}.{name} is missing")
        return kind(**values)

    return record
