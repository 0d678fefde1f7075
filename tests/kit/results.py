"""What the phones saw: plain data, the same from a farm here and from a phone process. Times are monotonic."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which ``share`` of the values lie (nearest rank); 0 for none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


@dataclass(slots=True)
class ReInvite:
    """One re-INVITE that a phone received; retransmissions are absorbed before."""

    received_at: float
    status: int = 0
    """Final response; 0 when there was none (yet)."""
    answered_at: float = 0.0
    acked_at: float = 0.0
    """0 until the ACK came."""


@dataclass(slots=True, kw_only=True)
class LegReport:
    """One phone of one call."""

    side: str
    """``caller`` or ``callee``."""
    state: str
    """``calling``, ``ringing``, ``talking``, ``ended`` or ``failed`` (never answered)."""
    status: int = 0
    """Final response to the INVITE, 0 without one."""
    answered_at: float = 0.0
    ended_at: float = 0.0
    ended_by: str = ""
    """``local``, ``remote`` or ``timeout``; empty while the call lives."""
    end_reason: str = ""
    """Reason header of the BYE or CANCEL that ended it."""
    refused: list[str] = field(default_factory=list)
    """Final responses of 300 and above that this phone received: ``503 INVITE``."""
    timeouts: list[str] = field(default_factory=list)
    """Methods of own requests that nobody answered."""
    reinvites: list[ReInvite] = field(default_factory=list)
    updates: int = 0
    """UPDATE requests received."""
    repeats_in: int = 0
    """Retransmissions received."""
    repeats_out: int = 0
    """Retransmissions sent."""
    rtp: bool = False
    encrypted: bool = False
    """Whether it speaks SRTP now."""
    sent: int = 0
    received: int = 0
    lost: int = 0
    """Packets that are missing by their sequence numbers."""
    foreign: int = 0
    """RTP packets that came from anyone but the phone at the other end, or as something else than it has sent."""
    first_received: float = 0.0
    last_received: float = 0.0
    gap: float = 0.0
    """Longest silence in seconds that ended in the window of the report, or lasts."""
    gap_from: float = 0.0
    gap_until: float = 0.0
    direction: str = "sendrecv"
    """Of the media, as this phone sees it."""
    local_rtp: str = ""
    remote_rtp: str = ""
    version: int = 0
    """Raised with each own description that differs from the one before."""

    @classmethod
    def from_dict(cls, values: dict[str, object]) -> "LegReport":
        """Make a report from what ``dataclasses.asdict`` and JSON made of one."""
        reinvites = values.pop("reinvites", [])
        assert isinstance(reinvites, list)
        return cls(reinvites=[ReInvite(**each) for each in reinvites], **values)  # type: ignore[arg-type]


@dataclass(slots=True, kw_only=True)
class CallReport:
    """One call: its caller, and its callee when the INVITE got there."""

    number: int
    caller: LegReport
    callee: LegReport | None = None

    @property
    def legs(self) -> list[LegReport]:
        """The phones of the call that are known."""
        return [self.caller] if self.callee is None else [self.caller, self.callee]

    @property
    def talking(self) -> bool:
        """Both phones are in the call."""
        return self.callee is not None and self.caller.state == self.callee.state == "talking"

    @property
    def relay(self) -> str:
        """The address that the caller sends its audio to, without port."""
        return self.caller.remote_rtp.partition(":")[0]

    def audio_after(self, instant: float) -> bool:
        """Both phones have received audio of each other after ``instant``."""
        return self.callee is not None and all(leg.last_received > instant for leg in self.legs)


@dataclass(slots=True, kw_only=True)
class FarmReport:
    """All calls that the farm still knows, and counts of all that it ever had."""

    at: float
    """When the report was made."""
    since: float
    """Start of the window that gaps are measured in."""
    calls: list[CallReport]
    strangers: list[LegReport] = field(default_factory=list)
    """Callees of calls that were not placed here."""
    placed: int = 0
    answered: int = 0
    failed: int = 0
    """Calls that were never answered."""
    finished: int = 0
    """Answered calls that have ended at the caller."""
    lost: int = 0
    """Answered calls that did not end by the phones' own wish: by the other side or a time-out."""
    repeats_in: int = 0
    repeats_out: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    """Final responses of 300 and above that phones received, by status and method."""
    unreadable: int = 0
    send_late: float = 0.0
    """How late the phones sent a packet at most since their start, in seconds: their own share in the gaps."""
    cpu_seconds: float = 0.0
    """CPU time of the process that plays the phones, since its start."""

    @classmethod
    def from_dict(cls, values: dict[str, object]) -> "FarmReport":
        """Make a report from what ``dataclasses.asdict`` and JSON made of one."""
        calls = values.pop("calls")
        assert isinstance(calls, list)
        made = [
            CallReport(
                number=call["number"],
                caller=LegReport.from_dict(call["caller"]),
                callee=LegReport.from_dict(call["callee"]) if call["callee"] else None,
            )
            for call in calls
        ]
        strangers = values.pop("strangers", [])
        assert isinstance(strangers, list)
        made_strangers = [LegReport.from_dict(each) for each in strangers]
        return cls(calls=made, strangers=made_strangers, **values)  # type: ignore[arg-type]

    def legs(self) -> Iterator[LegReport]:
        """Iterate over all phones."""
        for call in self.calls:
            yield from call.legs

    def gaps(self) -> list[float]:
        """Return the longest silence of each phone with RTP, in seconds: two for a call, one for a direction."""
        return [leg.gap for leg in self.legs() if leg.rtp]

    def reinvites(self) -> list[ReInvite]:
        """Return the re-INVITEs of all phones that arrived in the window."""
        return [each for leg in self.legs() for each in leg.reinvites if each.received_at >= self.since]

    def talking(self) -> int:
        """Count calls in which both phones are."""
        return sum(call.talking for call in self.calls)

    def audible_after(self, instant: float) -> int:
        """Count calls with audio in both directions after ``instant``."""
        return sum(call.audio_after(instant) for call in self.calls)


def plain(value: object) -> object:
    """Turn a report into what JSON can say; much faster than ``dataclasses.asdict``: phones go on meanwhile."""
    if isinstance(value, list):
        return [plain(each) for each in value]
    names = getattr(type(value), "__slots__", None)
    if names is None:
        return value
    return {name: plain(getattr(value, name)) for name in names}
