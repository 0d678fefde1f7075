"""Systems for the end-to-end tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.e2e.harness import System


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[System]:
    """Three relays, of which only the first is in the RelaySet: what is called then is on it."""
    async with System(tmp_path, joined=1, relay_set={"rebalance": {"mode": "Manual"}}) as system:
        yield system
