"""Stores to test on: a migrated database costs a copy, not a migration."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import pytest_asyncio

from store.broker.memory import MemoryBroker
from store.commands import Limits
from store.engine import open_database
from store.housekeeping import Retention
from store.model import new_id
from store.runs import RunStore
from tests import servers
from tests.faults import Proxy
from tests.servers import Postgres
from tests.store.opening import opened_on

OpenStore: TypeAlias = Callable[..., Awaitable[RunStore]]
"""Opens one more store on the test's database: another process, as far as the database knows."""


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file that is migrated and empty; to be copied."""
    path = tmp_path_factory.mktemp("migrated") / "runstream.db"
    migrate_once(f"sqlite:///{path}")
    return path


@pytest.fixture
def migrated_sqlite(migrated_file: Path, sqlite_url: str) -> str:
    shutil.copy(migrated_file, sqlite_url.removeprefix("sqlite:///"))
    return sqlite_url


@pytest.fixture(scope="session")
def shared_database(postgres_server: Postgres) -> str:
    """One database for most tests: to empty it costs less than to make another."""
    return postgres_server.create_database(template(postgres_server))


@pytest.fixture
def migrated_postgres(postgres: Postgres, shared_database: str) -> str:
    """Migrated and empty; not for tests that change the schema or drop partitions."""
    postgres.execute(EMPTY, database=shared_database.rpartition("/")[2])
    return shared_database


@pytest.fixture
def own_postgres(postgres: Postgres) -> Iterator[str]:
    """A migrated, empty PostgreSQL database for one test alone."""
    url = postgres.create_database(template(postgres))
    yield url
    postgres.ensure().drop_database(url)


EMPTY = """
DO $$
DECLARE
    name text;
BEGIN
    FOR name IN
        SELECT c.relname FROM pg_class c
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
        AND NOT c.relispartition AND c.relname NOT IN ('alembic_version', 'log_state')
    LOOP
        EXECUTE format('DELETE FROM %I', name);
    END LOOP;
END $$
"""


def template(postgres: Postgres) -> str:
    return postgres.create_template("store", migrate_once)


@pytest.fixture(params=["sqlite", "postgres"])
def migrated_url(request: pytest.FixtureRequest) -> str:
    """A migrated, empty database: the test is run on each kind."""
    url: str = request.getfixturevalue(f"migrated_{request.param}")
    return url


@pytest_asyncio.fixture
async def open_any() -> AsyncIterator[Callable[..., Awaitable[RunStore]]]:
    """Opens a store on any migrated database: `open_any(url, broker=…, limits=…)`."""
    stores: list[RunStore] = []

    async def open_store(url: str, **parts: Any) -> RunStore:
        store = await bare_store(url, **parts)
        stores.append(store)
        return store

    yield open_store
    for store in stores:
        await store.close()


@pytest_asyncio.fixture
async def open_store(migrated_url: str, open_any: OpenStore) -> OpenStore:
    """Opens stores on one database: each is another process, as far as that knows."""

    async def open_one(**parts: Any) -> RunStore:
        return await open_any(migrated_url, **parts)

    return open_one


@pytest_asyncio.fixture
async def store(open_store: OpenStore) -> RunStore:
    """A store on a migrated, empty database of each kind."""
    return await open_store()


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=["sqlite", "postgres"])
async def shared_store(request: pytest.FixtureRequest) -> AsyncIterator[RunStore]:
    """One for all tests of a module, where none minds what another has left in it."""
    async with opened_on(request.param, request) as store:
        yield store


@pytest_asyncio.fixture
async def proxied(
    own_postgres: str, open_any: OpenStore
) -> AsyncIterator[tuple[Proxy, RunStore, str]]:
    """A store on PostgreSQL by way of a proxy, and the database's own URL."""
    async with Proxy(own_postgres) as proxy:
        yield proxy, await open_any(proxy.url), own_postgres


@pytest.fixture
def task() -> str:
    """A task of the test's own, where the store is everybody's."""
    return new_id("task")


async def bare_store(url: str, **parts: Any) -> RunStore:
    """A store on a database that is migrated already."""
    known: dict[str, Any] = {
        "broker": MemoryBroker(),
        "limits": Limits(),
        "retention": Retention(),
    }
    known |= parts
    return RunStore(await open_database(url), known.pop("broker"), **known)


def migrate_once(url: str) -> None:
    async def open_and_close() -> None:
        store = await RunStore.open(url, broker=MemoryBroker())
        await store.close()

    servers.in_a_thread(open_and_close())
    if url.startswith("sqlite"):
        # One file, to be copied: what is in the log beside it must be in it.
        with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
