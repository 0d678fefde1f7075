"""Dialogs (RFC 3261 section 12): who the two ends are, where requests go, and in what order.

A dialog writes the requests and ACKs within it. It keeps the parts that never change as ready text, as a mass
re-anchoring writes two requests and two ACKs a call. It knows nothing of transactions and of what requests mean.
"""

from __future__ import annotations

import ipaddress
from typing import Final

from kedge.base.address import Address, format_address
from kedge.sip.errors import ParseError
from kedge.sip.headers import parse_name_addr, split_commas
from kedge.sip.message import Message, Request, Response
from kedge.sip.uri import parse_uri

DEFAULT_PORT: Final = 5060


class Dialog:
    """One dialog, seen from Kedge. ``local`` is Kedge's end, ``remote`` the phone's."""

    __slots__ = (
        "_fixed",
        "_fixed_target",
        "call_id",
        "contact",
        "destination",
        "local",
        "local_cseq",
        "local_tag",
        "max_forwards",
        "remote",
        "remote_cseq",
        "remote_tag",
        "remote_target",
        "route_set",
        "via_host",
    )

    def __init__(self, *, call_id: str, local: str, local_tag: str, remote: str, remote_tag: str, via: Address) -> None:
        self.call_id = call_id
        self.local = local
        """The local URI with display name as it stands in From, without a tag."""
        self.local_tag = local_tag
        self.remote = remote
        self.remote_tag = remote_tag
        """Empty until the other end has answered."""
        self.via_host = format_address(via)
        self.contact = f"<sip:{self.via_host}>"
        self.remote_target = ""
        self.route_set: list[str] = []
        self.local_cseq = 0
        self.remote_cseq = -1
        """CSeq of the last request received; -1 before the first (section 12.2.2)."""
        self.max_forwards = 70
        self.destination: Address = ("", 0)
        """Where requests are sent; set by whoever knows what addresses may be trusted."""
        self._fixed = ""
        self._fixed_target = ""

    def learn_routes(self, message: Message) -> None:
        """Take the route set: as it came from a request (section 12.1.1), reversed from a response (12.1.2)."""
        routes = [route for row in message.get_all("Record-Route") for route in split_commas(row)]
        self.route_set = routes[::-1] if isinstance(message, Response) else routes
        self._fixed = ""

    def refresh_target(self, message: Message) -> None:
        """Take the remote target from a Contact (sections 12.2.1.2 and 12.2.2); without one it stays."""
        contact = message.get("Contact")
        if contact is None:
            return
        try:
            self.remote_target = parse_name_addr(contact).uri
        except ParseError:
            return  # what cannot be read cannot be a better target than the last one

    def next_hop(self) -> Address | None:
        """Return where section 12.2.1.1 sends a request: the first route, else the target. None if it is a name."""
        text = self.remote_target
        if self.route_set:
            try:
                text = parse_name_addr(self.route_set[0]).uri
            except ParseError:
                return None
        try:
            uri = parse_uri(text)
            host = uri.host.strip("[]")
            ipaddress.ip_address(host)
        except (ParseError, ValueError):
            return None  # a host name: resolving it is nothing that a packet may wait for
        return host, uri.port or DEFAULT_PORT

    def accepts_cseq(self, request: Request) -> bool:
        """Take the CSeq of a request; False if it is lower than the last one (section 12.2.2: answer 500)."""
        if request.cseq < self.remote_cseq:
            return False
        self.remote_cseq = request.cseq
        return True

    def request(self, method: str, branch: str, extra: str = "", body: bytes = b"", content_type: str = "") -> bytes:
        """Write the next request; ``extra`` holds further header lines, each with its CRLF. Raises the CSeq."""
        self.local_cseq += 1
        return self._write(method, self.local_cseq, branch, extra, body, content_type)

    def ack(self, cseq: int, branch: str, body: bytes = b"", content_type: str = "") -> bytes:
        """Write the ACK to a 2xx for the INVITE that had ``cseq`` (section 13.2.2.4)."""
        return self._write("ACK", cseq, branch, "", body, content_type)

    def _write(self, method: str, cseq: int, branch: str, extra: str, body: bytes, content_type: str) -> bytes:
        if not self._fixed or self._fixed_target != self.remote_target:
            self._fix()
        if body:
            extra = f"{extra}Content-Type: {content_type or 'application/sdp'}\r\n"
        head = (
            f"{method} {self._fixed_target} SIP/2.0\r\nVia: SIP/2.0/UDP {self.via_host};rport;branch={branch}\r\n"
            f"CSeq: {cseq} {method}\r\n{self._fixed}{extra}Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode("utf-8", "surrogateescape") + body

    def _fix(self) -> None:
        self._fixed_target = self.remote_target
        tag = f";tag={self.remote_tag}" if self.remote_tag else ""
        routes = "".join(f"Route: {route}\r\n" for route in self.route_set)
        self._fixed = (
            f"Max-Forwards: {self.max_forwards}\r\n{routes}From: {self.local};tag={self.local_tag}\r\n"
            f"To: {self.remote}{tag}\r\n"
            f"Call-ID: {self.call_id}\r\nContact: {self.contact}\r\n"
        )

    def set_remote_tag(self, tag: str) -> None:
        """Take the tag that the other end has chosen."""
        self.remote_tag = tag
        self._fixed = ""
