"""The Kubernetes programs that the lab runs: found, or built once from the Go module proxy.

``KUBEBUILDER_ASSETS`` (the convention of envtest) wins where it holds all that is asked for. Otherwise they are built
from ``tests/lab/gomod`` into the cache, where a second run finds them. Never a mix: a kubelet must not be
newer than its API server.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import stat
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.lab import machine
from tests.lab.errors import PrerequisiteError

VERSION: Final = "v1.34.4"
"""The last minor version that is at ease with containerd 1.6, which Debian 12 has."""

API_PROGRAMS: Final = ("kube-apiserver", "kubectl")
NODE_PROGRAMS: Final = (*API_PROGRAMS, "kube-controller-manager", "kube-scheduler", "kubelet")
SERVICE_PROGRAMS: Final = (*NODE_PROGRAMS, "kube-proxy")

HELM_VERSION: Final = "v3.22.0"

_GO_MINIMUM: Final = (1, 24)
_GO_MODULE: Final = "golang.org/toolchain@v0.0.1-go1.24.13.linux-{arch}"
_MODULE: Final = Path(__file__).parent / "gomod"
_CACHE: Final = machine.CACHE / "kube" / VERSION
_PROGRESS: Final = 10.0
"""Seconds between two lines of progress."""

log = logging.getLogger(__name__)

Programs = Mapping[str, Path]
"""Where each program is."""


def provide(names: Iterable[str] = NODE_PROGRAMS) -> Programs:
    """The programs ``names`` and etcd, building what is missing (minutes, the first time).

    Raises:
        PrerequisiteError: Go is missing or too old and could not be had, or a build failed.
    """
    wanted = tuple(names)
    paths = _assets(wanted) or _cached(wanted)
    if paths is None:
        build(wanted)
        paths = {name: _CACHE / name for name in wanted}
    return {**paths, "etcd": _etcd()}


def build(names: Iterable[str] = SERVICE_PROGRAMS) -> None:
    """Build those of ``names`` that the cache lacks; one process at a time.

    Raises:
        PrerequisiteError: As ``provide``.
    """
    _CACHE.mkdir(parents=True, exist_ok=True)
    with _locked(_CACHE / ".lock"):
        missing = [name for name in names if not (_CACHE / name).exists()]
        if not missing:
            return
        go = _go()
        for number, name in enumerate(missing, 1):
            log.info("building %s %s (%d of %d)", name, VERSION, number, len(missing))
            _build_one(go, name)


def helm() -> Path:
    """Helm: that of ``KUBEBUILDER_ASSETS``, else built once (a minute or two) from the Go module proxy.

    The machine's own is not taken: goldens of rendered templates would differ with its version.

    Raises:
        PrerequisiteError: As ``provide``.
    """
    found = _assets(("helm",))
    if found:
        return found["helm"]
    cache = machine.CACHE / "helm" / HELM_VERSION
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / ".lock"):
        if not os.access(cache / "helm", os.X_OK):
            _install_helm(_go(), cache)
    return cache / "helm"


def _install_helm(go: Path, target: Path) -> None:
    """Have Go build Helm into ``target``; a Go that is too old for it fetches the one that Helm names."""
    log.info("building helm %s", HELM_VERSION)
    environment = {
        **os.environ, "CGO_ENABLED": "0", "GOBIN": str(target), "GOFLAGS": "-buildvcs=false", "GOTOOLCHAIN": "auto",
    }  # fmt: skip
    package = f"helm.sh/helm/v3/cmd/helm@{HELM_VERSION}"
    flags = f"-s -w -X helm.sh/helm/v3/internal/version.version={HELM_VERSION}"
    command = [str(go), "install", "-v", "-trimpath", "-ldflags", flags, package]
    _run_with_progress(command, environment, "helm", time.monotonic(), cwd=target)


def _assets(names: tuple[str, ...]) -> dict[str, Path] | None:
    directory = os.environ.get("KUBEBUILDER_ASSETS")
    return _all_in(Path(directory), names) if directory else None


def _cached(names: tuple[str, ...]) -> dict[str, Path] | None:
    return _all_in(_CACHE, names)


def _all_in(directory: Path, names: tuple[str, ...]) -> dict[str, Path] | None:
    paths = {name: directory / name for name in names}
    return paths if all(os.access(path, os.X_OK) for path in paths.values()) else None


def _etcd() -> Path:
    found = _assets(("etcd",))
    if found:
        return found["etcd"]
    machine.provide(["etcd"])
    return machine.program("etcd")


def _build_one(go: Path, name: str) -> None:
    started = time.monotonic()
    target = _CACHE / f".{name}.{os.getpid()}"
    minor = VERSION.split(".")[1]
    package = "k8s.io/component-base/version"
    flags = f"-s -w -X {package}.gitVersion={VERSION} -X {package}.gitMajor=1 -X {package}.gitMinor={minor}"
    command = [go, "build", "-v", "-trimpath", "-ldflags", flags, "-o", target, f"k8s.io/kubernetes/cmd/{name}"]
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false", "GOTOOLCHAIN": "local"}
    try:
        _run_with_progress([str(part) for part in command], environment, name, started)
        target.rename(_CACHE / name)
    finally:
        target.unlink(missing_ok=True)
    log.info("built %s in %.0f s", name, time.monotonic() - started)


def _run_with_progress(
    command: list[str], environment: dict[str, str], name: str, started: float, *, cwd: Path = _MODULE
) -> None:
    tail: list[str] = []
    count, told = 0, started
    with subprocess.Popen(
        command, cwd=cwd, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            tail = [*tail[-19:], line.rstrip()]
            count += 1
            now = time.monotonic()
            if now - told >= _PROGRESS:
                told = now
                log.info("  %s: %d steps, %.0f s, %s", name, count, now - started, line.strip()[:80])
    if process.returncode:
        raise PrerequisiteError(f"building {name} failed:\n" + "\n".join(tail))


def _go() -> Path:
    """A Go that is new enough: the machine's, or a toolchain fetched by whatever Go there is."""
    machine.provide(["go"])
    go = machine.program("go")
    return go if _go_version(go) >= _GO_MINIMUM else _toolchain(go)


def _go_version(go: Path) -> tuple[int, ...]:
    said = subprocess.run([go, "version"], check=True, capture_output=True, text=True, timeout=60).stdout
    found = re.search(r"go(\d+)\.(\d+)", said)
    return tuple(int(part) for part in found.groups()) if found else (0, 0)


def _toolchain(old: Path) -> Path:
    """A newer Go by the Go module proxy: a toolchain is a module too, and any Go can download a module.

    Before Go 1.21 the go command does not do this by itself, and it leaves the files without their executable bit.
    """
    arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    module = _GO_MODULE.format(arch=arch)
    home = machine.CACHE / "go"
    go = home / module / "bin" / "go"
    if not os.access(go, os.X_OK):
        log.info("Go on this machine is too old; fetching %s", module)
        environment = {**os.environ, "GOMODCACHE": str(home)}
        done = subprocess.run(
            [old, "mod", "download", module], check=False, env=environment, capture_output=True, text=True, timeout=600
        )
        if done.returncode:
            raise PrerequisiteError(
                f"Kubernetes needs Go {_GO_MINIMUM[0]}.{_GO_MINIMUM[1]} or newer to build; install it and put it in "
                f"PATH, or set KUBEBUILDER_ASSETS to a directory with the programs. {done.stderr.strip()}"
            )
        for path in [*(home / module / "bin").iterdir(), *(home / module / "pkg" / "tool").glob("*/*"), go]:
            path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    return go


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
