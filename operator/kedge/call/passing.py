"""What passes from one leg to the other, and what does not.

A B2BUA owns the headers that make up a dialog and a hop; everything else is the parties' own business and passes as it
came, unknown headers included.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kedge.call.leg import ALLOW, SUPPORTED
from kedge.sip.headers import split_commas
from kedge.sip.message import Message, Request, Response, make_response

if TYPE_CHECKING:
    from kedge.call.call import Call

OWN_HEADERS: Final = frozenset({
    "Via", "From", "To", "Call-ID", "CSeq", "Contact", "Max-Forwards", "Route", "Record-Route", "Content-Length",
    "Content-Type", "Allow", "Supported", "Require", "Proxy-Require", "Unsupported", "RAck", "RSeq", "Replaces", "Join",
    "Target-Dialog", "Path", "Service-Route", "Timestamp", "Allow-Events", "P-Asserted-Identity",
    "P-Preferred-Identity",
})  # fmt: skip
"""Never passed as they came. Contact passes in a 3xx; P-Asserted-Identity between trusted peers (RFC 3325)."""

_ALLOWED: Final = frozenset(ALLOW.split(", "))


def passed_lines(message: Message, *, trusted: bool = False) -> str:
    """Return the header lines of ``message`` that pass to the other leg, each with CRLF."""
    lines = [
        f"{name}: {value}\r\n"
        for name, value in zip(message.names, message.values, strict=True)
        if name not in OWN_HEADERS or (trusted and name == "P-Asserted-Identity")
    ]
    lines.append(f"Allow: {_allow(message)}\r\n")
    supported = ", ".join(one for one in _tokens(message, "Supported") if one in SUPPORTED)
    if supported:
        lines.append(f"Supported: {supported}\r\n")
    required = ", ".join(one for one in _tokens(message, "Require") if one in SUPPORTED)
    if required:
        lines.append(f"Require: {required}\r\n")
    return "".join(lines)


def pass_headers(source: Message, target: Response, *, trusted: bool = False) -> None:
    """Copy the headers that pass to a response of ours."""
    for name, value in zip(source.names, source.values, strict=True):
        if name not in OWN_HEADERS or (trusted and name == "P-Asserted-Identity"):
            target.add(name, value)
    if isinstance(source, Response):
        if 300 <= source.status < 400:
            for value in source.get_all("Contact"):
                target.add("Contact", value)
        for value in source.get_all("Unsupported"):
            target.add("Unsupported", value)


def hops_left(message: Message, default: int) -> int:
    """Return the Max-Forwards to send on; negative where it was 0: it may go no further (RFC 3261 section 16.3).

    ``default`` stands for one that is not there, or cannot be read.
    """
    value = message.get("Max-Forwards") or ""
    if not (value.isascii() and value.isdigit()):
        return default
    return min(int(value), 255) - 1 if len(value) < 10 else 254


def response_to_caller(call: Call, request: Request, status: int, source: Response | None) -> Response:
    """Return a response to a caller's INVITE, with what passes of the callee's ``source``."""
    caller = call.caller
    reason = source.reason if source is not None else ""
    response = make_response(request, status, reason, to_tag=caller.dialog.local_tag)
    for value in request.get_all("Record-Route"):
        response.add("Record-Route", value)
    if status < 300:
        response.add("Contact", caller.dialog.contact)
    if source is not None:
        pass_headers(source, response, trusted=caller.peer.trusted and call.callee.peer.trusted)
    return response


def unsupported(message: Message) -> list[str]:
    """Return the option tags of Require that Kedge does not know (answered with 420)."""
    return [one for one in _tokens(message, "Require") if one not in SUPPORTED]


def _allow(message: Message) -> str:
    theirs = _tokens(message, "Allow")
    return ", ".join(one for one in theirs if one in _ALLOWED) if theirs else ALLOW


def _tokens(message: Message, name: str) -> list[str]:
    return [one for row in message.get_all(name) for one in split_commas(row) if one]
