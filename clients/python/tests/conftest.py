"""Fixtures: a scripted server, and a client of it that does not wait long."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from clients.python.tests.scripted import ScriptedServer
from runstream import Runstream, Timing

QUICK = Timing(
    base_delay_s=0.005,
    max_delay_s=0.02,
    busy_base_delay_s=0.02,
    busy_max_delay_s=0.05,
    min_grace_s=0.2,
)


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        yield server


@pytest.fixture
async def client(server: ScriptedServer) -> AsyncIterator[Runstream]:
    async with Runstream(server.url, api_key="key-1", timing=QUICK) as client:
        yield client
