"""A write that is not a command on runs, done once for each `Idempotency-Key`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Concatenate, NamedTuple, ParamSpec, TypeVar

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from store.errors import IdempotencyKeyReused
from store.tables import answers

P = ParamSpec("P")
T = TypeVar("T")


class Key(NamedTuple):
    """A caller's key, and a digest of the request that it came with."""

    project: str
    key: str
    fingerprint: str


def once(
    connection: Connection,
    key: Key | None,
    kind: type[T],
    work: Callable[Concatenate[Connection, P], T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """What the work returns, or returned when the key was used before.

    In the transaction of the work: one that is rolled back has not used the key. Raises
    IdempotencyKeyReused where the key came with another request.
    """
    if key is None:
        return work(connection, *args, **kwargs)
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    # Whoever comes second waits here until the first has committed.
    claimed = connection.execute(
        dialect.insert(answers)
        .values(
            project=key.project,
            key=key.key,
            fingerprint=key.fingerprint,
            outcomes="",
            created_at=datetime.now(UTC),
        )
        .on_conflict_do_nothing()
        .returning(answers.c.key)
    ).one_or_none()
    mine = (answers.c.project == key.project, answers.c.key == key.key)
    if claimed is None:
        first = connection.execute(sa.select(answers).where(*mine)).one()
        if first.fingerprint != key.fingerprint:
            raise IdempotencyKeyReused(key.key)
        return msgspec.json.decode(first.outcomes, type=kind)
    result = work(connection, *args, **kwargs)
    connection.execute(
        sa.update(answers).where(*mine).values(outcomes=msgspec.json.encode(result).decode())
    )
    return result
