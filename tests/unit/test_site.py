"""The site: links out of docs/ lead into it, and what is broken or loaded from elsewhere is found."""

from pathlib import Path

import pytest
from scripts import site_check, site_hook


@pytest.mark.parametrize(
    ("path", "link", "there"),
    [
        ("docs/sip.md", "settings.md#reference", "settings.md#reference"),
        ("docs/sip.md", "../README.md#measured", "project/readme.md#measured"),
        ("docs/decisions/README.md", "../../operator/kedge/call/leg.py", "../files/operator/kedge/call/leg.py"),
        ("docs/relayset.md", "../manifests/samples/settings.yaml", "files/manifests/samples/settings.yaml"),
        ("README.md", "docs/sip.md", "../sip.md"),
        ("README.md", "SECURITY.md", "security.md"),
        ("charts/kedge/README.md", "../../docs/settings.md", "../settings.md"),
        ("docs/sip.md", "https://example.org/README.md", "https://example.org/README.md"),
        ("docs/sip.md", "#headers", "#headers"),
    ],
)
def test_a_link_of_the_repository_fits_the_site(path: str, link: str, there: str) -> None:
    assert site_hook.rewritten(f"see [`it`]({link}), or ![that]({link})", path) == (
        f"see [`it`]({there}), or ![that]({there})"
    )


def test_code_is_left_alone() -> None:
    text = "`[a](../README.md)`\n```\n[b](../README.md)\n```\n"

    assert site_hook.rewritten(text, "docs/sip.md") == text
    assert site_hook.linked(text, "docs/sip.md") == []


def test_a_page_knows_its_file_and_every_page_of_the_project_exists() -> None:
    assert site_hook.repository_path("sip.md") == "docs/sip.md"
    for path in site_hook.PAGES:
        assert site_hook.repository_path(site_hook.site_path(path)) == path
        assert (site_hook.ROOT / path).is_file()


def page(body: str) -> str:
    return f'<html><head><link rel="stylesheet" href="style.css"></head><body>{body}</body></html>'


def test_a_site_in_order_has_no_problems(tmp_path: Path) -> None:
    (tmp_path / "style.css").write_text("body { background: url(data:image/png;base64,AA==) }")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "index.html").write_text('<h1 id="one">One</h1><a href="../a.html">a</a>')
    links = '<a href="sub/#one">1</a><a href="#here">2</a><a href="https://example.org/">3</a><p id="here">'
    (tmp_path / "a.html").write_text(page(links))

    assert list(site_check.problems(tmp_path)) == []


def test_what_leads_nowhere_or_is_loaded_from_elsewhere_is_told(tmp_path: Path) -> None:
    (tmp_path / "style.css").write_text("@import 'https://fonts.example.org/a.css';")
    (tmp_path / "b.html").write_text("<p>")
    (tmp_path / "a.html").write_text(
        page('<a href="gone.html">1</a><a href="b.html#gone">2</a><a href="../out.html">3</a>'
             '<script src="//cdn.example.org/x.js"></script>')
    )  # fmt: skip
    (tmp_path.parent / "out.html").write_text("<p>")

    assert list(site_check.problems(tmp_path)) == [
        "a.html: loads //cdn.example.org/x.js from elsewhere",
        "a.html: gone.html leads nowhere",
        "a.html: b.html#gone leads nowhere",
        "a.html: ../out.html leads nowhere",
        "style.css: loads https://fonts.example.org/a.css from elsewhere",
    ]


def test_an_empty_site_is_no_good_site(tmp_path: Path) -> None:
    assert list(site_check.problems(tmp_path)) == [f"{tmp_path}: no page is there"]
