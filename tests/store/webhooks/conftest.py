"""The webhooks of the store that a module has, at work, and left without an endpoint."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from store import RunStore
from store.webhooks import Webhooks
from tests.store.webhooks.hooking import LOCAL, at_work


@pytest_asyncio.fixture(loop_scope="module")
async def no_endpoint_left(shared_store: RunStore) -> AsyncIterator[None]:
    """Leaves no endpoint behind: the store is everybody's."""
    yield
    hooks = Webhooks(shared_store.database, LOCAL)
    for endpoint in (await hooks.list_endpoints("default", 1_000, None))[0]:
        await hooks.delete("default", endpoint.id)


@pytest_asyncio.fixture(loop_scope="module")
async def hooks(shared_store: RunStore) -> AsyncIterator[Webhooks]:
    """The store's webhooks, at work."""
    async with at_work(shared_store) as hooks:
        yield hooks
