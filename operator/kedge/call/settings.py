"""Settings of the call layer: one frozen value, read anew by each call and replaced as a whole on a reload."""

from __future__ import annotations

from dataclasses import dataclass

from kedge.base.address import Address


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSettings:
    """What the B2BUA needs to know of its place and its limits."""

    address: Address = ("127.0.0.1", 5060)
    """What stands in Via, Contact and ``o=``: where the other side reaches us."""
    user_agent: str = "Kedge"
    """Who we say that we are, in requests and responses that are no party's; empty for nobody."""
    max_forwards: int = 70
    """Of an INVITE that came without Max-Forwards (RFC 3261 section 16.6)."""
    zone: str = ""
    """The zone of calls neither of whose peers names one."""
    max_calls: int = 20000
    """Calls at the same time; a further one is answered 503."""
    drop_strangers: bool = False
    """Whether requests from sources that no peer covers are dropped in silence, instead of refused with 403."""
    refuse_for: float = 10.0
    """Seconds: Retry-After of a 503 that is owed to a limit."""
    answer_timeout: float = 4.0
    """Seconds without any response to a re-INVITE of ours, after which the party counts as not answering."""
    final_timeout: float = 20.0
    """Seconds from a provisional response to a re-INVITE of ours until the party counts as not answering."""
    ring_timeout: float = 180.0
    """Seconds from the INVITE until an unanswered call is given up with 408 (RFC 3261 section 16.6, Timer C)."""
    busy_timeout: float = 2.0
    """Seconds that a phone's re-INVITE waits for one of ours on the other leg, before it is answered 491."""
    retry_after: float = 2.0
    """Seconds before a refused re-INVITE (500, 503, 504 without Retry-After) is tried again; doubled each time."""
    max_retry_after: float = 10.0
    """Seconds: longest wait that a Retry-After can ask for."""
    linger: float = 0.5
    """Seconds for which a call's session stays at a living relay that it has left: packets may be on their way."""
    sweep_interval: float = 60.0
    """Seconds between two looks at the sessions of one relay, for those that no call has."""
    patience: float = 30.0
    """Seconds that calls of a dead relay wait for a relay with room, before the ``unmovable`` policy ends them."""
    max_offers: int = 3
    """Offers to one leg in one move, until answers that do not agree are left as they are."""
    rest: float = 60.0
    """Seconds for which no drain and no rebalance asks for a call whose answers diverge, or whose move has failed."""
    preparing: int = 24
    """Moves whose relay commands are under way at the same time; more would only queue at the relays."""
    breaker_count: int = 10
    """Timed-out re-INVITEs of one peer, without an answered one since, from which its calls are kept and not ended."""

    @property
    def own_lines(self) -> str:
        """The header line of a request of our own that says whose it is (RFC 3261 section 20.41), with CRLF."""
        return f"User-Agent: {self.user_agent}\r\n" if self.user_agent else ""
