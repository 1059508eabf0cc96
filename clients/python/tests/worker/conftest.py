"""Fixture: the server's part."""

from __future__ import annotations

import pytest

from clients.python.tests.scripted import ScriptedServer
from clients.python.tests.worker.shop import Shop


@pytest.fixture
def shop(server: ScriptedServer) -> Shop:
    return Shop(server)
