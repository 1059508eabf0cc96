"""Heartbeats by a clock that was set back, and those of a worker that has lost its run."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.engine import Connection
from sqlalchemy.util import await_only

from store import changes
from store.model import Run, RunStatus
from store.tables import heartbeats
from tests.builders import PROJECT
from tests.store.asking import create, rows, update
from tests.store.conftest import OpenStore


async def test_a_worker_that_dies_after_the_clock_was_set_back_loses_its_run(
    migrated_sqlite: str, open_any: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A heartbeat by the clock of then would be due before the spell that it is of, which looks
    like one of a spell before: it would never fire.

    Taken out: that a heartbeat counts from its spell's beginning at the earliest; the run stayed
    EXECUTING.
    """
    store = await open_any(migrated_sqlite)
    ahead = timedelta(minutes=5)
    monkeypatch.setattr("store.changes._now", lambda: datetime.now(UTC) + ahead)
    run = await create(store, max_attempts=2, max_duration=None, ttl=None)
    leased = await store.claims.claim(PROJECT, [run.task_identifier], "w", 30)
    assert leased is not None
    ahead = timedelta(0)
    await store.heartbeat(PROJECT, run.id, 1)
    ahead = timedelta(days=1)
    await store.timers.fire()
    assert (await store.get_run(PROJECT, run.id)).status == RunStatus.QUEUED


async def test_a_late_heartbeat_leaves_the_next_workers_lease_alone(
    own_postgres: str, open_any: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker lost the run between the look at it and the note. On SQLite one writes at a time.

    Taken out: the lock on the run; the next worker's lease of an hour became one of five seconds.
    """
    store = await open_any(own_postgres)
    run = await create(store, max_attempts=2)
    assert await store.claims.claim(PROJECT, [run.task_identifier], "w", 5) is not None
    late: list[asyncio.Task[Run | None]] = []
    database_time = changes.database_time

    def lost(connection: Connection) -> datetime:
        monkeypatch.undo()
        late.append(asyncio.create_task(given_again()))
        # It waits for the heartbeat; without the lock it is done before that is noted.
        await_only(asyncio.wait(late, timeout=1))
        return database_time(connection)

    async def given_again() -> Run | None:
        await update(store, run.id, status=RunStatus.REATTEMPTING)
        await update(store, run.id, status=RunStatus.QUEUED)
        return await store.claims.claim(PROJECT, [run.task_identifier], "w2", 3600)

    monkeypatch.setattr(changes, "database_time", lost)
    await store.heartbeat(PROJECT, run.id, 1)
    second = await late[0]
    assert second is not None
    assert second.executing_since is not None
    (beat,) = await rows(store, heartbeats)
    assert beat.due_at >= second.executing_since + timedelta(seconds=3600)
