"""Between a run and its row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Row

from store.model import Run, RunStatus
from store.tables import runs

_NAMES: Final = tuple(
    name for name in Run.__struct_fields__ if name != "has_payload"
)  # the columns have the fields' names

WHOLE: Final = tuple(runs.c[name] for name in _NAMES)
"""The columns of a whole run."""

SLIM: Final = tuple(runs.c[name] for name in _NAMES if name != "payload")
"""The columns of a run without its payload."""

_SLIM_NAMES: Final = tuple(name for name in _NAMES if name != "payload")
_STATUS: Final = {status.value: status for status in RunStatus}


def run_of(row: Row[Any], skip: int = 0) -> Run:
    """The run in a row of `WHOLE` or `SLIM` columns, after some that are to be skipped."""
    values = row[skip:] if skip else row
    whole = len(values) == len(_NAMES)
    fields = dict(zip(_NAMES if whole else _SLIM_NAMES, values, strict=True))
    fields["status"] = _STATUS[fields["status"]]
    fields["tags"] = tuple(fields["tags"])
    return Run(**fields, has_payload=whole)


def row_of(run: Run, names: Iterable[str] = _NAMES) -> dict[str, Any]:
    """The named columns of the run's row."""
    return {name: getattr(run, name) for name in names}


def differing(before: Run, after: Run) -> frozenset[str]:
    """The columns that an update from the one to the other has to write.

    By identity: Python takes 1 for True, which as JSON are two values.
    """
    return frozenset(name for name in _NAMES if getattr(before, name) is not getattr(after, name))


def bind(names: Iterable[str]) -> Mapping[str, Any]:
    """Values for an UPDATE of many rows: each column from the parameter of its name."""
    return {name: sa.bindparam(f"new_{name}") for name in names}
