"""The images of the lab, made without a registry, a builder or a base: what a program needs, and nothing else.

An image is an OCI archive of few layers, written here and kept in the cache under the versions of what is in it.
Users build theirs with the Containerfiles in ``images/``; these are for the lab alone.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tests.lab import kedge_image, machine

PAUSE: Final = "localhost/kedge-pause:lab"
RTPENGINE: Final = "localhost/kedge-rtpengine:lab"
KEDGE: Final = "localhost/kedge:lab"
USER: Final = "65532:65532"

_CACHE: Final = machine.CACHE / "images"
_FORMAT: Final = "2"
"""Part of the cache's key: raise it when the layout of an image changes."""
_KEEP_SECONDS: Final = 3600
"""How long an archive stays in the cache after a newer one of its kind was made; another run may just be reading it."""
_LIBRARY: Final = re.compile(r"(/\S+) \(0x")
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


def build(name: str) -> Path:
    """The archive of the image ``name``, from the cache or made now.

    Raises:
        KeyError: There is no such image.
        PrerequisiteError: A package is missing and could not be installed.
    """
    return _BUILDERS[name]()


def names() -> list[str]:
    """The images that each lab has from its start. Kedge's own is loaded by whom it is for."""
    return [name for name in _BUILDERS if name != KEDGE]


def pause() -> Path:
    """What holds a pod's namespaces: catatonit, which is static."""
    return _single_program("catatonit", PAUSE, target="/pause", entrypoint=["/pause", "-P"])


def rtpengine() -> Path:
    """The relay: rtpengine and its libraries; what it listens on comes from the pod's arguments."""
    return _single_program("rtpengine", RTPENGINE, target="/usr/bin/rtpengine", entrypoint=["/usr/bin/rtpengine"])


def kedge() -> Path:
    """Kedge in all its roles, on the Python that runs the tests."""
    layers = [kedge_image.runtime(), kedge_image.package(_CACHE / "kedge-files")]
    return _cached("kedge", KEDGE, layers, entrypoint=[kedge_image.ENTRYPOINT], complete=_with_libraries)


_BUILDERS: Final[Mapping[str, Callable[[], Path]]] = {PAUSE: pause, RTPENGINE: rtpengine, KEDGE: kedge}


def write_archive(target: Path, name: str, layers: Sequence[Mapping[str, Path]], *, entrypoint: Sequence[str]) -> None:
    """Write an OCI archive of layers that hold files (path in the image -> file here), owned by root."""
    blobs = [_layer(files) for files in layers]
    platform = {"architecture": _ARCHITECTURES.get(os.uname().machine, os.uname().machine), "os": "linux"}
    config = _json(
        {
            **platform,
            "config": {"Entrypoint": list(entrypoint), "User": USER},
            "rootfs": {"type": "layers", "diff_ids": [_digest(blob) for blob in blobs]},
        }
    )
    kind = "application/vnd.oci.image"
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{kind}.manifest.v1+json",
            "config": _descriptor(config, f"{kind}.config.v1+json"),
            "layers": [_descriptor(blob, f"{kind}.layer.v1.tar") for blob in blobs],
        }
    )
    entry = _descriptor(manifest, f"{kind}.manifest.v1+json")
    entry["annotations"] = {"org.opencontainers.image.ref.name": name, "io.containerd.image.name": name}
    entry["platform"] = platform
    named = {f"blobs/sha256/{_digest(blob).removeprefix('sha256:')}": blob for blob in (*blobs, config, manifest)}
    index = _json({"schemaVersion": 2, "manifests": [entry]})
    _write_tar(target, {"oci-layout": _json({"imageLayoutVersion": "1.0.0"}), "index.json": index, **named})


def _single_program(program: str, name: str, *, target: str, entrypoint: Sequence[str]) -> Path:
    """An image of one program and its libraries."""
    machine.provide([program])
    binary = machine.program(program)
    files = {target: binary, **{str(path): path for path in _libraries(binary)}}
    return _cached(program, name, [files], entrypoint=entrypoint)


def _with_libraries(files: Mapping[str, Path]) -> Mapping[str, Path]:
    """``files`` and the libraries that its programs and modules load: seconds, where these are many."""
    binaries = [path for path in files.values() if path.suffix == ".so" or path.parent.name == "bin"]
    return {**files, **{str(path): path for binary in binaries for path in _libraries(binary)}}


def _as_it_is(files: Mapping[str, Path]) -> Mapping[str, Path]:
    return files


def _cached(
    kind: str,
    name: str,
    layers: Sequence[Mapping[str, Path]],
    *,
    entrypoint: Sequence[str],
    complete: Callable[[Mapping[str, Path]], Mapping[str, Path]] = _as_it_is,
) -> Path:
    """The archive of these layers, written if it is not there; those of its kind that it replaces go after a while.

    ``complete`` adds to a layer what follows from its files, so that they alone are the cache's key.
    """
    archive = _CACHE / f"{kind}-{_fingerprint(name, layers)}.tar"
    if not archive.exists():
        _CACHE.mkdir(parents=True, exist_ok=True)
        new = archive.with_suffix(f".{os.getpid()}")
        write_archive(new, name, [complete(one) for one in layers], entrypoint=entrypoint)
        new.rename(archive)
        for old in _CACHE.glob(f"{kind}-*.tar"):
            if time.time() - old.stat().st_mtime > _KEEP_SECONDS:
                old.unlink(missing_ok=True)
    archive.touch()
    return archive


def _libraries(binary: Path) -> list[Path]:
    """What the dynamic linker would load; nothing for a static program."""
    done = subprocess.run(["ldd", binary], check=False, capture_output=True, text=True, timeout=30)
    return sorted({Path(path) for path in _LIBRARY.findall(done.stdout)}) if done.returncode == 0 else []


def _fingerprint(name: str, layers: Sequence[Mapping[str, Path]]) -> str:
    """Changes with each change of a file, by an upgrade of its package for instance."""
    state = [
        (target, path.stat().st_size, path.stat().st_mtime_ns)
        for files in layers
        for target, path in sorted(files.items())
    ]
    return hashlib.sha256(f"{_FORMAT} {name} {state}".encode()).hexdigest()[:16]


def _layer(files: Mapping[str, Path]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for directory in sorted({str(parent) for target in files for parent in Path(target).parents} - {"/"}):
            tar.addfile(_member(directory.lstrip("/"), mode=0o755, kind=tarfile.DIRTYPE))
        for target, path in sorted(files.items()):
            content = path.read_bytes()
            mode = 0o755 if os.access(path, os.X_OK) else 0o644
            member = _member(target.lstrip("/"), mode=mode, size=len(content))
            member.mtime = int(path.stat().st_mtime)  # Python holds compiled files against it
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _write_tar(target: Path, files: Mapping[str, bytes]) -> None:
    with tarfile.open(target, mode="w") as tar:
        for name, content in files.items():
            tar.addfile(_member(name, mode=0o644, size=len(content)), io.BytesIO(content))


def _member(name: str, *, mode: int, size: int = 0, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.mode, member.size, member.type = mode, size, kind
    return member


def _descriptor(blob: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": _digest(blob), "size": len(blob)}


def _digest(blob: bytes) -> str:
    return "sha256:" + hashlib.sha256(blob).hexdigest()


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
