"""Reads of runs: one, a list, and the snapshot of a selection."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from store import batches as batch_reads
from store import changes
from store.commands import is_id
from store.errors import NotFound
from store.jsonvalue import is_text
from store.model import (
    Batch,
    Change,
    Horizon,
    LogPage,
    Match,
    Run,
    RunQuery,
    Selection,
    SnapshotPage,
)
from store.rows import WHOLE, run_of
from store.tables import run_tags, runs


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
            runs.c.id.in_(sorted(id for id in ids if is_id(id))), runs.c.project == project
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


def page(connection: Connection, query: RunQuery) -> tuple[list[Run], int | None]:
    """A page of runs, newest first, and the `after` of the next."""
    found = sa.select(*WHOLE).where(runs.c.project == query.project)
    if query.statuses:
        found = found.where(runs.c.status.in_(sorted(status.value for status in query.statuses)))
    if query.tasks:
        found = found.where(runs.c.task_identifier.in_(_texts(query.tasks)))
    if query.batch_id is not None:
        found = found.where(_is(runs.c.batch_id, query.batch_id))
    if query.parent_run_id is not None:
        found = found.where(_is(runs.c.parent_run_id, query.parent_run_id))
    if query.is_test is not None:
        found = found.where(runs.c.is_test.is_(query.is_test))
    if query.created_after is not None:
        found = found.where(runs.c.created_at > query.created_after)
    if query.created_before is not None:
        found = found.where(runs.c.created_at < query.created_before)
    found = _tagged(found, query.project, query.tags, Match.ALL)
    if query.after is not None:
        found = found.where(runs.c.number < query.after)
    rows = connection.execute(found.order_by(runs.c.number.desc()).limit(query.limit + 1)).all()
    some = [run_of(row) for row in rows[: query.limit]]
    return some, some[-1].number if len(rows) > query.limit else None


def _is(column: sa.Column[Any], id: str) -> sa.ColumnElement[bool]:
    """Whether the column holds the id; PostgreSQL would not even be asked for some texts."""
    return column == id if is_id(id) else sa.false()


def _texts(wanted: Iterable[str]) -> list[str]:
    """Those of the texts that a database can hold."""
    return sorted(text for text in wanted if is_text(text))


def _tagged(
    found: sa.Select[Any], project: str, tags: Iterable[str], match: Match
) -> sa.Select[Any]:
    asked = set(tags)
    if not asked:
        return found
    wanted = _texts(asked)
    if match is Match.ALL and len(wanted) < len(asked):
        return found.where(sa.false())
    if match is Match.ANY:
        return found.where(
            runs.c.number.in_(
                sa.select(run_tags.c.number).where(
                    run_tags.c.project == project, run_tags.c.tag.in_(wanted)
                )
            )
        )
    for i, tag in enumerate(wanted):
        one = run_tags.alias(f"tag_{i}")
        found = found.join(
            one,
            sa.and_(
                one.c.project == project, one.c.tag == tag, one.c.number == runs.c.number
            ),
        )  # fmt: skip
    return found


def snapshot(
    connection: Connection, selection: Selection, after: int | None, limit: int
) -> SnapshotPage:
    """A page of the runs that the selection has at present, newest first."""
    at = changes.now(connection, selection.project)
    found = _tagged(
        sa.select(*WHOLE).where(runs.c.project == selection.project),
        selection.project,
        selection.tags,
        selection.match,
    )
    asked = selection.filter
    if selection.run_id is not None:
        found = found.where(_is(runs.c.id, selection.run_id))
    if selection.batch_id is not None:
        found = found.where(_is(runs.c.batch_id, selection.batch_id))
    if selection.job_run_id is not None:
        found = found.where(
            sa.or_(
                _is(runs.c.id, selection.job_run_id),
                _is(runs.c.parent_run_id, selection.job_run_id),
            )
        )
    if asked.tasks is not None:
        found = found.where(runs.c.task_identifier.in_(_texts(asked.tasks)))
    if asked.statuses is not None:
        found = found.where(runs.c.status.in_(sorted(status.value for status in asked.statuses)))
    if asked.created_after is not None:
        found = found.where(runs.c.created_at > asked.created_after)
    if asked.is_test is not None:
        found = found.where(runs.c.is_test.is_(asked.is_test))
    if after is not None:
        found = found.where(runs.c.number < after)
    rows = connection.execute(found.order_by(runs.c.number.desc()).limit(limit + 1)).all()
    some = [run_of(row) for row in rows[:limit]]
    exists, batch = _target(connection, selection)
    return SnapshotPage(
        runs=some,
        horizon=at.horizon,
        epoch=at.epoch,
        next=some[-1].number if len(rows) > limit else None,
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
