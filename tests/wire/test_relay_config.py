"""A real rtpengine with the addresses that the agent gives it: in both families, and with what is advertised."""

import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.kit.ports import free_ports
from tests.kit.processes import dying_with_parent, end

ADVERTISED = "198.51.100.7"


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for one in processes:
        end(one)


def offer(control: tuple[str, int], family: str, address: str) -> str:
    """Offer a session to a relay; return the connection line that it gives out."""
    sdp = (
        f"v=0\r\no=- 1 1 IN {family} {address}\r\ns=-\r\nc=IN {family} {address}\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n"
    )
    name = f"config-{family}-{time.monotonic_ns()}"
    command = f"{name} d7:call-id{len(name)}:{name}7:command5:offer8:from-tag1:a3:sdp{len(sdp)}:{sdp}e"
    deadline = time.monotonic() + 10
    with socket.socket(socket.AF_INET6 if ":" in control[0] else socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.connect(control)
        while time.monotonic() < deadline:
            try:
                one.send(command.encode())
                if select.select([one], [], [], 0.3)[0]:
                    found = re.search(r"c=IN (\S+ \S+)", one.recv(65535).decode())
                    return found[1] if found else ""
            except ConnectionRefusedError:
                select.select([], [], [], 0.05)  # it has yet to start
    return "no answer"


@pytest.mark.parametrize("first", ["IPv4", "IPv6"])
def test_media_and_control_are_where_the_agent_says(
    first: str, tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    config, late = tmp_path / "rtpengine.conf", tmp_path / "external-ip"
    port, other = free_ports(2), "IPv6" if first == "IPv4" else "IPv4"
    agent = subprocess.Popen(
        dying_with_parent([
            sys.executable, "-m", "kedge.cli.main", "agent", f"--control=[127.0.0.1]:{port}",
            f"--listen=[127.0.0.1]:{port}", f"--relay-config={config}", "--addresses=127.0.0.1,::1",
            f"--families={first},{other}", f"--advertised-file={late}",
        ]),
        stderr=subprocess.PIPE,
    )  # fmt: skip
    started.append(agent)
    assert agent.stderr is not None
    assert b"waiting for an address" in agent.stderr.readline()
    assert not config.exists()

    late.write_text(f"{ADVERTISED},2001:db8::7")

    while b"the agent serves on" not in agent.stderr.readline():
        assert agent.poll() is None
    started.append(
        subprocess.Popen(
            dying_with_parent([
                "rtpengine", f"--config-file={config}", "--foreground", "--log-stderr", "--table=-1",
                f"--port-min={free_ports(40, tcp=False)}", "--port-max=65000", "--poller-per-thread",
            ]),
            stderr=subprocess.DEVNULL,
        )
    )  # fmt: skip
    control = ("127.0.0.1" if first == "IPv4" else "::1", port)
    assert offer(control, "IP4", "127.0.0.1") == f"IP4 {ADVERTISED}"
    assert offer(control, "IP6", "::1") == "IP6 2001:db8::7"
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(10) == 0


def test_an_address_that_is_missing_is_told(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable, "-m", "kedge.cli.main", "agent", "--control=127.0.0.1:1",
            f"--relay-config={tmp_path / 'x'}", "--addresses=127.0.0.1", "--families=IPv4,IPv6",
        ],
        check=False, capture_output=True, text=True, timeout=30,
    )  # fmt: skip

    assert (done.returncode, list(tmp_path.iterdir())) == (1, [])
    assert "kedge: media.families asks for IPv6, and the pod has only 127.0.0.1" in done.stderr
