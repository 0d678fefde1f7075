"""Durations as people write them in Kubernetes (GEP-2257), and as seconds in Python.

A duration without a unit is refused: ``interval: 100`` leaves open whether seconds or milliseconds
are meant, and either guess is wrong by a factor of a thousand for someone. Go's sub-millisecond
units, fractions and signs are no part of GEP-2257.
"""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

PATTERN: Final = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"
"""The whole grammar of GEP-2257."""
MAX_LENGTH: Final = 28
"""Characters of the longest duration: four times five digits and two letters."""
EXAMPLES: Final = "such as 200ms, 30s or 1h30m"

_WHOLE: Final = re.compile(PATTERN)
_PART: Final = re.compile(r"([0-9]+)(h|ms|m|s)")
_MILLISECONDS: Final = {"h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
_LARGEST_HOURS: Final = 99_999


def parse_duration(text: str) -> float:
    """Seconds of a GEP-2257 duration; raises ValueError for anything else."""
    if not _WHOLE.fullmatch(text) or text.endswith("\n"):
        raise ValueError(f"must be a duration with a unit, {EXAMPLES}")
    return sum(int(number) * _MILLISECONDS[unit] for number, unit in _PART.findall(text)) / 1000


def format_duration(seconds: float) -> str:
    """The canonical GEP-2257 string of ``seconds``, rounded to milliseconds: ``1h30m``, ``200ms``, ``0s``.

    Raises:
        ValueError: negative, or more than 99999 hours: GEP-2257 has no such durations.
    """
    left = round(seconds * 1000)
    if left < 0 or left >= (_LARGEST_HOURS + 1) * _MILLISECONDS["h"]:
        raise ValueError(f"{seconds} s cannot be written as a duration: 0 to {_LARGEST_HOURS} hours can")
    parts = []
    for unit, size in _MILLISECONDS.items():
        number, left = divmod(left, size)
        if number:
            parts.append(f"{number}{unit}")
    return "".join(parts) or "0s"


@dataclass(frozen=True, slots=True)
class DurationBounds:
    """The annotation that makes a ``float`` field a duration: seconds in Python, GEP-2257 outside.

    Python code may give seconds as a number; a file or the API server may only give a string.
    """

    minimum: float = 0.0
    """Seconds, inclusive."""
    maximum: float = _LARGEST_HOURS * 3600.0
    """Seconds, inclusive."""

    @property
    def allowed(self) -> str:
        """The bounds, to be read after "must be"."""
        return f"from {format_duration(self.minimum)} to {format_duration(self.maximum)}"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(
            self._validate, serialization=core_schema.plain_serializer_function_ser_schema(format_duration)
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        low, high = format_duration(self.minimum), format_duration(self.maximum)
        rule = {
            "rule": f"duration(self) >= duration('{low}') && duration(self) <= duration('{high}')",
            "message": f"must be {self.allowed}",
        }
        return {"type": "string", "pattern": PATTERN, "maxLength": MAX_LENGTH, "x-kubernetes-validations": [rule]}

    def _validate(self, value: object, info: core_schema.ValidationInfo) -> float:
        if isinstance(value, str):
            try:
                seconds = parse_duration(value)
            except ValueError as error:
                raise PydanticCustomError("duration", "{allowed}", {"allowed": str(error)}) from None
        elif info.mode == "python" and isinstance(value, (int, float)) and not isinstance(value, bool):
            seconds = float(value)
        else:
            problem = f"must be a duration with a unit, {EXAMPLES}"
            raise PydanticCustomError("duration", "{allowed}", {"allowed": problem})
        if not self.minimum <= seconds <= self.maximum:
            raise PydanticCustomError("duration", "{allowed}", {"allowed": f"must be {self.allowed}"})
        return seconds


Duration = Annotated[float, DurationBounds()]
"""A duration without bounds of its own, in seconds."""
