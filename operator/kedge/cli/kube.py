"""``kubectl kedge``: looks and wishes by the objects in a cluster, with the rights of whoever asks.

Relays and calls are read from what Kedge writes there, the status of RelaySets and the Call objects: seconds old, and
only of calls that have an object (``records.after``). Wishes are written where signaling sees them: an annotation on a
relay's pod or on a RelaySet, the spec of a Call or RelaySet. So they need neither a way to signaling nor the operator.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Iterable
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from pydantic import ValidationError

from kedge.adapters.kube_client import KubeClient
from kedge.api.call import Call, LastReanchor
from kedge.api.convert import label_value
from kedge.api.names import CORDON_ANNOTATION, DRAIN_ANNOTATION, REBALANCE_ANNOTATION, RELAY_LABEL, RELAYSET_LABEL
from kedge.api.relayset import RebalanceMode, RelaySet
from kedge.api.relayset_status import RelayStatus
from kedge.cli.namespace import namespace_of
from kedge.cli.target import TargetError
from kedge.ports.kube import CALL_KIND, POD_KIND, RELAY_SET_KIND, Kind, KubeApi, KubeError, Manifest
from kedge.ports.records import AnchorRecord, CallRecord, CallState, Condition, RelayRecord, SignalingSnapshot
from kedge.relay.model import Intent

logging.getLogger("kubernetes").addHandler(logging.NullHandler())
"""What it would warn of, a missing kubeconfig say, is told once, in the error."""
_INTENTS: Final = {"Draining": "Drain", "Cordoned": "Cordon"}
_WISHES: Final[dict[Intent, dict[str, str | None]]] = {
    Intent.DRAIN: {DRAIN_ANNOTATION: "true"},
    Intent.CORDON: {CORDON_ANNOTATION: "true"},
    Intent.SERVE: {DRAIN_ANNOTATION: None, CORDON_ANNOTATION: None},
}
"""The annotations of a pod that say so; None removes one."""
T = TypeVar("T")


class ClusterError(TargetError):
    """The API server cannot be reached, or refuses; or the object does not allow what is wanted."""


class KubeTarget:
    """One namespace of a cluster. A context manager; implements ``Target``."""

    def __init__(
        self, kubeconfig: str = "", context: str = "", namespace: str = "", api: KubeApi | None = None
    ) -> None:
        self._api = api or KubeClient(kubeconfig, context)
        self._namespace = namespace_of(kubeconfig, context, namespace)
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        """Begin; nothing is asked yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all connections."""
        self._runner.run(self._api.close())
        self._runner.close()

    # --- looks ------------------------------------------------------------------------------------------------------

    def calls(self, *, relay: str = "", limit: int | None = None) -> list[CallRecord]:
        """Return the calls that have an object; the relay is the one that the object's label names.

        Raises:
            ClusterError: as all methods.
        """
        selector = f"{RELAY_LABEL}={label_value(relay)}" if relay else ""
        found = self._run(self._api.list_objects(CALL_KIND, self._namespace, selector))
        return [call_record(one) for one in _valid(Call, found)][:limit]

    def relays(self) -> list[RelayRecord]:
        """Return the relays in the status of all RelaySets."""
        sets = self._run(self._api.list_objects(RELAY_SET_KIND, self._namespace))
        return [relay_record(one, relay) for one in _valid(RelaySet, sets) if one.status for relay in one.status.relays]

    def snapshot(self) -> SignalingSnapshot:
        """Return the relays; what only signaling knows is missing."""
        return SignalingSnapshot(replica="", at=time.time(), relays=tuple(self.relays()))

    def plan(self, kind: str, *, relay: str = "", relay_set: str = "", calls: bool = False) -> dict[str, Any]:
        """Refuse: only signaling can make a plan, as it alone knows all calls."""
        raise ClusterError(
            "plans are made by signaling, which knows all calls: ask it there, with "
            f"kubectl exec --namespace {self._namespace} SIGNALING-POD -- kedge plan, or name its admin API "
            "with --server"
        )

    # --- wishes -----------------------------------------------------------------------------------------------------

    def move(self, call: str, relay: str) -> None:
        """Write the wanted relay into the Call."""
        self._run(self._move(call, relay))

    def terminate(self, call: str) -> None:
        """Write into the Call that it is to end."""
        self._run(self._patch(CALL_KIND, call, {"spec": {"state": "Terminated"}}))

    def wish(self, relay: str, intent: Intent, *, relay_set: str = "") -> None:
        """Annotate the relay's pod, or write into the RelaySet that names the relay by address."""
        self._run(self._wish(relay, intent, relay_set))

    def rebalance(self, relay_set: str) -> str:
        """Annotate the RelaySet with the time of the wish: a later time is a new wish."""
        return self._run(self._annotate_set(relay_set))

    async def _move(self, call: str, relay: str) -> None:
        pod = await self._api.get(POD_KIND, self._namespace, relay)
        sets = _valid(RelaySet, await self._api.list_objects(RELAY_SET_KIND, self._namespace)) if pod is None else ()
        if pod is None and not any(endpoint.name == relay for one in sets for endpoint in one.spec.endpoints):
            raise ClusterError(f"there is no relay {relay} in namespace {self._namespace}")
        await self._patch(CALL_KIND, call, {"spec": {"relay": relay}})

    async def _wish(self, relay: str, intent: Intent, relay_set: str) -> None:
        pod = await self._api.get(POD_KIND, self._namespace, relay)
        manifests = await self._api.list_objects(RELAY_SET_KIND, self._namespace)
        if pod is None:
            await self._write_endpoint(relay, intent, relay_set, manifests)
            return
        by_label = RELAYSET_LABEL in (pod["metadata"].get("labels") or {})
        if not by_label and not any(one.spec.selector is not None for one in _valid(RelaySet, manifests)):
            raise ClusterError(f"pod {relay} is no relay: no RelaySet of namespace {self._namespace} has it")
        await self._patch(POD_KIND, relay, {"metadata": {"annotations": _WISHES[intent]}})

    async def _write_endpoint(self, relay: str, intent: Intent, relay_set: str, manifests: list[Manifest]) -> None:
        """Write the wish into the spec of the RelaySet that names the relay by address."""
        found = [
            one for one in manifests
            if relay_set in ("", _key_of(one))
            and any(each["name"] == relay for each in one["spec"].get("endpoints") or ())
        ]  # fmt: skip
        if len(found) != 1:
            several = f"several RelaySets have a relay {relay}: say which with --set"
            raise ClusterError(several if found else f"there is no relay {relay} in namespace {self._namespace}")
        metadata, endpoints = found[0]["metadata"], found[0]["spec"]["endpoints"]
        wanted = [one | {"intent": intent.value} if one["name"] == relay else one for one in endpoints]
        # A merge patch replaces the whole list: with the version it was made from, it cannot undo another's change.
        version = {"resourceVersion": metadata["resourceVersion"]} if "resourceVersion" in metadata else {}
        await self._patch(RELAY_SET_KIND, metadata["name"], {"metadata": version, "spec": {"endpoints": wanted}})

    async def _annotate_set(self, name: str) -> str:
        sets = _valid(RelaySet, await self._api.list_objects(RELAY_SET_KIND, self._namespace))
        found = [one for one in sets if name in ("", one.metadata.name, f"{self._namespace}/{one.metadata.name}")]
        if len(found) != 1:
            known = ", ".join(sorted(one.metadata.name for one in sets)) or "none"
            what = "say which RelaySet is meant" if found else f"there is no RelaySet {name}"
            raise ClusterError(f"{what}; namespace {self._namespace} has: {known}")
        chosen = found[0]
        if chosen.spec.rebalance.mode is RebalanceMode.DISABLED:
            raise ClusterError(f"RelaySet {chosen.metadata.name} has rebalance.mode Disabled")
        at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        patch = {"metadata": {"annotations": {REBALANCE_ANNOTATION: at}}}
        await self._patch(RELAY_SET_KIND, chosen.metadata.name, patch)
        return f"{self._namespace}/{chosen.metadata.name}"

    async def _patch(self, kind: Kind, name: str, patch: Manifest) -> None:
        await self._api.patch(kind, self._namespace, name, patch)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return self._runner.run(work)
        except KubeError as error:
            raise ClusterError(f"the cluster says: {error.message}") from None


def _key_of(manifest: Manifest) -> str:
    return f"{manifest['metadata']['namespace']}/{manifest['metadata']['name']}"


def relay_record(relay_set: RelaySet, relay: RelayStatus) -> RelayRecord:
    """Return a relay of a RelaySet's status as the command line shows it."""
    return RelayRecord(
        uid=relay.name, name=relay.name, relay_set=f"{relay_set.metadata.namespace}/{relay_set.metadata.name}",
        address=relay.control, state=relay.state.value, reason=relay.reason, message=relay.message,
        since=_unix(relay.since), sessions=relay.sessions, instance=relay.instance, node=relay.node, zone=relay.zone,
        intent=_INTENTS.get(relay.state.value, "Serve"),
    )  # fmt: skip


def call_record(call: Call) -> CallRecord:
    """Return a Call object as the command line shows it. Where it has no status yet, it is being set up."""
    status, metadata, spec = call.status, call.metadata, call.spec
    name, key = metadata.name, f"{metadata.namespace}/{spec.relay_set}"
    if status is None:
        return CallRecord(
            id=name, relay_set=key, relay=spec.relay, relay_uid=spec.relay, state=CallState.SETTING_UP, caller="",
            callee="", caller_peer="", callee_peer="", call_id="", started=_unix(metadata.creation_timestamp),
            answered=None, anchors=0,
        )  # fmt: skip
    conditions = {
        one.type: Condition(status=one.status.value == "True", reason=one.reason, message=one.message)
        for one in status.conditions
    }
    unknown = Condition(status=True, reason="Unknown")
    return CallRecord(
        id=name, relay_set=key, relay=status.relay or spec.relay, relay_uid=status.relay,
        state=CallState(status.state.value) if status.state is not None else CallState.SETTING_UP,
        caller=status.from_, callee=status.to, caller_peer="", callee_peer="", call_id=status.call_id,
        started=_unix(status.started or metadata.creation_timestamp),
        answered=_unix(status.started) if status.started is not None else None, anchors=status.anchors,
        last_anchor=_anchor(status.last_reanchor), movable=conditions.get("Movable", unknown),
        anchored=conditions.get("Anchored", unknown),
    )  # fmt: skip


def _anchor(last: LastReanchor | None) -> AnchorRecord | None:
    if last is None:
        return None
    return AnchorRecord(
        source=last.from_, target=last.to, reason=last.reason, result=last.result.value, at=_unix(last.at),
        duration=last.duration, gap=last.gap or 0.0,
    )  # fmt: skip


def _unix(at: datetime | None) -> float:
    return at.timestamp() if at is not None else time.time()


def _valid(kind: Any, manifests: Iterable[Manifest]) -> list[Any]:
    """Read objects; one that does not fit its model, of a newer version say, is passed over."""
    found = []
    for one in manifests:
        try:
            found.append(kind.from_api(one))
        except ValidationError:
            continue
    return found
