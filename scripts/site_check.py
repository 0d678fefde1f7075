"""Checks the built site as a browser finds it: links lead to what is there, nothing is loaded from another host.

A link may name a page, a file or a heading. mkdocs has checked those that people wrote; here are also those that the
theme and ``site_hook`` made.

usage: python -m scripts.site_check FOLDER
"""

from __future__ import annotations

import posixpath
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Final
from urllib.parse import unquote

_LOADS: Final = frozenset({"script", "link", "img", "iframe", "source", "object", "embed"})
"""Elements whose address a browser fetches by itself; that of an ``a`` waits for a person."""
_ELSEWHERE: Final = re.compile(r"([a-z][a-z+.-]*:)?//", re.IGNORECASE)
_SCHEME: Final = re.compile(r"[a-z][a-z+.-]*:", re.IGNORECASE)
_STYLE: Final = re.compile(r"(?:@import|url\()\s*['\"]?((?:https?:)?//[^'\")\s]+)")


@dataclass
class Page:
    """What matters of a page."""

    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)


class _Reader(HTMLParser):
    """Gathers anchors and addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.page = Page()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take an element."""
        given = {name: value or "" for name, value in attrs}
        self.page.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        address = given.get("href") or given.get("src") or given.get("data")
        if address and given.get("rel") != "canonical":
            (self.page.loads if tag in _LOADS else self.page.links).append(address)


def read(text: str) -> Page:
    """Return what matters of a page's HTML."""
    reader = _Reader()
    reader.feed(text)
    return reader.page


def problems(site: Path) -> Iterator[str]:
    """Yield a line for each thing that is wrong with the site in a folder."""
    pages = {path: read(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    if not pages:
        yield f"{site}: no page is there"
    for path, page in pages.items():
        name = path.relative_to(site)
        yield from (f"{name}: loads {one} from elsewhere" for one in page.loads if _ELSEWHERE.match(one))
        if name.name != "404.html":  # it may be shown at any depth, so that its links are no relative ones
            yield from (f"{name}: {one} leads nowhere" for one in _broken(path, page, site, pages))
    for sheet in sorted(site.rglob("*.css")):
        for found in _STYLE.findall(sheet.read_text(encoding="utf-8")):
            yield f"{sheet.relative_to(site)}: loads {found} from elsewhere"


def _broken(path: Path, page: Page, site: Path, pages: dict[Path, Page]) -> Iterator[str]:
    for address in dict.fromkeys([*page.links, *page.loads]):
        if _SCHEME.match(address) or address.startswith("//"):
            continue
        target, _, anchor = unquote(address).partition("#")
        there = Path(posixpath.normpath(path.parent / target.partition("?")[0])) if target else path
        there = there / "index.html" if there.is_dir() else there
        is_inside = there.is_relative_to(site) and there.is_file()
        if not is_inside or (anchor and there in pages and anchor not in pages[there].anchors):
            yield address


def main() -> None:
    """Check the folder that is named; exit status 1 with a line for each problem."""
    found = list(problems(Path(sys.argv[1]).resolve()))
    sys.exit("".join(f"{one}\n" for one in found) or 0)


if __name__ == "__main__":
    main()
