"""``kedge run`` as a process: what it refuses, when it is ready, and how it ends. Its relays do not answer here."""

from __future__ import annotations

import http.client
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
FULL, REPORT, WRONG = "full-token-of-the-test", "report-token-of-the-test", "wrong-token-of-the-test"


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


@pytest.mark.parametrize(("name", "content"), [("tokenFile", None), ("reportTokenFile", "")])
def test_a_token_file_that_cannot_be_used_is_told(
    tmp_path: Path, relay_set: Path, name: str, content: str | None
) -> None:
    files = {one: tmp_path / one for one in ("tokenFile", "reportTokenFile")}
    for one in files.values():
        one.write_text(FULL)
    if content is None:
        files[name].unlink()
    else:
        files[name].write_text(content)
    admin = {"address": "127.0.0.1", "port": 0} | {one: str(path) for one, path in files.items()}

    status, err = run("--settings", str(settings(tmp_path, admin=admin)), "--relayset", str(relay_set))

    assert status == 1
    assert f"kedge: admin.{name}: {files[name]}: " in err
    assert "Traceback" not in err


def test_a_token_is_asked_for_changed_while_it_runs_and_never_logged(silent: KedgeProcess, tmp_path: Path) -> None:
    full, report, wrong = tmp_path / "full", tmp_path / "report", tmp_path / "wrong"
    for file, token in ((full, FULL), (report, REPORT), (wrong, WRONG)):
        file.write_text(f"{token}\n")
    host, port = silent.admin
    files = {"tokenFile": str(full), "reportTokenFile": str(report)}
    silent.settings = {
        "log": {"format": "json", "level": "debug"}, "admin": {"address": host, "port": port, **files}
    }  # fmt: skip

    def calls(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(main, ["calls", "--server", f"http://{host}:{port}", *words])
        return done.exit_code, done.stderr

    with silent:
        given = calls("--token-file", str(full))
        missing, other, scope = (calls(*words) for words in ((), ("--token-file", str(wrong)),
                                                             ("--token-file", str(report))))  # fmt: skip
        full.write_text(f"{WRONG}\n")
        changed = [calls("--token-file", str(one))[0] for one in (full, wrong)]
        full.write_text("x")
        last_good = calls("--token-file", str(wrong))[0]
        refused = {
            one: silent.metric("kedge_admin_refused_requests_total", reason=one)
            for one in ("missing", "wrong", "scope")
        }

    assert given == (0, "")
    assert (missing[0], other[0], scope[0]) == (1, 1, 1)
    assert "a bearer token is needed" in missing[1]
    assert "the token is not valid here" in other[1]
    assert "for POST /v1/evidence alone" in scope[1]
    assert (changed, last_good) == ([0, 0], 0)
    assert refused == {"missing": 1, "wrong": 1, "scope": 1}
    assert "the tokens known last stand" in silent.log
    for token in (FULL, REPORT, WRONG):
        assert token not in silent.log
        assert token not in missing[1] + other[1] + scope[1]


def test_reports_of_links_reach_the_relays_and_those_of_nobody_are_counted(silent: KedgeProcess) -> None:
    body = json.dumps({"relay": "x", "state": "LinkDown", "interface": "eth0", "age": 0.0, "sequence": 1})
    with silent:
        connection = http.client.HTTPConnection(*silent.admin, timeout=5)
        answers = []
        for relay in ("x", "default/voice/relay-1"):
            connection.request(
                "POST", "/v1/evidence", body.replace('"x"', f'"{relay}"'), {"Content-Type": "application/json"}
            )
            response = connection.getresponse()
            answers.append(response.status)
            response.read()
        connection.close()
        counted = [silent.metric("kedge_link_reports_total", result=one) for one in ("unknown", "taken")]

    assert answers == [404, 202]
    assert counted == [1, 1]


def test_admin_and_metrics_may_share_an_address(silent: KedgeProcess) -> None:
    silent.admin = silent.metrics_address

    with silent:
        calls = CliRunner().invoke(main, ["calls", "--server", "http://{}:{}".format(*silent.admin), "-o", "json"])
        scraped = silent.metrics()

    assert json.loads(calls.stdout) == []
    assert "kedge_relay_state" in scraped
