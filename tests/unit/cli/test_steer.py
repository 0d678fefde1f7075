"""``kedge plan``, ``drain``, ``cordon``, ``uncordon``, ``rebalance`` as they are typed; and the plugin of kubectl."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result
from tests.unit.cli.steered import KEY, Steered, World, relay

from kedge.cli.main import main
from kedge.relay.model import Intent


@pytest.fixture
def world() -> World:
    return World(relay("r1", 10), relay("r2", 2), relay("r3", 0))


@pytest.fixture
def url(world: World) -> Iterator[str]:
    with Steered(world) as server:
        yield server.url


def kedge(url: str, *words: str) -> Result:
    return CliRunner(env={"KEDGE_SERVER": url}).invoke(main, words)


# --- plan ----------------------------------------------------------------------------------------------------------


def test_plans_are_shown_and_nothing_is_done(world: World, url: str) -> None:
    drain = kedge(url, "plan", "drain", "r1").stdout
    loss = kedge(url, "plan", "loss", "r1").stdout
    rebalance = kedge(url, "plan", "rebalance", "voice").stdout

    assert "10 calls move" in drain
    assert "10 calls move" in loss
    assert "IN BALANCE" in rebalance
    assert (world.wishes, world.progress) == ([], [])


def test_a_plan_as_json_is_that_of_the_planner(url: str) -> None:
    plain = json.loads(kedge(url, "plan", "drain", "r2", "-o", "json").stdout)
    named = json.loads(kedge(url, "plan", "drain", "r2", "-o", "json", "--calls").stdout)

    assert (plain["kind"], plain["moves"], "calls" in plain) == ("Drain", 2, False)
    assert sorted(call for call, _, _ in named["calls"]["moves"]) == ["r2-0", "r2-1"]


def test_a_relay_that_is_not_known_is_told(url: str) -> None:
    for words in (["plan", "drain", "r9"], ["drain", "r9"], ["drain", "r9", "--wait"], ["cordon", "r9"]):
        result = kedge(url, *words)

        assert (result.exit_code, result.stdout) == (1, "")
        assert "there is no relay" in result.stderr
        assert "r9" in result.stderr


# --- drain ---------------------------------------------------------------------------------------------------------


def test_a_drain_is_asked_for_and_waited_for(world: World, url: str) -> None:
    result = kedge(url, "drain", "r1", "--wait")

    assert result.exit_code == 0
    assert result.stdout.startswith("relay r1 is drained: 10 of 10 calls moved after ")
    assert world.wishes == [("r1", KEY, Intent.DRAIN)]


def test_without_wait_nobody_waits(world: World, url: str) -> None:
    result = kedge(url, "drain", "r1")

    assert (result.exit_code, world.relays[f"{KEY}/r1"].sessions) == (0, 10)
    assert "r1 is being drained" in result.stdout


def test_waiting_ends_with_1_when_calls_are_left(world: World, url: str) -> None:
    world.stuck = 3

    result = kedge(url, "drain", "r1", "--wait", "--timeout", "0")

    assert (result.exit_code, result.stdout) == (1, "")
    assert "not done after 0 s" in result.stderr


def test_a_drain_is_taken_back(world: World, url: str) -> None:
    kedge(url, "drain", "r1")
    result = kedge(url, "drain", "r1", "--undo")

    assert (result.exit_code, result.stdout) == (0, "the drain of r1 is taken back: it serves again\n")
    assert [intent for _, _, intent in world.wishes] == [Intent.DRAIN, Intent.SERVE]
    assert kedge(url, "drain", "r1", "--undo", "--wait").exit_code == 2


def test_a_relay_is_cordoned_and_uncordoned(world: World, url: str) -> None:
    assert kedge(url, "cordon", "r1").stdout == "r1 is cordoned: it gets no new calls\n"
    assert kedge(url, "uncordon", "r1").stdout == "r1 serves again\n"

    assert [intent for _, _, intent in world.wishes] == [Intent.CORDON, Intent.SERVE]


def test_what_the_relay_set_says_cannot_be_taken_back_here(world: World, url: str) -> None:
    world.written = "Drain"

    for words in (["uncordon", "r1"], ["drain", "r1", "--undo"]):
        result = kedge(url, *words)

        assert (result.exit_code, result.stdout) == (1, "")
        assert "r1 stays in intent Drain, as its RelaySet or pod says so" in result.stderr


def test_of_two_relays_of_a_name_the_set_says_which(world: World, url: str) -> None:
    other = relay("r1", 1, relay_set="default/fax")
    world.relays[other.uid] = other

    planned = kedge(url, "plan", "drain", "r1", "--set", "fax")
    doubtful = kedge(url, "drain", "r1")
    by_name = kedge(url, "drain", "r1", "--set", "fax")
    by_key = kedge(url, "cordon", "r1", "--set", KEY)

    assert (doubtful.exit_code, doubtful.stderr) == (1, "kedge: 2 relays are called r1\n")
    assert "say which with --set" in kedge(url, "drain", "r1", "--wait").stderr
    assert (by_name.exit_code, by_key.exit_code) == (0, 0)
    assert world.wishes == [("r1", "default/fax", Intent.DRAIN), ("r1", KEY, Intent.CORDON)]
    assert "1 call moves" in planned.stdout


# --- rebalance -----------------------------------------------------------------------------------------------------


def test_a_rebalance_is_asked_for_and_waited_for(world: World, url: str) -> None:
    plain = kedge(url, "rebalance")
    waited = kedge(url, "rebalance", "voice", "--wait")

    assert plain.stdout == f"{KEY} is being rebalanced; `kedge relays` shows calls per relay\n"
    assert (waited.exit_code, waited.stdout) == (0, f"{KEY} is rebalanced: 6 of 6 calls moved\n")
    assert len(world.progress) == 2


def test_a_set_that_stays_out_of_balance_is_told_with_1(world: World, url: str) -> None:
    world.rebalance_message = "what is left is resting"

    result = kedge(url, "rebalance", "--wait")

    assert result.exit_code == 1
    assert "not in balance: what is left is resting" in result.stderr


def test_a_dry_run_is_the_plan(world: World, url: str) -> None:
    dry = kedge(url, "rebalance", "voice", "--dry-run")

    assert dry.stdout == kedge(url, "plan", "rebalance", "voice").stdout
    assert world.progress == []


def test_a_refused_rebalance_is_told(url: str) -> None:
    result = kedge(url, "rebalance", "fax")

    assert (result.exit_code, result.stderr) == (1, "kedge: there is no RelaySet 'fax'\n")


# --- whom a command asks -------------------------------------------------------------------------------------------


def plugin(*words: str, server: str = "") -> subprocess.CompletedProcess[str]:
    """Run ``kubectl kedge`` with no cluster in reach."""
    run = [sys.executable, "-c", "from kedge.cli.main import kubectl_plugin; kubectl_plugin()", *words]
    environment = {"KUBECONFIG": "/nonexistent", "PATH": "", "HOME": "/nonexistent"}
    environment |= {"PYTHONPATH": "operator"} | ({"KEDGE_SERVER": server} if server else {})
    return subprocess.run(run, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize("words", [("relays",), ("drain", "r1"), ("rebalance",), ("move", "a", "b")])
def test_the_plugin_asks_the_cluster(words: tuple[str, ...]) -> None:
    result = plugin(*words)

    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("kedge: the cluster says: ")
    assert len(result.stderr.splitlines()) == 1


def test_the_plugin_asks_a_server_that_is_named(url: str) -> None:
    assert "Ready" in plugin("relays", "--server", url).stdout
    assert "Ready" in plugin("relays", server=url).stdout


def test_a_plan_of_the_plugin_needs_a_server(url: str) -> None:
    refused = plugin("plan", "drain", "r1")

    assert refused.returncode == 1
    assert "kubectl exec --namespace" in refused.stderr
    assert "10 calls move" in plugin("plan", "drain", "r1", "--server", url).stdout


def test_the_plugin_calls_itself_by_its_name() -> None:
    assert "Usage: kubectl kedge drain" in plugin("drain", "--help").stdout


@pytest.mark.parametrize("words", [("--kube",), ("--kubeconfig", "/nonexistent"), ("-n", "media"), ("--context", "c")])
def test_options_of_a_cluster_mean_a_cluster(url: str, words: tuple[str, ...]) -> None:
    environment = {"KUBECONFIG": "/nonexistent", "KEDGE_SERVER": url}

    result = CliRunner(env=environment).invoke(main, ["relays", *words])

    assert result.exit_code == 1
    assert "the cluster says: " in result.stderr


def test_a_server_and_a_cluster_are_one_too_many(url: str) -> None:
    result = CliRunner().invoke(main, ["relays", "--server", url, "--kube"])

    assert result.exit_code == 2
    assert "give one of them" in result.stderr


def test_waiting_for_a_rebalance_needs_a_server() -> None:
    result = CliRunner().invoke(main, ["rebalance", "voice", "--kube", "--wait"])

    assert result.exit_code == 2
    assert "--server" in result.stderr
