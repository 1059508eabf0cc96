"""Jobs and claims are apart by their tasks: all tests of a module have one store."""

from __future__ import annotations

import pytest_asyncio

from store import RunStore


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def store(shared_store: RunStore) -> RunStore:
    return shared_store
