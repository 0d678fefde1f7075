"""Lets the pages of ``docs/`` be read on a hosting site and in the built one alike: a hook of mkdocs.

Links in Markdown are paths of the repository. mkdocs knows ``docs/`` alone, so what its pages link to elsewhere is put
beside them: Markdown of the root and of the chart as pages, all else as files; the links are written anew to match. It
touches no page that links to ``docs/`` only, and downloads nothing.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
PAGES: Final[Mapping[str, str]] = {
    "README.md": "project/readme.md",
    "ARCHITECTURE.md": "project/architecture.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
    "SECURITY.md": "project/security.md",
    "charts/kedge/README.md": "project/chart.md",
}
"""Markdown outside of docs/, and the page of the site that each becomes."""
_DOCS: Final = "docs/"
_LINK_OR_CODE: Final = re.compile(r"^```.*?^```|`[^`\n]*`|(!?\[[^\]]*\]\()([^)\s]+)(\))", re.MULTILINE | re.DOTALL)
"""Code is matched too, so that a link in it is passed over; the text of a link may hold code."""
_SCHEME: Final = re.compile(r"[a-z]+:|#")


def site_path(path: str) -> str:
    """Return where a file of the repository is in the site's sources."""
    return PAGES.get(path) or (path.removeprefix(_DOCS) if path.startswith(_DOCS) else f"files/{path}")


def repository_path(page: str) -> str:
    """Return which file of the repository a page of the site is; the reverse of ``site_path`` for pages."""
    return next((path for path, there in PAGES.items() if there == page), f"{_DOCS}{page}")


def linked(markdown: str, path: str) -> list[str]:
    """Return the files of the repository that the page at ``path`` links to."""
    found = []

    def note(target: str) -> str:
        found.append(target)
        return target

    _each_link(markdown, path, note)
    return found


def rewritten(markdown: str, path: str) -> str:
    """Return the page at ``path`` (in the repository) with links that fit the site."""
    here = posixpath.dirname(site_path(path)) or "."
    return _each_link(markdown, path, lambda target: posixpath.relpath(site_path(target), here))


def _each_link(markdown: str, path: str, change: Callable[[str], str]) -> str:
    """Return the text with ``change(target)`` for each target of a relative link; code stays as it is."""

    def of_link(found: re.Match[str]) -> str:
        head, link, tail = found.groups()
        if link is None or _SCHEME.match(link):
            return found[0]
        target, mark, anchor = link.partition("#")
        there = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
        return f"{head}{change(there)}{mark}{anchor}{tail}"

    return _LINK_OR_CODE.sub(of_link, markdown)


# --- what mkdocs calls -----------------------------------------------------------------------------------------------


def on_files(files: Any, *, config: Any) -> Any:
    """Add what is linked to outside of ``docs/``."""
    from mkdocs.structure.files import File  # of the site's own environment: others import this module without it

    for path, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / path)))
    pages = [repository_path(one.src_uri) for one in files.documentation_pages()]
    targets = {target for path in pages for target in linked((ROOT / path).read_text(encoding="utf-8"), path)}
    for target in sorted(targets):
        if site_path(target).startswith("files/") and (ROOT / target).is_file():
            files.append(File.generated(config, site_path(target), abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Write a page's links anew."""
    return rewritten(markdown, repository_path(page.file.src_uri))
