"""The reference in ``docs/`` says what the models and the metrics say."""

import pytest
from click.testing import CliRunner
from scripts import reference


@pytest.mark.parametrize("name", sorted(reference.reference()))
def test_a_file_is_what_the_code_says(name: str) -> None:
    text = (reference.DOCS / name).read_text(encoding="utf-8")

    assert text == reference.filled(text, reference.reference()[name]), "run `python -m scripts.reference`"


def test_every_field_that_is_said_to_do_nothing_yet_exists() -> None:
    assert reference.unknown_notes(list(reference.reference().values())) == []


def test_a_note_on_a_field_that_is_gone_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "NOT_YET", {"spec.engine": "", "spec.gone": "", "gone.engine": ""})

    assert reference.unknown_notes(list(reference.reference().values())) == ["spec.gone", "gone.engine"]


def test_what_is_written_by_hand_stays() -> None:
    text = f"by hand\n{reference.BEGIN}old{reference.END}by hand too\n"

    new = reference.filled(text, "new")

    assert new.startswith(f"by hand\n{reference.BEGIN}")
    assert new.endswith(f"{reference.END}by hand too\n")
    assert "new" in new
    assert "old" not in new
    assert reference.filled(new, "new") == new


def test_a_file_without_marks_is_not_overwritten() -> None:
    with pytest.raises(ValueError, match="needs the lines"):
        reference.filled("by hand\n", "new")


def test_check_writes_nothing_and_finds_nothing_to_write() -> None:
    result = CliRunner().invoke(reference.main, ["--check"])

    assert (result.exit_code, result.output) == (0, "")


def test_check_fails_on_a_stale_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "reference", lambda: {"metrics.md": "other"})

    result = CliRunner().invoke(reference.main, ["--check"])

    assert result.exit_code == 1
    assert "docs/metrics.md: differs from the code" in result.output
