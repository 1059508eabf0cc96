"""What any call may get wrong: no database has a part in it, and one kind of it is enough."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.realtime.api.calling import Caller, serving_on


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def api(request: pytest.FixtureRequest) -> AsyncIterator[Caller]:
    async with serving_on("sqlite", request) as caller:
        yield caller
