"""Where agents beside relays report what they see of their links: ``POST /v1/evidence``.

    {"relay": "<pod UID>", "state": "LinkDown", "interface": "eth0", "age": 0.004, "sequence": 12}

A report is read strictly: its words end up in a relay's state and in Events. What it is worth is for ``relay.health``.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from aiohttp import web

from kedge.adapters.admin_guard import EVIDENCE
from kedge.adapters.admin_http import body_of, problem
from kedge.relay.link_health import LAPSE, LinkReport, LinkState, ReportResult

_RELAY: Final = re.compile(r"[!-~]{1,640}")
_INTERFACE: Final = re.compile(r"[!-~]{0,15}")
"""As Linux has them (IFNAMSIZ), in printable ASCII."""
_STATES: Final = {one.value: one for one in LinkState}
_REFUSED: Final = {
    ReportResult.UNKNOWN: (404, "no relay of that uid is known"),
    ReportResult.OVERTAKEN: (409, "a report with a higher sequence has come before"),
    ReportResult.TOO_OLD: (400, f"age must be less than {LAPSE:g} s"),
}


class EvidenceApi:
    """The route; ``take`` weighs a report and says what became of it."""

    def __init__(self, take: Callable[[LinkReport], Awaitable[ReportResult]]) -> None:
        self._take = take

    def routes(self) -> Sequence[web.RouteDef]:
        """Return the route."""
        return [web.post(EVIDENCE, self._evidence)]

    async def _evidence(self, request: web.Request) -> web.Response:
        try:
            report = report_of(await body_of(request))
        except ValueError as error:
            return problem(400, str(error))
        refused = _REFUSED.get(await self._take(report))
        return problem(*refused) if refused else web.json_response({"accepted": True}, status=202)


def report_of(body: Mapping[str, Any]) -> LinkReport:
    """Return the report in a body; raises ValueError, which says what is wrong."""
    relay, interface, state = (body.get(name) for name in ("relay", "interface", "state"))
    age, sequence = body.get("age"), body.get("sequence")
    if not isinstance(relay, str) or not _RELAY.fullmatch(relay):
        raise ValueError("relay must be the uid of a relay's pod")
    if not isinstance(state, str) or state not in _STATES:
        raise ValueError(f"state must be one of {', '.join(_STATES)}")
    if not isinstance(interface, str) or not _INTERFACE.fullmatch(interface):
        raise ValueError("interface must be the name of a network interface")
    if isinstance(age, bool) or not isinstance(age, int | float) or not age >= 0:
        raise ValueError("age must be a number of seconds, 0 or more")
    if isinstance(sequence, bool) or not isinstance(sequence, int) or not 0 <= sequence < 1 << 63:
        raise ValueError("sequence must be a whole number, 0 or more")
    return LinkReport(relay=relay, state=_STATES[state], interface=interface, age=age, sequence=sequence)
