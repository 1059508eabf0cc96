"""Brokers on one Redis, and a way to it that can be cut."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from store.broker.redis import RedisBroker, Tuning
from tests.faults import Proxy
from tests.servers import Valkey
from tests.store.broker.doubles import HURRIED, Counts, led_through

Make = Callable[..., RedisBroker]


@pytest.fixture
async def proxy(valkey: Valkey) -> AsyncIterator[Proxy]:
    async with led_through(valkey.url) as proxy:
        yield proxy


@pytest.fixture
def make(namespace: str) -> Make:
    """Brokers that hear each other, by whatever way they go to Redis."""

    def make(url: str, metrics: Counts | None = None, tuning: Tuning = HURRIED) -> RedisBroker:
        return RedisBroker(url, namespace=namespace, tuning=tuning, metrics=metrics or Counts())

    return make
