"""The part of the admin API that steers whole relays and sets: plans, drains, rebalances.

``GET /v1/plan`` only shows; what is POSTed is done, and its progress is in the snapshot.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from aiohttp import web

from kedge.adapters.admin_http import body_of, problem
from kedge.relay.model import Intent
from kedge.relay.plan import PlanKind
from kedge.runtime.planner import Planner
from kedge.runtime.planning import PlanRequestError

_KINDS: Final = {kind.value.lower(): kind for kind in PlanKind}
_INTENTS: Final = {intent.value.lower(): intent for intent in Intent}


class SteeringApi:
    """The routes. ``wish`` takes relay, RelaySet and intent, and returns an empty string or why it cannot be."""

    def __init__(self, planner: Planner, wish: Callable[[str, str, Intent], Awaitable[str]]) -> None:
        self._planner = planner
        self._wish = wish

    def routes(self) -> Sequence[web.RouteDef]:
        """Return the routes."""
        return [
            web.get("/v1/plan", self._plan),
            web.post("/v1/relays/{relay}/intent", self._intent),
            web.post("/v1/rebalance", self._rebalance),
        ]

    async def _plan(self, request: web.Request) -> web.Response:
        """What would be done: ``?kind=drain|loss|rebalance&relay=NAME&relaySet=NAME``; ``&calls=1`` names each call."""
        query = request.query
        kind = _KINDS.get(query.get("kind", ""))
        if kind is None:
            return problem(400, f"kind must be one of {', '.join(sorted(_KINDS))}")
        try:
            plan = await self._planner.show(kind, relay_set=query.get("relaySet", ""), relay=query.get("relay", ""))
        except PlanRequestError as error:
            return problem(404, str(error))
        return web.json_response(plan.as_dict(calls=query.get("calls", "") not in ("", "0", "false")))

    async def _intent(self, request: web.Request) -> web.Response:
        """What is wanted of a relay: ``{"intent": "Serve"|"Cordon"|"Drain", "relaySet": NAME}``."""
        body = await body_of(request)
        intent = _INTENTS.get(str(body.get("intent", "")).lower())
        if intent is None:
            return problem(400, f"intent must be one of {', '.join(one.value for one in Intent)}")
        trouble = await self._wish(request.match_info["relay"], str(body.get("relaySet", "")), intent)
        return problem(404, trouble) if trouble else web.json_response({"accepted": True}, status=202)

    async def _rebalance(self, request: web.Request) -> web.Response:
        """Even out load: ``{"relaySet": NAME}``; without a name the only set there is."""
        body = await body_of(request)
        try:
            key = self._planner.rebalance(str(body.get("relaySet", "")))
        except PlanRequestError as error:
            return problem(409, str(error))
        return web.json_response({"accepted": True, "relaySet": key}, status=202)
