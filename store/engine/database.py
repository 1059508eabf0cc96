"""What one database offers to the store, whichever it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy.engine import Connection

P = ParamSpec("P")
T = TypeVar("T")

READERS = 4
"""Connections that read at once, in each process."""


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

        Raises Unavailable if nothing was done, OutcomeUnknown if that is not known. A caller that
        is cancelled meanwhile does not undo it.
        """
        ...

    async def outside(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As `write`, but every statement is a transaction of its own."""
        ...

    async def close(self) -> None: ...


def reason(error: BaseException) -> str:
    cause = getattr(error, "orig", None) or error
    return f"the database cannot be used just now: {cause}".splitlines()[0]


async def to_its_end(work: asyncio.Future[T]) -> T:
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
