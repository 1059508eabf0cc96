"""Job runs in the store: what follows from a step is done in the step's own transaction."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta

import pytest

from store import RunStore
from store.commands import (
    CreateRun,
    DeleteRun,
    FireTimer,
    JobOrder,
    MetadataOp,
    MetadataOperation,
    MetadataTarget,
    MutateMetadata,
    NewRun,
    Submission,
    Timer,
    UpdateRun,
)
from store.errors import Conflict, Invalid, NotFound, StoreError, TransitionRefused
from store.jobs.definitions import NewJob, NewWorkflow
from store.jobs.following import JobRunStatus, status_of
from store.jobs.rows import snapshots
from store.jobs.runs import JobRunQuery
from store.lifecycle import is_final
from store.model import ChangeKind, JobRun, RunStatus, new_id
from tests.builders import PROJECT
from tests.store.asking import ask, delete, whole_history
from tests.store.jobs.jobbing import a_job, begin, move, now, statuses
from tests.store.opening import opened, url_of

QUEUED = RunStatus.QUEUED
EXECUTING = RunStatus.EXECUTING
COMPLETED = RunStatus.COMPLETED
FAILED = RunStatus.FAILED
CANCELED = RunStatus.CANCELED


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_job_run_is_made_with_its_first_step_queued(store: RunStore) -> None:
    job = await a_job(store, "fetch", "build", payload={"from": "workflow"})
    made = await begin(store, job, tags=("nightly",))
    assert made.run.status == QUEUED
    assert made.run.task_identifier == job.id
    assert made.config == job.config
    (step,) = made.steps
    assert (step.status, step.position, step.task_identifier) == (QUEUED, 0, "fetch")
    assert (step.parent_run_id, step.root_run_id, step.depth) == (made.run.id, made.run.id, 1)
    assert step.workflow_id == job.config["workflowExecutionOrder"][0]
    assert step.payload == {"from": "workflow"}
    assert made.run.last_xid == step.last_xid
    assert await now(store, made) == made


async def test_the_job_runs_payload_reaches_every_step(store: RunStore) -> None:
    job = await a_job(store, "fetch", "build", payload={"from": "workflow"})
    made = await begin(store, job, payload={"from": "job run"})
    await move(store, made.steps[0], EXECUTING, COMPLETED)
    steps = (await now(store, made)).steps
    assert [step.payload for step in steps] == [{"from": "job run"}] * 2


async def test_steps_follow_one_another_each_in_the_transaction_of_the_one_before(
    store: RunStore,
) -> None:
    made = await begin(store, await a_job(store, "fetch", "build", "ship"))
    last = None
    for position in range(3):
        step = (await now(store, made)).steps[position]
        assert len((await now(store, made)).steps) == position + 1
        await move(store, step, EXECUTING)
        assert (await now(store, made)).run.status == EXECUTING
        last = await move(store, step, COMPLETED)
        steps = (await now(store, made)).steps
        if position < 2:
            assert (steps[-1].status, steps[-1].last_xid) == (QUEUED, last.last_xid)
    assert last is not None
    ended = (await now(store, made)).run
    assert (ended.status, ended.last_xid) == (COMPLETED, last.last_xid)
    assert ended.finished_at is not None
    assert last.finished_at is not None
    assert ended.finished_at >= last.finished_at
    assert [change.changed.get("status") for change in await whole_history(store, made.run.id)] == [
        QUEUED, EXECUTING, COMPLETED,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "ended", [FAILED, RunStatus.CRASHED, CANCELED, RunStatus.TIMED_OUT, RunStatus.INTERRUPTED]
)
async def test_a_step_that_fails_ends_the_job_run_and_nothing_more_begins(
    store: RunStore, ended: RunStatus
) -> None:
    made = await begin(store, await a_job(store, "fetch", "build", "ship"))
    await move(store, made.steps[0], EXECUTING, COMPLETED)
    second = (await now(store, made)).steps[1]
    failed = await move(store, second, EXECUTING, ended)
    after = await now(store, made)
    assert after.run.status == FAILED
    assert after.run.last_xid == failed.last_xid
    assert second.id in after.run.error["message"]
    assert statuses(after.steps) == [COMPLETED, ended]


async def test_a_step_that_expires_unbegun_fails_the_job_run(store: RunStore) -> None:
    made = await begin(store, await a_job(store, "fetch", ttl=1))
    step = made.steps[0]
    assert step.queued_at is not None
    due_at = step.queued_at + timedelta(seconds=1)
    await ask(
        store,
        FireTimer(project=PROJECT, run_id=step.id, timer=Timer.TTL, due_at=due_at),
    )
    # A timer that is early does nothing: the one of the server comes in time.
    async with asyncio.timeout(20):
        while (await now(store, made)).run.status != FAILED:
            await store.timers.fire()
    after = await now(store, made)
    assert statuses(after.steps) == [RunStatus.EXPIRED]
    assert [change.changed["status"] for change in await whole_history(store, made.run.id)] == [
        QUEUED, EXECUTING, FAILED,
    ]  # fmt: skip


async def test_canceling_a_job_run_cancels_the_step_that_lives_in_one_transaction(
    store: RunStore,
) -> None:
    made = await begin(store, await a_job(store, "fetch", "build", "ship"))
    await move(store, made.steps[0], EXECUTING, COMPLETED)
    canceled = await move(store, made.run, CANCELED)
    after = await now(store, made)
    assert canceled.status == CANCELED
    assert statuses(after.steps) == [COMPLETED, CANCELED]
    assert after.steps[1].last_xid == canceled.last_xid
    assert status_of(after.run.status) is JobRunStatus.FAILED
    with pytest.raises(TransitionRefused):
        await move(store, after.steps[1], EXECUTING)
    again = await move(store, made.run, CANCELED)
    assert again.version == canceled.version


async def test_nobody_moves_a_job_run_but_its_steps(store: RunStore) -> None:
    made = await begin(store, await a_job(store, "fetch"))
    for status in (EXECUTING, COMPLETED, FAILED, RunStatus.DELAYED):
        with pytest.raises(StoreError):
            await move(
                store,
                made.run,
                status,
                **({"delay_until": datetime.now(UTC)} if status == RunStatus.DELAYED else {}),
            )
    assert (await now(store, made)).run.version == 1


async def test_a_refused_cancel_leaves_the_step_alone(store: RunStore) -> None:
    made = await begin(store, await a_job(store, "fetch"))
    with pytest.raises(Conflict):
        await move(store, made.run, CANCELED, if_version=7)
    assert statuses((await now(store, made)).steps) == [QUEUED]


async def test_a_job_run_can_be_told_of_progress_and_tagged(store: RunStore) -> None:
    made = await begin(store, await a_job(store, "fetch"))
    step = made.steps[0]
    command = MutateMetadata(
        project=PROJECT,
        run_id=step.id,
        operations=(MetadataOperation(op=MetadataOp.SET, path="progress", value=0.5),),
        target=MetadataTarget.PARENT,
    )
    await store.execute(Submission(project=PROJECT, commands=(command,)))
    await store.execute(
        Submission(
            project=PROJECT,
            commands=(UpdateRun(project=PROJECT, run_id=made.run.id, add_tags=("seen",)),),
        )
    )
    run = (await now(store, made)).run
    assert (run.metadata, run.tags, run.version) == ({"progress": 0.5}, ("seen",), 3)


async def test_the_snapshot_is_what_is_executed_whatever_becomes_of_the_job(
    store: RunStore,
) -> None:
    job = await a_job(store, "fetch", "build")
    made = await begin(store, job)
    other = await store.definitions.create_workflow(
        PROJECT, NewWorkflow(name="other", task_identifier="other")
    )
    await store.definitions.replace_job(
        PROJECT, job.id, NewJob(name="new", config={"workflowExecutionOrder": [other.id]})
    )
    for id in job.config["workflowExecutionOrder"]:
        await store.definitions.delete_workflow(PROJECT, id)
    await store.definitions.delete_job(PROJECT, job.id)
    await move(store, made.steps[0], EXECUTING, COMPLETED)
    after = await now(store, made)
    assert [step.task_identifier for step in after.steps] == ["fetch", "build"]
    assert (after.config, after.plan) == (made.config, made.plan)
    again = await begin(store, job.id, again=made.run.id)
    assert (again.config, again.plan) == (made.config, made.plan)
    with pytest.raises(Invalid):
        await begin(store, job.id)


async def test_a_workflow_that_a_job_uses_cannot_be_deleted(store: RunStore) -> None:
    job = await a_job(store, "fetch")
    (workflow,) = job.config["workflowExecutionOrder"]
    with pytest.raises(Conflict):
        await store.definitions.delete_workflow(PROJECT, workflow)
    await store.definitions.delete_job(PROJECT, job.id)
    await store.definitions.delete_workflow(PROJECT, workflow)
    with pytest.raises(NotFound):
        await store.definitions.get_workflow(PROJECT, workflow)


async def test_a_job_is_made_of_workflows_that_there_are(store: RunStore) -> None:
    for order in (["wf_nothing"], [], "wf", [7], None):
        with pytest.raises(Invalid, match="workflowExecutionOrder"):
            await store.definitions.create_job(
                PROJECT, NewJob(name="x", config={"workflowExecutionOrder": order})
            )
    job = await a_job(store, "fetch")
    with pytest.raises(Invalid):
        await store.definitions.create_job("another", NewJob(name="x", config=job.config))


async def test_the_same_idempotency_key_begins_a_job_run_once(store: RunStore) -> None:
    job = await a_job(store, "fetch")
    made = await begin(store, job, idempotency_key="monday")
    with pytest.raises(AssertionError):  # no new job run is in the outcome
        await begin(store, job, idempotency_key="monday")
    found, _ = await store.job_runs.list(JobRunQuery(project=PROJECT, job_id=job.id))
    assert [one.run.id for one in found] == [made.run.id]
    assert len(found[0].steps) == 1


async def test_a_job_run_is_deleted_with_its_steps_and_these_not_without_it(
    store: RunStore,
) -> None:
    made = await begin(store, await a_job(store, "fetch", "build"))
    with pytest.raises(Conflict):
        await delete(store, made.run.id)
    await move(store, made.steps[0], EXECUTING, COMPLETED)
    with pytest.raises(Conflict):
        await delete(store, made.steps[0].id)
    _, before = await store.horizon(PROJECT)
    await move(store, made.run, CANCELED)
    steps = (await now(store, made)).steps
    await delete(store, made.run.id)
    for run in (made.run, *steps):
        with pytest.raises(NotFound):
            await store.get_run(PROJECT, run.id)
    with pytest.raises(NotFound):
        await now(store, made)
    groups = (await store.read_log(PROJECT, before)).groups
    gone = {group.last.run_id: group for group in groups}
    assert {id for id, group in gone.items() if group.last.kind is ChangeKind.DELETED} == {
        made.run.id, *(step.id for step in steps),
    }  # fmt: skip
    # By it a grant for the job run still covers the step's leave.
    left = gone[steps[0].id].run
    assert left is not None
    assert left.workflow_id == steps[0].workflow_id


async def test_a_job_run_that_is_made_and_deleted_at_once_leaves_nothing(store: RunStore) -> None:
    """Taken out: in `Staged._write_runs`, the look whether it is there still; what it was to
    execute was written after it was to be deleted."""
    job = await a_job(store, "a")
    id = new_id("run")
    commands = (
        CreateRun(project=PROJECT, run_id=id, new=NewRun(task_identifier=job.id), job=JobOrder(job.id)),
        UpdateRun(project=PROJECT, run_id=id, status=RunStatus.CANCELED),
        DeleteRun(project=PROJECT, run_id=id),
    )  # fmt: skip
    outcomes = await store.execute(Submission(project=PROJECT, commands=commands, atomic=True))
    assert not any(isinstance(one, StoreError) for one in outcomes)
    assert await store.database.read(snapshots, [id]) == {}


async def test_two_workers_that_finish_one_step_at_once_advance_the_job_run_once(
    store: RunStore,
) -> None:
    for _ in range(10):
        made = await begin(store, await a_job(store, "fetch", "build"))
        await move(store, made.steps[0], EXECUTING)
        done = await asyncio.gather(
            *(move(store, made.steps[0], COMPLETED, output=i) for i in range(4)),
            return_exceptions=True,
        )
        assert sum(not isinstance(one, BaseException) for one in done) == 1
        assert statuses((await now(store, made)).steps) == [COMPLETED, QUEUED]


async def test_a_cancel_that_races_with_a_step_leaves_nothing_living(store: RunStore) -> None:
    """The step that the cancel does not know of yet is the one that is begun just then."""
    one = store
    async with opened(url_of(store)) as other:
        for _ in range(25):
            made = await begin(one, await a_job(one, "fetch", "build", "ship"))
            await move(one, made.steps[0], EXECUTING)
            await asyncio.gather(
                move(one, made.steps[0], COMPLETED),
                move(other, made.run, CANCELED),
                return_exceptions=True,
            )
            after = await now(one, made)
            assert after.run.status == CANCELED
            assert all(is_final(step.status) for step in after.steps)
            assert statuses(after.steps) in ([CANCELED], [COMPLETED, CANCELED])


async def test_many_job_runs_under_two_servers_end_as_their_steps_did(store: RunStore) -> None:
    """Random workers at both: nothing is begun twice, and every status agrees."""
    lot = random.Random(7)
    one = store
    async with opened(url_of(store)) as other:
        job = await a_job(one, "fetch", "build", "ship")
        made = [await begin(lot.choice([one, other]), job) for _ in range(12)]

        async def work(job_run: JobRun, chance: random.Random) -> None:
            while True:
                store = chance.choice([one, other])
                present = await now(store, job_run)
                if is_final(present.run.status):
                    return
                step = present.steps[-1]
                to = EXECUTING if step.status == QUEUED else COMPLETED
                if chance.random() < 0.08:
                    to = chance.choice([CANCELED, FAILED])
                target = present.run if to == CANCELED else step
                try:
                    await move(store, target, to)
                except Conflict:
                    pass  # somebody else was faster

        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            for job_run in made:
                for _ in range(2):
                    tasks.create_task(work(job_run, random.Random(lot.random())))
        for job_run in made:
            after = await now(one, job_run)
            assert [step.position for step in after.steps] == [*range(len(after.steps))]
            assert statuses(after.steps[:-1]) == [COMPLETED] * (len(after.steps) - 1)
            if after.run.status == COMPLETED:
                assert statuses(after.steps) == [COMPLETED] * 3
            else:
                assert is_final(after.steps[-1].status)
                assert after.steps[-1].status != COMPLETED
            for run in (after.run, *after.steps):
                changes = await whole_history(one, run.id)
                assert [c.version for c in changes] == [*range(1, run.version + 1)]


# ---------------------------------------------------------------------------------------- lists


async def test_job_runs_are_listed_by_status_job_tag_and_time(store: RunStore) -> None:
    first, second = await a_job(store, "fetch"), await a_job(store, "fetch")
    made = [
        await begin(store, job, tags=(tag,))
        for job, tag in [(first, "a"), (first, "b"), (second, "a"), (second, "b")]
    ]
    since = made[0].run.created_at - timedelta(microseconds=1)
    await move(store, made[0].steps[0], EXECUTING, COMPLETED)
    await move(store, made[1].steps[0], EXECUTING, FAILED)
    await move(store, made[2].run, CANCELED)

    async def ids(**query: object) -> list[int]:
        query.setdefault("created_after", since)
        found, _ = await store.job_runs.list(JobRunQuery(project=PROJECT, **query))  # type: ignore[arg-type]
        places = {one.run.id: place for place, one in enumerate(made)}
        return [places[one.run.id] for one in found]

    assert await ids() == [3, 2, 1, 0]
    assert await ids(job_id=first.id) == [1, 0]
    assert await ids(tags=("a",)) == [2, 0]
    assert await ids(statuses=frozenset({FAILED, CANCELED})) == [2, 1]
    assert await ids(statuses=frozenset({FAILED, COMPLETED}), tags=("b",)) == [1]
    assert await ids(created_after=made[1].run.created_at) == [3, 2]
    assert await ids(created_before=made[1].run.created_at) == [0]
    assert await ids(limit=2) == [3, 2]


async def test_pages_stay_right_while_job_runs_are_added(store: RunStore) -> None:
    job = await a_job(store, "fetch")
    made = [await begin(store, job) for _ in range(5)]
    seen: list[str] = []
    after = None
    for _ in range(3):
        found, after = await store.job_runs.list(
            JobRunQuery(project=PROJECT, job_id=job.id, limit=2, after=after)
        )
        seen += [one.run.id for one in found]
        await begin(store, job)
    assert seen == [one.run.id for one in reversed(made)]
    assert after is None


# ------------------------------------------------------------------------------------- timeline


async def test_the_timeline_tells_everything_in_the_order_in_which_it_followed(
    store: RunStore,
) -> None:
    made = await begin(store, await a_job(store, "fetch", "build"))
    await move(store, made.steps[0], EXECUTING, COMPLETED)
    await move(store, (await now(store, made)).steps[1], EXECUTING, FAILED)
    told = []
    after = None
    while True:
        timeline = await store.job_runs.timeline(PROJECT, made.run.id, after, 3)
        told += [
            (moment.position, change.changed.get("status")) for moment, change in timeline.changes
        ]
        after = timeline.next
        if after is None:
            break
    assert told == [
        (-1, QUEUED), (0, QUEUED), (0, EXECUTING), (-1, EXECUTING), (0, COMPLETED), (1, QUEUED),
        (1, EXECUTING), (1, FAILED), (-1, FAILED),
    ]  # fmt: skip
