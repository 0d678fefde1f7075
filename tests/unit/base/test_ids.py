"""Identifiers and addresses."""

from __future__ import annotations

import pytest

from kedge.base.address import format_address, host_for_uri
from kedge.base.ids import CountingIds, Ids


def test_tokens_are_unguessable_and_differ() -> None:
    ids = Ids()
    tokens = {ids.token() for _ in range(1000)}

    assert len(tokens) == 1000
    assert {len(token) for token in tokens} == {16}  # 64 bits; RFC 3261 section 19.3 asks for 32


def test_branches_bear_the_magic_cookie() -> None:
    assert Ids().branch().startswith("z9hG4bK")
    assert CountingIds().branch() == "z9hG4bKt1"


def test_counting_ids_count() -> None:
    ids = CountingIds()
    assert [ids.token(), ids.token()] == ["t1", "t2"]


@pytest.mark.parametrize(
    ("host", "in_uri", "address"),
    [("192.0.2.1", "192.0.2.1", "192.0.2.1:5060"), ("2001:db8::1", "[2001:db8::1]", "[2001:db8::1]:5060")],
)
def test_an_ipv6_address_stands_in_brackets(host: str, in_uri: str, address: str) -> None:
    assert host_for_uri(host) == in_uri
    assert format_address((host, 5060)) == address
