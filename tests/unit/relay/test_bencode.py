import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge.relay.bencode import MAX_DEPTH, MAX_SIZE, BencodeError, decode, decode_dict, encode

SIXTY_FOUR_BITS = st.integers(min_value=-(2**63), max_value=2**63 - 1)
VALUES = st.recursive(
    SIXTY_FOUR_BITS | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.binary(max_size=8), inner, max_size=5),
    max_leaves=30,
)


@given(VALUES)
def test_what_was_encoded_decodes_to_the_same(value: object) -> None:
    assert decode(encode(value)) == value  # type: ignore[arg-type]


@given(st.binary(max_size=60))
def test_any_bytes_decode_or_raise_bencode_error(data: bytes) -> None:
    try:
        value = decode(data)
    except BencodeError:
        return
    assert len(encode(value)) <= len(data)  # canonical: a repeated key makes the original longer, never shorter


@given(st.text(alphabet="ilde0123456789:-a", max_size=30))
def test_near_bencoding_decodes_or_raises_bencode_error(text: str) -> None:
    data = text.encode()
    try:
        value = decode(data)
    except BencodeError:
        return
    assert decode(encode(value)) == value


def test_keys_are_sorted() -> None:
    assert encode({b"b": 1, b"a": [b"x", (2, 3)]}) == b"d1:al1:xli2ei3eee1:bi1ee"


def test_unsorted_keys_are_read_and_the_last_of_a_repeated_one_counts() -> None:
    assert decode(b"d1:bi1e1:ai2e1:bi3ee") == {b"b": 3, b"a": 2}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"e",
        b"i1",
        b"ie",
        b"i-e",
        b"i-0e",
        b"i01e",
        b"i+1e",
        b"i1_0e",
        b"i 1e",
        b"i" + b"9" * 5000 + b"e",
        b"5:abc",
        b"03:abc",
        b"3abc",
        b"9" * 30 + b":a",
        b"l",
        b"li1e",
        b"d",
        b"d1:a",
        b"d1:ae",
        b"di1ei2ee",
        b"dl1:aee",
        b"i1ei2e",
    ],
)
def test_malformed_text_is_refused(data: bytes) -> None:
    with pytest.raises(BencodeError):
        decode(data)


def test_nesting_is_bounded() -> None:
    assert decode(b"l" * MAX_DEPTH + b"e" * MAX_DEPTH)
    with pytest.raises(BencodeError, match="deeper"):
        decode(b"l" * (MAX_DEPTH + 1) + b"e" * (MAX_DEPTH + 1))


def test_size_is_bounded() -> None:
    with pytest.raises(BencodeError, match="more than"):
        decode(b"%d:" % MAX_SIZE + b"a" * MAX_SIZE)


def test_a_message_must_be_a_dictionary() -> None:
    assert decode_dict(b"c d1:ai1ee", 2) == {b"a": 1}
    with pytest.raises(BencodeError, match="dictionary"):
        decode_dict(b"i1e")


@pytest.mark.parametrize("value", [None, True, 1.5, "text", {"text": 1}, [{1: 2}]])
def test_what_bencoding_cannot_say_is_refused(value: object) -> None:
    with pytest.raises(BencodeError):
        encode(value)  # type: ignore[arg-type]
