"""Migrations: whatever state the database is in, one server or several."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection

from store import tables
from store.broker.memory import MemoryBroker
from store.engine import Database, Sqlite, open_database, use_wal
from store.errors import SchemaTooNew
from store.runs import RunStore
from store.schema import migrate
from tests.builders import PROJECT
from tests.store.asking import create

ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    database = await open_database(url)
    try:
        yield database
    finally:
        await database.close()


def scripts() -> Config:
    config = Config()
    config.set_main_option("script_location", str(files("store") / "migrations"))
    return config


REVISIONS = [
    step.revision
    for step in reversed(list(ScriptDirectory.from_config(scripts()).walk_revisions()))
]
NEWEST = REVISIONS[-1]


def to_revision(connection: Connection, revision: str) -> None:
    config = scripts()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def say_newer(connection: Connection) -> None:
    connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))


def what_is_there(connection: Connection) -> dict[str, Any]:
    """Tables with their columns and indexes, but for the log's partitions."""
    inspector = sa.inspect(connection)
    return {
        name: (
            sorted(column["name"] for column in inspector.get_columns(name)),
            sorted(str(index["name"]) for index in inspector.get_indexes(name)),
        )
        for name in inspector.get_table_names()
        if not name.startswith("changes_")
    }


async def test_an_empty_database_is_migrated_and_a_current_one_left_as_it_is(
    database_url: str,
) -> None:
    async with opened(database_url) as database:
        assert await migrate(database) == (None, NEWEST)
        before = await database.read(what_is_there)
        assert await migrate(database) == (NEWEST, NEWEST)
        assert await database.read(what_is_there) == before


async def test_the_migrations_make_the_tables_that_the_program_uses(database_url: str) -> None:
    """They are written out twice on purpose: here it is seen that both say the same."""
    async with opened(database_url) as database:
        await migrate(database)
        there = await database.read(what_is_there)
        for table in tables.metadata.sorted_tables:
            columns, indexes = there[table.name]
            known = {column.name for column in table.columns}
            if table.name == "changes" and database.dialect == "postgresql":
                known.discard("seq")
            assert set(columns) == known, table.name
            assert {str(index.name) for index in table.indexes} <= {*indexes}, table.name


@pytest.mark.parametrize("revision", REVISIONS[:-1])
async def test_an_older_database_is_brought_on(database_url: str, revision: str) -> None:
    async with opened(database_url) as database:
        await database.write(to_revision, revision)
        assert await migrate(database) == (revision, NEWEST)
    store = await RunStore.open(database_url, broker=MemoryBroker())
    try:
        run = await create(store)
        assert await store.get_run(PROJECT, run.id) == run
    finally:
        await store.close()


async def test_a_newer_database_is_refused_with_both_revisions_and_not_touched(
    database_url: str,
) -> None:
    """An older program that writes into it would break what the newer one relies on."""
    async with opened(database_url) as database:
        await migrate(database)
        await database.write(say_newer)
        before = await database.read(what_is_there)
    for _ in range(2):
        with pytest.raises(SchemaTooNew, match="9999") as refused:
            await RunStore.open(database_url, broker=MemoryBroker())
        assert (refused.value.found, refused.value.newest) == ("9999", NEWEST)
    async with opened(database_url) as database:
        assert await database.read(what_is_there) == before


SERVER = """
import asyncio, sys
from store.engine import open_database
from store.schema import migrate

async def main():
    print("ready", flush=True)
    sys.stdin.readline()
    database = await open_database(sys.argv[1])
    print(*await migrate(database), flush=True)
    await database.close()

asyncio.run(main())
"""


async def test_servers_that_start_together_migrate_once(database_url: str) -> None:
    """In processes of their own, let go at one moment.

    Taken out: the lock in `_migrate`; on PostgreSQL the second found tables that were there.
    """
    pipe = asyncio.subprocess.PIPE
    servers = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", SERVER, database_url, stdin=pipe, stdout=pipe, cwd=ROOT
        )
        for _ in range(3)
    ]
    try:
        for server in servers:
            assert server.stdout is not None
            assert await server.stdout.readline() == b"ready\n"
        answers = await asyncio.gather(*(server.communicate(b"go\n") for server in servers))
    finally:
        for server in servers:
            if server.returncode is None:
                server.kill()
                await server.wait()
    found = sorted(out.decode().split() for out, _ in answers)
    assert found == [[NEWEST, NEWEST], [NEWEST, NEWEST], ["None", NEWEST]]


def test_a_new_file_that_somebody_else_is_making_is_waited_for() -> None:
    """Where two processes would wait for each other, SQLite refuses one of them at once.

    Taken out: the patience of `use_wal`; now and then the second of two servers could not open
    the file.
    """
    refusals = 2

    class Cursor:
        def execute(self, _statement: str) -> None:
            nonlocal refusals
            if refusals:
                refusals -= 1
                error = sqlite3.OperationalError("database is locked")
                error.sqlite_errorcode = sqlite3.SQLITE_BUSY
                raise error

    use_wal(Cursor())  # type: ignore[arg-type]
    assert refusals == 0


async def test_two_databases_are_migrated_at_once_in_one_process(
    sqlite_url: str, postgres_url: str, tmp_path: Path
) -> None:
    """Alembic keeps what it is at in variables of its module.

    Taken out: the lock in `migrate`; one ran its steps on the other's connection.
    """
    urls = [sqlite_url, postgres_url, *(f"sqlite:///{tmp_path / name}" for name in "abcd")]
    databases = [await open_database(url) for url in urls]
    try:
        found = await asyncio.gather(*map(migrate, databases))
        assert found == [(None, NEWEST)] * 6
    finally:
        for database in databases:
            await database.close()


async def test_a_migration_that_fails_leaves_nothing(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a schema could be neither used nor migrated."""

    def failing(*_args: Any, **_kwargs: Any) -> None:
        raise ZeroDivisionError

    async with opened(database_url) as database:
        monkeypatch.setattr("alembic.op.create_index", failing)
        with pytest.raises(ZeroDivisionError):
            await migrate(database)
        monkeypatch.undo()
        assert await database.read(what_is_there) == {}
        assert await migrate(database) == (None, NEWEST)


async def test_sqlite_keeps_a_log_beside_the_file_and_syncs_each_commit(sqlite_url: str) -> None:
    """A command that was answered is on disk."""

    def pragmas(connection: Connection) -> list[Any]:
        return [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous")
        ]

    async with opened(sqlite_url) as database:
        assert isinstance(database, Sqlite)
        assert await database.write(pragmas) == ["wal", 2]
