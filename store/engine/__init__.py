"""Opens SQLite or PostgreSQL, and runs plain SQLAlchemy functions on either.

All statements of the store are written once, as synchronous functions of a connection. On
SQLite they run in threads, one of which writes; on PostgreSQL under greenlet, on asyncpg.
"""

from store.engine.database import Database
from store.engine.opening import database_url, open_database
from store.engine.postgres import LOCK_WAIT, POSTGRES_READERS, Postgres
from store.engine.sqlite import Sqlite, use_wal

__all__ = [
    "LOCK_WAIT",
    "POSTGRES_READERS",
    "Database",
    "Postgres",
    "Sqlite",
    "database_url",
    "open_database",
    "use_wal",
]
