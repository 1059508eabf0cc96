"""Claims: the oldest queued run of some tasks, for one worker alone, as long as it is heard."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from store import RunStore
from store.changes import database_time
from store.claims import Claims
from store.commands import (
    ClaimRun,
    Command,
    CreateRun,
    FireTimer,
    JobOrder,
    Limits,
    NewRun,
    Submission,
    Timer,
    UpdateRun,
    apply,
)
from store.errors import Conflict, IdempotencyKeyReused, Invalid, TransitionRefused
from store.lifecycle import due
from store.model import Run, RunStatus, new_id
from store.once import Key
from store.tables import heartbeats
from store.writer.group import Committed, run_group
from store.writer.open_claims import NOTHING, OpenClaim, OpenClaims, Tried
from tests.builders import AT, PROJECT, a_run, seconds
from tests.store.jobbing import (
    a_job,
    begin,
    history,
    move,
    now,
    opened,
    opened_on,
    run_of,
    statuses,
    until,
    url_of,
)  # fmt: skip

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUEUED = RunStatus.QUEUED
EXECUTING = RunStatus.EXECUTING
COMPLETED = RunStatus.COMPLETED


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=["sqlite", "postgres"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[RunStore]:
    async with opened_on(request.param, request) as store:
        yield store


@pytest.fixture
def task() -> str:
    """A task of the test's own: the store is everybody's."""
    return new_id("task")


async def queued(store: RunStore, task: str, **new: Any) -> Run:
    return await run_of(
        store,
        CreateRun(
            project=PROJECT, run_id=new_id("run"), new=NewRun(task_identifier=task, **new)
        ),
    )  # fmt: skip


async def claim(store: RunStore, *tasks: str, lease_s: int = 60, **how: Any) -> Run | None:
    return await store.claims.claim(PROJECT, tasks, "worker-1", lease_s, **how)


# ------------------------------------------------------------------------------------- the core


async def test_a_claim_begins_an_attempt_under_a_lease() -> None:
    claim = ClaimRun(project=PROJECT, run_id="run_1", worker="w", lease_s=30)
    run, changed = apply(a_run(attempt=1), claim, AT + seconds(9), Limits())
    assert (run.status, run.attempt, run.worker, run.lease_s) == (EXECUTING, 2, "w", 30)
    assert "worker" not in changed
    assert due(run, Timer.LEASE) == AT + seconds(39)
    with pytest.raises(TransitionRefused):
        apply(run, claim, AT + seconds(10), Limits())


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
    assert apply(run, _of(late, 2), AT + seconds(60), Limits())[0].status == COMPLETED


def _of(command: UpdateRun, attempt: int) -> UpdateRun:
    return UpdateRun(
        project=command.project, run_id=command.run_id, status=command.status, if_attempt=attempt
    )


# ------------------------------------------------------------------------------------ the store


async def test_the_oldest_of_the_asked_tasks_is_handed_out(store: RunStore, task: str) -> None:
    other = task + "-other"
    first, second = await queued(store, task), await queued(store, other)
    await queued(store, task + "-nobody-asks-for")
    third = await queued(store, task)
    got = [await claim(store, task, other) for _ in range(4)]
    assert [run and run.id for run in got] == [first.id, second.id, third.id, None]
    assert got[0] is not None
    assert (got[0].status, got[0].attempt) == (EXECUTING, 1)
    assert [change.changed.get("status") for change in await history(store, first)] == [
        QUEUED, EXECUTING,
    ]  # fmt: skip


async def test_a_claim_takes_only_what_is_queued_and_no_job_run(store: RunStore, task: str) -> None:
    await move(store, await queued(store, task), EXECUTING)
    job = await a_job(store, task)
    made = await begin(store, job)
    step = await claim(store, task, job.id)
    assert step is not None
    assert step.id == made.steps[0].id
    assert await claim(store, task, job.id) is None
    assert (await now(store, made)).run.status == EXECUTING


async def test_another_projects_runs_are_not_handed_out(store: RunStore, task: str) -> None:
    await queued(store, task)
    assert await store.claims.claim("another", [task], "w", 60) is None


async def test_claims_are_looked_at_before_they_wait(store: RunStore) -> None:
    wrongs: list[dict[str, Any]] = [
        {"tasks": []},
        {"tasks": [f"t{i}" for i in range(101)]},
        {"worker": ""},
        {"lease_s": 0},
        {"lease_s": 10**9},
        {"wait_s": 61.0},
    ]
    for wrong in wrongs:
        asked: dict[str, Any] = {"tasks": ["t"], "worker": "w", "lease_s": 5} | wrong
        with pytest.raises(Invalid):
            await store.claims.claim(PROJECT, **asked)


async def test_many_workers_of_two_servers_get_each_run_once(store: RunStore, task: str) -> None:
    """The point of claims: with fifty at once nobody gets what another has."""
    async with opened(url_of(store)) as other:
        runs = [(await queued(store, task)).id for _ in range(40)]
        got: list[str] = []

        async def work(at: RunStore) -> None:
            while (run := await claim(at, task)) is not None:
                got.append(run.id)

        async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
            for place in range(50):
                tasks.create_task(work((store, other)[place % 2]))
    assert sorted(got) == sorted(runs)


async def test_workers_that_claim_the_steps_of_job_runs_never_wait_in_a_ring(
    store: RunStore, task: str
) -> None:
    """A claim holds a step and wants its job run; a completion holds both. With two servers
    that would be a deadlock, if claims waited."""
    async with opened(url_of(store)) as other:
        job = await a_job(store, task, task + "-2", task + "-3")
        made = [await begin(store, job) for _ in range(12)]
        tasks_of = [task, task + "-2", task + "-3"]
        left = {step.id for one in made for step in one.steps}

        async def work(at: RunStore) -> None:
            while left:
                run = await claim(at, *tasks_of, wait_s=0.2)
                if run is not None:
                    await move(at, run, COMPLETED, if_attempt=1)
                    left.discard(run.id)
                    present = await at.job_runs.get(PROJECT, run.parent_run_id or "")
                    left.update(s.id for s in present.steps if s.status != COMPLETED)

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for place in range(10):
                group.create_task(work((store, other)[place % 2]))
        for one in made:
            after = await now(store, one)
            assert after.run.status == COMPLETED
            assert statuses(after.steps) == [COMPLETED] * 3
            assert [step.attempt for step in after.steps] == [1] * 3


async def test_a_claim_that_waits_gets_what_is_queued_meanwhile(store: RunStore, task: str) -> None:
    waiting = [asyncio.create_task(claim(store, task, wait_s=30.0)) for _ in range(3)]
    await until(lambda: _has_open(store.claims, 3))
    runs = [await queued(store, task) for _ in range(2)]
    async with asyncio.timeout(20):
        await until(lambda: _done(waiting, 2))
        got = {task.result().id for task in waiting if task.done()}  # type: ignore[union-attr]
        assert got == {run.id for run in runs}
        last = await queued(store, task)
        await until(lambda: _done(waiting, 3))
    assert last.id in {task.result().id for task in waiting}  # type: ignore[union-attr]


async def test_a_claim_that_waits_finds_what_another_server_has_queued(
    store: RunStore, task: str
) -> None:
    """No hint of another process need come: it looks by itself now and then."""
    async with opened(url_of(store)) as other:
        looking = asyncio.create_task(store.claims.run())
        waiting = asyncio.create_task(claim(store, task, wait_s=30.0))
        await until(lambda: _has_open(store.claims, 1))
        run = await queued(other, task)
        async with asyncio.timeout(20):
            got = await waiting
        looking.cancel()
    assert got is not None
    assert got.id == run.id


async def test_a_claim_whose_wait_is_over_gets_nothing(store: RunStore, task: str) -> None:
    async with asyncio.timeout(20):
        assert await claim(store, task, wait_s=0.05) is None
    assert not store.claims.open


async def test_a_claimer_that_is_gone_leaves_nothing_claimed(store: RunStore, task: str) -> None:
    waiting = asyncio.create_task(claim(store, task, wait_s=30.0))
    await until(lambda: _has_open(store.claims, 1))
    waiting.cancel()
    await asyncio.wait([waiting])
    run = await queued(store, task)
    assert (await store.get_run(PROJECT, run.id)).status == QUEUED
    for _ in range(20):
        # Cancelled at any moment, also while its transaction is being committed.
        hasty = asyncio.create_task(claim(store, task))
        await asyncio.sleep(0)
        hasty.cancel()
    # One may have had it for a moment, and gives it back.
    got = await claim(store, task, wait_s=30.0)
    assert got is not None
    assert got.id == run.id


async def test_a_claimer_that_goes_in_the_turn_of_its_run_leaves_nothing_claimed(
    store: RunStore, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told of its run, but not running yet: a task cancelled now never sees what it was told."""
    told = store.claims._open.back

    def and_cancel(*args: Any) -> None:
        told(*args)
        if any(isinstance(one, Tried) and one.run is not None for one in args[1]):
            monkeypatch.undo()
            waiting.cancel()

    monkeypatch.setattr(store.claims._open, "back", and_cancel)
    waiting = asyncio.create_task(claim(store, task, wait_s=30.0))
    await until(lambda: _has_open(store.claims, 1))
    run = await queued(store, task)
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    await until(lambda: _is(store, run, QUEUED), "the run's return to the queue")
    again = await claim(store, task)
    assert again is not None
    assert (again.id, again.attempt) == (run.id, 2)


async def test_a_wait_that_ends_in_the_turn_of_its_run_has_the_run(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would else be claimed, and told to nobody, until its lease runs out."""
    run = a_run()
    open_claims = OpenClaims()
    loop = asyncio.get_running_loop()
    claims = Claims(store.database, open_claims)
    waiting = asyncio.create_task(claims.claim(PROJECT, ["t"], "w", 60, wait_s=30.0))
    await asyncio.sleep(0)
    open_claims.back(open_claims.take(waiting=False), [NOTHING])
    await asyncio.sleep(0)
    (mine,) = open_claims.take(waiting=True)
    assert not mine.looks
    late = loop.time() + 60
    monkeypatch.setattr(loop, "time", lambda: late)
    # The timer is due in this turn of the loop, and comes after what is told now.
    await asyncio.sleep(0)
    open_claims.back([mine], [Tried(run)])
    monkeypatch.undo()
    async with asyncio.timeout(20):
        assert await waiting == run


async def test_the_same_idempotency_key_claims_once(store: RunStore, task: str) -> None:
    await queued(store, task)
    await queued(store, task)
    key = Key(PROJECT, f"claim-{task}", "fingerprint")
    first = await claim(store, task, key=key)
    again = await claim(store, task, key=key)
    assert first is not None
    assert again == first
    with pytest.raises(IdempotencyKeyReused):
        await claim(store, task, key=key._replace(fingerprint="another"))
    assert await claim(store, task) is not None
    assert await claim(store, task) is None


async def test_a_claimer_that_has_gone_and_comes_again_with_its_key_claims_anew(
    store: RunStore, task: str
) -> None:
    """What was given back is queued, or another's: the attempt that it was told of is over."""
    run = await queued(store, task)
    key = Key(PROJECT, f"claim-{task}", "fingerprint")
    open_claims = store.claims._open
    tried = open_claims.look(mine := OpenClaim(PROJECT, frozenset([task]), "w", 60, key))
    await asyncio.wait([tried])
    open_claims.refuse(mine)
    open_claims.drop(mine)
    await until(lambda: _is(store, run, QUEUED), "the run's return to the queue")
    again = await claim(store, task, key=key)
    assert again is not None
    assert (again.id, again.attempt) == (run.id, 2)
    assert await claim(store, task, key=key) == again


async def test_what_was_told_to_one_is_not_given_back_for_another_with_its_key(
    store: RunStore, task: str
) -> None:
    """A request that was sent twice, of which one was cut off: the other's worker has the run."""
    run = await queued(store, task)
    key = Key(PROJECT, f"claim-{task}", "fingerprint")
    assert await claim(store, task, key=key) is not None
    open_claims = store.claims._open
    tried = open_claims.look(mine := OpenClaim(PROJECT, frozenset([task]), "w", 60, key))
    await asyncio.wait([tried])
    assert tried.result().run is not None
    open_claims.refuse(mine)
    open_claims.drop(mine)
    await move(store, run, COMPLETED, if_attempt=1)


async def test_two_claims_at_once_with_one_key_get_one_run(store: RunStore, task: str) -> None:
    for _ in range(2):
        await queued(store, task)
    key = Key(PROJECT, f"claim-{task}", "fingerprint")
    one, other = await asyncio.gather(*(claim(store, task, key=key) for _ in range(2)))
    assert one is not None
    assert one == other
    assert await claim(store, task) is not None
    assert await claim(store, task) is None


# ---------------------------------------------------------------------------- along with a group


async def group_of(
    store: RunStore, *commands: Command, claims: Sequence[OpenClaim]
) -> list[Run | None]:
    """What claims are given that one transaction takes along, carried out after the commands."""
    submission = Submission(project=PROJECT, commands=commands)
    submissions = [submission] if commands else []
    committed = await store.database.write(run_group, submissions, store.limits, claims)
    tried = committed.tried
    assert all(isinstance(one, Tried) for one in tried)
    return [one.run for one in tried if isinstance(one, Tried)]


def a_claim(*tasks: str, looks: bool = False) -> OpenClaim:
    made = OpenClaim(PROJECT, frozenset(tasks), "w", 60, None)
    made.looks = looks
    return made


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
    log = await history(store, got)
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
    first, second, third = [await queued(store, task) for _ in range(3)]
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
    await until(lambda: _has_open(store.claims, 3))
    runs = await asyncio.gather(*(queued(store, task) for _ in range(3)))
    async with asyncio.timeout(20):
        assert {run and run.id for run in await asyncio.gather(*waiting)} == {r.id for r in runs}


async def test_a_lost_lease_queues_the_run_again_while_attempts_are_left(
    store: RunStore, task: str
) -> None:
    run = await queued(store, task, max_attempts=2)
    assert await claim(store, task, lease_s=1) is not None
    await until(lambda: _fired(store, run, QUEUED), "the lost lease")
    changes = [change.changed.get("status") for change in await history(store, run)]
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


async def test_a_stopping_server_sends_home_who_waits(database_url: str) -> None:
    async with opened(database_url) as store:
        waiting = asyncio.create_task(claim(store, "t", wait_s=50.0))
        await until(lambda: _has_open(store.claims, 1))
    async with asyncio.timeout(10):
        await asyncio.wait([waiting])
    assert waiting.exception() is not None


async def _has_open(claims: Claims, count: int) -> bool:
    return claims.open >= count


async def _done(tasks: list[asyncio.Task[Any]], count: int) -> bool:
    return sum(task.done() for task in tasks) >= count


async def _is(store: RunStore, run: Run, status: RunStatus) -> bool:
    return (await store.get_run(PROJECT, run.id)).status == status


async def _fired(store: RunStore, run: Run, status: RunStatus) -> bool:
    await store.timers.fire()
    return await _is(store, run, status)
