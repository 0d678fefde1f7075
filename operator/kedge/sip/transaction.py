"""The transaction layer: datagrams in, matched requests and responses out; retransmissions end here.

Matching is by branch, sent-by and method (RFC 3261 sections 17.1.3 and 17.2.3). A request whose branch lacks the magic
cookie comes from an RFC 2543 element, whose branch need not be unique: it is matched by Request-URI, From tag, Call-ID,
CSeq number and Via instead. Nothing that a peer sends raises: what cannot be read costs a counter, and is answered
without state only where the answer is no larger than the request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kedge.base.ids import BRANCH_COOKIE
from kedge.sip.client_transaction import ClientTransaction, client_key
from kedge.sip.errors import ParseError
from kedge.sip.message import Request, Response, make_response
from kedge.sip.parser import MAX_DATAGRAM, is_keepalive, parse_message
from kedge.sip.server_transaction import ServerTransaction
from kedge.sip.transaction_base import (
    ACCEPTED,
    COMPLETED,
    CONFIRMED,
    PROCEEDING,
    TERMINATED,
    TRYING,
    ClientOwner,
    Counters,
    ServerUser,
    TransactionCore,
)

if TYPE_CHECKING:
    from kedge.base.address import Address
    from kedge.base.ids import Ids
    from kedge.base.timers import TimerHeap
    from kedge.sip.headers import Via
    from kedge.sip.timers import TimerSettings

__all__ = [
    "ACCEPTED",
    "COMPLETED",
    "CONFIRMED",
    "PROCEEDING",
    "TERMINATED",
    "TRYING",
    "ClientOwner",
    "ClientTransaction",
    "Counters",
    "ServerTransaction",
    "ServerUser",
    "TransactionLayer",
]

MAX_SERVER_TRANSACTIONS: Final = 200_000
"""New requests beyond that many are dropped; 1000 calls a second keep about 64,000."""

DEFAULT_PORT: Final = 5060


class TransactionLayer(TransactionCore):
    """All transactions of one UDP socket. No I/O: ``out`` is for the owner of the socket to send and clear."""

    __slots__ = ("_max_bytes", "_max_servers")

    def __init__(
        self,
        timers: TimerHeap,
        settings: TimerSettings,
        ids: Ids,
        user: ServerUser,
        *,
        max_server_transactions: int = MAX_SERVER_TRANSACTIONS,
        max_bytes: int = MAX_DATAGRAM,
    ) -> None:
        super().__init__(timers, settings, ids, user)
        self._max_bytes = max_bytes
        self._max_servers = max_server_transactions

    def on_datagram(self, data: bytes, source: Address, now: float) -> None:
        """Take a datagram. Only the user's own callbacks can raise."""
        if is_keepalive(data):
            self.counters.keepalives += 1
            return
        try:
            message = parse_message(data, max_bytes=self._max_bytes)
        except ParseError as error:
            self._on_unreadable(error, len(data), source)
            return
        if isinstance(message, Response):
            self._on_response(message, source, now)
        else:
            self._on_request(message, source, len(data), now)

    def send_request(
        self, method: str, branch: str, data: bytes, destination: Address, owner: ClientOwner, now: float
    ) -> ClientTransaction:
        """Send a request that the caller has written, with ``branch`` in its Via; retransmit it as UDP demands."""
        tx = ClientTransaction(self, method, branch, data, destination, owner)
        tx.start(now)
        return tx

    def cancel(self, tx: ClientTransaction, now: float) -> None:
        """Cancel an INVITE of ours, as soon as a provisional response allows (RFC 3261 section 9.1).

        The owner still gets the final response, or ``on_timeout`` when none came 64*T1 after the CANCEL.
        """
        tx.cancel(now)

    def release(self, tx: ClientTransaction) -> None:
        """Forget a request of ours: responses that still come go to ``ServerUser.on_stray_response``."""
        tx.release()

    def respond(self, tx: ServerTransaction, response: Response, now: float) -> None:
        """Send a response as it is, and retransmit it as its state demands."""
        tx.respond(response, now)

    def respond_bytes(self, tx: ServerTransaction, status: int, data: bytes, now: float) -> None:
        """As ``respond``, with a response that is written already."""
        tx.respond_bytes(status, data, now)

    def refuse(self, tx: ServerTransaction, status: int) -> None:
        """Answer once, without keeping state, if the answer is no larger than the request; ``tx`` is gone after.

        For sources that nobody knows: no retransmissions, so that a forged source address hits no third party.
        """
        request, source, size = tx.request, tx.source, tx.size
        tx.release()
        self._refuse(request, status, size, source)

    def stop_2xx(self, tx: ServerTransaction, now: float) -> None:
        """The ACK of an INVITE's 2xx came: stop sending the 2xx again."""
        tx.stop_2xx()

    def _on_response(self, response: Response, source: Address, now: float) -> None:
        tx = self.clients.get(client_key(response.branch, response.cseq_method))
        if tx is None or tx.method != response.cseq_method:
            self.counters.stray_responses += 1
            self.user.on_stray_response(response, source, now)
        else:
            tx.receive(response, source, now)

    def _on_request(self, request: Request, source: Address, size: int, now: float) -> None:
        method = request.method
        key = server_key(request)
        tx = self.servers.get(key)
        if method == "ACK":
            if tx is None or not tx.acknowledge(now):
                self.counters.requests_received += 1
                self.user.on_ack(request, source, now)
            return
        if method == "CANCEL":
            self._on_cancel(request, tx, source, size, now)
            return
        if tx is not None:
            tx.repeat()
            return
        if len(self.servers) >= self._max_servers or not self.user.admits(request, source):
            self.counters.dropped += 1
            return
        self.counters.requests_received += 1
        tx = ServerTransaction(self, key, request, source, stamp_via(request, source), size)
        tx.start(now)
        self.user.on_request(tx, request, now)

    def _on_cancel(
        self, request: Request, tx: ServerTransaction | None, source: Address, size: int, now: float
    ) -> None:
        """Answer a CANCEL (RFC 3261 section 9.2) without state: a repeated one gets the same answer."""
        if tx is None:
            self._refuse(request, 481, size, source)
            return
        if not tx.to_tag:
            tx.to_tag = self.ids.token()
        response_to = stamp_via(request, source)
        self.counters.responses_sent += 1
        self.send(make_response(request, 200, to_tag=tx.to_tag).to_bytes(), response_to)
        if tx.cancelled:
            self.counters.retransmissions_received += 1
        elif tx.state <= PROCEEDING:
            tx.cancelled = True
            self.user.on_cancel(tx, request, now)

    def _on_unreadable(self, error: ParseError, size: int, source: Address) -> None:
        errors = self.counters.parse_errors
        errors[error.reason] = errors.get(error.reason, 0) + 1
        if error.request is not None and error.request.method != "ACK":
            self._refuse(error.request, error.status, size, source)

    def _refuse(self, request: Request, status: int, size: int, source: Address) -> None:
        """Answer without state, and never with more bytes than came (the reason phrase goes first)."""
        if not self.user.admits(request, source):
            self.counters.dropped += 1
            return
        response_to = stamp_via(request, source)
        response = make_response(request, status, to_tag=self.ids.token())
        data = response.to_bytes()
        if len(data) > size:
            response.reason = ""
            data = response.to_bytes()
        if len(data) > size:
            self.counters.dropped += 1
            return
        self.counters.refused += 1
        self.send(data, response_to)


def server_key(request: Request) -> str:
    """Return what a request is matched by (RFC 3261 section 17.2.3); ACK and CANCEL have their INVITE's key."""
    method = request.method
    if method in ("ACK", "CANCEL"):
        method = "INVITE"
    if request.branch.startswith(BRANCH_COOKIE):
        via = request.top_via
        return f"{method} {request.branch} {via.host} {via.port}"
    return f"{method} {request.uri} {request.from_tag} {request.call_id} {request.cseq} {request.get('Via')}"


def stamp_via(request: Request, source: Address) -> Address:
    """Note the source in the top Via, and return where responses go (RFC 3261 section 18.2, RFC 3581 section 4).

    ``received`` is written whenever the sent-by host is not the source, or ``rport`` was asked for, or the peer
    claims one: responses go to the source's host alone, wherever the Via points.
    """
    via: Via = request.top_via
    params = via.params
    asked = "rport" in params
    if asked or via.host != source[0] or "received" in params:
        params["received"] = source[0]
        if asked:
            params["rport"] = str(source[1])
        request.replace_top_via(via)
    return source if asked else (source[0], via.port or DEFAULT_PORT)
