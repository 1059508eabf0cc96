"""Opens SQLite or PostgreSQL, and runs plain SQLAlchemy functions on either.

All statements of the store are written once, as synchronous functions of a connection. On
SQLite they run in threads, one of which writes; on PostgreSQL under greenlet, on asyncpg.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, Protocol, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import DatabaseError, DBAPIError, DisconnectionError, InterfaceError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from store.errors import StoreError, Unavailable

P = ParamSpec("P")
T = TypeVar("T")

READERS = 4
"""Connections that read at once, in each process."""

BUSY_MS = 10_000
"""How long a SQLite writer waits for the writer of another process."""

LOCK_WAIT = "5s"
"""How long PostgreSQL waits for a lock: the group that did not get it is then run one by one."""

ANSWER_S = 30.0
"""How long PostgreSQL may take for one statement; a network that swallows everything looks so."""


class CommitLost(StoreError):
    """The connection went away while a transaction was being committed."""


class Database(Protocol):
    """One database, whichever it is.

    `work` may be called a second time, on another connection, where the first was found cut off
    before anything was committed.
    """

    dialect: str
    """`sqlite` or `postgresql`."""

    async def read(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """What `work(connection, …)` returns, all its statements seeing one snapshot.

        Raises Unavailable if the database cannot be reached. Nothing it did is kept.
        """
        ...

    async def write(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """What `work(connection, …)` returns, once its transaction is committed.

        Raises Unavailable if nothing was done, CommitLost if that is not known. A caller that
        is cancelled meanwhile does not undo it.
        """
        ...

    async def outside(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As `write`, but every statement is a transaction of its own."""
        ...

    async def close(self) -> None: ...


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


async def open_database(text: str) -> Database:
    """Opens the database; reaching it comes with the first statement.

    Raises ValueError for a URL that is none.
    """
    url = database_url(text)
    if url.get_backend_name() == "sqlite":
        return Sqlite(url)
    return Postgres(url)


class Sqlite:
    """SQLite: one thread that writes, a few that read, in write-ahead-log mode."""

    dialect = "sqlite"

    def __init__(self, url: URL) -> None:
        assert url.database is not None
        self.path = Path(url.database)
        self._write_engine = _sqlite_engine(url, 1, begin="BEGIN IMMEDIATE")
        self._read_engine = _sqlite_engine(url, READERS, begin="BEGIN", query_only=True)
        self._plain_engine = _sqlite_engine(url, 1, begin=None)
        self._watch: sqlite3.Connection | None = None
        self._watch_lock = threading.Lock()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="sqlite-writer")
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="sqlite-reader")

    async def read(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._in(self._readers, _rolled_back, self._read_engine, work, args, kwargs)

    async def write(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._in(self._writer, _committed, self._write_engine, work, args, kwargs)

    async def outside(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._in(self._writer, _committed, self._plain_engine, work, args, kwargs)

    async def data_version(self) -> int:
        """A number that moves when another connection has committed to the file.

        It is this connection's own, in no transaction: so it always looks afresh.
        """
        return await self._in(self._readers, self._look)

    def _look(self) -> int:
        with self._watch_lock:
            if self._watch is None:
                self._watch = sqlite3.connect(
                    self.path, isolation_level=None, check_same_thread=False
                )
            try:
                version: int = self._watch.execute("PRAGMA data_version").fetchone()[0]
            except sqlite3.OperationalError as error:
                raise Unavailable(_reason(error)) from error
            return version

    async def _in(self, pool: ThreadPoolExecutor, run: Callable[..., T], *args: Any) -> T:
        # A thread cannot be stopped, and whoever cancels must not free its place in the pool
        # while it still runs.
        return await _to_its_end(asyncio.get_running_loop().run_in_executor(pool, run, *args))

    async def close(self) -> None:
        for pool in (self._writer, self._readers):
            await asyncio.to_thread(pool.shutdown)
        if self._watch is not None:
            self._watch.close()
        for engine in (self._read_engine, self._plain_engine, self._write_engine):
            await asyncio.to_thread(engine.dispose)


def _committed(
    engine: Engine, work: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> T:
    try:
        with engine.begin() as connection:
            return work(connection, *args, **kwargs)
    except (DatabaseError, sqlite3.DatabaseError) as error:
        raise _told_apart(error) from error


def _rolled_back(
    engine: Engine, work: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> T:
    try:
        with engine.connect() as connection:
            return work(connection, *args, **kwargs)
    except (DatabaseError, sqlite3.DatabaseError) as error:
        raise _told_apart(error) from error


_FILE_TROUBLES: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOTADB,
    }
)
"""What is wrong with the file or its disk, as against: with a statement."""


def _told_apart(error: DatabaseError | sqlite3.DatabaseError) -> Exception:
    """Unavailable where the file cannot be used, the error itself where a statement is wrong."""
    # The pragmas of a connection that is being made fail with the driver's own error.
    cause = error.orig if isinstance(error, DatabaseError) else error
    code = getattr(cause, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return Unavailable(_reason(error)) if code & 0xFF in _FILE_TROUBLES else error


async def _to_its_end(work: asyncio.Future[T]) -> T:
    """What the work returns; whoever is cancelled meanwhile does not take it along."""
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        work.add_done_callback(_heard)
        raise


def _heard(work: asyncio.Future[Any]) -> None:
    # Nobody is left to be told how it failed, and asyncio would complain of that.
    if not work.cancelled():
        work.exception()


def _sqlite_engine(
    url: URL, connections: int, *, begin: str | None, query_only: bool = False
) -> Engine:
    engine = sa.create_engine(
        url,
        poolclass=sa.QueuePool,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=BUSY_MS / 1000,
        connect_args={"check_same_thread": False, "timeout": BUSY_MS / 1000},
    )

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _record: object) -> None:
        # The driver's own idea of when a transaction begins is switched off: it would begin
        # none before a SELECT, and a read must see one snapshot.
        connection.isolation_level = None
        cursor = connection.cursor()
        _use_wal(cursor)
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA cache_size = -65536")
        cursor.execute("PRAGMA temp_store = MEMORY")
        if query_only:
            cursor.execute("PRAGMA query_only = ON")
        cursor.close()

    if begin is not None:

        @event.listens_for(engine, "begin")
        def begun(connection: Connection) -> None:
            connection.exec_driver_sql(begin)

    return engine


def _use_wal(cursor: sqlite3.Cursor) -> None:
    """Has the log written beside the file, also if another process is just about the same."""
    deadline = time.monotonic() + BUSY_MS / 1000
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            # For this lock alone SQLite does not wait.
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


class Postgres:
    """PostgreSQL through asyncpg; readers have connections of their own."""

    dialect = "postgresql"

    def __init__(self, url: URL) -> None:
        self.url = url
        self._write_engine = _postgres_engine(url, 4, lock_timeout=LOCK_WAIT)
        self._read_engine = _postgres_engine(url, READERS * 2).execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )
        self._plain_engine = self._write_engine.execution_options(isolation_level="AUTOCOMMIT")
        self._under_way: set[asyncio.Task[Any]] = set()

    async def read(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._run(self._read_engine, work, args, kwargs, commit=False)

    async def write(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._apart(self._run(self._write_engine, work, args, kwargs, commit=True))

    async def outside(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._apart(self._run(self._plain_engine, work, args, kwargs, commit=False))

    async def _apart(self, work: Coroutine[Any, Any, T]) -> T:
        # In a task of its own: a caller who is cancelled would break off a COMMIT.
        task = asyncio.get_running_loop().create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await _to_its_end(task)

    async def _run(
        self,
        engine: AsyncEngine,
        work: Callable[..., T],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        commit: bool,
    ) -> T:
        again = True
        while True:
            committing = False
            try:
                async with engine.connect() as connection:
                    result = await connection.run_sync(work, *args, **kwargs)
                    if commit:
                        committing = True
                        await connection.commit()
                    return result
            except Exception as error:
                if not is_connection_error(error):
                    raise
                if committing:
                    raise CommitLost(_reason(error)) from error
                # A connection that was cut since it was last used says nothing of the database.
                if not (again and _was_cut(error)):
                    raise Unavailable(_reason(error)) from error
                again = False

    async def close(self) -> None:
        if self._under_way:
            await asyncio.wait(self._under_way)
        await self._read_engine.dispose()
        await self._write_engine.dispose()


def _postgres_engine(url: URL, connections: int, **server_settings: str) -> AsyncEngine:
    engine = create_async_engine(
        url,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=10,
        connect_args={
            "timeout": 5,
            "command_timeout": ANSWER_S,
            "server_settings": {"application_name": "runstream", "jit": "off", **server_settings},
        },
    )

    # The driver knows of a connection that the server has closed: to look costs nothing, where
    # the pool's own ping costs a round trip for each transaction.
    @event.listens_for(engine.sync_engine, "checkout")
    def taken(connection: Any, _record: object, _proxy: object) -> None:
        if connection.driver_connection.is_closed():
            raise DisconnectionError

    return engine


def _was_cut(error: BaseException) -> bool:
    """Whether a connection that stood was lost, as against: none was had."""
    if not isinstance(error, DBAPIError):
        return False
    state = str(getattr(error.orig, "sqlstate", None) or "")
    return error.connection_invalidated or state in ("57P01", "57P02", "08003", "08006")


def is_connection_error(error: BaseException) -> bool:
    """Whether the database could not be reached, or went away, as against: refused a statement."""
    if isinstance(error, DBAPIError):
        if error.connection_invalidated or isinstance(error, InterfaceError):
            return True
        state = str(getattr(error.orig, "sqlstate", None) or "")
        # 08: connection; 57P0x: shut down, crashed, starting; 53: out of a resource.
        return state.startswith(("08", "57P0", "53"))
    # asyncpg raises connection errors from below SQLAlchemy's wrapping when it dials.
    if isinstance(error, (OSError, PoolTimeout)):
        return True
    state = str(getattr(error, "sqlstate", None) or "")
    return state.startswith(("08", "57P0", "53"))


def _reason(error: BaseException) -> str:
    cause = getattr(error, "orig", None) or error
    return f"the database cannot be used just now: {cause}".splitlines()[0]
