"""Files with tokens: what is taken, what is refused, and what stands while a file is changed."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from kedge.adapters.token_file import TokenFile, TokenFileError, authorization

ONE, OTHER = "one-token-of-many-characters", "another/token+of=="
FIELD = "admin.tokenFile"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "token"
    made.write_text(f"{ONE}\n")
    return made


def test_each_line_is_a_token_and_the_first_is_sent(file: Path) -> None:
    file.write_text(f"\n  {ONE}  \r\n{OTHER}\n\n")

    tokens = TokenFile(file, name=FIELD).load()

    assert tokens.tokens == (ONE, OTHER)
    assert authorization(tokens.first()) == {"Authorization": f"Bearer {ONE}"}


@pytest.mark.parametrize(
    ("content", "trouble"),
    [
        (None, "No such file or directory"),
        (b"", "holds no token"),
        (b" \n\n", "holds no token"),
        (b"short\n", "line 1 is no token: 16 or more of"),
        (f"{ONE}\nwith a space in it\n".encode(), "line 2 is no token"),
        (b"Bearer 0123456789abcdef\n", "line 1 is no token"),
        (b"\xff" * 32, "line 1 is no token"),
        (b"a" * 70_000, "is longer than 65536 bytes"),
    ],
)
def test_what_cannot_be_used_is_told_by_field_and_file_and_never_by_content(
    file: Path, content: bytes | None, trouble: str
) -> None:
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)

    with pytest.raises(TokenFileError) as raised:
        TokenFile(file, name=FIELD).load()

    assert str(raised.value).startswith(f"{FIELD}: {file}: {trouble}")
    assert ONE not in str(raised.value)
    assert "space in it" not in str(raised.value)


def test_a_folder_is_no_file_with_tokens(tmp_path: Path) -> None:
    with pytest.raises(TokenFileError, match="Is a directory"):
        TokenFile(tmp_path, name=FIELD).load()


def test_a_change_counts_at_once(file: Path) -> None:
    tokens = TokenFile(file, name=FIELD).load()

    file.write_text(f"{ONE}\n{OTHER}\n")

    assert tokens.tokens == (ONE, OTHER)


def test_a_change_by_a_link_as_kubelets_make_it_counts(tmp_path: Path) -> None:
    for name, token in (("v1", ONE), ("v2", OTHER)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "token").write_text(token)
    (tmp_path / "data").symlink_to("v1")
    tokens = TokenFile(tmp_path / "data" / "token", name=FIELD).load()

    (tmp_path / "new").symlink_to("v2")
    (tmp_path / "new").rename(tmp_path / "data")

    assert tokens.first() == OTHER


@pytest.mark.parametrize("broken", ["gone", "empty", "wrong"])
def test_the_last_good_tokens_stand_and_it_is_logged_once(
    file: Path, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    caplog.set_level(logging.DEBUG)
    tokens = TokenFile(file, name=FIELD).load()

    if broken == "gone":
        file.unlink()
    else:
        file.write_text("" if broken == "empty" else f"{OTHER}\nnot a token\n")
    during = [tokens.tokens for _ in range(3)]
    file.write_text(f"{OTHER}\n")

    assert during == [(ONE,)] * 3
    assert tokens.tokens == (OTHER,)
    assert [one.levelname for one in caplog.records] == ["ERROR", "INFO"]
    assert "the tokens known last stand" in caplog.records[0].message
    assert not any(token in caplog.text for token in (ONE, OTHER, "not a token"))


def test_a_file_that_comes_later_is_read_when_it_is_there(tmp_path: Path) -> None:
    tokens = TokenFile(tmp_path / "token", name=FIELD)  # not loaded: an agent does not wait for it
    before = tokens.first()

    (tmp_path / "token").write_text(ONE)

    assert (before, tokens.first()) == ("", ONE)
    assert authorization(before) == {}
