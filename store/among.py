"""The condition that a column holds one of many values.

PostgreSQL plans each text of a statement anew, and `IN` has another for each count of values: it
is handed all of them as one parameter.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, cast

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Connection

_encode = msgspec.json.Encoder().encode


def among(
    connection: Connection, column: sa.Column[Any], values: Iterable[str]
) -> sa.ColumnElement[bool]:
    """Whether the column holds one of the values."""
    if connection.dialect.name == "postgresql":
        array = sa.bindparam(None, sorted(values), type_=postgresql.ARRAY(sa.Text))
        return column == sa.any_(array)
    if not column.primary_key:
        return column.in_(sorted(values))
    # As JSON it is one text for SQLite too; but of how many rows that means it knows nothing, and
    # only a key it looks for all the same.
    keys = sa.bindparam("values", _json(values), sa.Text, unique=True)
    return cast("sa.ColumnElement[bool]", _in_json(column, "values").bindparams(keys))


def among_given(
    dialect: str, column: sa.Column[Any], name: str = "values"
) -> sa.ColumnElement[bool]:
    """As `among`, for a statement that is kept: the values are `given` as it is executed.

    To build a statement of many columns takes longer than the database does to answer it.
    """
    if dialect == "postgresql":
        return column == sa.any_(sa.bindparam(name, type_=postgresql.ARRAY(sa.Text)))
    return cast("sa.ColumnElement[bool]", _in_json(column, name))


def given(dialect: str, values: Iterable[str], name: str = "values") -> dict[str, Any]:
    """The parameter of a statement with `among_given`."""
    return {name: sorted(values) if dialect == "postgresql" else _json(values)}


def _json(values: Iterable[str]) -> str:
    return _encode(sorted(values)).decode()


@lru_cache(64)
def _in_json(column: sa.Column[Any], name: str) -> sa.TextClause:
    # As a text: SQLAlchemy's own function takes longer to be built than SQLite to answer.
    place = f"{column.table.name}.{column.name}"
    return sa.text(f"{place} IN (SELECT value FROM json_each(:{name}))")
