"""Brings a database to the schema that this version of the program needs."""

from __future__ import annotations

import secrets
from importlib.resources import files

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection

from store.engine import Database
from store.errors import SchemaTooNew

_LOCK = 0x52756E7374  # any number that other programs on the same PostgreSQL do not use


async def migrate(database: Database) -> tuple[str | None, str]:
    """Migrates under a lock, so that servers that start together do it once.

    Returns the revisions before (None: it was empty) and after. Raises SchemaTooNew for a
    database that a newer version has migrated; that is left as it is.
    """
    return await database.write(_migrate)


def _migrate(connection: Connection) -> tuple[str | None, str]:
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    config = Config()
    config.set_main_option("script_location", str(files("store") / "migrations"))
    config.attributes["connection"] = connection
    script = ScriptDirectory.from_config(config)
    newest = script.get_current_head()
    assert newest is not None
    found = MigrationContext.configure(connection).get_current_revision()
    if found is not None and found not in {step.revision for step in script.walk_revisions()}:
        raise SchemaTooNew(found, newest)
    if found != newest:
        command.upgrade(config, "head")
    return found, newest


async def new_epoch(database: Database) -> None:
    """Says that the log has another history now, as after a restore by hand.

    Every cursor made before is answered with a `reset`.
    """
    await database.write(_new_epoch)


def _new_epoch(connection: Connection) -> None:
    connection.execute(
        sa.text("UPDATE log_state SET epoch = :epoch"), {"epoch": secrets.token_hex(8)}
    )
