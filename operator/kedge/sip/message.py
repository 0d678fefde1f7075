"""SIP messages: two parallel lists of canonical header names and raw values, and a body.

What every message is asked for (Call-ID, CSeq, tags, branch) stands in plain attributes that follow the headers;
all else is read from its header when somebody asks (``kedge.sip.headers``). Content-Length is no header here: the
parser consumes it and ``to_bytes`` writes it.
"""

from __future__ import annotations

from typing import Final

from kedge.sip.headers import Via, find_branch, find_tag, first_of, parse_cseq, parse_via, split_commas

REASONS: Final[dict[int, str]] = {
    100: "Trying",
    180: "Ringing",
    181: "Call Is Being Forwarded",
    182: "Queued",
    183: "Session Progress",
    199: "Early Dialog Terminated",
    200: "OK",
    202: "Accepted",
    204: "No Notification",
    300: "Multiple Choices",
    301: "Moved Permanently",
    302: "Moved Temporarily",
    305: "Use Proxy",
    380: "Alternative Service",
    400: "Bad Request",
    401: "Unauthorized",
    402: "Payment Required",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    407: "Proxy Authentication Required",
    408: "Request Timeout",
    410: "Gone",
    412: "Conditional Request Failed",
    413: "Request Entity Too Large",
    414: "Request-URI Too Long",
    415: "Unsupported Media Type",
    416: "Unsupported URI Scheme",
    417: "Unknown Resource-Priority",
    420: "Bad Extension",
    421: "Extension Required",
    422: "Session Interval Too Small",
    423: "Interval Too Brief",
    424: "Bad Location Information",
    428: "Use Identity Header",
    429: "Provide Referrer Identity",
    430: "Flow Failed",
    433: "Anonymity Disallowed",
    436: "Bad Identity-Info",
    437: "Unsupported Certificate",
    438: "Invalid Identity Header",
    439: "First Hop Lacks Outbound Support",
    440: "Max-Breadth Exceeded",
    469: "Bad Info Package",
    470: "Consent Needed",
    480: "Temporarily Unavailable",
    481: "Call/Transaction Does Not Exist",
    482: "Loop Detected",
    483: "Too Many Hops",
    484: "Address Incomplete",
    485: "Ambiguous",
    486: "Busy Here",
    487: "Request Terminated",
    488: "Not Acceptable Here",
    489: "Bad Event",
    491: "Request Pending",
    493: "Undecipherable",
    494: "Security Agreement Required",
    500: "Server Internal Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Server Time-out",
    505: "Version Not Supported",
    513: "Message Too Large",
    555: "Push Notification Service Not Supported",
    580: "Precondition Failure",
    600: "Busy Everywhere",
    603: "Decline",
    604: "Does Not Exist Anywhere",
    606: "Not Acceptable",
    607: "Unwanted",
    608: "Rejected",
}
"""Reason phrases by status (IANA registry of SIP response codes)."""

_EXTRACTED: Final = frozenset(("Via", "From", "To", "Call-ID", "CSeq"))
_COPIED: Final = frozenset(("Via", "From", "Call-ID", "CSeq"))


class Message:
    """What requests and responses share.

    Attributes:
        names: Canonical header names, in order.
        values: The raw values, one for each name.
        body: The body, not decoded.
        call_id: Value of Call-ID.
        cseq: Number of CSeq.
        cseq_method: Method of CSeq.
        from_tag: The tag of From, ``""`` if none.
        to_tag: The tag of To, ``""`` if none.
        branch: The branch of the top Via, ``""`` if none.
    """

    __slots__ = ("_via", "body", "branch", "call_id", "cseq", "cseq_method", "from_tag", "names", "to_tag", "values")

    def __init__(self) -> None:
        self.names: list[str] = []
        self.values: list[str] = []
        self.body: bytes = b""
        self.call_id: str = ""
        self.cseq: int = 0
        self.cseq_method: str = ""
        self.from_tag: str = ""
        self.to_tag: str = ""
        self.branch: str = ""
        self._via: Via | None = None

    @property
    def start_line(self) -> str:
        """The first line, without its CRLF."""
        raise NotImplementedError

    @property
    def top_via(self) -> Via:
        """The topmost Via, parsed once; to change it, ``replace_top_via``.

        Raises:
            ParseError: There is none, or it is malformed.
        """
        via = self._via
        if via is None:
            via = self._via = parse_via(first_of(self.get("Via") or ""))
        return via

    def replace_top_via(self, via: Via) -> None:
        """Write ``via`` in place of the topmost Via value; the others of its row stay."""
        index = self.names.index("Via")
        row = self.values[index]
        self.values[index] = str(via) if "," not in row else ", ".join([str(via), *split_commas(row)[1:]])
        self._via = via
        self.branch = via.branch

    def get(self, name: str) -> str | None:
        """Return the first value of the header with this canonical name, or None."""
        names = self.names
        return self.values[names.index(name)] if name in names else None

    def get_all(self, name: str) -> list[str]:
        """Return all rows of a header, in order; rows with commas are not split."""
        return [value for key, value in zip(self.names, self.values, strict=True) if key == name]

    def add(self, name: str, value: str) -> None:
        """Append a header row. ``name`` is canonical; Content-Length is ignored, ``to_bytes`` writes it."""
        if name == "Content-Length":
            return
        self.names.append(name)
        self.values.append(value)
        if name in _EXTRACTED:
            self._extract(name)

    def set(self, name: str, value: str) -> None:
        """Put ``value`` where the first row of that name stands and remove the others; append it if there is none."""
        if name not in self.names:
            self.add(name, value)
            return
        first = self.names.index(name)
        self.values[first] = value
        self._remove_from(name, first + 1)
        if name in _EXTRACTED:
            self._extract(name)

    def remove(self, name: str) -> None:
        """Remove all rows of a header."""
        self._remove_from(name, 0)
        if name in _EXTRACTED:
            self._extract(name)

    def _remove_from(self, name: str, start: int) -> None:
        names = self.names
        for index in range(len(names) - 1, start - 1, -1):
            if names[index] == name:
                del names[index], self.values[index]

    def _extract(self, name: str) -> None:
        """Bring the attributes up to date with the header ``name``."""
        value = self.get(name)
        if name == "Via":
            self._via = None
            self.branch = "" if value is None else find_branch(value)
        elif name == "From":
            self.from_tag = "" if value is None else find_tag(value)
        elif name == "To":
            self.to_tag = "" if value is None else find_tag(value)
        elif name == "Call-ID":
            self.call_id = value or ""
        else:
            self.cseq, self.cseq_method = (0, "") if value is None else parse_cseq(value)

    def to_bytes(self) -> bytes:
        """Write the message as it goes out, with a Content-Length of its own."""
        head = "\r\n".join(map(": ".join, zip(self.names, self.values, strict=True)))
        text = f"{self.start_line}\r\n{head}\r\nContent-Length: {len(self.body)}\r\n\r\n"
        return text.encode("utf-8", "surrogateescape") + self.body

    def same_as(self, other: Message) -> bool:
        """Whether both would be written alike."""
        return (
            self.start_line == other.start_line
            and self.names == other.names
            and self.values == other.values
            and self.body == other.body
        )

    def __repr__(self) -> str:
        return f"<{self.start_line!r} Call-ID={self.call_id!r} CSeq={self.cseq} {self.cseq_method}>"


class Request(Message):
    """A request: ``method`` as it came (methods are case-sensitive), ``uri`` the raw Request-URI."""

    __slots__ = ("method", "uri")

    def __init__(self, method: str, uri: str) -> None:
        super().__init__()
        self.method = method
        self.uri = uri

    @property
    def start_line(self) -> str:
        """The request line."""
        return f"{self.method} {self.uri} SIP/2.0"


class Response(Message):
    """A response: ``status`` from 100 to 699, ``reason`` the phrase."""

    __slots__ = ("reason", "status")

    def __init__(self, status: int, reason: str = "") -> None:
        super().__init__()
        self.status = status
        self.reason = reason

    @property
    def start_line(self) -> str:
        """The status line."""
        return f"SIP/2.0 {self.status} {self.reason}"

    @property
    def is_provisional(self) -> bool:
        """Whether it is a 1xx."""
        return self.status < 200

    @property
    def is_success(self) -> bool:
        """Whether it is a 2xx."""
        return 200 <= self.status < 300

    @property
    def is_final(self) -> bool:
        """Whether it is no 1xx."""
        return self.status >= 200


def make_response(request: Request, status: int, reason: str = "", *, to_tag: str = "") -> Response:
    """Return a response to ``request`` with the headers of RFC 3261 section 8.2.6, and nothing else.

    ``to_tag`` is added to To if the request has none there and ``status`` is not 100; an empty ``reason`` is taken from
    ``REASONS``.
    """
    response = Response(status, reason or REASONS.get(status, "Unknown"))
    names, values = response.names, response.values
    for name, value in zip(request.names, request.values, strict=True):
        if name in _COPIED:
            names.append(name)
            values.append(value)
        elif name == "To":
            if to_tag and not request.to_tag and status != 100:
                value = f"{value};tag={to_tag}"
                response.to_tag = to_tag
            else:
                response.to_tag = request.to_tag
            names.append(name)
            values.append(value)
        elif name == "Timestamp" and status == 100:
            names.append(name)  # RFC 3261 section 8.2.6.1
            values.append(value)
    response.call_id = request.call_id
    response.cseq = request.cseq
    response.cseq_method = request.cseq_method
    response.from_tag = request.from_tag
    response.branch = request.branch
    return response
