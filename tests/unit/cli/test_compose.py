"""From settings to what the layers below take: each value has to arrive where it is meant."""

from __future__ import annotations

import pytest

from kedge.api.load import load_settings
from kedge.cli.compose import routing_of, signaling_settings

SETTINGS = """
sip:
  listen: [{ address: 127.0.0.5, port: 5070, advertise: 192.0.2.9 }]
  userAgent: Test
  maxCalls: 7
  ringTimeout: 61s
  retryAfter: 8s
  maxForwards: 40
  maxDatagramBytes: 4000
  timers: { t1: 100ms, t2: 1s, t4: 2s }
peers:
  - { name: trunk, networks: [192.0.2.0/24, 2001:db8::/32], maxCalls: 5, callsPerSecond: 6, trusted: true }
  - { name: pbx, networks: [198.51.100.1/32], port: 5062, zone: b }
routes:
  - name: first
    match: { peer: trunk, userPrefix: "+49", host: example.org }
    nextHops: [{ address: 198.51.100.1, port: 5062, weight: 30 }, { address: 192.0.2.4 }]
    relaySet: voice
    responseTimeout: 3s
    failoverOn: [480, 503]
  - { name: last, nextHops: [{ address: 192.0.2.4 }], relaySet: other/voice }
signaling:
  zone: a
  commands: { timeout: 200ms, retries: 2, outstanding: 3, sweepInterval: 90s }
  reanchor: { responseTimeout: 2500ms, busyWait: 1500ms, maxOffers: 2, rest: 90s, ownNetworkPercent: 70 }
"""


def test_what_concerns_sip_and_calls_arrives() -> None:
    made = signaling_settings(load_settings(SETTINGS))

    assert (made.listen, made.advertise) == (("127.0.0.5", 5070), "192.0.2.9")
    assert (made.timers.t1, made.timers.t2, made.timers.t4) == (0.1, 1.0, 2.0)
    calls = made.calls
    assert (calls.user_agent, calls.max_calls, calls.ring_timeout, calls.refuse_for) == ("Test", 7, 61.0, 8.0)
    assert (calls.zone, calls.sweep_interval) == ("a", 90.0)
    assert (calls.max_forwards, made.max_datagram_bytes) == (40, 4000)
    assert (calls.rest, made.probes.own_network) == (90.0, 0.7)
    assert (calls.answer_timeout, calls.busy_timeout, calls.max_offers) == (2.5, 1.5, 2)


@pytest.mark.parametrize(("strangers", "drop"), [("Refuse", False), ("Drop", True)])
def test_what_becomes_of_strangers_arrives(strangers: str, drop: bool) -> None:
    assert signaling_settings(load_settings(f"sip: {{ strangers: {strangers} }}")).calls.drop_strangers is drop


@pytest.mark.parametrize(
    ("commands", "retry", "timeout"),
    [("{ timeout: 200ms, retries: 2 }", (0.2, 0.2), 0.6), ("{ timeout: 1s, retries: 0 }", (), 1.0)],
)
def test_a_command_is_sent_again_each_time_its_reply_is_overdue(
    commands: str, retry: tuple[float, ...], timeout: float
) -> None:
    ng = signaling_settings(load_settings(f"signaling: {{ commands: {commands} }}")).ng

    assert ng.retry == retry
    assert ng.timeout == pytest.approx(timeout)


def test_peers_and_routes_arrive_in_their_order() -> None:
    routing = routing_of(load_settings(SETTINGS), "here")

    trunk = routing.peer_of(("192.0.2.77", 5060))
    assert trunk is not None
    assert (trunk.name, trunk.max_calls, trunk.calls_per_second, trunk.trusted) == ("trunk", 5, 6, True)
    assert routing.peer_of(("198.51.100.1", 5060)) is None, "another port is not the peer's"
    assert [one.zone for one in routing.peers] == ["", "b"]
    first, last = routing.routes
    assert (first.peer, first.user_prefix, first.host) == ("trunk", "+49", "example.org")
    assert first.next_hops == (("198.51.100.1", 5062), ("192.0.2.4", 5060))
    assert (first.weights, last.weights) == ((30, 0), (0,))
    assert (first.response_timeout, first.failover_on) == (3.0, frozenset({480, 503}))
    assert (first.relay_set, last.relay_set) == ("here/voice", "other/voice")
