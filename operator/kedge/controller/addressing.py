"""How a relay pod learns its addresses: from its environment, or from a file that the agent beside it writes. Pure.

A pod's one address, and one to advertise for it, come by the environment. Where there may be several (two families), or
one comes only after the pod has a node (``NodeExternalIP``), nobody but the pod itself knows them, rtpengine takes no
list from the environment, and its image has no shell: then the agent writes a configuration file before the relay
starts.
"""

from __future__ import annotations

from typing import Any, Final

from kedge.api.names import EXTERNAL_IP_ANNOTATION
from kedge.api.policies import Advertise, AdvertiseType, Family, Media
from kedge.api.relayset import RelaySetSpec
from kedge.base.errors import KedgeError

_FOLDER: Final = "/run/kedge"
CONFIG_FILE: Final = f"{_FOLDER}/rtpengine.conf"
_POD_FOLDER: Final = "/run/kedge-pod"
_ADVERTISED_FILE: Final = f"{_POD_FOLDER}/external-ip"
_CONFIG_VOLUME: Final = "relay-config"
_POD_VOLUME: Final = "pod"

_Json = dict[str, Any]


class UnsupportedError(KedgeError):
    """The RelaySet asks for what this version cannot make: its author's to change."""


def needs_file(media: Media, *, agent: bool) -> bool:
    """Whether the agent writes the relay's addresses.

    Raises:
        UnsupportedError: it would have to, and there is none.
    """
    external = media.advertise.type is AdvertiseType.NODE_EXTERNAL_IP
    if not agent and (external or len(media.families) > 1):
        what = "advertise.type NodeExternalIP needs" if external else "two media.families need"
        raise UnsupportedError(f"{what} the agent beside each relay (--agent-image; relays.agent of the chart)")
    return agent and (external or media.families != (Family.IPV4,))


def config_file(media: Media, *, agent: bool) -> str:
    """Return what configuration file the relay has; ``none`` for none."""
    return CONFIG_FILE if needs_file(media, agent=agent) else "none"


def relay_arguments(spec: RelaySetSpec, *, agent: bool) -> list[str]:
    """Return how the relay is told where it listens and where media goes, if no file says so."""
    if needs_file(spec.media, agent=agent):
        return []
    advertised = "!$(ADVERTISED_IP)" if spec.media.advertise.type is not AdvertiseType.POD_IP else ""
    control = "[$(POD_IP)]" if spec.media.families[0] is Family.IPV6 else "$(POD_IP)"
    return [
        f"--interface=$(POD_IP){advertised}",
        f"--listen-ng={control}:{spec.control.port}",
    ]


def relay_environment(spec: RelaySetSpec, *, agent: bool) -> list[_Json]:
    """Return the variables that ``relay_arguments`` speak of."""
    if needs_file(spec.media, agent=agent):
        return []
    return [from_field("POD_IP", "status.podIP"), *_advertised(spec.media.advertise, "status.hostIP")]


def agent_arguments(spec: RelaySetSpec) -> list[str]:
    """Return how the agent is told to write the file."""
    if not needs_file(spec.media, agent=True):
        return []
    told = {AdvertiseType.POD_IP: [], AdvertiseType.NODE_EXTERNAL_IP: [f"--advertised-file={_ADVERTISED_FILE}"]}
    return [
        f"--relay-config={CONFIG_FILE}",
        "--addresses=$(POD_IPS)",
        f"--families={','.join(spec.media.families)}",
        *told.get(spec.media.advertise.type, ["--advertised=$(ADVERTISED_IP)"]),
    ]


def agent_environment(spec: RelaySetSpec) -> list[_Json]:
    """Return the variables that ``agent_arguments`` speak of."""
    if not needs_file(spec.media, agent=True):
        return []
    return [from_field("POD_IPS", "status.podIPs"), *_advertised(spec.media.advertise, "status.hostIPs")]


def agent_mounts(spec: RelaySetSpec) -> list[_Json]:
    """Return where the agent writes, and where it reads what comes later."""
    if not needs_file(spec.media, agent=True):
        return []
    mounts: list[_Json] = [{"name": _CONFIG_VOLUME, "mountPath": _FOLDER}]
    if spec.media.advertise.type is AdvertiseType.NODE_EXTERNAL_IP:
        mounts.append({"name": _POD_VOLUME, "mountPath": _POD_FOLDER, "readOnly": True})
    return mounts


def relay_mounts(spec: RelaySetSpec, *, agent: bool) -> list[_Json]:
    """Return where the relay reads."""
    if not needs_file(spec.media, agent=agent):
        return []
    return [{"name": _CONFIG_VOLUME, "mountPath": _FOLDER, "readOnly": True}]


def volumes(spec: RelaySetSpec, *, agent: bool) -> list[_Json]:
    """Return the pod's volumes: the file, and the annotation as a file that follows it."""
    if not needs_file(spec.media, agent=agent):
        return []
    made: list[_Json] = [{"name": _CONFIG_VOLUME, "emptyDir": {"sizeLimit": "1Mi"}}]
    if spec.media.advertise.type is AdvertiseType.NODE_EXTERNAL_IP:
        path = f"metadata.annotations['{EXTERNAL_IP_ANNOTATION}']"
        item = {"path": "external-ip", "fieldRef": {"apiVersion": "v1", "fieldPath": path}}
        made.append({"name": _POD_VOLUME, "downwardAPI": {"items": [item]}})
    return made


def from_field(name: str, path: str) -> _Json:
    """Return a variable that has a field of the pod."""
    return {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}


def _advertised(advertise: Advertise, host: str) -> list[_Json]:
    if advertise.type is AdvertiseType.NODE_INTERNAL_IP:
        return [from_field("ADVERTISED_IP", host)]
    if advertise.type is AdvertiseType.ANNOTATION:
        return [from_field("ADVERTISED_IP", f"metadata.annotations['{advertise.annotation}']")]
    if advertise.type is AdvertiseType.STATIC:
        return [{"name": "ADVERTISED_IP", "value": advertise.address}]
    return []
