"""Many rows of several tables in one statement.

Straight to the driver: SQLAlchemy looks at each value of each row on its way, which costs more
than all that is done with them. PostgreSQL is handed one array a column.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple, cast

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from store.tables import JsonText, UtcTime

Convert = Callable[[Any], Any] | None

_TYPES: Final[tuple[tuple[type[Any], str], ...]] = (
    (UtcTime, "timestamptz"),
    (JsonText, "text"),
    (sa.Text, "text"),
    (sa.BigInteger, "bigint"),
    (sa.Integer, "integer"),
    (sa.Float, "float8"),
    (sa.Boolean, "boolean"),
)
"""PostgreSQL's name for each kind of column; the first that fits."""

FEW: Final = 2
"""Up to so many writes with rows are sent without those that have none."""

UPDATES: Final = 2
"""So many updates that differ in their columns go along with the rest; more go alone."""


class _Shape(NamedTuple):
    """What a write of rows looks like, whatever the rows are."""

    kind: Literal["insert", "update", "delete"]
    table: sa.Table
    names: tuple[str, ...]


class _Part(NamedTuple):
    shape: _Shape
    columns: Sequence[Sequence[Any]]
    """The values of all rows, a column after the other."""


class Writes:
    """Rows to be written together: PostgreSQL is handed nearly all of them in one statement.

    Until they are sent it has nothing of them, and what it refuses is raised there. No row may be
    in two of the writes: what one of them makes, the others do not see. On SQLite, where a
    statement costs no round trip, each is executed at once.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.dialect = connection.dialect.name
        self._parts: list[_Part] = []

    def insert(
        self, table: sa.Table, names: tuple[str, ...], rows: Sequence[Sequence[Any]]
    ) -> None:
        """New rows, whose values are in the order of the names."""
        self._add(_Shape("insert", table, names), rows)

    def update(
        self, table: sa.Table, names: tuple[str, ...], rows: Sequence[Sequence[Any]]
    ) -> None:
        """New values for one row of the table each; the first name is the key's."""
        self._add(_Shape("update", table, names), rows)

    def delete(self, table: sa.Table, name: str, values: Iterable[Any]) -> None:
        """No more rows of the table that have one of the values there."""
        self._add(_Shape("delete", table, (name,)), [(value,) for value in values])

    def send(self) -> None:
        """Has the database write what it has not written yet."""
        parts, self._parts = self._parts, []
        updates = [part for part in parts if part.shape.kind == "update"]
        if len(updates) > UPDATES:
            for part in updates:
                self._execute([part])
            parts = [part for part in parts if part.shape.kind != "update"]
        filled = [part for part in parts if any(part.columns)]
        # PostgreSQL plans each text anew, and keeps each: with what is empty there are fewer.
        self._execute(parts if len(filled) > FEW else filled)

    def _execute(self, parts: Sequence[_Part]) -> None:
        if parts:
            text = _together(tuple(part.shape for part in parts))
            values = tuple(column for part in parts for column in part.columns)
            self._connection.exec_driver_sql(text, values)

    def _add(self, shape: _Shape, rows: Sequence[Sequence[Any]]) -> None:
        if not rows:
            # There is no bound to how many kinds of updates there are, so none goes empty.
            if self.dialect != "sqlite" and shape.kind != "update":
                self._parts.append(_Part(shape, [()] * len(shape.names)))
            return
        columns = [
            column if convert is None else [None if v is None else convert(v) for v in column]
            for column, convert in zip(
                zip(*rows, strict=True),
                _converts(self.dialect, shape.table, shape.names),
                strict=True,
            )
        ]
        if self.dialect == "sqlite":
            sqlite(self._connection).executemany(_alone(shape), zip(*columns, strict=True))
        else:
            self._parts.append(_Part(shape, columns))


@contextmanager
def together(connection: Connection) -> Iterator[Writes]:
    """Writes that are sent as the block ends. If that is with an error, what was written of them
    is for the transaction to take back."""
    writes = Writes(connection)
    yield writes
    writes.send()


def sqlite(connection: Connection) -> sqlite3.Connection:
    """The driver's own connection, in the transaction that has begun: what it is handed costs a
    tenth of what SQLAlchemy takes for a statement. Raises the driver's own errors."""
    return cast("sqlite3.Connection", connection.connection.driver_connection)


@lru_cache(1024)
def _together(shapes: tuple[_Shape, ...]) -> str:
    """One statement of PostgreSQL for all the writes; its parameters are an array a column."""
    parts = []
    place = 1
    for shape in shapes:
        parts.append(_part(shape, place))
        place += len(shape.names)
    *before, last = parts
    if not before:
        return last
    return f"WITH {', '.join(f'w{n} AS ({part})' for n, part in enumerate(before))} {last}"


def _part(shape: _Shape, first: int) -> str:
    kind, table, names = shape
    arrays = ", ".join(
        f"${place}::{_type(table, name)}[]" for place, name in enumerate(names, first)
    )
    key, *rest = quoted = _quoted(names)
    if kind == "delete":
        return f"DELETE FROM {table.name} WHERE {key} = ANY ({arrays})"
    columns = ", ".join(quoted)
    if kind == "insert":
        return f"INSERT INTO {table.name} ({columns}) SELECT * FROM unnest({arrays})"
    values = ", ".join(f"{name} = new.{name}" for name in rest)
    # The keys by themselves as well: without them a small table is joined whole.
    return (
        f"UPDATE {table.name} SET {values} FROM unnest({arrays}) AS new ({columns})"
        f" WHERE {table.name}.{key} = new.{key}"
        f" AND {table.name}.{key} = ANY (${first}::{_type(table, names[0])}[])"
    )


@lru_cache(1024)
def _alone(shape: _Shape) -> str:
    """The statement of SQLite for one row."""
    kind, table, names = shape
    key, *rest = quoted = _quoted(names)
    if kind == "delete":
        return f"DELETE FROM {table.name} WHERE {key} = ?"
    if kind == "insert":
        marks = ", ".join("?" * len(names))
        return f"INSERT INTO {table.name} ({', '.join(quoted)}) VALUES ({marks})"
    # Numbered, so that the key may come first.
    values = ", ".join(f"{name} = ?{place}" for place, name in enumerate(rest, 2))
    return f"UPDATE {table.name} SET {values} WHERE {key} = ?1"


def _quoted(names: Sequence[str]) -> list[str]:
    return [f'"{name}"' for name in names]


def _type(table: sa.Table, name: str) -> str:
    return next(pg for kind, pg in _TYPES if isinstance(table.c[name].type, kind))


@lru_cache(1024)
def _converts(dialect: str, table: sa.Table, names: tuple[str, ...]) -> tuple[Convert, ...]:
    return tuple(_convert(dialect, table.c[name].type) for name in names)


def _convert(dialect: str, kind: Any) -> Convert:
    if isinstance(kind, JsonText):
        return JsonText.down
    if isinstance(kind, UtcTime) and dialect == "sqlite":
        return UtcTime.down
    return None
