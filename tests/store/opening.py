"""Stores on a database that another store, or a whole module, has open as well."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from store import RunStore, open_broker
from store.engine import Postgres, Sqlite


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[RunStore]:
    """A store on that database, without its own clocks."""
    broker = open_broker(None)
    store = await RunStore.open(url, broker=broker)
    try:
        yield store
    finally:
        await store.close()
        await broker.close()


@asynccontextmanager
async def opened_on(kind: str, request: pytest.FixtureRequest) -> AsyncIterator[RunStore]:
    """A store on a new database of that kind, for all tests of a module."""
    if kind == "sqlite":
        folder = request.getfixturevalue("tmp_path_factory").mktemp("store")
        async with opened(f"sqlite:///{folder / 'runstream.db'}") as store:
            yield store
        return
    server = request.getfixturevalue("postgres_server")
    url = await asyncio.to_thread(server.create_database)
    try:
        async with opened(url) as store:
            yield store
    finally:
        await asyncio.to_thread(server.drop_database, url)


def url_of(store: RunStore) -> str:
    """Where another server finds the store's database."""
    if isinstance(store.database, Sqlite):
        return f"sqlite:///{store.database.path}"
    assert isinstance(store.database, Postgres)
    return store.database.url.render_as_string(hide_password=False)
