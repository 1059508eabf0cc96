"""What every test of a broker must leave behind: nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from store.model import new_id
from tests.store.broker.doubles import no_task_left


@pytest.fixture(autouse=True)
async def _nothing_is_left() -> AsyncIterator[None]:
    async with no_task_left():
        yield


@pytest.fixture
def namespace() -> str:
    """Of the test alone, on a Redis that is everybody's."""
    return new_id("test")
