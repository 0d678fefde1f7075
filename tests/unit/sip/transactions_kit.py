"""What the transaction tests share: a user and an owner that note what they are told, a layer, and messages."""

from __future__ import annotations

from kedge.base.address import Address
from kedge.base.ids import CountingIds
from kedge.base.timers import TimerHeap
from kedge.sip.message import Request, Response, make_response
from kedge.sip.parser import parse_message
from kedge.sip.timers import TimerSettings
from kedge.sip.transaction import ClientOwner, ClientTransaction, ServerTransaction, ServerUser, TransactionLayer

PEER: Address = ("192.0.2.1", 5060)
BRANCH = "z9hG4bKa"


class Owner(ClientOwner):
    """Notes what comes of a request: a status, or ``timeout``."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, object]] = []

    def on_response(self, tx: ClientTransaction, response: Response, now: float) -> None:
        self.seen.append((now, response.status))

    def on_timeout(self, tx: ClientTransaction, now: float) -> None:
        self.seen.append((now, "timeout"))

    @property
    def events(self) -> list[object]:
        return [event for _, event in self.seen]


class User(ServerUser):
    """Notes what peers ask."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.requests: list[ServerTransaction] = []
        self.refuses: set[Address] = set()

    def admits(self, request: Request, source: Address) -> bool:
        return source not in self.refuses

    def on_request(self, tx: ServerTransaction, request: Request, now: float) -> None:
        self.events.append(request.method)
        self.requests.append(tx)

    def on_ack(self, request: Request, source: Address, now: float) -> None:
        self.events.append("ACK")

    def on_cancel(self, tx: ServerTransaction, request: Request, now: float) -> None:
        self.events.append("CANCEL")

    def on_stray_response(self, response: Response, source: Address, now: float) -> None:
        self.events.append(f"stray {response.status}")

    def on_no_ack(self, tx: ServerTransaction, now: float) -> None:
        self.events.append(f"no ACK for {tx.data}")


class Bench:
    """A layer, its timers and its user."""

    def __init__(
        self, settings: TimerSettings | None = None, *, max_server_transactions: int = 1000, max_bytes: int = 65535
    ) -> None:
        self.timers = TimerHeap()
        self.user = User()
        self.layer = TransactionLayer(
            self.timers,
            settings or TimerSettings(),
            CountingIds(),
            self.user,
            max_server_transactions=max_server_transactions,
            max_bytes=max_bytes,
        )

    def send(self, method: str = "OPTIONS", owner: Owner | None = None, *, branch: str = BRANCH) -> ClientTransaction:
        """Send a request at 0.0 s and drop it from the outbox."""
        tx = self.layer.send_request(method, branch, request(method, branch=branch), PEER, owner or Owner(), 0.0)
        assert [data.split(b" ")[0].decode() for data in self.sent()] == [method]
        return tx

    def receive(self, data: bytes, now: float = 0.0, source: Address = PEER) -> list[bytes]:
        """Feed a datagram; return what it makes the layer send."""
        self.layer.on_datagram(data, source, now)
        return self.sent()

    def sent(self) -> list[bytes]:
        """Take what is in the outbox."""
        out = [data for data, _ in self.layer.out]
        self.layer.out.clear()
        return out

    def run(self, until: float) -> list[tuple[float, str]]:
        """Fire all timers up to ``until`` at their time; return when what was sent, by first line."""
        seen: list[tuple[float, str]] = []
        while True:
            at = self.timers.next_deadline()
            if at is None or at > until:
                return seen
            self.timers.run_due(at)
            seen += [(round(at, 3), first_word(data)) for data in self.sent()]

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left in memory."""
        return not self.layer.clients and not self.layer.servers and len(self.timers) == 0


def first_word(data: bytes) -> str:
    """The method of a request or the status of a response."""
    words = data.split(b" ", 2)
    return (words[1] if words[0] == b"SIP/2.0" else words[0]).decode()


def request(
    method: str,
    *,
    branch: str = BRANCH,
    to_tag: str = "",
    sent_by: str = "192.0.2.1:5060",
    extra: str = "",
    body: str = "",
) -> bytes:
    """A request as a peer or our user writes it."""
    tag = f";tag={to_tag}" if to_tag else ""
    return (
        f"{method} sip:bob@example.com SIP/2.0\r\n"
        f"Via: SIP/2.0/UDP {sent_by};branch={branch}\r\n"
        "Route: <sip:192.0.2.9;lr>\r\n"
        "Max-Forwards: 70\r\n"
        "From: <sip:alice@example.com>;tag=f1\r\n"
        f"To: <sip:bob@example.com>{tag}\r\n"
        "Call-ID: c1\r\n"
        f"CSeq: 1 {method}\r\n"
        f"{extra}Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


def response(status: int, method: str = "OPTIONS", *, branch: str = BRANCH, to_tag: str = "t1") -> bytes:
    """A peer's response to ``request``."""
    asked = parse_message(request(method, branch=branch))
    assert isinstance(asked, Request)
    return make_response(asked, status, to_tag=to_tag).to_bytes()
