"""The command line's way to the admin API of a running Kedge."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any, Final, TypeVar

from kedge.base.errors import KedgeError
from kedge.ports.codec import CodecError, from_json
from kedge.ports.records import CallRecord, EventRecord, RelayRecord

DEFAULT_SERVER: Final = "http://127.0.0.1:8080"
_TIMEOUT: Final = 10.0
T = TypeVar("T")


class ServerError(KedgeError):
    """Kedge cannot be reached, or refuses what was asked; the message says which."""


class Client:
    """One server, asked one thing at a time."""

    def __init__(self, server: str) -> None:
        self._server = server.rstrip("/")

    def calls(self, *, relay: str = "", limit: int | None = None) -> list[CallRecord]:
        """Return calls, of one relay if it is named.

        Raises:
            ServerError: as all methods.
        """
        wanted = {"relay": relay, "limit": "" if limit is None else str(limit)}
        query = urllib.parse.urlencode({name: value for name, value in wanted.items() if value})
        return self._records(CallRecord, f"/v1/calls?{query}")

    def relays(self) -> list[RelayRecord]:
        """Return all relays."""
        return self._records(RelayRecord, "/v1/relays")

    def events(self) -> list[EventRecord]:
        """Return the events of late, oldest first."""
        return self._records(EventRecord, "/v1/events")

    def follow_events(self) -> Iterator[EventRecord]:
        """Yield the events of late and then those to come, until the server ends."""
        with self._open(urllib.request.Request(self._server + "/v1/events?follow=1"), timeout=None) as response:
            try:
                for line in response:
                    yield self._record(EventRecord, json.loads(line))
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise ServerError(f"the events of {self._server} broke off: {error}") from None

    def move(self, call: str, relay: str) -> None:
        """Ask for a call to be moved."""
        self._post(f"/v1/calls/{urllib.parse.quote(call, safe='')}/move", {"relay": relay})

    def terminate(self, call: str) -> None:
        """Ask for a call to be hung up."""
        self._post(f"/v1/calls/{urllib.parse.quote(call, safe='')}/terminate", {})

    def _records(self, kind: type[T], path: str) -> list[T]:
        found = self._ask(urllib.request.Request(self._server + path))
        if not isinstance(found, list):
            raise ServerError(f"{self._server} does not answer as Kedge does")
        return [self._record(kind, one) for one in found]

    def _record(self, kind: type[T], data: object) -> T:
        try:
            return from_json(kind, data)
        except CodecError as error:
            raise ServerError(f"{self._server} does not answer as Kedge does: {error}") from None

    def _post(self, path: str, body: object) -> None:
        headers = {"Content-Type": "application/json"}
        self._ask(urllib.request.Request(self._server + path, data=json.dumps(body).encode(), headers=headers))

    def _ask(self, request: urllib.request.Request) -> Any:
        with self._open(request, timeout=_TIMEOUT) as response:
            try:
                return json.load(response)
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise ServerError(f"{self._server} does not answer as Kedge does: {error}") from None

    def _open(self, request: urllib.request.Request, *, timeout: float | None) -> http.client.HTTPResponse:
        try:
            response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=timeout)
        except urllib.error.HTTPError as error:
            with error:
                raise ServerError(_reason(error)) from None
        except urllib.error.URLError as error:
            hint = "does `kedge run` run, and is --server right?"
            raise ServerError(f"cannot reach Kedge at {self._server}: {error.reason}; {hint}") from None
        except (OSError, http.client.HTTPException) as error:
            raise ServerError(f"cannot reach Kedge at {self._server}: {error}") from None
        return response


def _reason(error: urllib.error.HTTPError) -> str:
    """Return why a request was refused: the admin API says so in its answer."""
    text = error.read(10_000).decode(errors="replace").strip()
    try:
        return str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        return f"{error.code} {error.reason}: {text}" if text else f"{error.code} {error.reason}"
