"""Fixtures: the application with its real store, on each kind of database."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.realtime.api.calling import Caller, serving_on


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=["sqlite", "postgres"])
async def api(request: pytest.FixtureRequest) -> AsyncIterator[Caller]:
    async with serving_on(request.param, request) as caller:
        yield caller
