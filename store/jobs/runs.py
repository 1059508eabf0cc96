"""Reads of job runs: one, a list, what happened in which order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from store import changes
from store.among import among
from store.engine import Database
from store.errors import NotFound
from store.jobs import rows as job_rows
from store.model import AwareTime, Change, JobRun, ListKey, Run, RunStatus, list_key
from store.newest import Wanted, newest
from store.rows import WHOLE, run_of
from store.tables import changes as log
from store.tables import runs


class JobRunQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A page of a list of job runs, newest first."""

    project: str
    statuses: frozenset[RunStatus] = frozenset()
    job_id: str | None = None
    tags: tuple[str, ...] = ()
    """All of them."""
    created_after: datetime | None = None
    created_before: datetime | None = None
    limit: int = 50
    after: ListKey | None = None
    """The last job run of the page before."""


class Moment(NamedTuple):
    """The place of one change in a timeline; of two, the lower came first."""

    at: AwareTime
    rank: int
    """Within one transaction: how the changes in it follow from one another."""
    position: int
    version: int


class Timeline(NamedTuple):
    """Some of what happened in a job run and its steps, in order."""

    job_run: JobRun
    changes: Sequence[tuple[Moment, Change]]
    next: Moment | None
    """Give it as `after` for the next page; None: this was the last."""


class JobRuns:
    """The face of all this. Every method raises Unavailable where the database is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, project: str, run_id: str) -> JobRun:
        """The job run; raises NotFound, also for a run that is none."""
        return await self._database.read(get, project, run_id)

    async def list(self, query: JobRunQuery) -> tuple[list[JobRun], ListKey | None]:
        """A page, newest first, and the `after` of the next."""
        return await self._database.read(page, query)

    async def timeline(
        self, project: str, run_id: str, after: Moment | None, limit: int
    ) -> Timeline:
        """A page of what happened, the oldest first; raises NotFound."""
        return await self._database.read(timeline, project, run_id, after, limit)


def get(connection: Connection, project: str, run_id: str) -> JobRun:
    """The job run with its steps; raises NotFound."""
    row = connection.execute(
        sa.select(*WHOLE).where(
            runs.c.id == run_id, runs.c.project == project, runs.c.job_id.is_not(None)
        )
    ).one_or_none()
    found = [] if row is None else _with_steps(connection, [run_of(row)])
    if not found:
        raise NotFound("job run", run_id)
    return found[0]


def _with_steps(connection: Connection, found: Sequence[Run]) -> list[JobRun]:
    ids = [run.id for run in found]
    snapshots = job_rows.snapshots(connection, ids)
    steps: dict[str, list[Run]] = {id: [] for id in ids}
    for row in connection.execute(
        sa.select(*WHOLE)
        .where(among(connection, runs.c.parent_run_id, ids), runs.c.workflow_id.is_not(None))
        .order_by(runs.c.parent_run_id, runs.c.position)
    ):
        steps[row.parent_run_id].append(run_of(row))
    return [
        JobRun(
            run=run,
            config=snapshots[run.id].config,
            plan=snapshots[run.id].plan,
            steps=tuple(steps[run.id]),
        )
        for run in found
        if run.id in snapshots
    ]


def page(connection: Connection, query: JobRunQuery) -> tuple[list[JobRun], ListKey | None]:
    """A page of job runs, newest first, and the `after` of the next."""
    wanted = Wanted(
        project=query.project,
        statuses=query.statuses or None,
        # A job run's task is its job: by it, it is found.
        tasks=None if query.job_id is None else frozenset({query.job_id}),
        tags=query.tags,
        is_job_run=True,
        created_after=query.created_after,
        created_before=query.created_before,
        after=query.after,
    )
    ids = newest(connection, wanted, query.limit + 1)
    if not ids:
        return [], None
    rows = connection.execute(sa.select(*WHOLE).where(among(connection, runs.c.id, ids)))
    runs_found = {row.id: run_of(row) for row in rows}
    some = [runs_found[id] for id in ids[: query.limit]]
    return _with_steps(connection, some), list_key(some[-1]) if len(ids) > query.limit else None


# ------------------------------------------------------------------------------------- timeline

_TOGETHER: Final = 2_000
"""How many changes of one job run one transaction may make: they all have one time."""


def timeline(
    connection: Connection, project: str, run_id: str, after: Moment | None, limit: int
) -> Timeline:
    """A page of the changes of a job run and its steps; raises NotFound."""
    job_run = get(connection, project, run_id)
    positions = {step.id: step.position or 0 for step in job_run.steps}
    found = sa.select(*changes.COLUMNS).where(log.c.run_id.in_([run_id, *positions]))
    room = limit + 1
    if after is not None:
        # From the whole of that moment on; what of it was shown is left out below.
        found = found.where(log.c.at >= after.at)
        room += _TOGETHER
    rows = connection.execute(found.order_by(log.c.at, log.c.version).limit(room + _TOGETHER))
    placed = sorted(
        ((_moment(change, run_id, positions), change) for change in map(changes.change_of, rows)),
        key=lambda pair: pair[0],
    )
    if after is not None:
        placed = [pair for pair in placed if pair[0] > after]
    some = placed[:limit]
    return Timeline(job_run, some, some[-1][0] if len(placed) > limit else None)


def _moment(change: Change, run_id: str, positions: dict[str, int]) -> Moment:
    # In one transaction: a job run is made, then its step; a step moves, then the next is made,
    # then the job run moves.
    of_job_run, new = change.run_id == run_id, change.version == 1
    rank = (0 if new else 3) if of_job_run else (2 if new else 1)
    return Moment(change.at, rank, positions.get(change.run_id, -1), change.version)


def spent(shown: Iterable[Change]) -> dict[tuple[str, int], int]:
    """For each transition among the changes, by run and version: how many milliseconds the run
    had been in the status that it left, as far as they tell."""
    since: dict[str, datetime] = {}
    waited: dict[tuple[str, int], int] = {}
    for change in shown:
        if "status" not in change.changed:
            continue
        if change.run_id in since:
            lasted = change.at - since[change.run_id]
            waited[change.run_id, change.version] = round(lasted.total_seconds() * 1000)
        since[change.run_id] = change.at
    return waited
