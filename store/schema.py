"""Brings a database to the schema that this version of the program needs."""

from __future__ import annotations

import asyncio
import secrets
from importlib.resources import files
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection

from store.engine import LOCK_WAIT, Database
from store.errors import SchemaTooNew

LOCK = 0x52756E7374  # any number that other programs on the same PostgreSQL do not use


async def migrate(database: Database) -> tuple[str | None, str]:
    """Migrates under a lock, so that servers that start together do it once.

    Returns the revisions before (None: it was empty) and after. Raises SchemaTooNew for a
    database that a newer version has migrated; that is left as it is.
    """
    # Alembic keeps what it is at in variables of its module.
    async with _turns.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
        return await database.write(_migrate)


_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()


def _migrate(connection: Connection) -> tuple[str | None, str]:
    config = Config()
    folder = str(files("store") / "migrations")
    config.set_main_option("script_location", folder.replace("%", "%%"))
    config.attributes["connection"] = connection
    script = ScriptDirectory.from_config(config)
    newest = script.get_current_head()
    assert newest is not None
    # Where nothing is to do nobody is waited for, who may stand still with the lock.
    if _revision(connection) == newest:
        return newest, newest
    if connection.dialect.name == "postgresql":
        # Another server may take its time; what it makes is not waited for like a row.
        connection.execute(sa.text("SET LOCAL lock_timeout = 0"))
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))
        connection.execute(sa.text(f"SET LOCAL lock_timeout = '{LOCK_WAIT}'"))
        connection.execute(sa.text("SET LOCAL enable_seqscan = on"))  # whole tables are copied
    found = _revision(connection)
    if found is not None and found not in {step.revision for step in script.walk_revisions()}:
        raise SchemaTooNew(found, newest)
    if found != newest:
        command.upgrade(config, "head")
    return found, newest


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


async def new_epoch(database: Database) -> None:
    """Says that the log has another history now, as after a restore by hand.

    Every cursor made before is answered with a `reset`.
    """
    await database.write(_new_epoch)


def _new_epoch(connection: Connection) -> None:
    connection.execute(
        sa.text("UPDATE log_state SET epoch = :epoch"), {"epoch": secrets.token_hex(8)}
    )
