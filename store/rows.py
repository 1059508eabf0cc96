"""Between a run and its row."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any, Final

from sqlalchemy.engine import Row

from store.bulk import Writes
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


_FIXED: Final = frozenset(
    {
        "id",
        "project",
        "number",
        "task_identifier",
        "payload",
        "batch_id",
        "parent_run_id",
        "root_run_id",
        "depth",
        "idempotency_key",
        "created_at",
        "ttl",
        "max_duration",
        "heartbeat_timeout",
        "workflow_id",
        "position",
        "is_test",
    }
)
"""What never changes of a run."""

_ALWAYS: Final = ("id", "version", "last_xid", "updated_at")
"""What every update writes."""

_STEP: Final = (
    "status",
    "attempt",
    "queued_at",
    "started_at",
    "finished_at",
    "executing_since",
    "duration_ms",
    "worker",
    "lease_s",
)
"""What an update writes where one of it differs: most of it moves with the status."""

_SOMETIMES: Final = tuple(name for name in _NAMES if name not in _FIXED.union(_ALWAYS, _STEP))

_always = attrgetter(*_ALWAYS)
_step = attrgetter(*_STEP)
_sometimes = attrgetter(*_SOMETIMES)
_whole = attrgetter(*_NAMES)


def insert_runs(writes: Writes, new: Sequence[tuple[Run, datetime | None]]) -> None:
    """Writes the rows of new runs, each with the time at which its clock runs out."""
    rows = [(*_whole(run), due_at) for run, due_at in new]
    writes.insert(runs, (*_NAMES, "due_at"), rows)


def update_runs(writes: Writes, changed: Sequence[tuple[Run, Run, datetime | None]]) -> None:
    """Writes what differs between the runs before and after, with their clocks' ends.

    Rows that differ in the same columns go into one write.
    """
    alike: dict[tuple[str, ...], list[tuple[Any, ...]]] = {}
    for before, after, due_at in changed:
        # By identity: Python takes 1 for True, which as JSON are two values.
        differing = [
            (name, new)
            for name, old, new in zip(
                _SOMETIMES, _sometimes(before), _sometimes(after), strict=True
            )
            if old is not new
        ]
        names = tuple(name for name, _ in differing)
        row = (*_always(after), due_at, *(value for _, value in differing))
        step = _step(after)
        if step != _step(before):
            names += _STEP
            row += step
        alike.setdefault(names, []).append(row)
    for names, rows in sorted(alike.items()):
        writes.update(runs, (*_ALWAYS, "due_at", *names), rows)
