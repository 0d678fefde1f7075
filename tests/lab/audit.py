"""What the API server was asked by pods: its audit log, for tests of rights and of who writes when.

Only requests by service accounts are logged, without bodies; those of Kubernetes' own controllers are left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

POLICY: Final[dict[str, Any]] = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"]},
        {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
        {"level": "None"},
    ],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request, once it was answered (a watch: once it was begun)."""

    received: float
    """Unix seconds, by the API server's clock."""
    answered: float
    account: str
    """The service account, as ``namespace:name``."""
    pod: str
    """The pod that asked; empty where its token is bound to none."""
    verb: str
    group: str
    resource: str
    """With its subresource: ``pods/status``."""
    namespace: str
    name: str
    status: int
    refused: str
    """Why it was refused for want of a right; empty: it was not."""


def requests(log: Path) -> Iterator[Request]:
    """Return what an audit log has by now; the last line may be just being written."""
    if not log.exists():
        return
    for line in log.read_text(errors="replace").splitlines():
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue
        if "objectRef" in event and (event["verb"] != "watch" or event["stage"] == "ResponseStarted"):
            yield _request(event)


def _request(event: dict[str, Any]) -> Request:
    asked, user, status = event["objectRef"], event["user"], event.get("responseStatus", {})
    subresource = asked.get("subresource")
    return Request(
        received=_seconds(event["requestReceivedTimestamp"]),
        answered=_seconds(event["stageTimestamp"]),
        account=user["username"].removeprefix("system:serviceaccount:"),
        pod=(user.get("extra", {}).get("authentication.kubernetes.io/pod-name") or [""])[0],
        verb=event["verb"],
        group=asked.get("apiGroup", ""),
        resource=f"{asked['resource']}/{subresource}" if subresource else asked["resource"],
        namespace=asked.get("namespace", ""),
        name=asked.get("name", ""),
        status=status.get("code", 0),
        refused=_refused(event, status),
    )


def _refused(event: dict[str, Any], status: dict[str, Any]) -> str:
    """By the authorizer, or by an admission plugin that asks it; a namespace that ends refuses for other reasons."""
    message = str(status.get("message", ""))
    if event.get("annotations", {}).get("authorization.k8s.io/decision") == "forbid":
        return message or "forbidden"
    return message if status.get("code") == 403 and "blockOwnerDeletion" in message else ""


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
