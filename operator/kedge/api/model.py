"""What all models of this package share: strictness, names, and rules that span fields.

A rule is written once, with its message, in both tongues: CEL for the API server and Python for
files. ``crd`` copies the first into the CRD, the validator here runs the second.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Annotated, Any, ClassVar, Final, Self, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    StringConstraints,
    model_validator,
)
from pydantic.alias_generators import to_camel, to_snake
from pydantic_core import CoreSchema, PydanticCustomError, core_schema


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a model that its fields' types cannot express.

    ``check`` is None for a rule about the change from the old object to the new: only the API server
    sees both.
    """

    cel: str
    message: str
    field: str = ""
    """The field to blame, in YAML names below the model: ``portRange.min``."""
    check: Callable[[Any], bool] | None = None
    """True when the model obeys."""


def yaml_name(name: str) -> str:
    """The name in YAML of a Python attribute: ``port_range`` is ``portRange``, ``from_`` is ``from``."""
    return to_camel(name.rstrip("_"))


class Model(BaseModel):
    """Frozen and strict; camelCase outside, snake_case inside; an unknown field is an error."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        alias_generator=yaml_name,
        validate_by_alias=True,
        validate_by_name=True,
        use_attribute_docstrings=True,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _obey_rules(self) -> Self:
        broken = [rule for rule in self.rules if rule.check is not None and not rule.check(self)]
        if broken:
            found = [(rule.field, rule.message) for rule in broken]
            raise PydanticCustomError(
                "rules", "{text}", {"broken": found, "text": "; ".join(rule.message for rule in broken)}
            )
        return self

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Self:
        """Read what a person wrote, by its YAML names; raises pydantic's ValidationError."""
        return cls.model_validate_json(json.dumps(data), by_alias=True, by_name=False)

    @classmethod
    def from_api(cls, data: Mapping[str, Any]) -> Self:
        """Read an object of the API server, which may know fields that are newer than this program."""
        return cls.model_validate_json(json.dumps(data), by_alias=True, by_name=False, extra="ignore")

    def dump(self) -> dict[str, Any]:
        """The model as JSON-ready data by its YAML names, without what is absent."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


@dataclass(frozen=True, slots=True)
class ListType:
    """The annotation of a tuple field: how many items, and what the API server calls its list type."""

    maximum: int
    minimum: int = 0
    key: str = ""
    """The YAML name of the field that tells items apart: a list of type ``map``. Else the list is replaced whole."""
    is_set: bool = False
    """Whether each item may be there only once: a list of type ``set``."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema: dict[str, Any] = dict(handler(source))
        schema |= {"min_length": self.minimum, "max_length": self.maximum}
        inner = cast(CoreSchema, schema)
        if not (self.key or self.is_set):
            return inner
        return core_schema.no_info_after_validator_function(self._all_distinct, inner)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        json_schema = handler(schema)
        json_schema["x-kubernetes-list-type"] = "map" if self.key else "set" if self.is_set else "atomic"
        if self.key:
            json_schema["x-kubernetes-list-map-keys"] = [self.key]
        if not self.minimum:
            json_schema.pop("minItems", None)
        return json_schema

    def _all_distinct(self, items: tuple[Any, ...]) -> tuple[Any, ...]:
        seen, broken = set(), []
        for index, item in enumerate(items):
            key = getattr(item, to_snake(self.key)) if self.key else item
            if key in seen:
                broken.append(
                    (str(index), f"there is another entry with that {self.key}" if self.key else "is there already")
                )
            seen.add(key)
        if broken:
            text = "; ".join(message for _, message in broken)
            raise PydanticCustomError("rules", "{text}", {"broken": broken, "text": text})
        return items


def _valid_ip(value: str) -> str:
    """``value`` if the API server's ``isIP`` takes it too: no zone, no IPv4 address in IPv6 clothes."""
    try:
        address = ip_address(value)
    except ValueError:
        address = None
    if address is None or "%" in value or getattr(address, "ipv4_mapped", None):
        raise PydanticCustomError("ip", "must be an IPv4 or IPv6 address")
    return value


IpAddress = Annotated[
    str,
    StringConstraints(min_length=2, max_length=45),
    AfterValidator(_valid_ip),
    Field(
        json_schema_extra={
            "x-kubernetes-validations": [{"rule": "isIP(self)", "message": "must be an IPv4 or IPv6 address"}]
        }
    ),
]
"""An IPv4 or IPv6 address, no name: a failover cannot wait for DNS."""

_DNS_LABEL: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
_DNS_NAME: Final = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$"
_LABEL_KEY: Final = r"^([-.a-zA-Z0-9]+/)?[a-zA-Z0-9]([-._a-zA-Z0-9]*[a-zA-Z0-9])?$"
_LABEL_VALUE: Final = r"^([a-zA-Z0-9]([-._a-zA-Z0-9]*[a-zA-Z0-9])?)?$"
PRINTABLE: Final = r"^[\x20-\x7e]*$"
RELAY_SET_KEY: Final = r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?/)?[a-z0-9]([-.a-z0-9]*[a-z0-9])?$"
IDENTIFIER: Final = r"^[a-zA-Z0-9]([-._a-zA-Z0-9]*[a-zA-Z0-9])?$"
QUANTITY: Final = r"^[0-9]+(\.[0-9]+)?(([KMGTPE]i)|[numkMGTPE]|([eE][+-]?[0-9]+))?$"

PATTERN_WORDS: Final = {
    _DNS_LABEL: "lower case letters, digits and inner hyphens",
    _DNS_NAME: "lower case letters, digits and inner hyphens and dots",
    _LABEL_KEY: "the name of a label or annotation, such as example.org/name",
    _LABEL_VALUE: "the value of a label: letters, digits and inner dots, hyphens and underscores",
    QUANTITY: "an amount such as 500m, 1 or 256Mi",
    PRINTABLE: "printable ASCII",
    RELAY_SET_KEY: "the name of a RelaySet: NAME, or NAMESPACE/NAME",
    IDENTIFIER: "a name of letters, digits and inner dots, hyphens and underscores",
}
"""Patterns in words, for errors; read after "must be"."""

DnsLabel = Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=_DNS_LABEL)]
"""An RFC 1123 label."""

DnsName = Annotated[str, StringConstraints(min_length=1, max_length=253, pattern=_DNS_NAME)]
"""The name of a Kubernetes object: RFC 1123 labels with dots between."""

Port = Annotated[int, Field(ge=1, le=65535)]
ListenPort = Annotated[int, Field(ge=0, le=65535)]
"""A port to listen on; 0 takes any free one."""
ShortText = Annotated[str, StringConstraints(max_length=256)]
LongText = Annotated[str, StringConstraints(max_length=4096)]
LabelKey = Annotated[str, StringConstraints(min_length=1, max_length=317, pattern=_LABEL_KEY)]
LabelValue = Annotated[str, StringConstraints(max_length=63, pattern=_LABEL_VALUE)]
