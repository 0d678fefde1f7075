"""``kedge run`` as a process: what it refuses, when it is ready, and how it ends. Its relays do not answer here."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.kit.kedge import KedgeProcess, RouteRule
from tests.kit.ports import free_port
from tests.kit.rtpengine import Rtpengine

from kedge.cli.main import main

RELAY_SET = """
apiVersion: kedge.media/v1alpha1
kind: RelaySet
metadata: { name: voice }
spec:
  engine: RTPEngine
  endpoints: [{ name: r1, address: 127.0.0.1, port: 9 }]
"""


@pytest.fixture
def relay_set(tmp_path: Path) -> Path:
    file = tmp_path / "relayset.yaml"
    file.write_text(RELAY_SET)
    return file


def settings(folder: Path, **given: Any) -> Path:
    file = folder / "settings.yaml"
    anywhere = {"address": "127.0.0.1", "port": 0}
    file.write_text(json.dumps({"sip": {"listen": [anywhere]}, "admin": anywhere, "metrics": anywhere} | given))
    return file


def run(*words: str) -> tuple[int, str]:
    """Return exit status and errors of a ``kedge run`` that is expected to end at once."""
    done = subprocess.run(
        [sys.executable, "-m", "kedge.cli.main", "run", *words], check=False, capture_output=True, text=True, timeout=30
    )
    return done.returncode, done.stderr


def test_wrong_files_are_told_in_plain_lines(tmp_path: Path, relay_set: Path) -> None:
    relay_set.write_text(RELAY_SET.replace("RTPEngine", "Asterisk"))

    status, err = run("--settings", str(settings(tmp_path)), "--relayset", str(relay_set))

    assert status == 2
    assert err == f"{relay_set}:6: spec.engine: Asterisk is not allowed: must be RTPEngine or RTPProxy\n"


def test_a_route_to_no_relay_set_is_told(tmp_path: Path, relay_set: Path) -> None:
    file = settings(
        tmp_path,
        peers=[{"name": "all", "networks": ["127.0.0.0/8"]}],
        routes=[{"name": "all", "nextHops": [{"address": "127.0.0.1"}], "relaySet": "vioce"}],
    )

    status, err = run("--settings", str(file), "--relayset", str(relay_set))

    assert (status, "did you mean voice?" in err) == (2, True)
    assert "Traceback" not in err


@pytest.mark.parametrize("part", ["sip", "admin", "metrics"])
def test_an_address_in_use_is_told(tmp_path: Path, relay_set: Path, part: str) -> None:
    kind = socket.SOCK_DGRAM if part == "sip" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        address = {"address": "127.0.0.1", "port": taken.getsockname()[1]}
        given = {"sip": {"listen": [address]}} if part == "sip" else {part: address}

        status, err = run("--settings", str(settings(tmp_path, **given)), "--relayset", str(relay_set))

    assert status == 1
    assert f"cannot bind {'UDP' if part == 'sip' else 'TCP'} 127.0.0.1:{address['port']}: " in err
    assert "Traceback" not in err


@pytest.mark.parametrize("words", [("--kubeconfig", "x"), ("-n", "x"), ("--context", "x")])
def test_files_and_a_cluster_are_not_meant_both(relay_set: Path, words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, ["run", "--relayset", str(relay_set), *words])

    assert result.exit_code == 2
    assert "without a cluster" in result.stderr


def test_without_files_and_cluster_both_ways_out_are_told(tmp_path: Path) -> None:
    status, err = run("--settings", str(settings(tmp_path)), "--kubeconfig", str(tmp_path / "nowhere"))

    assert status == 1
    assert "--kubeconfig" in err
    assert "--relayset" in err
    assert "Traceback" not in err


@pytest.fixture
def silent(tmp_path: Path) -> KedgeProcess:
    """Kedge with a relay that is not there."""
    return KedgeProcess(
        folder=tmp_path,
        relays=[Rtpengine("127.0.0.1", media_ports=4)],
        routes=[RouteRule(prefix="49", next_hops=[("127.0.0.1", free_port())])],
        peers={"all": ["127.0.0.0/8"]},
        settings={"log": {"format": "json"}},
    )


def test_it_is_ready_once_its_relays_are_judged_and_ends_on_sigterm(silent: KedgeProcess) -> None:
    silent.start()
    state = silent.metric("kedge_relay_state", state="Down")
    silent.stop()

    assert state == 1, "ready means judged, not healthy"
    lines = [json.loads(line) for line in silent.log.splitlines()]
    assert lines[-1]["message"] == "ending"
    assert any(one.get("event") == "RelayDown" and one["relay"] == "relay-1" for one in lines)


def test_admin_and_metrics_may_share_an_address(silent: KedgeProcess) -> None:
    silent.admin = silent.metrics_address

    with silent:
        calls = CliRunner().invoke(main, ["calls", "--server", "http://{}:{}".format(*silent.admin), "-o", "json"])
        scraped = silent.metrics()

    assert json.loads(calls.stdout) == []
    assert "kedge_relay_state" in scraped
