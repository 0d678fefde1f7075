"""Relative links in the Markdown files lead somewhere, to the heading that they name."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ +(.+?)\s*$", re.MULTILINE)


def markdown_files() -> list[Path]:
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "charts").rglob("*.md")])


def relative_links(text: str) -> Iterator[str]:
    """Yield the targets of links that are no URLs, outside of code."""
    prose = re.sub(r"`[^`\n]*`", "", _FENCE.sub("", text))
    return (target for target in _LINK.findall(prose) if not re.match(r"[a-z]+:", target))


def anchors(text: str) -> set[str]:
    """Return the anchors of a file's headings, as the usual hosting sites make them."""
    words = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in _HEADING.findall(_FENCE.sub("", text)))
    return {one.replace(" ", "-") for one in words}


def broken(file: Path, text: str) -> list[str]:
    """Return the links of a file that lead nowhere."""
    found = []
    for target in relative_links(text):
        path, _, anchor = target.partition("#")
        there = file.parent / path
        if path and not there.exists():
            found.append(target)
            continue
        if anchor and anchor not in anchors(there.read_text(encoding="utf-8") if path else text):
            found.append(target)
    return found


@pytest.mark.parametrize("file", markdown_files(), ids=lambda file: str(file.relative_to(ROOT)))
def test_links_lead_somewhere(file: Path) -> None:
    assert broken(file, file.read_text(encoding="utf-8")) == []


def test_a_link_that_leads_nowhere_is_found() -> None:
    text = (
        "# One: `two`\n[a](README.md) [b](gone.md) ![c](docs/gone.svg) [d](https://example.org/gone) [e](#one-two)\n"
        "[f](#three) `[g](code.md)`\n```\n[h](fence.md)\n```\n"
    )

    assert broken(ROOT / "some.md", text) == ["gone.md", "docs/gone.svg", "#three"]
