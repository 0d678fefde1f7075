"""HTTP beside SIP: the sockets, health and metrics. What the admin API answers stands in ``admin_http``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Middleware
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from kedge.base.address import Address

_SHUTDOWN: Final = 1.0
"""Seconds that open requests get at the end."""
Readiness = Callable[[], str]
"""Returns an empty string, or what is not ready yet."""


class HttpServer:
    """One listening socket with its routes, on the loop that runs; ``guard`` decides who may ask."""

    def __init__(self, address: Address, routes: Iterable[web.RouteDef], *, guard: Middleware | None = None) -> None:
        self._wanted = address
        app = web.Application(middlewares=[_no_store, *([guard] if guard is not None else [])])
        app.add_routes(list(routes))
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=_SHUTDOWN)

    async def start(self) -> Address:
        """Listen; return the address, with the port that was given for port 0.

        Raises:
            OSError: the address cannot be bound.
        """
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, *self._wanted).start()
        except OSError:
            await self._runner.cleanup()
            raise
        name = self._runner.addresses[0]
        return name[0], name[1]

    async def close(self) -> None:
        """End all requests and stop listening."""
        await self._runner.cleanup()


def health_routes(alive: Callable[[], bool], readiness: Readiness) -> Sequence[web.RouteDef]:
    """Return ``/healthz`` (is SIP served?) and ``/readyz`` (may traffic come?). Neither asks anybody else."""

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n") if alive() else web.Response(text="SIP is not served\n", status=503)

    async def readyz(_: web.Request) -> web.Response:
        missing = readiness() if alive() else "SIP is not served"
        return web.Response(text=f"{missing}\n", status=503) if missing else web.Response(text="ok\n")

    return [web.get("/healthz", healthz), web.get("/readyz", readyz)]


def metrics_routes(registry: CollectorRegistry) -> Sequence[web.RouteDef]:
    """Return ``/metrics``, in the format that the scraper asks for."""

    async def metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(registry), headers={"Content-Type": content_type})

    return [web.get("/metrics", metrics)]


@web.middleware
async def _no_store(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    response = await handler(request)
    if not response.prepared:
        response.headers["Cache-Control"] = "no-store"
    return response
