"""SQLite: threads, one of which writes."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import DatabaseError

from store.engine.database import READERS, reason
from store.errors import Unavailable

P = ParamSpec("P")
T = TypeVar("T")


BUSY_MS = 10_000
"""How long a SQLite writer waits for the writer of another process."""


class Sqlite:
    """SQLite: one thread that writes, a few that read, in write-ahead-log mode."""

    dialect = "sqlite"

    def __init__(self, url: URL) -> None:
        assert url.database is not None
        self.path = Path(url.database)
        self._write_engine = _sqlite_engine(url, 1, begin="BEGIN IMMEDIATE")
        self._read_engine = _sqlite_engine(url, READERS, begin="BEGIN", query_only=True)
        self._plain_engine = _sqlite_engine(url, 1, begin=None)
        self._writing: Connection | None = None
        """The writer thread's connection; to take one out of a pool for each group costs as much
        as to lock its rows."""
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
        return await self._in(self._writer, self._committed, work, args, kwargs)

    async def outside(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._in(self._writer, _carried_out, self._plain_engine, work, args, kwargs)

    async def look(self, query: str) -> tuple[int, int]:
        """A number that moves when another connection has committed to the file, and the one that
        the query gives, as it is now or was a moment later.

        It is this connection's own, in no transaction: so it always looks afresh.
        """
        return await self._in(self._readers, self._look, query)

    def _look(self, query: str) -> tuple[int, int]:
        with self._watch_lock:
            if self._watch is None:
                self._watch = sqlite3.connect(
                    self.path, isolation_level=None, check_same_thread=False
                )
            try:
                version: int = self._watch.execute("PRAGMA data_version").fetchone()[0]
                found: int = self._watch.execute(query).fetchone()[0]
            except sqlite3.OperationalError as error:
                raise Unavailable(reason(error)) from error
            return version, found

    def _committed(
        self, work: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> T:
        try:
            if self._writing is None:
                self._writing = self._write_engine.connect()
            with self._writing.begin():
                return work(self._writing, *args, **kwargs)
        except (DatabaseError, sqlite3.DatabaseError) as error:
            if self._writing is not None:
                self._writing.close()
                self._writing = None
            raise _told_apart(error) from error

    async def _in(self, pool: ThreadPoolExecutor, run: Callable[..., T], *args: Any) -> T:
        # As `run_in_executor`, which makes three futures of one and looks twice whether it was
        # given a coroutine. A thread cannot be stopped: whoever cancels leaves it to its end.
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def work() -> None:
            tell: Callable[[], None]
            try:
                tell = partial(_succeed, answer, run(*args))
            except BaseException as error:
                tell = partial(_fail, answer, error)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(tell)
            del tell  # an error's traceback has this frame

        pool.submit(work)
        return await answer

    async def close(self) -> None:
        for pool in (self._writer, self._readers):
            await asyncio.to_thread(pool.shutdown)
        if self._watch is not None:
            self._watch.close()
        if self._writing is not None:
            self._writing.close()
        for engine in (self._read_engine, self._plain_engine, self._write_engine):
            await asyncio.to_thread(engine.dispose)


def _succeed(answer: asyncio.Future[T], result: T) -> None:
    if not answer.cancelled():
        answer.set_result(result)


def _fail(answer: asyncio.Future[Any], error: BaseException) -> None:
    if not answer.cancelled():
        answer.set_exception(error)


def _carried_out(
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
    return Unavailable(reason(error)) if code & 0xFF in _FILE_TROUBLES else error


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
        use_wal(cursor)
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA cache_size = -65536")
        cursor.execute("PRAGMA temp_store = MEMORY")
        if query_only:
            cursor.execute("PRAGMA query_only = ON")
        cursor.close()

    if begin is not None:

        @event.listens_for(engine, "begin")
        def begun(connection: Connection) -> None:
            cast("sqlite3.Connection", connection.connection.driver_connection).execute(begin)

    return engine


def use_wal(cursor: sqlite3.Cursor) -> None:
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
