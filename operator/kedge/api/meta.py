"""The parts of Kubernetes' own API that the resources embed."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AwareDatetime, BeforeValidator, ConfigDict, Field, PlainSerializer, StringConstraints

from kedge.api.model import QUANTITY, DnsName, LabelKey, LabelValue, ListType, LongText, Model, Rule


def _rfc3339(value: datetime) -> str:
    text = value.astimezone(UTC).isoformat(timespec="milliseconds" if value.microsecond else "seconds")
    return text.replace("+00:00", "Z")


Timestamp = Annotated[AwareDatetime, PlainSerializer(_rfc3339, return_type=str)]
"""A point in time with its zone; RFC 3339 in UTC outside."""


class ObjectMeta(Model):
    """What Kedge reads of an object's metadata; the rest is left alone."""

    model_config = ConfigDict(extra="ignore")

    name: DnsName
    namespace: DnsName | None = None
    uid: str | None = None
    generation: int | None = None
    resource_version: str | None = None
    creation_timestamp: Timestamp | None = None
    deletion_timestamp: Timestamp | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)


class ConditionStatus(StrEnum):
    """Whether a condition holds."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(Model):
    """One fact about the object, as Kubernetes words it (metav1.Condition)."""

    type: Annotated[str, StringConstraints(min_length=1, max_length=316)]
    """What the condition is about, in CamelCase."""
    status: ConditionStatus
    """Whether it holds."""
    reason: Annotated[
        str, StringConstraints(min_length=1, max_length=1024, pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")
    ]
    """Why, in one CamelCase word for programs."""
    message: LongText = ""
    """Why, in plain words for people."""
    observed_generation: Annotated[int, Field(ge=0)] | None = None
    """The generation of the object that this was said of."""
    last_transition_time: Timestamp
    """When the status changed last."""


Conditions = Annotated[
    tuple[Condition, ...],
    ListType(16, key="type"),
]


class SelectorOperator(StrEnum):
    """How a label is compared."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class SelectorRequirement(Model):
    """One comparison of a label selector."""

    rules = (
        Rule(
            cel="(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)",
            message="values belong to In and NotIn, and are needed there",
            field="values",
            check=lambda self: (self.operator in ("In", "NotIn")) == bool(self.values),
        ),
    )

    key: LabelKey
    """The label."""
    operator: SelectorOperator
    """In, NotIn, Exists or DoesNotExist."""
    values: Annotated[tuple[LabelValue, ...], ListType(32)] = ()
    """The values for In and NotIn."""


class LabelSelector(Model):
    """Objects by their labels; all that is given must match."""

    rules = (
        Rule(
            cel="(has(self.matchLabels) && size(self.matchLabels) > 0)"
            " || (has(self.matchExpressions) && size(self.matchExpressions) > 0)",
            message="needs matchLabels or matchExpressions: an empty selector would take every pod",
            check=lambda self: bool(self.match_labels or self.match_expressions),
        ),
    )

    match_labels: Annotated[dict[LabelKey, LabelValue], Field(max_length=32)] = Field(default_factory=dict)
    """Labels and their values."""
    match_expressions: Annotated[tuple[SelectorRequirement, ...], ListType(32)] = ()
    """Comparisons of labels."""

    def __str__(self) -> str:
        """The selector as ``kubectl --selector`` and the API server's ``labelSelector`` take it."""
        terms = [f"{key}={value}" for key, value in self.match_labels.items()]
        for one in self.match_expressions:
            words = {"In": "in", "NotIn": "notin"}
            if one.operator in words:
                terms.append(f"{one.key} {words[one.operator]} ({','.join(one.values)})")
            else:
                terms.append(one.key if one.operator == SelectorOperator.EXISTS else f"!{one.key}")
        return ",".join(terms)


def _quantity_text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Quantity = Annotated[
    str,
    StringConstraints(max_length=64, pattern=QUANTITY),
    BeforeValidator(_quantity_text),
    Field(json_schema_extra={"x-kubernetes-int-or-string": True}),
]
"""An amount of a resource: ``500m``, ``1``, ``256Mi``."""


class Resources(Model):
    """What the relay's container asks of its node."""

    requests: Annotated[dict[LabelKey, Quantity], Field(max_length=16)] = Field(default_factory=dict)
    """What is set aside for it."""
    limits: Annotated[dict[LabelKey, Quantity], Field(max_length=16)] = Field(default_factory=dict)
    """What it may use at most. A CPU limit throttles media: better none."""


class TolerationOperator(StrEnum):
    """How a taint is compared."""

    EXISTS = "Exists"
    EQUAL = "Equal"


class TaintEffect(StrEnum):
    """What a taint does to pods that do not tolerate it."""

    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


class Toleration(Model):
    """A taint of nodes that relay pods bear."""

    key: LabelKey | None = None
    """The taint's key; all keys when left out."""
    operator: TolerationOperator | None = None
    """Exists or Equal."""
    value: LabelValue | None = None
    """The taint's value, for Equal."""
    effect: TaintEffect | None = None
    """The taint's effect; all effects when left out."""
    toleration_seconds: Annotated[int, Field(ge=0, le=86400)] | None = None
    """Seconds for which NoExecute is borne; for ever when left out."""


class WhenUnsatisfiable(StrEnum):
    """What the scheduler does when pods cannot be spread as wanted."""

    DO_NOT_SCHEDULE = "DoNotSchedule"
    SCHEDULE_ANYWAY = "ScheduleAnyway"


class TopologySpreadConstraint(Model):
    """How relay pods are spread over nodes or zones."""

    max_skew: Annotated[int, Field(ge=1, le=1000)] = 1
    """By how many pods two domains may differ."""
    topology_key: LabelKey
    """The node label that makes a domain, such as topology.kubernetes.io/zone."""
    when_unsatisfiable: WhenUnsatisfiable = WhenUnsatisfiable.SCHEDULE_ANYWAY
    """DoNotSchedule or ScheduleAnyway."""
