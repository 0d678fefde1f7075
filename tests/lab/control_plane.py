"""The control plane: etcd, kube-apiserver and, where there are nodes, controller-manager and scheduler.

``ApiServer`` alone is enough for custom resources, RBAC and watches. It runs on loopback without root, or, as part
of the lab, in the lab's network namespace.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from tests.lab import audit, binaries, cleanup, machine
from tests.lab.binaries import Programs
from tests.lab.daemons import Daemon, wait_until
from tests.lab.errors import KubectlError, PrerequisiteError

ADMIN: Final = "admin"
CONTROLLER_MANAGER: Final = "system:kube-controller-manager"
SCHEDULER: Final = "system:kube-scheduler"
PROXY: Final = "system:kube-proxy"
SERVICE_RANGE: Final = "10.96.0.0/16"

_FIRST_SERVICE: Final = "10.96.0.1"
_START_TIMEOUT: Final = 90.0


def node_user(node: str) -> str:
    """The user that the kubelet of ``node`` is."""
    return f"system:node:{node}"


class Credentials:
    """A certificate that the API server shows, and a token and kubeconfig for each user."""

    def __init__(self, directory: Path, url: str, address: str, users: Mapping[str, str]) -> None:
        """Write them below ``directory``; ``users`` maps a user to its group."""
        self._directory, self._url = directory, url
        self.key, self.certificate, self.tokens = (directory / name for name in ("tls.key", "tls.crt", "tokens.csv"))
        _make_certificate(self.key, self.certificate, address)
        tokens = {user: secrets.token_hex(16) for user in users}
        lines = [f'{token},{user},{user},"{users[user]}"\n' for user, token in tokens.items()]
        self.tokens.write_text("".join(lines))
        for user, token in tokens.items():
            self._write_kubeconfig(user, token)

    def kubeconfig(self, user: str) -> Path:
        """The kubeconfig of ``user``."""
        return self._directory / f"{user.replace(':', '-')}.kubeconfig"

    def _write_kubeconfig(self, user: str, token: str) -> None:
        cluster = {"server": self._url, "certificate-authority": str(self.certificate)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lab", "cluster": cluster}],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": user}}],
            "current-context": "lab",
        }
        self.kubeconfig(user).write_text(json.dumps(config, indent=1))


class Kubectl:
    """kubectl with its kubeconfig, run behind ``enter`` (the words that lead into a network namespace)."""

    def __init__(
        self, program: Path, kubeconfig: Path, *, enter: Sequence[str] = (), cache: Path | None = None
    ) -> None:
        self.command = [*enter, str(program), f"--kubeconfig={kubeconfig}"]
        if cache is not None:
            self.command.append(f"--cache-dir={cache}")

    def __call__(self, *args: str, stdin: str | None = None, timeout: float = 60.0) -> str:
        """Run it and return what it writes.

        Raises:
            KubectlError: It ended with a status other than 0, or not within ``timeout`` seconds.
        """
        try:
            done = subprocess.run(
                [*self.command, *args], check=False, input=stdin, capture_output=True, text=True, timeout=timeout
            )
        except subprocess.TimeoutExpired as error:
            raise KubectlError(args, -1, f"no end within {timeout:g} s") from error
        if done.returncode:
            raise KubectlError(args, done.returncode, done.stderr)
        return done.stdout


class ApiServer:
    """etcd and kube-apiserver. ``url`` and ``kubeconfig`` (of an administrator) say how to reach it."""

    def __init__(
        self,
        directory: Path,
        programs: Programs,
        *,
        enter: Sequence[str] = (),
        address: str = "127.0.0.1",
        ports: tuple[int, int, int] | None = None,
        users: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare it; ``boot`` starts it.

        Args:
            directory: Where files, logs and data go.
            programs: What to run.
            enter: The words that lead into a network namespace.
            address: What the API server listens on.
            ports: Those of the API server, of etcd's clients and of etcd's peers; free ones by default.
            users: User -> group, besides the administrator. Given, there are controllers, so that pods get their
                service account.
        """
        port, etcd_port, peer_port = ports or _free_ports()
        self.url = f"https://{address}:{port}"
        self._run: str | None = None
        credentials = directory / "credentials"
        logs = directory / "log"
        credentials.mkdir(mode=0o700)
        logs.mkdir(exist_ok=True)
        self.credentials = Credentials(credentials, self.url, address, {ADMIN: "system:masters", **(users or {})})
        self.kubeconfig = self.credentials.kubeconfig(ADMIN)
        self.kubectl = Kubectl(programs["kubectl"], self.kubeconfig, enter=enter, cache=directory / "kubectl")
        self._directory = directory
        self.audit_log = directory / "audit.log"
        (directory / "audit.json").write_text(json.dumps(audit.POLICY))
        clients, peers = f"http://127.0.0.1:{etcd_port}", f"http://127.0.0.1:{peer_port}"
        self._etcd = Daemon(
            "etcd", [*enter, programs["etcd"], *_etcd_flags(directory, clients, peers)], logs / "etcd.log"
        )
        flags = self._flags(clients, address, port, pods=users is not None)
        self._apiserver = Daemon(
            "kube-apiserver", [*enter, programs["kube-apiserver"], *flags], logs / "kube-apiserver.log"
        )

    @classmethod
    def start(cls) -> Self:
        """A control plane of its own on loopback, in seconds. There are no controllers and no nodes in it.

        Raises:
            PrerequisiteError: A program is missing and could not be had.
            StartError: It did not come up.
        """
        machine.provide(machine.CONTROL_PLANE_PROGRAMS)
        programs = binaries.provide(binaries.API_PROGRAMS)
        cleanup.sweep()
        run = secrets.token_hex(3)
        directory = cleanup.claim(run)
        try:
            server = cls(directory, programs)
            server._run = run
        except BaseException:
            cleanup.remove(run)
            raise
        try:
            server.boot()
        except BaseException:
            server.stop()
            raise
        return server

    @property
    def log_directory(self) -> Path:
        """Where the logs are."""
        return self._directory / "log"

    @property
    def daemons(self) -> list[Daemon]:
        """Both programs."""
        return [self._etcd, self._apiserver]

    def boot(self) -> None:
        """Start both programs and wait until the API serves.

        Raises:
            StartError: One ended, or the API was not ready in time.
        """
        self._etcd.start()
        self._apiserver.start()
        wait_until(self._ready, "the API server is ready", timeout=_START_TIMEOUT, daemons=self.daemons)

    def cut(self, *, frozen: bool = False) -> None:
        """Take the API away, as a crash (connections are refused), or ``frozen`` (connections hang)."""
        if frozen:
            self._apiserver.signal(signal.SIGSTOP)
        else:
            self._apiserver.kill()

    def restore(self) -> None:
        """Bring it back after ``cut``, with all its data, and wait until it serves.

        Raises:
            StartError: It did not come up.
        """
        if self._apiserver.alive:
            self._apiserver.signal(signal.SIGCONT)
        else:
            self._apiserver.start()
        wait_until(self._ready, "the API server is back", timeout=_START_TIMEOUT, daemons=[self._apiserver])

    def stop(self) -> None:
        """End it and remove all that it made.

        Raises:
            LeftoverError: Something stayed.
        """
        self.kill()
        if self._run is not None:
            cleanup.remove(self._run)

    def kill(self) -> None:
        """End the programs at once: they would wait long for their watchers, and nothing of theirs is kept."""
        self._apiserver.kill()
        self._etcd.kill()

    def _ready(self) -> bool:
        with contextlib.suppress(KubectlError):
            return self.kubectl("get", "--raw", "/readyz", timeout=5).strip() == "ok"
        return False

    def _flags(self, etcd: str, address: str, port: int, *, pods: bool) -> list[str]:
        credentials = self.credentials
        flags = [
            f"--etcd-servers={etcd}",
            f"--bind-address={address}",
            f"--advertise-address={address}",
            f"--secure-port={port}",
            f"--cert-dir={self._directory}/credentials",
            f"--tls-cert-file={credentials.certificate}",
            f"--tls-private-key-file={credentials.key}",
            f"--token-auth-file={credentials.tokens}",
            "--authorization-mode=Node,RBAC",
            f"--service-account-key-file={credentials.certificate}",
            f"--service-account-signing-key-file={credentials.key}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            "--kubelet-preferred-address-types=InternalIP",
            "--profiling=false",
            f"--audit-policy-file={self._directory}/audit.json",
            f"--audit-log-path={self.audit_log}",
            # As on OpenShift: who names an owner that blocks deletion needs a right to it.
            "--enable-admission-plugins=OwnerReferencesPermissionEnforcement",
        ]
        if not pods:  # nobody makes service accounts or endpoints
            flags += ["--disable-admission-plugins=ServiceAccount", "--endpoint-reconciler-type=none"]
        return flags


class Controllers:
    """kube-controller-manager and kube-scheduler: what makes pods of Deployments, and places them."""

    def __init__(self, directory: Path, programs: Programs, credentials: Credentials, *, enter: Sequence[str]) -> None:
        manager = [
            f"--kubeconfig={credentials.kubeconfig(CONTROLLER_MANAGER)}",
            "--leader-elect=false",
            "--node-monitor-grace-period=20s",
            "--node-monitor-period=2s",
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={credentials.key}",
            f"--root-ca-file={credentials.certificate}",
            f"--cert-dir={directory}/controller-manager",
            f"--flex-volume-plugin-dir={directory}/volume-plugins",
            "--bind-address=127.0.0.1",
        ]
        scheduler = [f"--kubeconfig={credentials.kubeconfig(SCHEDULER)}", "--leader-elect=false", "--secure-port=0"]
        flags = {"kube-controller-manager": manager, "kube-scheduler": scheduler}
        self.daemons = [
            Daemon(name, [*enter, programs[name], *words], directory / "log" / f"{name}.log")
            for name, words in flags.items()
        ]

    def start(self) -> None:
        """Start both."""
        for daemon in self.daemons:
            daemon.start()


def _etcd_flags(directory: Path, clients: str, peers: str) -> list[str]:
    """Nothing must outlive a crash of this machine, so it need not wait for the disk."""
    return [
        f"--data-dir={directory}/etcd",
        "--unsafe-no-fsync",
        f"--listen-client-urls={clients}",
        f"--advertise-client-urls={clients}",
        f"--listen-peer-urls={peers}",
        f"--initial-advertise-peer-urls={peers}",
        f"--initial-cluster=default={peers}",
    ]


def _make_certificate(key: Path, certificate: Path, address: str) -> None:
    """One self-signed certificate, its own authority; its key signs service account tokens too."""
    names = f"IP:{address},IP:127.0.0.1,IP:{_FIRST_SERVICE},DNS:localhost,DNS:kubernetes,DNS:kubernetes.default.svc"
    command = [machine.program("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-nodes", "-days", "30", "-subj", "/CN=kedge-lab", "-addext", f"subjectAltName={names}"]
    command += ["-addext", "keyUsage=critical,digitalSignature,keyCertSign", "-keyout", key, "-out", certificate]
    words = [str(word) for word in command]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=30)
    if done.returncode:
        raise PrerequisiteError(f"openssl could not make a certificate: {done.stderr.strip()}")


def _free_ports() -> tuple[int, int, int]:
    """Three ports of loopback that nobody uses at this moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        first, second, third = (int(free.getsockname()[1]) for free in sockets)
    return first, second, third
