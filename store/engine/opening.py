"""From a URL to a database."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url

from store.engine.database import Database
from store.engine.postgres import POSTGRES_READERS, Postgres
from store.engine.sqlite import Sqlite


def database_url(text: str) -> URL:
    """The URL of a database, with the driver that is used for it.

    Takes `sqlite:///path`, `postgresql://…` and `postgres://…`, each with or without a driver's
    name; raises ValueError for anything else.
    """
    try:
        url = make_url(text)
    except sa.exc.ArgumentError:
        raise ValueError(
            "the database must be sqlite:///PATH or postgresql://USER@HOST/NAME"
        ) from None
    backend = url.get_backend_name()
    if backend == "sqlite":
        if url.database in (None, "", ":memory:"):
            raise ValueError("SQLite needs a file: sqlite:///PATH")
        return url.set(drivername="sqlite+pysqlite")
    if backend in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+asyncpg")
    raise ValueError(f"there is no support for {backend} databases: use sqlite or postgresql")


async def open_database(text: str, *, postgres_readers: int = POSTGRES_READERS) -> Database:
    """Opens the database; reaching it comes with the first statement.

    `postgres_readers` is how many connections to PostgreSQL read at once; who finds all of them
    taken waits. Raises ValueError for a URL that is none.
    """
    url = database_url(text)
    if url.get_backend_name() == "sqlite":
        return Sqlite(url)
    return Postgres(url, postgres_readers)
