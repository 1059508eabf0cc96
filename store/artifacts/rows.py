"""Rows of artifacts: reserved before their bytes come, whole once these are safe."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from store import changes
from store.among import among
from store.commands import AFTERTIME
from store.errors import Conflict, NotFound
from store.lifecycle import is_final
from store.model import RunStatus
from store.once import Key, once
from store.tables import runs
from store.tables.artifacts import artifacts

CLEANED_AT_ONCE: Final = 100


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an artifact, less its bytes."""

    id: str
    project: str
    run_id: str
    name: str
    """What its maker calls it; never a path."""
    content_type: str
    size: int
    sha256: str
    created_at: datetime


def reserve(
    connection: Connection,
    id: str,
    project: str,
    run_id: str,
    name: str,
    content_type: str,
    cleaned_after: timedelta,
) -> Artifact:
    """A row for bytes that are to come, which nobody is shown.

    Raises NotFound for the run, and Conflict if that has been over for too long.
    """
    # Under the run's lock, shared: a deletion that is under way has it, and takes along only
    # the rows that it can see.
    row = connection.execute(
        sa.select(runs.c.status, runs.c.finished_at)
        .where(runs.c.id == run_id, runs.c.project == project)
        .with_for_update(read=True)
    ).one_or_none()
    if row is None:
        raise NotFound("run", run_id)
    at = changes.database_time(connection)
    if is_final(RunStatus(row.status)) and at - row.finished_at > AFTERTIME:
        raise Conflict(f"run {run_id} has been {row.status} for more than 24 h")
    artifact = Artifact(
        id=id,
        project=project,
        run_id=run_id,
        name=name,
        content_type=content_type,
        size=0,
        sha256="",
        created_at=at,
    )
    connection.execute(
        sa.insert(artifacts).values(
            **msgspec.structs.asdict(artifact), cleaned_at=at + cleaned_after, is_whole=False
        )
    )
    return artifact


def finish(connection: Connection, whole: Artifact, key: Key | None) -> Artifact:
    """The artifact, from now on seen; or the first one of the key. Raises NotFound if its run
    was deleted meanwhile."""

    def do(connection: Connection) -> Artifact:
        done = connection.execute(
            sa.update(artifacts)
            .where(artifacts.c.id == whole.id, artifacts.c.run_id == whole.run_id)
            .where(artifacts.c.is_whole.is_(False), artifacts.c.cleaned_at > whole.created_at)
            .values(size=whole.size, sha256=whole.sha256, cleaned_at=None, is_whole=True)
        )
        if not done.rowcount:
            raise NotFound("run", whole.run_id)
        return whole

    return once(connection, key, Artifact, do)


def mark(connection: Connection, id: str) -> None:
    """Has it cleaned away."""
    connection.execute(
        sa.update(artifacts)
        .where(artifacts.c.id == id)
        .values(is_whole=False, cleaned_at=artifacts.c.created_at)
    )


def delete_of_runs(connection: Connection, run_ids: list[str]) -> None:
    """Deletes the artifacts of runs that are deleted in this transaction."""
    connection.execute(
        sa.update(artifacts)
        .where(among(connection, artifacts.c.run_id, run_ids))
        .values(is_whole=False, cleaned_at=artifacts.c.created_at)
    )


def delete(connection: Connection, project: str, id: str, key: Key | None) -> None:
    """Deletes it. Raises NotFound."""

    def do(connection: Connection) -> None:
        get(connection, project, id)
        mark(connection, id)

    once(connection, key, type(None), do)


_COLUMNS: Final = tuple(artifacts.c[name] for name in Artifact.__struct_fields__)


def get(connection: Connection, project: str, id: str) -> Artifact:
    """Raises NotFound, also for one that is not whole."""
    row = connection.execute(
        sa.select(*_COLUMNS).where(
            artifacts.c.id == id, artifacts.c.project == project, artifacts.c.is_whole.is_(True)
        )
    ).one_or_none()
    if row is None:
        raise NotFound("artifact", id)
    return Artifact(**row._mapping)


def of_run(connection: Connection, project: str, run_id: str) -> list[Artifact]:
    """A run's, and those of its steps if it is a job run, the oldest first."""
    steps = sa.select(runs.c.id).where(
        runs.c.parent_run_id == run_id, runs.c.workflow_id.is_not(None)
    )
    rows = connection.execute(
        sa.select(*_COLUMNS)
        .where(
            artifacts.c.project == project,
            artifacts.c.is_whole.is_(True),
            sa.or_(artifacts.c.run_id == run_id, artifacts.c.run_id.in_(steps)),
        )
        .order_by(artifacts.c.id)
    )
    return [Artifact(**row._mapping) for row in rows]


def to_clean(connection: Connection) -> list[str]:
    """Those whose time has come."""
    return list(
        connection.scalars(
            sa.select(artifacts.c.id)
            .where(artifacts.c.cleaned_at <= changes.database_time(connection))
            .order_by(artifacts.c.cleaned_at)
            .limit(CLEANED_AT_ONCE)
        )
    )


def forget(connection: Connection, ids: list[str]) -> None:
    """Deletes the rows, once the bytes are gone."""
    connection.execute(
        sa.delete(artifacts).where(artifacts.c.id.in_(ids), artifacts.c.is_whole.is_(False))
    )
