"""Leases: a run is its worker's as long as that is heard, and somebody else's after."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from store import RunStore
from store.changes import database_time
from store.commands import FireTimer, Limits, Timer, UpdateRun, apply
from store.errors import Conflict
from store.lifecycle import due
from store.model import Run, RunStatus
from store.tables import heartbeats
from tests.builders import AT, PROJECT, a_run, seconds
from tests.store.asking import until, whole_history
from tests.store.jobs.claiming import a_claim, claim, group_of, queued, stands_at
from tests.store.jobs.jobbing import a_job, begin, move, now
from tests.store.opening import opened, url_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUEUED, EXECUTING, COMPLETED = RunStatus.QUEUED, RunStatus.EXECUTING, RunStatus.COMPLETED


@pytest.mark.parametrize(
    "attempt,to", [(1, RunStatus.REATTEMPTING), (2, RunStatus.CRASHED), (3, RunStatus.CRASHED)]
)
async def test_a_lost_lease_is_the_end_when_no_attempt_is_left(attempt: int, to: RunStatus) -> None:
    run = a_run(status=EXECUTING, attempt=attempt, max_attempts=2, lease_s=5, worker="w")
    at = due(run, Timer.LEASE)
    assert at is not None
    fired = FireTimer(project=PROJECT, run_id=run.id, timer=Timer.LEASE, due_at=at)
    after, _ = apply(run, fired, at, Limits())
    assert (after.status, after.worker, after.lease_s) == (to, None, None)
    assert (after.error is None) == (to is RunStatus.REATTEMPTING)


async def test_a_worker_that_has_lost_the_run_changes_nothing_of_the_next_attempt() -> None:
    run = a_run(status=EXECUTING, attempt=2)
    late = UpdateRun(project=PROJECT, run_id=run.id, status=COMPLETED, if_attempt=1)
    with pytest.raises(Conflict):
        apply(run, late, AT + seconds(60), Limits())
    not_late = msgspec.structs.replace(late, if_attempt=2)
    assert apply(run, not_late, AT + seconds(60), Limits())[0].status == COMPLETED


async def test_a_lost_lease_queues_the_run_again_while_attempts_are_left(
    store: RunStore, task: str
) -> None:
    run = await queued(store, task, max_attempts=2)
    assert await claim(store, task, lease_s=1) is not None
    await until(lambda: _fired(store, run, QUEUED), "the lost lease")
    changes = [change.changed.get("status") for change in await whole_history(store, run.id)]
    assert changes == [QUEUED, EXECUTING, RunStatus.REATTEMPTING, QUEUED]
    again = await claim(store, task, lease_s=1)
    assert again is not None
    assert (again.id, again.attempt) == (run.id, 2)
    await until(lambda: _fired(store, run, RunStatus.CRASHED), "the end")
    ended = await store.get_run(PROJECT, run.id)
    assert ended.error["name"] == "LeaseLost"
    assert await claim(store, task) is None


async def test_a_lost_lease_is_handed_on_in_the_transaction_that_takes_it(
    store: RunStore, task: str
) -> None:
    """The lease's row goes and comes again in one statement's reach, and the latter stands.

    Taken out: in `Staged._write_heartbeats`, what is sent before the new rows.
    """
    run = await queued(store, task, max_attempts=2)
    assert await claim(store, task, lease_s=1) is not None
    due_at = await store.database.read(_due_at, run.id)
    lost = FireTimer(project=PROJECT, run_id=run.id, timer=Timer.LEASE, due_at=due_at)

    async def is_over() -> bool:
        return bool(await store.database.read(database_time) > due_at)

    await until(is_over, "the lease's end")
    (got,) = await group_of(store, lost, claims=[a_claim(task)])
    assert got is not None
    assert (got.id, got.attempt, got.status) == (run.id, 2, EXECUTING)
    assert await store.database.read(_due_at, run.id) > due_at


async def test_heartbeats_keep_the_lease(store: RunStore, task: str) -> None:
    run = await queued(store, task, heartbeat_timeout=5)
    assert await claim(store, task, lease_s=600) is not None
    before = await store.database.read(_due_at, run.id)
    await store.heartbeat(PROJECT, run.id, 1)
    after = await store.database.read(_due_at, run.id)
    assert after > before
    # The lease stands in the place of the heartbeats that the run's maker has promised.
    assert after - before < timedelta(seconds=60) < before - run.created_at
    with pytest.raises(Conflict):
        await store.heartbeat(PROJECT, run.id, 2)
    await move(store, run, COMPLETED)
    assert await store.database.read(_due_at, run.id) is None
    with pytest.raises(Conflict):
        await store.heartbeat(PROJECT, run.id, 1)


def _due_at(connection: Connection, run_id: str) -> Any:
    return connection.scalar(sa.select(heartbeats.c.due_at).where(heartbeats.c.run_id == run_id))


async def test_a_lost_lease_fires_once_however_many_servers_look(
    store: RunStore, task: str
) -> None:
    run = await queued(store, task, max_attempts=5)
    assert await claim(store, task, lease_s=1) is not None
    async with opened(url_of(store)) as other:

        async def lost() -> bool:
            await asyncio.gather(*(one.timers.fire() for one in (store, other) * 3))
            return (await store.get_run(PROJECT, run.id)).status != EXECUTING

        await until(lost)
    assert (await store.get_run(PROJECT, run.id)).version == 4


async def test_a_crashed_step_fails_its_job_run(store: RunStore, task: str) -> None:
    made = await begin(store, await a_job(store, task, task))
    assert await claim(store, task, lease_s=1) is not None
    await until(lambda: _fired(store, made.steps[0], RunStatus.CRASHED))
    after = await now(store, made)
    assert after.run.status == RunStatus.FAILED
    assert len(after.steps) == 1


async def _fired(store: RunStore, run: Run, status: RunStatus) -> bool:
    await store.timers.fire()
    return await stands_at(store, run, status)
