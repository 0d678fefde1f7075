"""Which caller scenario goes with which callee scenario, directly or through a B2BUA."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

SCENARIOS = Path(__file__).parent / "scenarios"


@dataclass(frozen=True, slots=True)
class Case:
    """One conversation."""

    caller: str
    callee: str
    values: Mapping[str, str] = field(default_factory=dict)
    direct: bool = True
    """It also makes sense between the two without anyone in the middle."""

    def __str__(self) -> str:
        """Name the case in a test's id."""
        return "-".join([self.caller, self.callee, *self.values.values()])

    @property
    def caller_file(self) -> Path:
        """The caller's scenario."""
        return SCENARIOS / f"caller-{self.caller}.xml"

    @property
    def callee_file(self) -> Path:
        """The callee's scenario."""
        return SCENARIOS / f"callee-{self.callee}.xml"


CALLS = (
    Case("basic", "basic"),
    Case("hung-up", "hangs-up"),
    Case("lossy", "basic"),
    Case("early-media", "early-media"),
    Case("cancel", "cancelled"),
    Case("late-offer", "late-offer"),
    Case("basic", "record-route"),
    Case("redirected", "redirects"),
    *(Case("refused", "refuses", {"status": status}) for status in ("404", "486", "600", "603")),
)
"""Calls set up, refused and ended."""

LOSSES = (
    Case("repeated-invite", "rings"),
    Case("lost-ack", "basic"),
    Case("basic", "lost-ack"),
    Case("basic", "lost-invite"),
    Case("basic", "lost-bye-response"),
    Case("repeated-bye", "basic", direct=False),
    Case("basic", "repeats", direct=False),
    Case("lost-refusal-ack", "refuses", {"status": "486"}),
)
"""Datagrams lost and repeated."""

IN_DIALOG = (
    Case("hold", "held"),
    Case("held", "holds"),
    Case("update", "updated"),
    Case("updated", "updates"),
    Case("info", "informed"),
    Case("glare", "holds-once", direct=False),
    Case("unknown-method", "basic", direct=False),
    Case("low-cseq", "informed", direct=False),
)
"""Requests within a dialog."""

ALL = CALLS + LOSSES + IN_DIALOG
