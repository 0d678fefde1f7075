"""What the lab's image of Kedge holds: the Python that runs the tests, the locked dependencies, and the package.

Nothing is downloaded: it is all on the machine already. What a Python needs that only builds or tests is left out.
"""

from __future__ import annotations

import re
import sys
import sysconfig
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Final

from tests.lab import machine
from tests.lab.errors import PrerequisiteError

ENTRYPOINT: Final = "/usr/bin/kedge"

_LOCK: Final = machine.ROOT / "requirements" / "runtime.lock"
_PACKAGE: Final = machine.ROOT / "operator" / "kedge"
_PINNED: Final = re.compile(r"^([A-Za-z0-9._-]+)==\S+", re.MULTILINE)
_STDLIB_LEFT_OUT: Final = frozenset(
    {"test", "tests", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip", "site-packages", "dist-packages"}
)
_SELDOM_USED: Final = re.compile(r"/kubernetes/(aio/)?client/(api|models)/__pycache__/")
"""Compiled files of the client's 700 models, 60 MB, of which Kedge loads a handful: the sources do."""
_SCRIPT: Final = "#!{python}\nimport sys\n\nfrom kedge.cli.main import main\n\nsys.exit(main())\n"
_LAUNCHER: Final = "#!{python}\nimport os\nimport sys\n\nos.execv(sys.executable, [sys.executable, *sys.argv[1:]])\n"
"""Stands for python3, which is elsewhere than the search path looks; a copy of it would not find its library."""
_PASSWD: Final = "root:x:0:0::/:/nonexistent\nkedge:x:65532:65532::/:/nonexistent\n"

Files = dict[str, Path]
"""Path in the image -> file here."""


def runtime() -> Files:
    """Python and the dependencies of ``requirements/runtime.lock``, without the libraries that they load.

    Raises:
        PrerequisiteError: A dependency is not installed.
    """
    return {**_interpreter(), **_dependencies()}


def package(scratch: Path) -> Files:
    """Kedge itself; what has to be made for it is put into the folder ``scratch``."""
    target = _site_packages() / "kedge"
    files = {str(target / path.relative_to(_PACKAGE)): path for path in _sources(_PACKAGE)}
    files |= _dist_info("kedge-operator")
    scratch.mkdir(parents=True, exist_ok=True)
    script = _written(scratch / "kedge", _SCRIPT.format(python=_python()))
    launcher = _written(scratch / "python3", _LAUNCHER.format(python=_python()))
    for one in (script, launcher):
        one.chmod(0o755)
    passwd = _written(scratch / "passwd", _PASSWD)
    return {**files, ENTRYPOINT: script, "/usr/bin/python3": launcher, "/etc/passwd": passwd}


def _written(path: Path, text: str) -> Path:
    """``path`` with this text; left alone, with its time, if it has it already."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
    return path


def _python() -> Path:
    """The interpreter behind the virtual environment."""
    return Path(sys.base_prefix, "bin", f"python{sysconfig.get_python_version()}")


def _stdlib() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _site_packages() -> Path:
    """Where the interpreter looks by itself for what is installed. Debian's has another name for it."""
    stdlib = _stdlib()
    if Path(sys.base_prefix) == Path("/usr"):
        return Path("/usr/lib/python3/dist-packages")
    return stdlib / "site-packages"


def _interpreter() -> Files:
    stdlib, python = _stdlib(), _python()
    files = {str(path): path for path in _sources(stdlib) if not _left_out(path.relative_to(stdlib))}
    return {**files, str(python): python.resolve()}


def _left_out(path: Path) -> bool:
    return bool(_STDLIB_LEFT_OUT & set(path.parts)) or path.parts[0].startswith("config-") or path.suffix == ".a"


def _dependencies() -> Files:
    target = _site_packages()
    files: Files = {}
    for name in _PINNED.findall(_LOCK.read_text()):
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            raise PrerequisiteError(f"{name} of {_LOCK.name} is not installed: run `make venv`") from None
        for path in found.files or ():
            here = Path(str(found.locate_file(path)))
            if ".." not in path.parts and here.is_file() and not _SELDOM_USED.search(str(here)):
                files[str(target / path)] = here
    return files


def _dist_info(name: str) -> Files:
    """What tells the version of a package that is installed, be it editable."""
    found = metadata.distribution(name)
    info = [path for path in found.files or () if path.name in {"METADATA", "entry_points.txt"}]
    return {str(_site_packages() / path): Path(str(found.locate_file(path))) for path in info}


def _sources(folder: Path) -> Iterator[Path]:
    """All files below, compiled ones too if they are of this Python and unoptimized."""
    tag = f".{sys.implementation.cache_tag}.pyc"
    for path in sorted(folder.rglob("*")):
        if path.is_file() and (path.suffix != ".pyc" or path.name.endswith(tag)):
            yield path
