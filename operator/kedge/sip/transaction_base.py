"""What the transactions of both sides share: their users, their counters, and the core that they send through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kedge.sip.errors import PARSE_REASONS

if TYPE_CHECKING:
    from kedge.base.address import Address
    from kedge.base.ids import Ids
    from kedge.base.timers import TimerHeap
    from kedge.sip.client_transaction import ClientTransaction
    from kedge.sip.message import Request, Response
    from kedge.sip.server_transaction import ServerTransaction
    from kedge.sip.timers import TimerSettings

TRYING: Final = 0
"""Client: sent, nothing came back (Calling, for an INVITE). Server: nothing answered yet."""
PROCEEDING: Final = 1
"""A provisional response came or was sent."""
COMPLETED: Final = 2
"""A final response came or was sent; an INVITE's is 3xx-6xx."""
ACCEPTED: Final = 3
"""The INVITE's 2xx came or was sent (RFC 6026)."""
CONFIRMED: Final = 4
"""Server INVITE: the ACK for a 3xx-6xx came."""
TERMINATED: Final = 5
"""Gone from the layer."""


class ClientOwner:
    """Who sent a request and is told what comes of it. A native base class: this is called per packet."""

    __slots__ = ()

    def on_response(self, tx: ClientTransaction, response: Response, now: float) -> None:
        """A response came: each provisional, then the first final.

        For an INVITE also every further 2xx for 64*T1 (repeated, or of another fork): each wants an ACK.
        """
        raise NotImplementedError

    def on_timeout(self, tx: ClientTransaction, now: float) -> None:
        """No final response came: Timer B or F, or 64*T1 after a CANCEL."""
        raise NotImplementedError


class ServerUser:
    """The one user of the layer, told of what peers ask. A native base class: this is called per packet."""

    __slots__ = ()

    def admits(self, request: Request, source: Address) -> bool:
        """Whether a new request from ``source`` may take memory, or a refusal be sent there; else it is dropped."""
        return True

    def on_request(self, tx: ServerTransaction, request: Request, now: float) -> None:
        """A new request came (never ACK nor CANCEL); it wants a final response within 64*T1 if it is no INVITE."""
        raise NotImplementedError

    def on_ack(self, request: Request, source: Address, now: float) -> None:
        """An ACK came that is not for a 3xx-6xx of ours, hence for a 2xx; repeated ones come too."""
        raise NotImplementedError

    def on_cancel(self, tx: ServerTransaction, request: Request, now: float) -> None:
        """The INVITE ``tx`` is cancelled, and still wants its final response (487); the CANCEL has its 200."""
        raise NotImplementedError

    def on_stray_response(self, response: Response, source: Address, now: float) -> None:
        """A response came that no client transaction awaits: a 2xx after 64*T1, say."""
        raise NotImplementedError

    def on_no_ack(self, tx: ServerTransaction, now: float) -> None:
        """No ACK came within 64*T1 of an INVITE's final response; ``tx`` is gone."""
        raise NotImplementedError


class Counters:
    """What the layer has seen, ever growing; read by metrics.

    Attributes:
        requests_received: Requests that began a transaction, and ACKs.
        responses_received: Responses that a transaction awaited.
        requests_sent: Requests sent, each counted once.
        responses_sent: Responses sent, each counted once.
        retransmissions_sent: Datagrams sent again.
        retransmissions_received: Requests and final responses that came again.
        stray_responses: Responses that no transaction awaits.
        timeouts: Requests of ours without a final response.
        acks_missing: Final responses to INVITE without an ACK.
        keepalives: Datagrams without a message.
        dropped: New requests that were dropped: source not admitted, or too many transactions.
        refused: Requests that were answered without a transaction.
        unanswered: Requests that the user never answered, and responses that it sent too late.
        parse_errors: Datagrams that could not be read, by reason.
    """

    __slots__ = (
        "acks_missing",
        "dropped",
        "keepalives",
        "parse_errors",
        "refused",
        "requests_received",
        "requests_sent",
        "responses_received",
        "responses_sent",
        "retransmissions_received",
        "retransmissions_sent",
        "stray_responses",
        "timeouts",
        "unanswered",
    )

    def __init__(self) -> None:
        self.requests_received = 0
        self.responses_received = 0
        self.requests_sent = 0
        self.responses_sent = 0
        self.retransmissions_sent = 0
        self.retransmissions_received = 0
        self.stray_responses = 0
        self.timeouts = 0
        self.acks_missing = 0
        self.keepalives = 0
        self.dropped = 0
        self.refused = 0
        self.unanswered = 0
        self.parse_errors: dict[str, int] = dict.fromkeys(PARSE_REASONS, 0)


class TransactionCore:
    """What a transaction needs of the layer: timers, settings, the outbox, the tables that it leaves at its end.

    Attributes:
        out: Datagrams to send, oldest first; whoever sends them clears it.
        counters: What was seen.
        clients: Client transactions by branch (a CANCEL's by its own key).
        servers: Server transactions by the key of RFC 3261 section 17.2.3.
    """

    __slots__ = ("clients", "counters", "ids", "out", "servers", "settings", "timers", "user")

    def __init__(self, timers: TimerHeap, settings: TimerSettings, ids: Ids, user: ServerUser) -> None:
        self.timers = timers
        self.settings = settings
        self.ids = ids
        self.user = user
        self.out: list[tuple[bytes, Address]] = []
        self.counters = Counters()
        self.clients: dict[str, ClientTransaction] = {}
        self.servers: dict[str, ServerTransaction] = {}

    def send(self, data: bytes, destination: Address) -> None:
        """Send a datagram once, without state: the ACK to a 2xx, for instance."""
        self.out.append((data, destination))

    def resend(self, data: bytes, destination: Address) -> None:
        """Send a datagram again."""
        self.counters.retransmissions_sent += 1
        self.out.append((data, destination))
