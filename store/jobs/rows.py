"""Rows of job runs as a group needs them: what each is to execute, and its steps."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from store import bulk
from store.among import among, among_given, given
from store.commands import JobOrder
from store.model import Plan, PlannedStep
from store.tables import runs
from store.tables.jobs import job_runs, job_workflows, jobs, workflows


class Snapshot(NamedTuple):
    """What a job run executes."""

    config: dict[str, Any]
    """The job's config as it was; the wire's `jobConfigJsonSnapshot`."""
    plan: Plan


PLANNED = tuple(
    workflows.c[name] for name in PlannedStep.__struct_fields__ if name != "workflow_id"
)
"""The columns of a workflow that go into a plan."""


def snapshots(connection: Connection, job_run_ids: Iterable[str]) -> dict[str, Snapshot]:
    """What the job runs execute, by id; those that are not there are left out."""
    dialect = connection.dialect.name
    return {
        row.run_id: Snapshot(row.config, msgspec.convert(row.plan, Plan))
        for row in connection.execute(_snapshots(dialect), given(dialect, job_run_ids))
    }


@lru_cache
def _snapshots(dialect: str) -> sa.Select[Any]:
    return sa.select(job_runs).where(among_given(dialect, job_runs.c.run_id))


def ordered(
    connection: Connection, orders: Collection[tuple[str, JobOrder]]
) -> dict[tuple[str, JobOrder], Snapshot]:
    """What was ordered, as far as it is there."""
    found: dict[tuple[str, JobOrder], Snapshot] = {}
    again = {order.again for _, order in orders if order.again is not None}
    if again:
        mine = sa.select(runs.c.id, runs.c.project).where(among(connection, runs.c.id, again))
        owners = {row.id: row.project for row in connection.execute(mine)}
        taken = snapshots(connection, again)
        for project, order in orders:
            if order.again in taken and owners.get(order.again) == project:
                found[project, order] = taken[order.again]
    current = [(project, order) for project, order in orders if order.again is None]
    if current:
        steps: dict[tuple[str, str], list[PlannedStep]] = {}
        configs: dict[tuple[str, str], Any] = {}
        dialect = connection.dialect.name
        asked = given(dialect, {order.job_id for _, order in current})
        for row in connection.execute(_orders(dialect), asked):
            at = (row.project, row.job_id)
            configs[at] = row.config
            steps.setdefault(at, []).append(_planned(row))
        for project, order in current:
            at = (project, order.job_id)
            if at in steps:
                found[project, order] = Snapshot(configs[at], tuple(steps[at]))
    return found


@lru_cache
def _orders(dialect: str) -> sa.Select[Any]:
    # In one statement: between two the job might change, and a workflow be deleted.
    return (
        sa.select(jobs.c.id.label("job_id"), jobs.c.project, jobs.c.config,
                  job_workflows.c.workflow_id, *PLANNED)
        .join(job_workflows, job_workflows.c.job_id == jobs.c.id)
        .join(workflows, workflows.c.id == job_workflows.c.workflow_id)
        .where(among_given(dialect, jobs.c.id))
        .order_by(jobs.c.id, job_workflows.c.position)
    )  # fmt: skip


def step_ids(connection: Connection, job_run_ids: Iterable[str]) -> dict[str, list[str]]:
    """The ids of the steps that the job runs have, by position; of each job run an entry."""
    found: dict[str, list[str]] = {id: [] for id in job_run_ids}
    for row in connection.execute(
        sa.select(runs.c.id, runs.c.parent_run_id)
        .where(among(connection, runs.c.parent_run_id, found), runs.c.workflow_id.is_not(None))
        .order_by(runs.c.parent_run_id, runs.c.position)
    ):
        found[row.parent_run_id].append(row.id)
    return found


def write(writes: bulk.Writes, new: dict[str, Snapshot]) -> None:
    """Keeps what new job runs execute."""
    rows = [
        (id, snapshot.config, msgspec.to_builtins(snapshot.plan)) for id, snapshot in new.items()
    ]
    writes.insert(job_runs, ("run_id", "config", "plan"), rows)


def delete(connection: Connection, job_run_ids: Iterable[str]) -> None:
    """Forgets what job runs executed that are deleted."""
    gone = list(job_run_ids)
    if gone:
        connection.execute(sa.delete(job_runs).where(among(connection, job_runs.c.run_id, gone)))


def _planned(row: sa.Row[Any]) -> PlannedStep:
    fields = {column.name: row._mapping[column.name] for column in PLANNED}
    return PlannedStep(workflow_id=row.workflow_id, **fields)
