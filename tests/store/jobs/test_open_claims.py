"""Claims along with a group: what it queues goes, with its commit, to whoever waits for it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from store import RunStore
from store.commands import CreateRun, JobOrder, NewRun, UpdateRun
from store.model import Run, RunStatus, new_id
from store.writer.group import Committed, run_group
from store.writer.open_claims import NOTHING, OpenClaims
from tests.builders import PROJECT
from tests.store.asking import until, whole_history
from tests.store.jobs.claiming import a_claim, claim, group_of, has_open, queued
from tests.store.jobs.jobbing import a_job, begin, now, statuses

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUEUED, EXECUTING, COMPLETED = RunStatus.QUEUED, RunStatus.EXECUTING, RunStatus.COMPLETED


def ids(found: Sequence[Run | None]) -> list[str | None]:
    return [None if run is None else run.id for run in found]


async def test_who_waits_has_the_next_step_with_the_commit_that_queues_it(
    store: RunStore, task: str
) -> None:
    """A transaction of its own would cost each step another commit, and the wait for it."""
    made = await begin(store, await a_job(store, task, task + "-2"))
    assert await claim(store, task) is not None
    done = UpdateRun(project=PROJECT, run_id=made.steps[0].id, status=COMPLETED, if_attempt=1)
    (got,) = await group_of(store, done, claims=[a_claim(task + "-2")])
    assert got is not None
    assert (got.status, got.attempt, got.position) == (EXECUTING, 1, 1)
    log = await whole_history(store, got.id)
    assert [change.changed.get("status") for change in log] == [QUEUED, EXECUTING]
    assert len({change.xid for change in log}) == 1
    assert statuses((await now(store, made)).steps) == [COMPLETED, EXECUTING]


async def test_the_first_step_of_a_job_run_is_handed_out_as_it_is_made(
    store: RunStore, task: str
) -> None:
    job = await a_job(store, task)
    new = NewRun(task_identifier=job.id)
    create = CreateRun(project=PROJECT, run_id=new_id("run"), new=new, job=JobOrder(job.id))
    (got,) = await group_of(store, create, claims=[a_claim(task)])
    assert got is not None
    whole = await store.job_runs.get(PROJECT, create.run_id)
    assert (whole.run.status, whole.steps[0].id) == (EXECUTING, got.id)


async def test_what_is_older_goes_first_whoever_has_queued_it(store: RunStore, task: str) -> None:
    older = await queued(store, task)
    new = CreateRun(
        project=PROJECT, run_id=new_id("run"), new=NewRun(task_identifier=task)
    )  # fmt: skip
    claims = [a_claim(task), a_claim(task)]
    # One run is queued, so one of those who only wait is asked.
    assert ids(await group_of(store, new, claims=claims)) == [older.id, None]
    assert ids(await group_of(store, claims=[a_claim(task), a_claim(task, looks=True)])) == [
        None, new.run_id,
    ]  # fmt: skip


async def test_what_the_group_takes_out_of_the_queue_is_not_handed_out(
    store: RunStore, task: str
) -> None:
    """Its rows are written last: to the statement that looks for runs they all still wait."""
    first, second, third = [await queued(store, task, metadata={}) for _ in range(3)]
    cancel = UpdateRun(project=PROJECT, run_id=first.id, status=RunStatus.CANCELED)
    noted = UpdateRun(project=PROJECT, run_id=second.id, metadata={"noted": True})
    got = await group_of(store, cancel, noted, claims=[a_claim(task, looks=True) for _ in range(3)])
    assert ids(got) == [second.id, third.id, None]
    assert (await store.get_run(PROJECT, second.id)).metadata == {"noted": True}
    assert (await store.get_run(PROJECT, first.id)).status == RunStatus.CANCELED


async def test_who_has_waited_longer_is_looked_for_first() -> None:
    """Whichever of them came to look first: the oldest run is for the oldest claim."""
    open_claims = OpenClaims()
    older, newer = a_claim("t"), a_claim("t")
    for made in (older, newer):
        open_claims.look(made)
    open_claims.back(open_claims.take(waiting=False), [NOTHING] * 2)
    open_claims.wait(older)
    open_claims.look(newer)
    open_claims.wake(Counter({(PROJECT, "t"): 1}))
    assert open_claims.take(waiting=False) == [older, newer]


async def test_the_last_look_of_a_wait_is_one() -> None:
    """Who only goes along with a group is given what that queues, and not looked for."""
    open_claims = OpenClaims()
    open_claims.look(made := a_claim("t"))
    open_claims.back(open_claims.take(waiting=False), [NOTHING])
    open_claims.wait(made)
    assert open_claims.take(waiting=True) == [made]
    last = open_claims.look(made)  # its wait is over
    open_claims.back([made], [NOTHING])
    assert not last.done()
    assert open_claims.take(waiting=False) == [made]
    open_claims.back([made], [NOTHING])
    assert last.result() == NOTHING


async def test_a_claim_does_not_fail_with_the_group_that_takes_it_along(
    store: RunStore, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def guilty(*args: Any) -> Committed:
        committed = run_group(*args)
        if args[1] and len(args) > 3:
            raise ZeroDivisionError
        return committed

    monkeypatch.setattr("store.writer.run_group", guilty)
    waiting = [asyncio.create_task(claim(store, task, wait_s=30.0)) for _ in range(3)]
    await until(lambda: has_open(store.claims, 3))
    runs = await asyncio.gather(*(queued(store, task) for _ in range(3)))
    async with asyncio.timeout(20):
        assert {run and run.id for run in await asyncio.gather(*waiting)} == {r.id for r in runs}
