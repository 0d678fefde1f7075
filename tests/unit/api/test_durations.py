"""GEP-2257 durations: what is written is read back, and nothing else is read."""

import re
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from kedge.api.durations import MAX_LENGTH, PATTERN, DurationBounds, format_duration, parse_duration

MOST = 99_999 * 3_600_000 + 59 * 60_000 + 59_999
"""Milliseconds of the longest duration that has a canonical form."""

texts = st.from_regex(re.compile(PATTERN, re.ASCII), fullmatch=True)


@given(st.integers(0, MOST))
def test_milliseconds_survive_a_round_trip(milliseconds: int) -> None:
    text = format_duration(milliseconds / 1000)

    assert re.fullmatch(PATTERN, text)
    assert len(text) <= MAX_LENGTH
    assert parse_duration(text) == milliseconds / 1000


@given(texts)
def test_whatever_fits_the_pattern_is_read_and_has_one_canonical_form(text: str) -> None:
    seconds = parse_duration(text.removesuffix("\n"))

    if seconds <= MOST / 1000:
        assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "seconds", "canonical"),
    [
        ("200ms", 0.2, "200ms"),
        ("90s", 90, "1m30s"),
        ("1h30m", 5400, "1h30m"),
        ("0s", 0, "0s"),
        ("0h0m", 0, "0s"),
        ("1500ms", 1.5, "1s500ms"),
        ("1s1h", 3601, "1h1s"),
        ("5m3m", 480, "8m"),
        ("99999h59m59s999ms", MOST / 1000, "99999h59m59s999ms"),
    ],
)
def test_examples(text: str, seconds: float, canonical: str) -> None:
    assert parse_duration(text) == seconds
    assert format_duration(seconds) == canonical


@pytest.mark.parametrize(
    "text", ["", "5", "5 s", "-5s", "1.5s", "5us", "5d", "100000s", "1h1m1s1ms1h", "s", "5S", "5s\n", " 5s", "٣s"]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be a duration with a unit, such as"):
        parse_duration(text)


@pytest.mark.parametrize("seconds", [-0.001, 1e9, 360_000_000.0])
def test_seconds_that_have_no_text_are_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="cannot be written"):
        format_duration(seconds)


def test_bounds_hold_for_text_and_numbers_alike() -> None:
    adapter = TypeAdapter(Annotated[float, DurationBounds(0.05, 30)])

    assert adapter.validate_json('"50ms"') == 0.05
    assert adapter.validate_python(30) == 30
    assert adapter.dump_json(30.0) == b'"30s"'
    for given_value in (0.049, 31, "49ms", "31s", True, None):
        with pytest.raises(ValidationError):
            adapter.validate_python(given_value)


def test_a_file_gives_no_bare_number() -> None:
    with pytest.raises(ValidationError, match="with a unit"):
        TypeAdapter(Annotated[float, DurationBounds()]).validate_json("5")
