"""Reads of runs: one, a list, and the snapshot of a selection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from store import batches as batch_reads
from store import changes, newest
from store.among import among
from store.commands import is_id
from store.errors import NotFound
from store.model import (
    Batch,
    Change,
    Horizon,
    ListKey,
    LogPage,
    Run,
    RunQuery,
    Selection,
    SnapshotPage,
    list_key,
)
from store.newest import Wanted
from store.rows import WHOLE, run_of
from store.tables import runs


def get(connection: Connection, project: str, run_id: str) -> Run:
    """The run; raises NotFound."""
    row = connection.execute(
        sa.select(*WHOLE).where(_is(runs.c.id, run_id), runs.c.project == project)
    ).one_or_none()
    if row is None:
        raise NotFound("run", run_id)
    return run_of(row)


def payloads(connection: Connection, project: str, ids: Sequence[str]) -> dict[str, Any]:
    """The payloads of the runs that are there, by id."""
    rows = connection.execute(
        sa.select(runs.c.id, runs.c.payload).where(
            among(connection, runs.c.id, filter(is_id, ids)), runs.c.project == project
        )
    )
    return {row.id: row.payload for row in rows}


def history(
    connection: Connection, project: str, run_id: str, after_version: int, limit: int
) -> tuple[list[Change], int | None]:
    """A page of the run's changes by version, and the `after_version` of the next."""
    there = sa.select(runs.c.id).where(_is(runs.c.id, run_id), runs.c.project == project)
    if connection.execute(there).one_or_none() is None:
        raise NotFound("run", run_id)
    return changes.history(connection, run_id, after_version, limit)


def page(connection: Connection, query: RunQuery) -> tuple[list[Run], ListKey | None]:
    """A page of runs, newest first, and the `after` of the next."""
    wanted = Wanted(
        project=query.project,
        statuses=query.statuses or None,
        tasks=query.tasks or None,
        tags=query.tags,
        is_test=query.is_test,
        created_after=query.created_after,
        created_before=query.created_before,
        after=query.after,
    )
    among = []
    if query.batch_id is not None:
        among.append(_is(runs.c.batch_id, query.batch_id))
    if query.parent_run_id is not None:
        among.append(_is(runs.c.parent_run_id, query.parent_run_id))
    return _newest(connection, wanted, among, query.limit)


def _newest(
    connection: Connection,
    wanted: Wanted,
    among: Sequence[sa.ColumnElement[bool]],
    limit: int,
) -> tuple[list[Run], ListKey | None]:
    """A page, and where the next begins; `among` is what leaves few by itself."""
    if among:
        ids = list(connection.scalars(newest.of_few(wanted, sa.and_(*among), limit + 1)))
    else:
        ids = newest.newest(connection, wanted, limit + 1)
    found = whole(connection, ids[:limit])
    return found, list_key(found[-1]) if len(ids) > limit else None


def whole(connection: Connection, ids: Sequence[str]) -> list[Run]:
    """The runs with these ids, in their order."""
    if not ids:
        return []
    rows = connection.execute(sa.select(*WHOLE).where(among(connection, runs.c.id, ids)))
    found = {row.id: run_of(row) for row in rows}
    return [found[id] for id in ids]


def _is(column: sa.Column[Any], id: str) -> sa.ColumnElement[bool]:
    """Whether the column holds the id; PostgreSQL would not even be asked for some texts."""
    return column == id if is_id(id) else sa.false()


def snapshot(
    connection: Connection, selection: Selection, after: ListKey | None, limit: int
) -> SnapshotPage:
    """A page of the runs that the selection has at present, newest first."""
    at = changes.now(connection, selection.project)
    asked = selection.filter
    wanted = Wanted(
        project=selection.project,
        statuses=asked.statuses,
        tasks=asked.tasks,
        tags=selection.tags,
        match=selection.match,
        is_test=asked.is_test,
        created_after=asked.created_after,
        after=after,
    )
    among = []
    if selection.run_id is not None:
        among.append(_is(runs.c.id, selection.run_id))
    if selection.batch_id is not None:
        among.append(_is(runs.c.batch_id, selection.batch_id))
    if selection.job_run_id is not None:
        among.append(
            sa.or_(
                _is(runs.c.id, selection.job_run_id),
                _is(runs.c.parent_run_id, selection.job_run_id),
            )
        )
    some, following = _newest(connection, wanted, among, limit)
    exists, batch = _target(connection, selection)
    return SnapshotPage(
        runs=some,
        horizon=at.horizon,
        epoch=at.epoch,
        next=following,
        found=exists,
        batch=batch,
    )


def _target(connection: Connection, selection: Selection) -> tuple[bool, Batch | None]:
    """Whether the one run, batch or job run that a selection is about is there."""
    if selection.batch_id is not None:
        try:
            return True, batch_reads.read(connection, selection.project, selection.batch_id)
        except NotFound:
            return False, None
    id = selection.job_run_id if selection.run_id is None else selection.run_id
    if id is None:
        return True, None
    there = sa.select(runs.c.id).where(_is(runs.c.id, id), runs.c.project == selection.project)
    if selection.run_id is None:
        # Any other run would be followed with its children, and none of a job run's promises.
        there = there.where(runs.c.job_id.is_not(None))
    return connection.execute(there).one_or_none() is not None, None


def log(
    connection: Connection,
    project: str,
    since: Horizon,
    epoch: str | None,
    after: str | None,
    limit: int,
    selection: Selection | None,
    batches: Sequence[str],
    payloads: bool,
) -> LogPage:
    """A page of what `since` has not seen; raises CannotContinue."""
    at = changes.now(connection, project)
    changes.check_continues(connection, since, epoch, at)
    if selection is not None and selection.run_id is not None and not is_id(selection.run_id):
        return LogPage(groups=[], horizon=at.horizon, epoch=at.epoch, next=None, found=False)
    found = changes.read(
        connection,
        project,
        since,
        after=after,
        limit=limit,
        run_id=None if selection is None else selection.run_id,
        payloads=payloads,
    )
    seen = {}
    for id in batches:
        try:
            seen[id] = batch_reads.read(connection, project, id)
        except NotFound:
            continue
    exists = True if selection is None else _target(connection, selection)[0]
    return LogPage(
        groups=found.groups,
        horizon=at.horizon,
        epoch=at.epoch,
        next=found.next,
        batches=seen,
        found=exists,
    )


def present(connection: Connection, project: str) -> tuple[str, Horizon]:
    """The epoch and the horizon of just now."""
    at = changes.now(connection, project)
    return at.epoch, at.horizon
