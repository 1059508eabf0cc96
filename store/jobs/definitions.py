"""Workflows and jobs: what job runs are made of."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from types import NoneType
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from store.commands import Limits, NewRun, check_new_run, check_size, check_words
from store.engine import Database
from store.errors import Conflict, Invalid, NotFound
from store.jsonvalue import check_json
from store.model import new_id
from store.once import Key, once
from store.tables.jobs import job_workflows, jobs, workflows

NAME_CHARS: Final = 256
STEPS_MAX: Final = 1_000
ORDER: Final = "workflowExecutionOrder"


class NewWorkflow(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller says of a workflow."""

    name: str
    task_identifier: str
    payload: Any = None
    """For its runs, where the job run brings none."""
    ttl: int | None = None
    max_duration: int | None = None
    heartbeat_timeout: int | None = None
    max_attempts: int = 1


class Workflow(NewWorkflow, frozen=True, kw_only=True):
    """One kind of step that jobs are made of."""

    id: str
    project: str
    created_at: datetime
    updated_at: datetime


class NewJob(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller says of a job; in its config the order of its workflows."""

    name: str
    config: dict[str, Any]


class Job(NewJob, frozen=True, kw_only=True):
    """Workflows in order, to be executed one after the other."""

    id: str
    project: str
    created_at: datetime
    updated_at: datetime


class Definitions:
    """The face of all this. Every method raises Unavailable where the database is away."""

    def __init__(self, database: Database, limits: Limits) -> None:
        self._database = database
        self._limits = limits

    async def create_workflow(
        self, project: str, new: NewWorkflow, key: Key | None = None
    ) -> Workflow:
        """The new workflow. Raises Invalid or TooLarge."""
        _check_workflow(new, self._limits)
        return await self._database.write(once, key, Workflow, _create_workflow, project, new)

    async def get_workflow(self, project: str, id: str) -> Workflow:
        """Raises NotFound."""
        return await self._database.read(_get_workflow, project, id)

    async def list_workflows(
        self, project: str, limit: int, after: str | None
    ) -> tuple[list[Workflow], str | None]:
        """A page, newest first, and the `after` of the next."""
        return await self._database.read(_list_workflows, project, limit, after)

    async def replace_workflow(
        self, project: str, id: str, new: NewWorkflow, key: Key | None = None
    ) -> Workflow:
        """The workflow as it is from now on; job runs that were made go on as they began."""
        _check_workflow(new, self._limits)
        return await self._database.write(once, key, Workflow, _replace_workflow, project, id, new)

    async def delete_workflow(self, project: str, id: str, key: Key | None = None) -> None:
        """Raises NotFound, and Conflict while a job uses it."""
        await self._database.write(once, key, NoneType, _delete_workflow, project, id)

    async def create_job(self, project: str, new: NewJob, key: Key | None = None) -> Job:
        """The new job. Raises Invalid, also for a workflow that there is not, or TooLarge."""
        _check_job(new, self._limits)
        return await self._database.write(once, key, Job, _create_job, project, new)

    async def get_job(self, project: str, id: str) -> Job:
        """Raises NotFound."""
        return await self._database.read(_get_job, project, id)

    async def list_jobs(
        self, project: str, limit: int, after: str | None
    ) -> tuple[list[Job], str | None]:
        """A page, newest first, and the `after` of the next."""
        return await self._database.read(_list_jobs, project, limit, after)

    async def replace_job(self, project: str, id: str, new: NewJob, key: Key | None = None) -> Job:
        """The job as it is from now on; job runs that were made go on as they began."""
        _check_job(new, self._limits)
        return await self._database.write(once, key, Job, _replace_job, project, id, new)

    async def delete_job(self, project: str, id: str, key: Key | None = None) -> None:
        """Raises NotFound. Its job runs stay and go on."""
        await self._database.write(once, key, NoneType, _delete_job, project, id)


def order_of(config: dict[str, Any]) -> list[str]:
    """The ids of a config's workflows, in order. Raises Invalid."""
    order = config.get(ORDER)
    if not isinstance(order, list) or not all(isinstance(id, str) for id in order):
        raise Invalid(f"config.{ORDER}", "must be a list of workflows' ids")
    if not 1 <= len(order) <= STEPS_MAX:
        raise Invalid(f"config.{ORDER}", f"must hold 1 to {STEPS_MAX} workflows")
    return order


def _check_workflow(new: NewWorkflow, limits: Limits) -> None:
    check_words("name", new.name, NAME_CHARS)
    check_new_run(
        NewRun(
            task_identifier=new.task_identifier,
            payload=new.payload,
            ttl=new.ttl,
            max_duration=new.max_duration,
            heartbeat_timeout=new.heartbeat_timeout,
            max_attempts=new.max_attempts,
        ),
        limits,
    )


def _check_job(new: NewJob, limits: Limits) -> None:
    check_words("name", new.name, NAME_CHARS)
    check_json(new.config, "config", limits.nesting)
    check_size("config", new.config, limits.metadata_bytes)
    order_of(new.config)


# ----------------------------------------------------------------------------------- workflows


def _create_workflow(connection: Connection, project: str, new: NewWorkflow) -> Workflow:
    at = datetime.now(UTC)
    workflow = Workflow(
        id=new_id("wf"),
        project=project,
        created_at=at,
        updated_at=at,
        **msgspec.structs.asdict(new),
    )
    connection.execute(sa.insert(workflows), msgspec.structs.asdict(workflow))
    return workflow


def _get_workflow(connection: Connection, project: str, id: str) -> Workflow:
    row = connection.execute(
        sa.select(workflows).where(workflows.c.id == id, workflows.c.project == project)
    ).one_or_none()
    if row is None:
        raise NotFound("workflow", id)
    return Workflow(**row._mapping)


def _list_workflows(
    connection: Connection, project: str, limit: int, after: str | None
) -> tuple[list[Workflow], str | None]:
    rows, following = _page(connection, workflows, project, limit, after)
    return [Workflow(**row._mapping) for row in rows], following


def _replace_workflow(
    connection: Connection, project: str, id: str, new: NewWorkflow
) -> Workflow:  # fmt: skip
    done = connection.execute(
        sa.update(workflows)
        .where(workflows.c.id == id, workflows.c.project == project)
        .values(updated_at=datetime.now(UTC), **msgspec.structs.asdict(new))
    )
    if not done.rowcount:
        raise NotFound("workflow", id)
    return _get_workflow(connection, project, id)


def _delete_workflow(connection: Connection, project: str, id: str) -> None:
    # The row's lock first: a job that is being made holds it, shared, until it is there to be
    # seen.
    held = sa.select(workflows.c.id).where(workflows.c.id == id, workflows.c.project == project)
    if connection.execute(held.with_for_update()).one_or_none() is None:
        raise NotFound("workflow", id)
    user = connection.execute(
        sa.select(job_workflows.c.job_id).where(job_workflows.c.workflow_id == id).limit(1)
    ).scalar()
    if user is not None:
        raise Conflict(f"workflow {id} is used by job {user}")
    connection.execute(sa.delete(workflows).where(workflows.c.id == id))


# ---------------------------------------------------------------------------------------- jobs


def _create_job(connection: Connection, project: str, new: NewJob) -> Job:
    at = datetime.now(UTC)
    job = Job(
        id=new_id("job"),
        project=project,
        name=new.name,
        config=new.config,
        created_at=at,
        updated_at=at,
    )
    _hold(connection, project, order_of(new.config))
    connection.execute(sa.insert(jobs), msgspec.structs.asdict(job))
    _write_order(connection, job)
    return job


def _hold(connection: Connection, project: str, order: Sequence[str]) -> None:
    """Sees to it that the workflows are there, and stay until the job is. Raises Invalid."""
    held = (
        sa.select(workflows.c.id)
        .where(workflows.c.project == project, workflows.c.id.in_(sorted(set(order))))
        .order_by(workflows.c.id)
        .with_for_update(read=True)
    )
    there = set(connection.scalars(held))
    for place, id in enumerate(order):
        if id not in there:
            raise Invalid(f"config.{ORDER}.{place}", "there is no such workflow")


def _write_order(connection: Connection, job: Job) -> None:
    connection.execute(
        sa.insert(job_workflows),
        [
            {"job_id": job.id, "position": position, "workflow_id": id}
            for position, id in enumerate(order_of(job.config))
        ],
    )


def _get_job(connection: Connection, project: str, id: str) -> Job:
    row = connection.execute(
        sa.select(jobs).where(jobs.c.id == id, jobs.c.project == project)
    ).one_or_none()
    if row is None:
        raise NotFound("job", id)
    return Job(**row._mapping)


def _list_jobs(
    connection: Connection, project: str, limit: int, after: str | None
) -> tuple[list[Job], str | None]:
    rows, following = _page(connection, jobs, project, limit, after)
    return [Job(**row._mapping) for row in rows], following


def _replace_job(connection: Connection, project: str, id: str, new: NewJob) -> Job:
    _hold(connection, project, order_of(new.config))
    done = connection.execute(
        sa.update(jobs)
        .where(jobs.c.id == id, jobs.c.project == project)
        .values(name=new.name, config=new.config, updated_at=datetime.now(UTC))
    )
    if not done.rowcount:
        raise NotFound("job", id)
    connection.execute(sa.delete(job_workflows).where(job_workflows.c.job_id == id))
    job = _get_job(connection, project, id)
    _write_order(connection, job)
    return job


def _delete_job(connection: Connection, project: str, id: str) -> None:
    done = connection.execute(sa.delete(jobs).where(jobs.c.id == id, jobs.c.project == project))
    if not done.rowcount:
        raise NotFound("job", id)
    connection.execute(sa.delete(job_workflows).where(job_workflows.c.job_id == id))


def _page(
    connection: Connection, table: sa.Table, project: str, limit: int, after: str | None
) -> tuple[Sequence[sa.Row[Any]], str | None]:
    """Rows by their ids, which rise with the time of their making, newest first."""
    found = sa.select(table).where(table.c.project == project)
    if after is not None:
        found = found.where(table.c.id < after)
    rows = connection.execute(found.order_by(table.c.id.desc()).limit(limit + 1)).all()
    return rows[:limit], rows[limit - 1].id if len(rows) > limit else None
