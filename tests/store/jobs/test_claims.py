"""Claims: the oldest queued run of some tasks, for one worker alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from store import RunStore
from store.claims import Claims
from store.commands import ClaimRun, Limits, Timer, apply
from store.errors import IdempotencyKeyReused, Invalid, TransitionRefused
from store.lifecycle import due
from store.model import Run, RunStatus
from store.once import Key
from store.writer.open_claims import NOTHING, OpenClaim, OpenClaims, Tried
from tests.builders import AT, PROJECT, a_run, seconds
from tests.store.asking import until, whole_history
from tests.store.jobs.claiming import claim, has_open, queued, stands_at
from tests.store.jobs.jobbing import a_job, begin, move, now, statuses
from tests.store.opening import opened, url_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUEUED, EXECUTING, COMPLETED = RunStatus.QUEUED, RunStatus.EXECUTING, RunStatus.COMPLETED


async def test_a_claim_begins_an_attempt_under_a_lease() -> None:
    claim = ClaimRun(project=PROJECT, run_id="run_1", worker="w", lease_s=30)
    run, changed = apply(a_run(attempt=1), claim, AT + seconds(9), Limits())
    assert (run.status, run.attempt, run.worker, run.lease_s) == (EXECUTING, 2, "w", 30)
    assert "worker" not in changed
    assert due(run, Timer.LEASE) == AT + seconds(39)
    with pytest.raises(TransitionRefused):
        apply(run, claim, AT + seconds(10), Limits())


async def test_the_oldest_of_the_asked_tasks_is_handed_out(store: RunStore, task: str) -> None:
    other = task + "-other"
    first, second = await queued(store, task), await queued(store, other)
    await queued(store, task + "-nobody-asks-for")
    third = await queued(store, task)
    got = [await claim(store, task, other) for _ in range(4)]
    assert [run and run.id for run in got] == [first.id, second.id, third.id, None]
    assert got[0] is not None
    assert (got[0].status, got[0].attempt) == (EXECUTING, 1)
    assert [change.changed.get("status") for change in await whole_history(store, first.id)] == [
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
        completed: set[str] = set()

        async def work(at: RunStore) -> None:
            while len(completed) < len(made) * len(tasks_of):
                run = await claim(at, *tasks_of, wait_s=0.2)
                if run is not None:
                    await move(at, run, COMPLETED, if_attempt=1)
                    completed.add(run.id)

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for place in range(10):
                group.create_task(work((store, other)[place % 2]))
        for one in made:
            after = await now(store, one)
            assert after.run.status == COMPLETED
            assert statuses(after.steps) == [COMPLETED] * 3
            assert [step.attempt for step in after.steps] == [1] * 3


def given_to(claims: Sequence[asyncio.Task[Run | None]]) -> set[str]:
    """The runs that those which are answered were given."""
    answers = [task.result() for task in claims if task.done()]
    return {run.id for run in answers if run is not None}


async def test_a_claim_that_waits_gets_what_is_queued_meanwhile(store: RunStore, task: str) -> None:
    waiting = [asyncio.create_task(claim(store, task, wait_s=30.0)) for _ in range(3)]
    await until(lambda: has_open(store.claims, 3))
    runs = [await queued(store, task) for _ in range(2)]
    async with asyncio.timeout(20):
        await until(lambda: _done(waiting, 2))
        assert given_to(waiting) == {run.id for run in runs}
        last = await queued(store, task)
        await until(lambda: _done(waiting, 3))
    assert last.id in given_to(waiting)


async def test_a_claim_that_waits_finds_what_another_server_has_queued(
    store: RunStore, task: str
) -> None:
    """No hint of another process need come: it looks by itself now and then."""
    async with opened(url_of(store)) as other:
        looking = asyncio.create_task(store.claims.run())
        waiting = asyncio.create_task(claim(store, task, wait_s=30.0))
        await until(lambda: has_open(store.claims, 1))
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
    await until(lambda: has_open(store.claims, 1))
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
    await until(lambda: has_open(store.claims, 1))
    run = await queued(store, task)
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    await until(lambda: stands_at(store, run, QUEUED), "the run's return to the queue")
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
    await until(lambda: stands_at(store, run, QUEUED), "the run's return to the queue")
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


async def test_a_stopping_server_sends_home_who_waits(database_url: str) -> None:
    async with opened(database_url) as store:
        waiting = asyncio.create_task(claim(store, "t", wait_s=50.0))
        await until(lambda: has_open(store.claims, 1))
    async with asyncio.timeout(10):
        await asyncio.wait([waiting])
    assert waiting.exception() is not None


async def _done(tasks: list[asyncio.Task[Any]], count: int) -> bool:
    return sum(task.done() for task in tasks) >= count
