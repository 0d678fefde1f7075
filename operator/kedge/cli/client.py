"""The command line's way to the admin API of a running Kedge."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any, Final, TypeVar

from kedge.adapters.token_file import authorization
from kedge.cli.target import TargetError
from kedge.ports.codec import CodecError, from_json
from kedge.ports.records import CallRecord, EventRecord, RelayRecord, SignalingSnapshot
from kedge.relay.model import Intent

DEFAULT_SERVER: Final = "http://127.0.0.1:8080"
_TIMEOUT: Final = 10.0
T = TypeVar("T")


class ServerError(TargetError):
    """Kedge cannot be reached, or refuses what was asked; the message says which."""


class Client:
    """One server, asked one thing at a time, with a token where one is given. Implements ``Target``."""

    def __init__(self, server: str, token: str = "") -> None:
        self._server = server.rstrip("/")
        self._headers = authorization(token)

    def calls(self, *, relay: str = "", limit: int | None = None) -> list[CallRecord]:
        """Return calls, of one relay if it is named.

        Raises:
            ServerError: as all methods.
        """
        query = _query(relay=relay, limit="" if limit is None else str(limit))
        return self._records(CallRecord, f"/v1/calls?{query}")

    def relays(self) -> list[RelayRecord]:
        """Return all relays."""
        return self._records(RelayRecord, "/v1/relays")

    def snapshot(self) -> SignalingSnapshot:
        """Return what is known now, without the calls."""
        return self._record(SignalingSnapshot, self._get("/v1/snapshot?calls=false"))

    def plan(self, kind: str, *, relay: str = "", relay_set: str = "", calls: bool = False) -> dict[str, Any]:
        """Return what would be done; nothing is."""
        query = _query(kind=kind.lower(), relay=relay, relaySet=relay_set, calls="1" if calls else "")
        found = self._get(f"/v1/plan?{query}")
        if not isinstance(found, dict):
            raise ServerError(f"{self._server} does not answer as Kedge does")
        return found

    def events(self) -> list[EventRecord]:
        """Return the events of late, oldest first."""
        return self._records(EventRecord, "/v1/events")

    def follow_events(self) -> Iterator[EventRecord]:
        """Yield the events of late and then those to come, until the server ends."""
        with self._open(self._request("/v1/events?follow=1"), timeout=None) as response:
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

    def wish(self, relay: str, intent: Intent, *, relay_set: str = "") -> None:
        """Say what is wanted of a relay."""
        body = {"intent": intent.value, "relaySet": relay_set}
        self._post(f"/v1/relays/{urllib.parse.quote(relay, safe='')}/intent", body)

    def rebalance(self, relay_set: str) -> str:
        """Ask for the load of a set to be evened out; return the set's key."""
        answer = self._post("/v1/rebalance", {"relaySet": relay_set})
        return str(answer.get("relaySet", relay_set)) if isinstance(answer, dict) else relay_set

    def _get(self, path: str) -> Any:
        return self._ask(self._request(path))

    def _records(self, kind: type[T], path: str) -> list[T]:
        found = self._get(path)
        if not isinstance(found, list):
            raise ServerError(f"{self._server} does not answer as Kedge does")
        return [self._record(kind, one) for one in found]

    def _record(self, kind: type[T], data: object) -> T:
        try:
            return from_json(kind, data)
        except CodecError as error:
            raise ServerError(f"{self._server} does not answer as Kedge does: {error}") from None

    def _post(self, path: str, body: object) -> Any:
        return self._ask(self._request(path, json.dumps(body).encode()))

    def _request(self, path: str, body: bytes | None = None) -> urllib.request.Request:
        request = urllib.request.Request(self._server + path, data=body, headers={"Content-Type": "application/json"})
        for name, value in self._headers.items():
            request.add_unredirected_header(name, value)  # whoever is redirected to gets no token
        return request

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


def _query(**wanted: str) -> str:
    return urllib.parse.urlencode({name: value for name, value in wanted.items() if value})


def _reason(error: urllib.error.HTTPError) -> str:
    """Return why a request was refused: the admin API says so in its answer."""
    text = error.read(10_000).decode(errors="replace").strip()
    try:
        return str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        return f"{error.code} {error.reason}: {text}" if text else f"{error.code} {error.reason}"
