"""Wrong manifests, each with one fault: files and the API server must both refuse them and name the field."""

from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

REPLICAS: Json = {"engine": "RTPEngine", "replicas": 2}
SELECTOR: Json = {"engine": "RTPEngine", "selector": {"matchLabels": {"app": "rtpengine"}}}
ENDPOINTS: Json = {"engine": "RTPEngine", "endpoints": [{"name": "a", "address": "127.0.0.11"}]}
CALL: Json = {"relaySet": "voice", "relay": "voice-0"}


@dataclass(frozen=True)
class Wrong:
    """A spec that is wrong in one field."""

    name: str
    spec: Json
    field: str
    says: str
    """What the refusal says beside the field; both tongues of a rule have the same text."""
    kind: str = "RelaySet"
    value: str = ""
    """What a file's refusal says was given."""
    file_says: str = ""
    """Where a file's refusal is worded by ourselves and the API server's by Kubernetes."""


def _media(**media: Any) -> Json:
    return REPLICAS | {"media": media}


def _health(**health: Any) -> Json:
    return REPLICAS | {"health": health}


_DURATION = "must be a duration with a unit"

RULES = [
    Wrong(
        "both replicas and endpoints",
        REPLICAS | ENDPOINTS,
        "spec.replicas",
        "must not be given with selector or endpoints",
        value="2",
    ),
    Wrong(
        "both replicas and selector", REPLICAS | SELECTOR, "spec.replicas", "must not be given with selector", value="2"
    ),
    Wrong("no source of relays", {"engine": "RTPEngine"}, "spec.replicas", "is needed unless selector or endpoints"),
    Wrong("selector and endpoints", SELECTOR | ENDPOINTS, "spec", "at most one of template, selector and endpoints"),
    Wrong(
        "template and endpoints",
        ENDPOINTS | {"template": {"image": "x"}},
        "spec",
        "at most one of template, selector and endpoints",
    ),
    Wrong("empty selector", {"engine": "RTPEngine", "selector": {}}, "spec.selector", "needs matchLabels"),
    Wrong(
        "selector without values",
        {"engine": "RTPEngine", "selector": {"matchExpressions": [{"key": "app", "operator": "In"}]}},
        "spec.selector.matchExpressions[0].values",
        "values belong to In and NotIn",
    ),
    Wrong(
        "endpoints at one address",
        {
            "engine": "RTPEngine",
            "endpoints": [{"name": "a", "address": "127.0.0.1"}, {"name": "b", "address": "127.0.0.1"}],
        },
        "spec.endpoints",
        "no two endpoints may have the same address and port",
    ),
    Wrong(
        "port range upside down",
        _media(portRange={"min": 20000, "max": 19000}),
        "spec.media.portRange.min",
        "must be below portRange.max",
        value="20000",
    ),
    Wrong(
        "minimum above the default maximum",
        _media(portRange={"min": 40000}),
        "spec.media.portRange.min",
        "must be below portRange.max",
        value="40000",
    ),
    Wrong(
        "99 ports",
        _media(portRange={"min": 20000, "max": 20098}),
        "spec.media.portRange.max",
        "must leave at least 100 ports",
        value="20098",
    ),
    Wrong(
        "host network over NodePorts",
        _media(hostNetwork=True, portRange={"min": 20000, "max": 30000}),
        "spec.media.portRange",
        "must stay clear of NodePorts, 30000-32767",
    ),
    Wrong(
        "Static without address",
        _media(advertise={"type": "Static"}),
        "spec.media.advertise.address",
        "an address belongs to type Static, and is needed there",
    ),
    Wrong(
        "Static with a name",
        _media(advertise={"type": "Static", "address": "relay.example.org"}),
        "spec.media.advertise.address",
        "must be an IPv4 or IPv6 address",
        value="relay.example.org",
    ),
    Wrong(
        "address without Static",
        _media(advertise={"address": "192.0.2.1"}),
        "spec.media.advertise.address",
        "an address belongs to type Static",
        value="192.0.2.1",
    ),
    Wrong(
        "Annotation without name",
        _media(advertise={"type": "Annotation"}),
        "spec.media.advertise.annotation",
        "the name of an annotation belongs to type Annotation, and is needed there",
    ),
    Wrong(
        "NodeInternalIP without host network",
        _media(advertise={"type": "NodeInternalIP"}),
        "spec.media.advertise",
        "NodeInternalIP and NodeExternalIP need hostNetwork: true",
    ),
    Wrong(
        "timeout above interval",
        _health(interval="100ms", timeout="101ms"),
        "spec.health.timeout",
        "must not be longer than health.interval",
        value="101ms",
    ),
    Wrong(
        "default timeout above interval",
        _health(interval="60ms"),
        "spec.health.timeout",
        "must not be longer than health.interval",
        value="100ms (the default)",
    ),
    Wrong(
        "interval below 50 ms",
        _health(interval="49ms", timeout="20ms"),
        "spec.health.interval",
        "must be from 50ms to 30s",
        value="49ms",
    ),
    Wrong("interval above 30 s", _health(interval="30s1ms"), "spec.health.interval", "must be from 50ms to 30s"),
    Wrong(
        "rate per peer above rate",
        REPLICAS | {"failover": {"rate": 100, "ratePerPeer": 101}},
        "spec.failover.ratePerPeer",
        "must not be above failover.rate",
        value="101",
    ),
    Wrong(
        "drain of half a second",
        REPLICAS | {"drain": {"deadline": "500ms"}},
        "spec.drain.deadline",
        "must be from 1s to 24h",
    ),
    Wrong(
        "nothing may be updated",
        REPLICAS | {"updateStrategy": {"maxSurge": 0, "maxUnavailable": 0}},
        "spec.updateStrategy.maxUnavailable",
        "maxSurge and maxUnavailable must not both be 0",
    ),
    Wrong(
        "canary of rtpproxy",
        {"engine": "RTPProxy", "replicas": 1, "health": {"canary": {"mode": "Enabled"}}},
        "spec.health.canary.mode",
        "a canary needs engine RTPEngine",
        value="Enabled",
    ),
]
"""Refused by rules of our own, in the same words on both sides."""

SCHEMA = [
    Wrong(
        "unknown engine",
        REPLICAS | {"engine": "Asterisk"},
        "spec.engine",
        '"RTPEngine", "RTPProxy"',
        value="Asterisk",
        file_says="must be RTPEngine or RTPProxy",
    ),
    Wrong(
        "no engine",
        {"replicas": 1},
        "spec.engine",
        "Required value",
        file_says="is missing: must be RTPEngine or RTPProxy",
    ),
    Wrong(
        "replicas as a string",
        REPLICAS | {"replicas": "2"},
        "spec.replicas",
        "must be of type integer",
        value="2",
        file_says="must be a whole number from 0 to 256",
    ),
    Wrong(
        "negative replicas",
        REPLICAS | {"replicas": -1},
        "spec.replicas",
        "greater than or equal to 0",
        value="-1",
        file_says="from 0 to 256",
    ),
    Wrong(
        "threshold 0",
        _health(threshold=0),
        "spec.health.threshold",
        "greater than or equal to 1",
        value="0",
        file_says="must be a whole number from 1 to 100",
    ),
    Wrong(
        "threshold 101",
        _health(threshold=101),
        "spec.health.threshold",
        "less than or equal to 100",
        value="101",
        file_says="from 1 to 100",
    ),
    Wrong(
        "duration without unit",
        _health(interval="100"),
        "spec.health.interval",
        "should match",
        value="100",
        file_says=_DURATION,
    ),
    Wrong(
        "duration as a number",
        _health(interval=100),
        "spec.health.interval",
        "must be of type string",
        value="100",
        file_says=_DURATION,
    ),
    Wrong(
        "fraction of a second",
        _health(interval="0.1s"),
        "spec.health.interval",
        "should match",
        value="0.1s",
        file_says=_DURATION,
    ),
    Wrong(
        "port of media below 1024",
        _media(portRange={"min": 80}),
        "spec.media.portRange.min",
        "greater than or equal to 1024",
        value="80",
        file_says="from 1024 to 65535",
    ),
    Wrong(
        "unknown mode",
        REPLICAS | {"failover": {"mode": "automatic"}},
        "spec.failover.mode",
        '"Automatic", "Manual"',
        value="automatic",
        file_says="must be Automatic or Manual",
    ),
    Wrong(
        "endpoints of one name",
        {
            "engine": "RTPEngine",
            "endpoints": [{"name": "a", "address": "127.0.0.1"}, {"name": "a", "address": "127.0.0.2"}],
        },
        "spec.endpoints[1]",
        "Duplicate value",
        file_says="there is another entry with that name",
    ),
    Wrong(
        "endpoint without address",
        {"engine": "RTPEngine", "endpoints": [{"name": "a"}]},
        "spec.endpoints[0].address",
        "Required value",
        file_says="is missing",
    ),
    Wrong(
        "endpoint's address is no address",
        {"engine": "RTPEngine", "endpoints": [{"name": "a", "address": "127.0.0"}]},
        "spec.endpoints[0].address",
        "must be an IPv4 or IPv6 address",
        value="127.0.0",
    ),
    Wrong(
        "endpoint's address has a leading zero",
        {"engine": "RTPEngine", "endpoints": [{"name": "a", "address": "127.0.0.01"}]},
        "spec.endpoints[0].address",
        "must be an IPv4 or IPv6 address",
        value="127.0.0.01",
    ),
    Wrong(
        "no endpoints",
        {"engine": "RTPEngine", "endpoints": []},
        "spec.endpoints",
        "at least 1 items",
        file_says="a list of 1 to 256 items",
    ),
    Wrong(
        "no family",
        _media(families=[]),
        "spec.media.families",
        "at least 1 items",
        value="[]",
        file_says="a list of 1 to 2 items",
    ),
    Wrong(
        "a family twice",
        _media(families=["IPv4", "IPv4"]),
        "spec.media.families[1]",
        "Duplicate value",
        file_says="is there already",
    ),
    Wrong(
        "too many sessions",
        REPLICAS | {"placement": {"maxSessionsPerRelay": 1_000_001}},
        "spec.placement.maxSessionsPerRelay",
        "less than or equal to 1000000",
        value="1000001",
        file_says="from 1 to 1000000",
    ),
    Wrong(
        "an amount that is none",
        REPLICAS | {"template": {"resources": {"limits": {"memory": "lots"}}}},
        "spec.template.resources.limits.memory",
        "should match",
        value="lots",
        file_says="must be an amount",
    ),
    Wrong(
        "call without relay", {"relaySet": "voice"}, "spec.relay", "Required value", kind="Call", file_says="is missing"
    ),
    Wrong(
        "call in an unknown state",
        CALL | {"state": "Ended"},
        "spec.state",
        '"Active", "Terminated"',
        kind="Call",
        value="Ended",
        file_says="must be Active or Terminated",
    ),
    Wrong(
        "call with an unknown transport",
        CALL | {"legs": {"callee": {"transport": "ZRTP"}}},
        "spec.legs.callee.transport",
        '"RTP", "SRTP"',
        kind="Call",
        value="ZRTP",
        file_says="must be RTP or SRTP",
    ),
]
"""Refused by the schema, which the API server words by itself."""

UNKNOWN = [
    Wrong(
        "misspelt field",
        REPLICAS | {"replicaz": 2},
        "spec.replicaz",
        "unknown field",
        file_says="did you mean replicas?",
    ),
    Wrong(
        "misspelt below",
        _health(treshold=2),
        "spec.health.treshold",
        "unknown field",
        file_says="did you mean threshold?",
    ),
    Wrong(
        "snake case",
        REPLICAS | {"update_strategy": {"maxSurge": 1}},
        "spec.update_strategy",
        "unknown field",
        file_says="did you mean updateStrategy?",
    ),
    Wrong(
        "misspelt in a call",
        CALL | {"relayset": "x"},
        "spec.relayset",
        "unknown field",
        kind="Call",
        file_says="did you mean relaySet?",
    ),
]
"""Refused for a field that nobody knows; by the API server only when asked to be strict, as kubectl asks."""

WRONG = RULES + SCHEMA + UNKNOWN


def manifest(spec: Json, *, kind: str = "RelaySet", name: str = "sample") -> Json:
    """An object of ``kind`` with ``spec``."""
    return {"apiVersion": "kedge.media/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
