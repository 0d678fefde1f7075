"""Kedge itself, as its users start it: ``kedge run`` with settings and a RelaySet, in a process of its own."""

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.kit.ports import free_port, free_ports
from tests.kit.processes import ROOT, dying_with_parent, end
from tests.kit.rtpengine import Rtpengine
from tests.kit.wire import Address


class KedgeError(Exception):
    """Kedge did not start or ended; its log follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteRule:
    """A route for calls whose number begins with ``prefix``."""

    prefix: str
    next_hops: Sequence[Address]
    response_timeout: str = "2s"


@dataclass(slots=True, kw_only=True)
class KedgeProcess:
    """A standalone Kedge on ``address``; ``start`` waits until it is ready."""

    folder: Path
    relays: Sequence[Rtpengine]
    routes: Sequence[RouteRule]
    peers: Mapping[str, Sequence[str]]
    """Networks by peer name; all are trusted."""
    ip: str = "127.0.0.1"
    health: Mapping[str, object] = field(
        default_factory=lambda: {"interval": "50ms", "timeout": "50ms", "threshold": 3}
    )
    weights: Sequence[int] = ()
    """Of the relays, 100 each when left out."""
    relay_set: Mapping[str, object] = field(default_factory=dict)
    """More of the RelaySet's spec."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """More top-level settings."""
    sip_settings: Mapping[str, object] = field(default_factory=dict)
    """More of the section ``sip``."""
    address: Address = field(init=False)
    admin: Address = field(init=False)
    metrics_address: Address = field(init=False)
    _process: subprocess.Popen[bytes] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.address = (self.ip, free_port(self.ip))
        first = free_ports(2)
        self.admin, self.metrics_address = ("127.0.0.1", first), ("127.0.0.1", first + 1)

    @property
    def pid(self) -> int:
        """The process id, 0 when it does not run."""
        return 0 if self._process is None else self._process.pid

    @property
    def log(self) -> str:
        """What it has logged."""
        file = self.folder / "kedge.log"
        return file.read_text(errors="replace") if file.exists() else ""

    @property
    def cpu_seconds(self) -> float:
        """CPU time it has used, user and system, by /proc: in steps of 10 ms."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def rss_mb(self) -> float:
        """Resident memory in MB (2**20 bytes)."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)

    def start(self, *, within: float = 20.0) -> Self:
        """Write its files, start it, and wait for ``/readyz``.

        Raises:
            KedgeError: it ended, or was not ready ``within`` seconds; its log is in the message.
        """
        settings, relay_set = self.folder / "settings.yaml", self.folder / "relayset.yaml"
        settings.write_text(json.dumps(self._settings(), indent=1))  # JSON is YAML too
        relay_set.write_text(json.dumps(self._relay_set(), indent=1))
        command = [
            sys.executable,
            "-m",
            "kedge.cli.main",
            "run",
            "--settings",
            str(settings),
            "--relayset",
            str(relay_set),
        ]
        with (self.folder / "kedge.log").open("ab") as log:
            self._process = subprocess.Popen(
                dying_with_parent(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT / "operator")},
            )  # fmt: skip
        deadline = time.monotonic() + within
        while not self.is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise KedgeError(f"kedge run is not ready on {self.metrics_address}:\n{self.log[-8000:]}")
            time.sleep(0.05)
        return self

    def stop(self) -> None:
        """End it as its users do, with SIGTERM."""
        if self._process is not None:
            end(self._process, patience=8.0)
            self._process = None

    def ask_to_end(self) -> None:
        """Send SIGTERM, and wait for nothing."""
        if self._process is not None:
            self._process.terminate()

    def wait_ended(self, *, within: float) -> int | None:
        """Wait for its end by itself; return its exit status, None where it still runs after ``within`` seconds."""
        if self._process is None:
            return None
        try:
            return self._process.wait(within)
        except subprocess.TimeoutExpired:
            return None

    def is_ready(self) -> bool:
        """Say whether ``/readyz`` answers with 200."""
        return self._get("/readyz")[0] == 200

    def metrics(self) -> str:
        """Return the text that Prometheus scrapes.

        Raises:
            KedgeError: it does not answer.
        """
        status, text = self._get("/metrics")
        if status != 200:
            raise KedgeError(f"/metrics answers {status}")
        return text

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of all samples of a metric that have these labels."""
        total = 0.0
        for line in self.metrics().splitlines():
            sample, _, value = line.rpartition(" ")
            has = all(f'{label}="{wanted}"' in sample for label, wanted in labels.items())
            if sample.partition("{")[0] == name and has:
                total += float(value)
        return total

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()

    def _get(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection(*self.metrics_address, timeout=2)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        except OSError:
            return 0, ""
        finally:
            connection.close()

    def _settings(self) -> dict[str, object]:
        def at(address: Address) -> dict[str, object]:
            return {"address": address[0], "port": address[1]}

        return {
            "sip": {"listen": [at(self.address)], **self.sip_settings},
            "peers": [
                {"name": name, "networks": list(networks), "trusted": True} for name, networks in self.peers.items()
            ],
            "routes": [
                {
                    "name": f"to-{rule.prefix}",
                    "match": {"userPrefix": rule.prefix},
                    "nextHops": [at(hop) for hop in rule.next_hops],
                    "relaySet": "voice",
                    "responseTimeout": rule.response_timeout,
                }
                for rule in self.routes
            ],
            "admin": at(self.admin),
            "metrics": at(self.metrics_address),
            **self.settings,
            # A test that is over has no use for the calls that it leaves.
            "signaling": {"shutdownGrace": "0s", **self._signaling_settings()},
        }

    def _signaling_settings(self) -> Mapping[str, object]:
        given = self.settings.get("signaling", {})
        assert isinstance(given, Mapping)
        return given

    def _relay_set(self) -> dict[str, object]:
        weights = self.weights or [100] * len(self.relays)
        endpoints = [
            {"name": f"relay-{number}", "address": relay.ip, "port": relay.ng[1], "weight": weight}
            for number, (relay, weight) in enumerate(zip(self.relays, weights, strict=True), 1)
        ]
        return {
            "apiVersion": "kedge.media/v1alpha1",
            "kind": "RelaySet",
            "metadata": {"name": "voice"},
            "spec": {"engine": "RTPEngine", "endpoints": endpoints, "health": dict(self.health), **self.relay_set},
        }
