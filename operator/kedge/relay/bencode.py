"""Bencoding, as the ng protocol of rtpengine uses it: integers, byte strings, lists and dictionaries.

Encoding is canonical (sorted keys). Decoding is strict in form and bounded in size and depth, as a reply comes from
the network; it does not insist on sorted keys, since rtpengine does not sort them, and of a repeated key the last one
counts.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from kedge.base.errors import KedgeError

Value: TypeAlias = "int | bytes | list[Any] | dict[bytes, Any]"
"""What bencoding can say; lists and dictionaries hold values again."""

MAX_SIZE: Final = 1 << 20
"""Longest text that is decoded, in bytes: sixteen times what a UDP datagram holds."""
MAX_DEPTH: Final = 32
"""Deepest nesting; rtpengine's deepest reply (``statistics``) has about eight levels."""
_MAX_DIGITS: Final = 20
"""Digits of an integer or a length: enough for 64 bits."""

_I: Final = ord("i")
_L: Final = ord("l")
_D: Final = ord("d")
_E: Final = ord("e")


class BencodeError(KedgeError):
    """What was to be decoded is not bencoding, or what was to be encoded cannot be said in it."""


def encode(value: Value) -> bytes:
    """Return the canonical form of ``value``.

    Raises:
        BencodeError: it holds something else than integers, bytes, lists, tuples and dictionaries with bytes as keys.
    """
    parts: list[bytes] = []
    _encode(value, parts)
    return b"".join(parts)


def _encode(value: Any, parts: list[bytes]) -> None:
    if isinstance(value, bytes):
        parts.append(b"%d:%b" % (len(value), value))
    elif isinstance(value, bool):
        raise BencodeError("there are no booleans in bencoding")
    elif isinstance(value, int):
        parts.append(b"i%de" % value)
    elif isinstance(value, dict):
        parts.append(b"d")
        for key in _sorted_keys(value):
            parts.append(b"%d:%b" % (len(key), key))
            _encode(value[key], parts)
        parts.append(b"e")
    elif isinstance(value, list | tuple):
        parts.append(b"l")
        for item in value:
            _encode(item, parts)
        parts.append(b"e")
    else:
        raise BencodeError(f"bencoding has no form for {type(value).__name__}")


def _sorted_keys(value: dict[Any, Any]) -> list[bytes]:
    for key in value:
        if not isinstance(key, bytes):
            raise BencodeError(f"a key must be bytes, not {type(key).__name__}")
    return sorted(value)


def decode(data: bytes, start: int = 0) -> Value:
    """Return the one value that ``data`` holds from offset ``start`` to its end.

    Raises:
        BencodeError: the text is malformed, too long or too deeply nested, or something follows the value.
    """
    if len(data) - start > MAX_SIZE:
        raise BencodeError(f"{len(data) - start} bytes are more than {MAX_SIZE}")
    value, end = _decode(data, start, MAX_DEPTH)
    if end != len(data):
        raise BencodeError(f"{len(data) - end} bytes follow the value that ends at {end}")
    return value


def decode_dict(data: bytes, start: int = 0) -> dict[bytes, Any]:
    """Like ``decode``, for a text that must be a dictionary, as every ng message is.

    Raises:
        BencodeError: as ``decode``, or it is another kind of value.
    """
    value = decode(data, start)
    if not isinstance(value, dict):
        raise BencodeError(f"a dictionary is expected, not {type(value).__name__}")
    return value


def _decode(data: bytes, at: int, depth: int) -> tuple[Value, int]:
    """Decode the value at ``at``; return it and the offset behind it."""
    if at >= len(data):
        raise BencodeError(f"the text ends at {at} where a value should be")
    kind = data[at]
    if 0x30 <= kind <= 0x39:
        return _string(data, at)
    if kind == _I:
        return _integer(data, at + 1)
    if depth == 0:
        raise BencodeError(f"nested deeper than {MAX_DEPTH} at {at}")
    if kind == _L:
        return _list(data, at + 1, depth - 1)
    if kind == _D:
        return _dict(data, at + 1, depth - 1)
    raise BencodeError(f"no value starts with {data[at : at + 1]!r} at {at}")


def _string(data: bytes, at: int) -> tuple[bytes, int]:
    colon = data.find(b":", at, at + _MAX_DIGITS + 1)
    digits = data[at:colon]
    if colon < 0 or not digits.isdigit() or (digits[0] == 0x30 and len(digits) > 1):
        raise BencodeError(f"no length of a string at {at}")
    end = colon + 1 + int(digits)
    if end > len(data):
        raise BencodeError(f"the string at {at} is cut off")
    return data[colon + 1 : end], end


def _integer(data: bytes, at: int) -> tuple[int, int]:
    end = data.find(b"e", at, at + _MAX_DIGITS + 2)
    text = data[at:end]
    digits = text[1:] if text[:1] == b"-" else text
    if end < 0 or not digits.isdigit() or (digits[0] == 0x30 and len(text) > 1):
        raise BencodeError(f"no integer at {at}")
    return int(text), end + 1


def _list(data: bytes, at: int, depth: int) -> tuple[list[Any], int]:
    items: list[Any] = []
    while at < len(data) and data[at] != _E:
        item, at = _decode(data, at, depth)
        items.append(item)
    if at >= len(data):
        raise BencodeError("a list has no end")
    return items, at + 1


def _dict(data: bytes, at: int, depth: int) -> tuple[dict[bytes, Any], int]:
    items: dict[bytes, Any] = {}
    while at < len(data) and data[at] != _E:
        key, at = _string(data, at)
        items[key], at = _decode(data, at, depth)
    if at >= len(data):
        raise BencodeError("a dictionary has no end")
    return items, at + 1
