"""The settings file: wrong ones are refused by field, and peers are found by their networks."""

from pathlib import Path

import pytest
import yaml

from kedge.api.errors import ManifestError
from kedge.api.load import check_together, load_settings
from kedge.api.settings import Settings

SAMPLE = Path(__file__).parents[3] / "manifests" / "samples" / "settings.yaml"

DURATION = "must be a duration with a unit, such as 200ms, 30s or 1h30m"
PEERS = "peers: [{name: a, networks: [10.0.0.0/8]}, {name: b, networks: [192.0.2.0/24]}]\n"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "sip: {ringTimeout: 180}",
            "s:1: sip.ringTimeout: 180 is not allowed: " + DURATION,
        ),
        ("sip: {ringTimeout: 0s}", "s:1: sip.ringTimeout: 0s is not allowed: must be from 1s to 1h"),
        ("sip: {timers: {t1: 5s}}", "s:1: sip.timers.t1: 5s is not allowed: must not be longer than t2"),
        ("sip: {listen: []}", "s:1: sip.listen: [] is not allowed: must be a list of 1 item"),
        (
            "sip: {listen: [{address: localhost}]}",
            "s:1: sip.listen[0].address: localhost is not allowed: must be an IPv4 or IPv6 address",
        ),
        (
            "sip: {listen: [{address: '::1', transport: TLS}]}",
            "s:1: sip.listen[0].transport: TLS is not allowed: must be UDP",
        ),
        (
            "sip: {listen: [{address: '::1'}, {address: '::2'}]}",
            's:1: sip.listen: [{"address": "::1"}, {"address": "::2"}] is not allowed: must be a list of 1 item',
        ),
        (
            'sip: {userAgent: "a\\nb: c"}',
            's:1: sip.userAgent: "a\\nb: c" is not allowed: must be printable ASCII, at most 128 characters',
        ),
        ("sip: {maxcalls: 3}", "s:1: sip.maxcalls: unknown field; did you mean maxCalls?"),
        ("log: {format: xml}", "s:1: log.format: xml is not allowed: must be json or text"),
        ("admin: {port: 70000}", "s:1: admin.port: 70000 is not allowed: must be a whole number from 0 to 65535"),
        (
            "admin: {address: 192.0.2.7}",
            's:1: admin.tokenFile: "" (the default) is not allowed: '
            "is needed unless address is a loopback address: others could reach calls there",
        ),
        (
            "admin: {reportTokenFile: /etc/report}",
            "s:1: admin.reportTokenFile: /etc/report is not allowed: needs tokenFile: without it no token is asked for",
        ),
        (
            "kube: {resync: 30}",
            "s:1: kube.resync: 30 is not allowed: " + DURATION,
        ),
        (
            "peers: [{name: a, networks: [10.1.0.0/8]}]",
            "s:1: peers[0].networks[0]: 10.1.0.0/8 is not allowed: "
            "must be a network such as 192.0.2.0/24 or 2001:db8::/32 (bits beyond the prefix are set)",
        ),
        (
            "peers: [{name: a, networks: []}]",
            "s:1: peers[0].networks: [] is not allowed: must be a list of 1 to 256 items",
        ),
        (
            PEERS + "routes: [{name: r, nextHops: [{address: 10.0.0.1}]}]",
            "s:2: routes[0].relaySet: is missing: "
            "must be the name of a RelaySet: NAME, or NAMESPACE/NAME, at most 317 characters",
        ),
        (PEERS.replace("b", "a"), "s:1: peers[1].name: a is not allowed: there is another peer of that name"),
        (
            PEERS.replace("192.0.2.0/24", "10.0.0.0/8"),
            "s:1: peers[1].networks[0]: 10.0.0.0/8 is not allowed: belongs to the peer a already",
        ),
        (
            PEERS + "routes: [{name: r, match: {peer: c}, nextHops: [{address: 10.0.0.1}], relaySet: v}]",
            "s:2: routes[0].match.peer: c is not allowed: must be a peer's name: a, b",
        ),
        (
            PEERS + "routes: [{name: r, nextHops: [{address: 10.0.0.1}, {address: 11.0.0.1}], relaySet: v}]",
            "s:2: routes[0].nextHops[1].address: 11.0.0.1 is not allowed: "
            "is in no peer's networks, so that its requests would be refused; add a peer for it",
        ),
        ("---\n{}\n---\n{}", "s: settings are one YAML document"),
        ("[]", "s:1: [] is not allowed: must be a mapping of names to values"),
    ],
)
def test_wrong_settings_are_refused(text: str, line: str) -> None:
    with pytest.raises(ManifestError) as caught:
        load_settings(text, name="s")

    assert str(caught.value) == line


def test_nothing_given_is_all_defaults() -> None:
    assert load_settings("") == Settings()
    assert Settings().sip.timers.t1 == 0.5
    assert Settings().sip.ring_timeout == 180
    assert Settings().kube.resync == 30


@pytest.mark.parametrize(
    "admin",
    ["{}", "{address: '::1'}", "{address: 127.8.0.1}", "{address: 192.0.2.7, tokenFile: /t}", "{tokenFile: /t}"],
)
def test_the_admin_api_is_open_on_loopback_alone(admin: str) -> None:
    assert load_settings(f"admin: {admin}").admin is not None


@pytest.mark.parametrize("address", ["0.0.0.0", "'::'", "10.0.0.1", "'fd00::7'"])
def test_elsewhere_it_asks_for_a_token(address: str) -> None:
    with pytest.raises(ManifestError, match=r"admin\.tokenFile"):
        load_settings(f"admin: {{address: {address}}}")


def test_null_turns_a_part_off() -> None:
    settings = load_settings("admin: null\nmetrics:\nsip:\n")

    assert (settings.admin, settings.metrics) == (None, None)
    assert settings.sip == Settings().sip, "there is no SIP to turn off"


def test_sample_survives_a_round_trip() -> None:
    settings = load_settings(SAMPLE)

    assert load_settings(yaml.safe_dump(settings.dump())) == settings
    assert [route.failover_on for route in settings.routes] == [(408, 503), (408, 503)]
    assert settings.routes[0].response_timeout == 4


def test_longest_prefix_tells_the_peer_and_a_port_decides_between_equals() -> None:
    settings = load_settings(
        "peers: [{name: wide, networks: [10.0.0.0/8, '2001:db8::/32']}, {name: narrow, networks: [10.1.0.0/16]},"
        " {name: ported, networks: [10.1.0.0/16], port: 5080}]"
    )

    def name(address: str, port: int = 5060) -> str | None:
        peer = settings.peer_of(address, port)
        return peer.name if peer else None

    assert [name("10.2.0.1"), name("10.1.0.1"), name("10.1.0.1", 5080), name("2001:db8::1")] == [
        "wide",
        "narrow",
        "ported",
        "wide",
    ]
    assert name("192.0.2.1") is None


def test_route_to_a_relay_set_that_is_not_there_is_told() -> None:
    settings = load_settings(PEERS + "routes: [{name: r, nextHops: [{address: 10.0.0.1}], relaySet: voice}]")

    (problem,) = check_together(settings, [], name="settings.yaml")

    assert str(problem).startswith(
        "settings.yaml: routes[0].relaySet: voice is not allowed: must be a RelaySet that exists"
    )


def test_variables_of_the_environment_stand_for_what_only_the_process_knows() -> None:
    text = "sip: {listen: [{address: '${POD_IP}'}], userAgent: 'Kedge at ${NODE}, $5 ${'}"

    settings = load_settings(text, environment={"POD_IP": "192.0.2.7", "NODE": "a"})

    assert settings.sip.listen[0].address == "192.0.2.7"
    assert settings.sip.user_agent == "Kedge at a, $5 ${"


def test_a_variable_that_is_not_set_and_one_that_holds_nonsense_are_told_by_field() -> None:
    text = "sip:\n  listen:\n    - address: ${POD_IP}\n"

    with pytest.raises(ManifestError) as missing:
        load_settings(text, name="s", environment={})
    with pytest.raises(ManifestError) as wrong:
        load_settings(text, name="s", environment={"POD_IP": "here"})

    allowed = "the environment variable POD_IP is not set"
    assert str(missing.value) == f"s:3: sip.listen[0].address: ${{POD_IP}} is not allowed: {allowed}"
    assert str(wrong.value) == "s:3: sip.listen[0].address: here is not allowed: must be an IPv4 or IPv6 address"
