"""Reads of batches: how far they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from store.among import among
from store.commands import is_id
from store.errors import NotFound
from store.model import Batch, RunStatus
from store.tables import batches, runs

TOGETHER: Final = 500


def read(connection: Connection, project: str, batch_id: str) -> Batch:
    """The batch with its counts, as the present snapshot sees it; raises NotFound.

    Deleted runs are counted with the status they had.
    """
    found = read_several(connection, project, [batch_id])
    if not found:
        raise NotFound("batch", batch_id)
    return found[batch_id]


def read_several(
    connection: Connection, project: str, batch_ids: Sequence[str]
) -> dict[str, Batch]:
    """Those of the batches that are there, by id; all as the same snapshot sees them."""
    ids = sorted({id for id in batch_ids if is_id(id)})
    found: dict[str, Batch] = {}
    for start in range(0, len(ids), TOGETHER):
        found |= _read(connection, project, ids[start : start + TOGETHER])
    return found


def _read(connection: Connection, project: str, ids: Sequence[str]) -> dict[str, Batch]:
    rows = connection.execute(
        sa.select(batches).where(among(connection, batches.c.id, ids), batches.c.project == project)
    ).all()
    if not rows:
        return {}
    counts = {
        row.id: {RunStatus(status): count for status, count in row.deleted_counts.items()}
        for row in rows
    }
    finished = {row.id: [row.deleted_finished_at] for row in rows}
    for id, status, count, last in connection.execute(
        sa.select(runs.c.batch_id, runs.c.status, sa.func.count(), sa.func.max(runs.c.finished_at))
        .where(among(connection, runs.c.batch_id, counts))
        .group_by(runs.c.batch_id, runs.c.status)
    ):
        of_batch = counts[id]
        of_batch[RunStatus(status)] = of_batch.get(RunStatus(status), 0) + count
        finished[id].append(last)
    return {
        row.id: Batch(
            id=row.id,
            project=project,
            created_at=row.created_at,
            sealed_at=row.sealed_at,
            counts=counts[row.id],
            last_finished_at=max((at for at in finished[row.id] if at is not None), default=None),
        )
        for row in rows
    }
