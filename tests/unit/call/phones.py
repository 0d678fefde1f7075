"""Simulated phones: user agents that keep to RFC 3261 and 3264, can be told to misbehave, and note what they got.

They speak SIP text through a transaction layer of their own, so lost packets are sent again as a phone would.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from kedge.base.address import Address
from kedge.base.timers import Timer, TimerTarget
from kedge.sip.body import sdp_of
from kedge.sip.headers import parse_name_addr, split_commas
from kedge.sip.message import Message, Request, Response, make_response
from kedge.sip.sdp import Media, SessionDescription, opposite, parse_sdp
from kedge.sip.timers import TimerSettings
from kedge.sip.transaction import ClientOwner, ClientTransaction, ServerTransaction, ServerUser, TransactionLayer

if TYPE_CHECKING:
    from tests.unit.call.world import World

Reply = int | Callable[["Party", Request], Response | None]
"""To a request within a dialog: a status, or a function that makes a response (None for silence)."""
Step = tuple[float, int, bool]
"""Of a ringing phone: seconds after the step before, status, whether with a description."""

ANSWER_AT_ONCE: tuple[Step, ...] = ((0.0, 180, False), (0.0, 200, True))

_RETRY = 1
_STEP = 2

SUITE = "AES_CM_128_HMAC_SHA1_80"
ENCODINGS = {"0": "PCMU/8000", "8": "PCMA/8000", "9": "G722/8000", "101": "telephone-event/8000"}


class Phone(ServerUser):
    """One phone at one address."""

    def __init__(self, world: World, name: str, address: Address) -> None:
        self.world = world
        self.name = name
        self.address = address
        self.layer = TransactionLayer(world.clock, TimerSettings(), world.ids, self)
        self.parties: dict[str, Party] = {}
        """By local tag."""
        self.made: list[Party] = []
        """All parties, oldest first, of calls that are over too."""
        self.ringing: tuple[Step, ...] = ANSWER_AT_ONCE
        self.formats: tuple[str, ...] = ("0", "8", "101")
        self.key = ""
        """Of SRTP (RFC 4568) that it offers and insists on."""
        self.spare_key = ""
        """Of SRTP that it takes part in if it is offered."""
        self.renumbers: dict[str, str] = {}
        """Payload types that it answers with a number of its own."""
        self.unasked_key = ""
        """Of SRTP that it names in its answers although none was offered, and does not use."""
        self.starts_encrypted = False
        """Whether its own calls begin with SRTP by that key."""
        self.contact = f"<sip:{name}@{address[0]}:{address[1]}>"
        self.record_route: tuple[str, ...] = ()
        self.answer_headers: dict[str, str] = {}
        self.port = 4000

    def new_port(self) -> int:
        self.port += 2
        return self.port

    def invite(
        self, number: str = "100", *, late: bool = False, body: bytes | None = None,
        headers: dict[str, str] | None = None, target: Address | None = None,
    ) -> Party:  # fmt: skip
        """Call ``number``; a late offer leaves the description out."""
        kedge = target or self.world.kedge
        party = Party(self, self.world.ids.token(), caller=True)
        party.local_uri = f"<sip:{self.name}@example.org>"
        party.remote_uri = f"<sip:{number}@{kedge[0]}>"
        party.target = f"sip:{number}@{kedge[0]}:{kedge[1]}"
        party.start(late=late, body=body, headers=headers or {})
        return party

    def on_request(self, tx: ServerTransaction, request: Request, now: float) -> None:
        party = self.parties.get(request.to_tag)
        if not request.to_tag and request.method == "INVITE":
            Party.called(self, tx, request)
        elif party is None or party.remote_tag != request.from_tag:
            self.layer.respond(tx, make_response(request, 481, to_tag="none"), now)
        else:
            party.on_request(tx, request, now)

    def on_ack(self, request: Request, source: Address, now: float) -> None:
        party = self.parties.get(request.to_tag)
        if party is not None:
            party.on_ack(request, now)

    def on_cancel(self, tx: ServerTransaction, request: Request, now: float) -> None:
        if isinstance(tx.data, Party):
            tx.data.on_cancel(tx, now)

    def on_stray_response(self, response: Response, source: Address, now: float) -> None:
        """A repeated final response that came late."""

    def on_no_ack(self, tx: ServerTransaction, now: float) -> None:
        party = tx.data
        if isinstance(party, Party) and party.uas is tx and party.alive:
            party.note("no ACK")
            party.uas = None
            party.bye()


class Party(ClientOwner, TimerTarget):
    """A phone's end of one call."""

    def __init__(self, phone: Phone, call_id: str, *, caller: bool) -> None:
        self.phone = phone
        self.world = phone.world
        self.caller = caller
        self.call_id = call_id
        self.local_tag = self.world.ids.token()
        self.remote_tag = ""
        self.local_uri = self.remote_uri = self.target = ""
        self.routes: list[str] = []
        self.destination: Address = self.world.kedge
        self.cseq = 0
        self.state = "calling" if caller else "ringing"
        self.status = 0
        """Final status of our first INVITE."""
        self.port = phone.new_port()
        self.formats = phone.formats
        self.key = phone.key or (phone.spare_key if phone.starts_encrypted and caller else "")
        """Of its SRTP (RFC 4568); without one it speaks RTP now."""
        self.spare_key = phone.spare_key
        self.wanted = "sendrecv"
        self.held_by_address = False
        self.version = 0
        self.local = b""
        """What we said last."""
        self.remote = b""
        """What is in force of the other side: where our media goes."""
        self.offers: list[bytes] = []
        """Descriptions received, in order."""
        self.replies: deque[Reply] = deque()
        """What the next re-INVITEs and UPDATEs within the dialog are answered with, instead of 200."""
        self.answer: Callable[[bytes], bytes] | None = None
        """Makes another answer from an offer."""
        self.acks = True
        self.log: list[tuple[float, str]] = []
        self.requests: list[Request] = []
        self.responses: list[Response] = []
        self.uac: ClientTransaction | None = None
        self.uas: ServerTransaction | None = None
        """An INVITE that we have not answered, or whose 200 has no ACK yet."""
        self.retries = 0
        self._asked: Request | None = None
        self._steps: deque[Step] = deque()
        self._timer: Timer | None = None
        self._own_cseq = 0
        self._late = False
        self._want_late = False
        phone.parties[self.local_tag] = self
        phone.made.append(self)

    # --- what a test asks -------------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        return self.state != "ended"

    @property
    def talking(self) -> bool:
        return self.state == "talking"

    @property
    def busy(self) -> bool:
        return self.uac is not None or self.uas is not None

    @property
    def media(self) -> tuple[str, str]:
        """Where its first m-line's media goes."""
        return address_of(self.remote)

    def note(self, what: str) -> None:
        self.log.append((self.world.now, what))

    def events(self) -> list[str]:
        return [what for _, what in self.log]

    def offer_versions(self) -> list[int]:
        return [int(body.split(b"o=- ", 1)[1].split()[1]) for body in self.offers]

    # --- what a test makes it do ------------------------------------------------------------------------------------

    def start(self, *, late: bool, body: bytes | None, headers: dict[str, str]) -> None:
        self._late = late
        sdp = b"" if late else body if body is not None else self.describe()
        self.uac = self.send("INVITE", sdp, headers)

    def describe(self) -> bytes:
        """An offer, or a description to go in a 200 to an INVITE without one."""
        self.version += 1
        lines = [f"a=rtpmap:{one} {ENCODINGS[one]}" for one in self.formats] + self._crypto()
        protocol = "RTP/SAVP" if self.key else "RTP/AVP"
        address = "0.0.0.0" if self.held_by_address else self.phone.address[0]
        head = [
            "v=0", f"o={self.phone.name} {self.port} {self.version} IN IP4 {self.phone.address[0]}", "s=-",
            f"c=IN IP4 {address}", "t=0 0", f"m=audio {self.port} {protocol} {' '.join(self.formats)}",
        ]  # fmt: skip
        self.local = ("\r\n".join([*head, *lines, f"a={self.wanted}"]) + "\r\n").encode()
        return self.local

    def _crypto(self, offered: Sequence[str] = (f"1 {SUITE}",)) -> list[str]:
        """The key, with the tag of the suite where it was offered."""
        tags = [value.split()[0] for value in offered if SUITE in value]
        return [f"a=crypto:{tags[0]} {SUITE} inline:{self.key}"] if self.key and tags else []

    def reinvite(self, *, late: bool = False, update: bool = False, body: bytes | None = None) -> bool:
        """Send an offer of ours; False where one is under way already, or the call is over."""
        if self.busy or not self.talking or self._timer is not None:
            return False
        self._late = late
        method = "UPDATE" if update else "INVITE"
        self.uac = self.send(method, b"" if late else body if body is not None else self.describe())
        self.note(f"sent {method}")
        return True

    def hold(self, *, update: bool = False) -> bool:
        self.wanted = "sendrecv" if self.wanted != "sendrecv" else "sendonly"
        return self.reinvite(update=update)

    def bye(self) -> None:
        if self.remote_tag and self.alive:
            self.send("BYE")
            self.end("sent BYE")

    def cancel(self) -> None:
        if self.uac is not None:
            self.phone.layer.cancel(self.uac, self.world.now)

    def end(self, why: str) -> None:
        if self.alive:
            self.note(why)
            self.state = "ended"
            self.world.clock.cancel(self._timer)
            self._timer = None
            self.phone.parties.pop(self.local_tag, None)

    def send(self, method: str, body: bytes = b"", headers: dict[str, str] | None = None) -> ClientTransaction:
        self.cseq += 1
        if method == "INVITE":
            self._own_cseq = self.cseq
        branch = self.world.ids.branch()
        data = self._write(method, self.cseq, branch, body, headers or {})
        return self.phone.layer.send_request(method, branch, data, self.destination, self, self.world.now)

    def _write(self, method: str, cseq: int, branch: str, body: bytes, headers: dict[str, str]) -> bytes:
        host = f"{self.phone.address[0]}:{self.phone.address[1]}"
        request = Request(method, self.target)
        fixed = {
            "Via": f"SIP/2.0/UDP {host};rport;branch={branch}", "Max-Forwards": "70",
            "From": f"{self.local_uri};tag={self.local_tag}",
            "To": self.remote_uri + (f";tag={self.remote_tag}" if self.remote_tag else ""),
            "Call-ID": self.call_id, "CSeq": f"{cseq} {method}", "Contact": self.phone.contact,
        }  # fmt: skip
        for route in self.routes:
            request.add("Route", route)
        if body:
            fixed["Content-Type"] = "application/sdp"
        for name, value in (fixed | headers).items():
            request.add(name, value)
        request.body = body
        return request.to_bytes()

    # --- as a UAC ---------------------------------------------------------------------------------------------------

    def on_response(self, tx: ClientTransaction, response: Response, now: float) -> None:
        self.responses.append(response)
        if tx.method in ("INVITE", "UPDATE"):
            if response.is_provisional:
                self.note(f"got {response.status}")
            elif tx is not self.uac:
                if response.is_success and tx.method == "INVITE" and self.acks:
                    self._ack(response.cseq, b"")
            else:
                self._final(tx, response, now)

    def _final(self, tx: ClientTransaction, response: Response, now: float) -> None:
        self.note(f"got {response.status} {tx.method}")
        self.uac = None
        if response.is_success:
            self._success(tx, response)
            return
        if self.state == "calling":
            self.status = response.status
            self.end(f"refused {response.status}")
        elif response.status in (481, 408):
            self.bye()
        elif response.status == 491:
            steps = self.world.rng.randint(210, 400) if self.caller else self.world.rng.randint(0, 200)
            self._timer = self.world.clock.schedule(now + steps / 100, self, _RETRY)
            self._want_late = self._late

    def _success(self, tx: ClientTransaction, response: Response) -> None:
        first = self.state == "calling"
        if first:
            self.status = response.status
            self.remote_tag = response.to_tag
            self.routes = _routes(response)[::-1]
            self.state = "talking"
        self._refresh(response)
        body = sdp_of(response).sdp
        if tx.method == "INVITE":
            answer = self.answer_to(body) if self._late and body else b""
            if self.acks:
                self._ack(response.cseq, answer)
        if body:
            self.remote = body
            self.offers.append(body)

    def _ack(self, cseq: int, body: bytes) -> None:
        self.world.send(
            self._write("ACK", cseq, self.world.ids.branch(), body, {}), self.phone.address, self.destination
        )

    def on_timeout(self, tx: ClientTransaction, now: float) -> None:
        if tx is self.uac:
            self.uac = None
            self.note(f"timeout {tx.method}")
            if self.state == "calling":
                self.end("timeout")
            else:
                self.bye()

    def on_timer(self, kind: int, now: float) -> None:
        self._timer = None
        if kind == _STEP:
            self._step(now)
        elif not self.reinvite(late=self._want_late):
            self._timer = self.world.clock.schedule(now + 0.5, self, _RETRY)

    # --- as a UAS ---------------------------------------------------------------------------------------------------

    @classmethod
    def called(cls, phone: Phone, tx: ServerTransaction, request: Request) -> None:
        party = cls(phone, request.call_id, caller=False)
        party.local_uri, party.remote_uri = request.get("To") or "", (request.get("From") or "").partition(";tag")[0]
        party.remote_tag = request.from_tag
        party.routes = _routes(request)
        party._refresh(request)
        party.uas, party._asked, tx.data = tx, request, party
        party.requests.append(request)
        party._steps = deque(phone.ringing)
        body = sdp_of(request).sdp
        if not party._can(request):
            party._steps = deque(((0.0, 488, False),))
        elif body:
            party.remote = body
            party.offers.append(body)
            party.local = party.answer_to(body)
        else:
            party.describe()
        party._next_step(phone.world.now)

    def _next_step(self, now: float) -> None:
        if self._steps and self.alive:
            self._timer = self.world.clock.schedule(now + self._steps[0][0], self, _STEP)

    def _step(self, now: float) -> None:
        _, status, with_sdp = self._steps.popleft()
        assert self.uas is not None
        assert self._asked is not None
        response = self._response(self._asked, status, self.local if with_sdp else b"")
        for name, value in self.phone.answer_headers.items():
            response.add(name, value)
        tx = self.uas
        if 200 <= status < 300:
            self.state = "talking"
        elif status >= 300:
            self.uas = None
            self.end(f"refused it with {status}")
        self.phone.layer.respond(tx, response, now)
        self._next_step(now)

    def on_request(self, tx: ServerTransaction, request: Request, now: float) -> None:
        self.requests.append(request)
        if request.method == "BYE":
            self.note(f"got BYE {request.get('Reason') or ''}".strip())
            self.phone.layer.respond(tx, make_response(request, 200), now)
            self.end("BYE")
        elif request.method in ("INVITE", "UPDATE"):
            self._offered(tx, request, now)
        else:
            self._reply(tx, request, self.replies.popleft() if self.replies else 200, now)

    def _offered(self, tx: ServerTransaction, request: Request, now: float) -> None:
        self.note(f"got {request.method}")
        if self.uac is not None:
            self._reply(tx, request, 491, now)
        elif self.uas is not None:
            self._reply(tx, request, 500, now)
        else:
            self._reply(tx, request, self.replies.popleft() if self.replies else 200, now)

    def _reply(self, tx: ServerTransaction, request: Request, reply: Reply, now: float) -> None:
        if callable(reply):
            response = reply(self, request)
        elif reply == 200 and request.method in ("INVITE", "UPDATE"):
            response = self.accept(request) if self._can(request) else self._response(request, 488, b"")
        else:
            response = self._response(request, reply, b"")
        if response is None:
            return
        if response.is_success and request.method == "INVITE":
            self.uas, self._asked, tx.data = tx, request, self
        self.note(f"sent {response.status} {request.method}")
        self.phone.layer.respond(tx, response, now)

    def _can(self, request: Request) -> bool:
        """Whether it can do what is offered, with SRTP or without."""
        if b"m=audio" not in request.body or self.answer is not None:
            return True
        encrypted = b"/SAVP" in request.body
        return bool(self.key or self.spare_key) if encrypted else not self.phone.key

    def accept(self, request: Request) -> Response:
        """The 200 to a re-INVITE or UPDATE, and what it does to our state."""
        self._refresh(request)
        body = sdp_of(request).sdp
        if body:
            self.offers.append(body)
            self.remote = body
            return self._response(request, 200, self.answer_to(body))
        return self._response(request, 200, self.describe() if request.method == "INVITE" else b"")

    def _response(self, request: Request, status: int, body: bytes) -> Response:
        response = make_response(request, status, to_tag=self.local_tag)
        if status < 300:
            for route in self.phone.record_route if not request.to_tag else ():
                response.add("Record-Route", route)
            for route in request.get_all("Record-Route"):
                response.add("Record-Route", route)
            response.add("Contact", self.phone.contact)
        if body:
            response.body = body
            response.add("Content-Type", "application/sdp")
        return response

    def on_ack(self, request: Request, now: float) -> None:
        tx = self.uas
        if tx is None or self._asked is None or request.cseq != self._asked.cseq:
            return
        self.phone.layer.stop_2xx(tx, now)
        self.note("got ACK")
        body = sdp_of(request).sdp
        if body:
            self.remote = body
            self.offers.append(body)
        self.uas = self._asked = None

    def on_cancel(self, tx: ServerTransaction, now: float) -> None:
        if self.state == "ringing" and self._asked is not None:
            self.phone.layer.respond(tx, self._response(self._asked, 487, b""), now)
            self.uas = None
            self.end("cancelled")

    # --- offer and answer -------------------------------------------------------------------------------------------

    def answer_to(self, offer: bytes) -> bytes:
        """The answer (RFC 3264 section 6); the version rises when it differs from the last description."""
        body = self.answer(offer) if self.answer is not None else self._usual_answer(offer)
        if _without_version(body) == _without_version(self.local):
            return self.local
        self.version += 1
        self.local = body.replace(b" 0 IN IP4", b" %d IN IP4" % self.version, 1)
        return self.local

    def _usual_answer(self, offer: bytes) -> bytes:
        theirs = parse_sdp(offer)
        address = "0.0.0.0" if self.held_by_address else self.phone.address[0]
        session = [
            "v=0", f"o={self.phone.name} {self.port} 0 IN IP4 {self.phone.address[0]}", "s=-",
            f"c=IN IP4 {address}", "t=0 0",
        ]  # fmt: skip
        media = [self._media_answer(one, theirs) for one in theirs.media]
        return SessionDescription(session, media).to_bytes()

    def _media_answer(self, theirs: Media, description: SessionDescription) -> Media:
        if theirs.kind != "audio" or not theirs.enabled:
            return Media(theirs.kind, "0", theirs.protocol, theirs.formats)
        if "/SAVP" in theirs.protocol:
            self.key = self.key or self.spare_key
        elif not self.phone.key:
            self.key = ""
        known = {ENCODINGS[one].upper(): ENCODINGS[one] for one in self.formats}
        offered = {self.phone.renumbers.get(one, one): theirs.encoding(one) for one in theirs.formats}
        formats = {one: known[encoding] for one, encoding in offered.items() if encoding in known}
        media = Media("audio", str(self.port), theirs.protocol, list(formats))
        media.lines = [f"a=rtpmap:{one} {encoding}" for one, encoding in formats.items()]
        media.lines += self._crypto(theirs.attributes("crypto"))
        if self.phone.unasked_key:
            media.lines.append(f"a=crypto:1 {SUITE} inline:{self.phone.unasked_key}")
        media.lines.append(f"a={both(opposite(theirs.direction(description.direction)), self.wanted)}")
        return media

    def _refresh(self, message: Message) -> None:
        contact = message.get("Contact")
        if contact is not None:
            self.target = parse_name_addr(contact).uri


def both(one: str, other: str) -> str:
    """The direction that both allow."""
    sends = all("send" in each for each in (one, other))
    receives = all("recv" in each for each in (one, other))
    return {(True, True): "sendrecv", (True, False): "sendonly", (False, True): "recvonly"}.get(
        (sends, receives), "inactive"
    )


def address_of(body: bytes) -> tuple[str, str]:
    description = parse_sdp(body)
    return description.address_of(description.media[0])


def _routes(message: Message) -> list[str]:
    return [one for row in message.get_all("Record-Route") for one in split_commas(row)]


def _without_version(body: bytes) -> list[bytes]:
    return [b" ".join(line.split(b" ")[:2]) if line.startswith(b"o=") else line for line in body.split(b"\r\n")]
