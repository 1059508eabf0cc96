"""Many rows in one statement.

Straight to the driver: SQLAlchemy looks at each value of each row on its way, which costs more
than all that is done with them. PostgreSQL is handed one array a column.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple, cast

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Connection

from store.tables import JsonText, UtcTime

_encode = msgspec.json.Encoder().encode

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


class _Statement(NamedTuple):
    text: str
    converts: tuple[Convert, ...]


def insert(
    connection: Connection, table: sa.Table, names: tuple[str, ...], rows: Sequence[Sequence[Any]]
) -> None:
    """Inserts the rows, whose values are in the order of the names."""
    if rows:
        _execute(connection, _insert(connection.dialect.name, table, names), rows)


def update(
    connection: Connection, table: sa.Table, names: tuple[str, ...], rows: Sequence[Sequence[Any]]
) -> None:
    """Updates one row of the table for each given row; the first name is the key's."""
    if rows:
        _execute(connection, _update(connection.dialect.name, table, names), rows)


def among(
    connection: Connection, column: sa.Column[Any], values: Iterable[str]
) -> sa.ColumnElement[bool]:
    """Whether the column holds one of the values: one statement for any number of them.

    PostgreSQL plans each text of a statement anew, and `IN` has another for each count; SQLite
    has to read it again.
    """
    if connection.dialect.name == "postgresql":
        array = sa.bindparam(None, sorted(values), type_=postgresql.ARRAY(sa.Text))
        return column == sa.any_(array)
    if column.primary_key:  # each is found at once, however the rest of the statement is
        keys = sa.bindparam("keys", _encode(sorted(values)).decode(), sa.Text, unique=True)
        return cast("sa.ColumnElement[bool]", _among_keys(column).bindparams(keys))
    return column.in_(sorted(values))


def keyed(dialect: str, column: sa.Column[Any]) -> sa.ColumnElement[bool]:
    """As `among`, for a statement that is kept: the values are given by `keys` as it is executed.

    To build a statement of many columns takes longer than the database does to answer it.
    """
    if dialect == "postgresql":
        return column == sa.any_(sa.bindparam("keys", type_=postgresql.ARRAY(sa.Text)))
    name = f"{column.table.name}.{column.name}"
    return sa.text(f"{name} IN (SELECT value FROM json_each(:keys))")  # type: ignore[return-value]


def keys(dialect: str, values: Iterable[str]) -> dict[str, Any]:
    """The parameter of a statement with `keyed`."""
    some = sorted(values)
    return {"keys": some if dialect == "postgresql" else _encode(some).decode()}


@lru_cache(64)
def _among_keys(column: sa.Column[Any]) -> sa.TextClause:
    name = f"{column.table.name}.{column.name}"
    return sa.text(f"{name} IN (SELECT value FROM json_each(:keys))")


def sqlite(connection: Connection) -> sqlite3.Connection:
    """The driver's own connection, in the transaction that has begun: what it is handed costs a
    tenth of what SQLAlchemy takes for a statement. Raises the driver's own errors."""
    return cast("sqlite3.Connection", connection.connection.driver_connection)


def _execute(connection: Connection, statement: _Statement, rows: Sequence[Sequence[Any]]) -> None:
    columns = [
        column if convert is None else [None if v is None else convert(v) for v in column]
        for column, convert in zip(zip(*rows, strict=True), statement.converts, strict=True)
    ]
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(statement.text, tuple(columns))
    else:
        sqlite(connection).executemany(statement.text, zip(*columns, strict=True))


@lru_cache(1024)
def _insert(dialect: str, table: sa.Table, names: tuple[str, ...]) -> _Statement:
    columns = ", ".join(_quoted(names))
    if dialect == "postgresql":
        text = f"INSERT INTO {table.name} ({columns}) SELECT * FROM {_arrays(table, names)}"
    else:
        text = f"INSERT INTO {table.name} ({columns}) VALUES ({', '.join('?' * len(names))})"
    return _Statement(text, _converts(dialect, table, names))


@lru_cache(1024)
def _update(dialect: str, table: sa.Table, names: tuple[str, ...]) -> _Statement:
    key, *rest = _quoted(names)
    if dialect == "postgresql":
        values = ", ".join(f"{name} = new.{name}" for name in rest)
        columns = ", ".join((key, *rest))
        text = (
            f"UPDATE {table.name} SET {values} FROM {_arrays(table, names)} AS new ({columns})"
            f" WHERE {table.name}.{key} = new.{key}"
        )
    else:
        # Numbered, so that the key may come first.
        values = ", ".join(f"{name} = ?{place}" for place, name in enumerate(rest, 2))
        text = f"UPDATE {table.name} SET {values} WHERE {key} = ?1"
    return _Statement(text, _converts(dialect, table, names))


def _quoted(names: Sequence[str]) -> list[str]:
    return [f'"{name}"' for name in names]


def _arrays(table: sa.Table, names: Sequence[str]) -> str:
    arrays = (f"${place}::{_type(table, name)}[]" for place, name in enumerate(names, 1))
    return f"unnest({', '.join(arrays)})"


def _type(table: sa.Table, name: str) -> str:
    return next(pg for kind, pg in _TYPES if isinstance(table.c[name].type, kind))


def _converts(dialect: str, table: sa.Table, names: Sequence[str]) -> tuple[Convert, ...]:
    return tuple(_convert(dialect, table.c[name].type) for name in names)


def _convert(dialect: str, kind: Any) -> Convert:
    if isinstance(kind, JsonText):
        return JsonText.down
    if isinstance(kind, UtcTime) and dialect == "sqlite":
        return UtcTime.down
    return None
