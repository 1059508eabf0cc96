"""Reads of batches: how far they are."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from store.commands import is_id
from store.errors import NotFound
from store.model import Batch, RunStatus
from store.tables import batches, runs


def read(connection: Connection, project: str, batch_id: str) -> Batch:
    """The batch with its counts, as the present snapshot sees it; raises NotFound.

    Deleted runs are counted with the status they had.
    """
    row = (
        connection.execute(
            sa.select(batches).where(batches.c.id == batch_id, batches.c.project == project)
        ).one_or_none()
        if is_id(batch_id)
        else None
    )
    if row is None:
        raise NotFound("batch", batch_id)
    counts = {RunStatus(status): count for status, count in row.deleted_counts.items()}
    finished = [row.deleted_finished_at]
    for status, count, last in connection.execute(
        sa.select(runs.c.status, sa.func.count(), sa.func.max(runs.c.finished_at))
        .where(runs.c.batch_id == batch_id)
        .group_by(runs.c.status)
    ):
        counts[RunStatus(status)] = counts.get(RunStatus(status), 0) + count
        finished.append(last)
    return Batch(
        id=batch_id,
        project=project,
        created_at=row.created_at,
        sealed_at=row.sealed_at,
        counts=counts,
        last_finished_at=max((at for at in finished if at is not None), default=None),
    )
