from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from kedge.cli import agent as started
from kedge.cli.agent import AgentOptions, ConfigOptions
from kedge.cli.main import main


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[AgentOptions]:
    found: list[AgentOptions] = []

    def run(options: AgentOptions) -> int:
        found.append(options)
        return 0

    monkeypatch.setattr(started, "run_agent", run)
    return found


def test_the_least_is_the_relays_control_port(given: list[AgentOptions]) -> None:
    assert CliRunner().invoke(main, ["agent", "--control", "10.0.0.7"]).exit_code == 0

    assert given == [AgentOptions(control=("10.0.0.7", 2223), listen=("127.0.0.1", 9902), deadline=120.0)]


def test_the_environment_of_a_pod_says_all(given: list[AgentOptions]) -> None:
    environment = {
        "KEDGE_RELAY_CONTROL": "[fd00::7]:2224", "KEDGE_AGENT_LISTEN": "[fd00::7]:9902",
        "KEDGE_DRAIN_DEADLINE": "1m30s", "KEDGE_MEDIA_ADDRESS": "fd00::7",
        "KEDGE_SIGNALING": "kedge-signaling.media:8081", "POD_UID": "uid-1", "KEDGE_TOKEN_FILE": "/etc/report",
    }  # fmt: skip

    assert CliRunner().invoke(main, ["agent"], env=environment).exit_code == 0

    assert given == [
        AgentOptions(
            control=("fd00::7", 2224), listen=("fd00::7", 9902), deadline=90.0, watch="fd00::7", relay_uid="uid-1",
            signaling=("kedge-signaling.media", 8081), token_file="/etc/report",
        )
    ]  # fmt: skip


def test_the_relays_configuration_is_asked_for(given: list[AgentOptions]) -> None:
    arguments = [
        "--control=[fd00::7]:2223", "--relay-config=/run/x.conf", "--addresses=fd00::7,10.0.0.7",
        "--families=IPv6,IPv4", "--advertised=198.51.100.7",
    ]  # fmt: skip

    assert CliRunner().invoke(main, ["agent", *arguments]).exit_code == 0

    assert given[0].config == ConfigOptions(
        file=Path("/run/x.conf"), own="fd00::7,10.0.0.7", families=("IPv6", "IPv4"), advertised="198.51.100.7"
    )


@pytest.mark.parametrize(
    ("arguments", "trouble"),
    [
        (["--control", "relay", "--families", "IPv4,IPv5"], "is no list of IPv4 and IPv6"),
        (["--control", "relay:port"], "'relay:port' is no HOST:PORT"),
        (["--control", ":2223"], "is no HOST:PORT"),
        (["--control", "relay:65536"], "is no HOST:PORT"),
        (["--control", "relay", "--deadline", "30"], "must be a duration with a unit"),
        (["--control", "relay", "--media-address", "192.0.2.7"], "--media-address needs --signaling"),
        ([], "Missing option '--control'"),
    ],
)
def test_what_is_wrong_is_told(given: list[AgentOptions], arguments: list[str], trouble: str) -> None:
    result = CliRunner().invoke(main, ["agent", *arguments])

    assert result.exit_code == 2
    assert trouble in " ".join(result.output.split())
    assert given == []


@pytest.mark.parametrize("text", ["fd00::7", "[fd00::7]"])
def test_an_ipv6_address_needs_no_port(given: list[AgentOptions], text: str) -> None:
    assert CliRunner().invoke(main, ["agent", "--control", text]).exit_code == 0

    assert given[0].control == ("fd00::7", 2223)
