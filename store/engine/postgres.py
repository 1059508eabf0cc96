"""PostgreSQL: the same functions under greenlet, on asyncpg."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import event
from sqlalchemy.engine import URL, Connection
from sqlalchemy.exc import DBAPIError, DisconnectionError, InterfaceError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from store.engine.database import reason, to_its_end
from store.errors import OutcomeUnknown, Unavailable

P = ParamSpec("P")
T = TypeVar("T")


POSTGRES_READERS = 12
"""Connections that read at once, in each process, unless it is told otherwise."""

LOCK_WAIT = "5s"
"""How long PostgreSQL waits for a lock: the group that did not get it is then run one by one."""

ANSWER_S = 30.0
"""How long PostgreSQL may take for one statement; a network that swallows everything looks so."""

KEEPALIVE_S = "60"
"""How often an idle connection is heard of: what forgets it in between lets it hang."""


class Postgres:
    """PostgreSQL through asyncpg; readers have connections of their own."""

    dialect = "postgresql"

    def __init__(self, url: URL, readers: int = POSTGRES_READERS) -> None:
        self.url = url
        # Its statements go by keys. A plan that was made while a table was small would read all of
        # it, and be kept until the table is next analyzed.
        self._write_engine = _postgres_engine(url, 4, lock_timeout=LOCK_WAIT, enable_seqscan="off")
        self._read_engine = _postgres_engine(url, readers).execution_options(
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
        return await to_its_end(task)

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
                    raise OutcomeUnknown(reason(error)) from error
                # A connection that was cut since it was last used says nothing of the database.
                if not (again and _was_cut(error)):
                    raise Unavailable(reason(error)) from error
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
        # Each connection keeps what it has prepared, 15 kB a statement and in the database more:
        # those that are not needed stay idle, instead of each being handed everything in turn.
        pool_use_lifo=True,
        pool_timeout=10,
        connect_args={
            "timeout": 5,
            "command_timeout": ANSWER_S,
            "server_settings": {
                "application_name": "runstream",
                "jit": "off",
                "tcp_keepalives_idle": KEEPALIVE_S,
                **server_settings,
            },
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
