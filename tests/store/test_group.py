"""What a group of submissions does as one: keys, one-time tokens, answers, all or nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest
from sqlalchemy import event

from store.commands import (
    Command,
    CreateBatch,
    CreateRun,
    DeleteRun,
    Done,
    MutateMetadata,
    SealBatch,
    Submission,
    UpdateRun,
)
from store.errors import (
    Conflict,
    IdempotencyKeyReused,
    Invalid,
    TokenUsed,
    TransitionRefused,
)
from store.metadata import MetadataOp, MetadataOperation
from store.model import Run, RunQuery, RunStatus, new_id
from store.runs import RunStore
from store.tables import (
    answers,
    batches,
    changes,
    heartbeats,
    idempotency_keys,
    run_tags,
    runs,
    used_tokens,
)
from tests.builders import PROJECT, a_create, a_new_run
from tests.servers import Postgres
from tests.store.asking import (
    ask,
    create,
    finish,
    one,
    open_batch,
    outcome,
    rows,
    until,
    update,
    whole_history,
)
from tests.store.conftest import OpenStore

EXECUTING, COMPLETED = RunStatus.EXECUTING, RunStatus.COMPLETED


def with_token(token: str, **over: Any) -> CreateRun:
    return CreateRun(
        project=PROJECT, run_id=new_id("run"), new=a_new_run(**over), one_time_token=token
    )


async def all_runs(store: RunStore) -> list[Run]:
    return (await store.list_runs(RunQuery(project=PROJECT, limit=1000)))[0]


# ---------------------------------------------------------------------------- idempotency keys


async def test_32_creates_with_one_key_in_two_servers_make_one_run(open_store: OpenStore) -> None:
    """The key is inserted before anything else, and who comes second waits for the first.

    Taken out: the insert of keys in `Held`, which then only looked whether one was there.
    """
    stores = [await open_store(), await open_store()]
    done = await asyncio.gather(
        *(one(stores[i % 2], a_create(idempotency_key="k", payload=i)) for i in range(32))
    )
    assert len({answer.run.id for answer in done if answer.run}) == 1
    assert sum(answer.first for answer in done) == 1
    (run,) = await all_runs(stores[0])
    assert len(await whole_history(stores[0], run.id)) == 1


async def test_a_key_is_of_its_task_and_project(store: RunStore) -> None:
    first = await create(store, idempotency_key="k")
    other_task = await create(store, idempotency_key="k", task_identifier="other")
    other_project = await create(store, idempotency_key="k", project="other")
    assert len({first.id, other_task.id, other_project.id}) == 3
    assert (await create(store, idempotency_key="k")).id == first.id


async def test_a_refused_create_gives_its_key_back(store: RunStore) -> None:
    with pytest.raises(Invalid):
        await create(store, idempotency_key="k", batch_id="batch_none")
    assert await rows(store, idempotency_keys) == []
    done = await one(store, a_create(idempotency_key="k"))
    assert done.first


async def test_a_key_whose_first_create_was_refused_is_of_the_second(store: RunStore) -> None:
    """In one group: the row was taken for the one that came to nothing.

    Taken out: `_settle_keys`; the row named a run that does not exist.
    """
    outcomes = await ask(
        store,
        a_create(idempotency_key="k", batch_id="batch_none"),
        a_create(idempotency_key="k"),
        a_create(idempotency_key="k", payload="another"),
    )
    assert [outcome(result) for result in outcomes] == ["Invalid", "Done", "Done"]
    assert outcomes[1].run == outcomes[2].run
    (row,) = await rows(store, idempotency_keys)
    assert row.run_id == outcomes[1].run.id
    assert (await create(store, idempotency_key="k")).id == outcomes[1].run.id


async def test_a_key_is_free_once_its_run_is_deleted_also_within_one_submission(
    store: RunStore,
) -> None:
    """Taken out: forgetting the key's owner where the run is deleted in the same group; the row
    of the key then stayed. And the look at what was deleted in `_found`: the create was answered
    with the run that had just gone."""
    first = await create(store, idempotency_key="k")
    await finish(store, first.id)
    outcomes = await ask(
        store, DeleteRun(project=PROJECT, run_id=first.id), a_create(idempotency_key="k")
    )
    second = outcomes[1].run
    assert (outcomes[1].first, second.id != first.id) == (True, True)
    assert await all_runs(store) == [second]
    assert (await create(store, idempotency_key="k")).id == second.id
    await finish(store, second.id)
    await ask(
        store,
        DeleteRun(project=PROJECT, run_id=second.id),
        a_create(idempotency_key="k", batch_id="batch_none"),
    )
    assert await rows(store, idempotency_keys) == []


async def test_the_first_run_is_shown_as_it_stands_in_the_submission(store: RunStore) -> None:
    first = await create(store, idempotency_key="k")
    outcomes = await ask(
        store,
        UpdateRun(project=PROJECT, run_id=first.id, status=EXECUTING),
        a_create(idempotency_key="k"),
    )
    assert outcomes[1].run == outcomes[0].run


@pytest.mark.parametrize("after", [1, 2])
async def test_a_key_that_goes_away_while_it_is_looked_up_is_taken(
    own_postgres: str, open_any: OpenStore, postgres: Postgres, after: int
) -> None:
    """Another server deletes the run, and with it the key, between two statements.

    Taken out: the loop in `Held._claim`, then the run in the key's own statement; each time a run
    was made that had the key, and no row said so.
    """
    store = await open_any(own_postgres)
    await create(store, idempotency_key="k")
    database = own_postgres.rpartition("/")[2]
    seen: list[str] = []

    def delete_behind(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "idempotency_keys" in statement:
            seen.append(statement)
            if len(seen) == after:
                postgres.execute("DELETE FROM runs", database=database)
                postgres.execute("DELETE FROM idempotency_keys", database=database)

    engine = store.database._write_engine.sync_engine  # type: ignore[attr-defined]
    event.listen(engine, "after_cursor_execute", delete_behind)
    done = await one(store, a_create(idempotency_key="k"))
    assert len(seen) >= after
    assert done.first == (after == 1)
    keys = [(key.key, key.run_id) for key in await rows(store, idempotency_keys)]
    assert keys == [(run.idempotency_key, run.id) for run in await all_runs(store)]


# ------------------------------------------------------------------------------ one-time tokens


async def test_a_one_time_token_makes_one_run_however_many_try(open_store: OpenStore) -> None:
    """Taken out: the insert of tokens in `Held`, which then only looked."""
    stores = [await open_store(), await open_store()]
    results = await asyncio.gather(
        *(one(stores[i % 2], with_token("t")) for i in range(24)), return_exceptions=True
    )
    assert sorted(map(outcome, results)) == ["Done", *["TokenUsed"] * 23]
    assert len(await all_runs(stores[0])) == 1


async def test_the_token_used_again_with_the_same_key_returns_the_first_run(
    open_store: OpenStore,
) -> None:
    """A browser that repeats its request must not be told that somebody has used its token.

    Taken out: the row's run in `_settle_keys`; it named the last of the group, not the one that
    was made.
    """
    stores = [await open_store(), await open_store()]
    done = await asyncio.gather(
        *(one(stores[i % 2], with_token("t", idempotency_key="k")) for i in range(16))
    )
    assert len({answer.run.id for answer in done if answer.run}) == 1
    assert sum(answer.first for answer in done) == 1
    again = await one(stores[1], with_token("t", idempotency_key="k"))
    assert again.run == done[0].run
    for over in ({}, {"idempotency_key": "k2"}, {"idempotency_key": "k", "task_identifier": "b"}):
        with pytest.raises(TokenUsed):
            await one(stores[0], with_token("t", **over))


async def test_a_token_names_the_run_that_came_of_it_also_if_another_was_asked_first(
    store: RunStore,
) -> None:
    outcomes = await ask(
        store,
        with_token("t", idempotency_key="a", batch_id="batch_none"),
        with_token("t", idempotency_key="b"),
        with_token("t", idempotency_key="c"),
    )
    assert [outcome(result) for result in outcomes] == ["Invalid", "Done", "TokenUsed"]
    again = await one(store, with_token("t", idempotency_key="b"))
    assert (again.run, again.first) == (outcomes[1].run, False)


async def test_a_refused_create_gives_its_token_back(store: RunStore) -> None:
    with pytest.raises(Invalid):
        await one(store, with_token("t", batch_id="batch_none"))
    assert await rows(store, used_tokens) == []
    await one(store, with_token("t"))


async def test_a_token_that_has_found_a_run_by_its_key_is_used_up(store: RunStore) -> None:
    """Else it could be used to try one key after another, and be shown each run that has one."""
    run = await create(store, idempotency_key="k")
    assert (await one(store, with_token("t", idempotency_key="k"))).run == run
    with pytest.raises(TokenUsed):
        await one(store, with_token("t", idempotency_key="k2"))
    assert (await one(store, with_token("t", idempotency_key="k"))).run == run


# ------------------------------------------------------------------------- kept first outcomes


async def test_a_submission_repeated_under_its_key_is_answered_as_the_first_time(
    open_store: OpenStore,
) -> None:
    """Refusals too: the second time the run would allow what it refused the first."""
    stores = [await open_store(), await open_store()]
    run = await create(stores[0])
    commands = (
        UpdateRun(project=PROJECT, run_id=run.id, status=COMPLETED),
        a_create(payload={"big": "x" * 1000}),
        UpdateRun(project=PROJECT, run_id=run.id, metadata={"n": 1}, if_version=7),
        UpdateRun(project=PROJECT, run_id="run_none", output=1),
        a_create(batch_id="batch_none"),
        UpdateRun(project=PROJECT, run_id=run.id, status=EXECUTING),
        DeleteRun(project=PROJECT, run_id=run.id),
        with_token("t"),
        with_token("t"),
    )
    first = await ask(stores[0], *commands, key="k", fingerprint="f")
    words = [
        "TransitionRefused",
        "Done",
        "VersionConflict",
        "NotFound",
        "Invalid",
        "Done",
        "Conflict",
        "Done",
        "TokenUsed",
    ]
    assert [outcome(result) for result in first] == words
    for store in stores:
        again = await ask(store, *commands, key="k", fingerprint="f")
        assert [outcome(result) for result in again] == words
        for then, now in zip(first, again, strict=True):
            if isinstance(then, Done):
                assert now == then
            else:
                assert str(now) == str(then)
                assert getattr(now, "run", None) == getattr(then, "run", None)
    assert len(await all_runs(stores[0])) == 3


async def test_a_key_with_another_request_is_refused(store: RunStore) -> None:
    await ask(store, a_create(), key="k", fingerprint="f")
    with pytest.raises(IdempotencyKeyReused):
        await ask(store, a_create(), key="k", fingerprint="g")
    await ask(store, a_create(project="other"), key="k", fingerprint="g", project="other")
    assert len(await all_runs(store)) == 1


async def test_two_at_once_under_one_key_are_one_in_one_server_and_in_two(
    open_store: OpenStore,
) -> None:
    """Taken out: `again` in `Writer._take`; two in one group were both carried out. And the
    insert in `_claim_answers`; two servers were."""
    stores = [await open_store(), await open_store()]
    # Whatever is in flight first, so that the rest are taken together.
    before = [create(store, task_identifier="other") for store in stores for _ in range(2)]
    _, *results = await asyncio.gather(
        asyncio.gather(*before),
        *(ask(stores[i % 2], a_create(payload=i), key="k", fingerprint="f") for i in range(12)),
    )
    assert len({result[0].run.id for result in results}) == 1
    assert len(await all_runs(stores[0])) == 5


async def test_a_submission_that_was_refused_whole_may_be_tried_again_under_its_key(
    store: RunStore,
) -> None:
    """It changed nothing: to keep the refusal for a day would punish who mends the cause."""
    run = await create(store)
    command = UpdateRun(project=PROJECT, run_id=run.id, status=COMPLETED)
    for _ in range(2):
        with pytest.raises(TransitionRefused):
            await ask(store, command, key="k", fingerprint="f", atomic=True)
    assert await rows(store, answers) == []
    await update(store, run.id, status=EXECUTING)
    (done,) = await ask(store, command, key="k", fingerprint="f", atomic=True)
    again = await ask(store, command, key="k", fingerprint="f", atomic=True)
    assert again == [done]


async def test_an_answer_is_kept_with_the_change_or_neither_is(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer alone would say that something was done that was not; a change alone would be
    made twice."""
    from store.writer import group

    whole = group.run_group

    def broken(*args: Any) -> Any:
        whole(*args)
        raise ZeroDivisionError

    monkeypatch.setattr("store.writer.run_group", broken)
    with pytest.raises(ZeroDivisionError):
        await ask(store, a_create(), key="k", fingerprint="f")
    monkeypatch.undo()
    assert (await rows(store, answers), await all_runs(store)) == ([], [])


# ---------------------------------------------------------------------------------- all or none


async def test_nothing_is_left_of_a_refused_atomic_submission(store: RunStore) -> None:
    """Rows, log, tags, keys, tokens, heartbeats, batch: also of what shares its group.

    Taken out: the undoing in `_all_or_nothing`.
    """
    kept = await create(store, tags=("a",), metadata={"n": 0}, status=EXECUTING)
    over = await create(store, status=EXECUTING, idempotency_key="over")
    await update(store, over.id, status=COMPLETED)
    tables = [runs, changes, run_tags, idempotency_keys, used_tokens, heartbeats, batches, answers]
    before = [sorted(map(repr, await rows(store, table))) for table in tables]
    batch_id = new_id("batch")
    with pytest.raises(TransitionRefused):
        await ask(
            store,
            CreateBatch(project=PROJECT, batch_id=batch_id),
            a_create(batch_id=batch_id, idempotency_key="k", tags=("x",), status=EXECUTING),
            with_token("t"),
            a_create(idempotency_key="over"),
            UpdateRun(
                project=PROJECT,
                run_id=kept.id,
                add_tags=("b",),
                remove_tags=("a",),
                metadata={"n": 1},
                status=RunStatus.FROZEN,
            ),
            DeleteRun(project=PROJECT, run_id=over.id),
            SealBatch(project=PROJECT, batch_id=batch_id),
            UpdateRun(project=PROJECT, run_id=kept.id, status=COMPLETED),
            atomic=True,
            key="answer",
            fingerprint="f",
        )
    after = [sorted(map(repr, await rows(store, table))) for table in tables]
    assert after == before


async def test_a_refused_submission_does_no_harm_to_its_neighbours(store: RunStore) -> None:
    """In one group with it: what they have done stands, and their versions have no gap."""
    run = await create(store, metadata={}, status=EXECUTING)
    submissions = []
    for i in range(20):
        update_ = UpdateRun(project=PROJECT, run_id=run.id, metadata={str(i): i})
        bad = UpdateRun(project=PROJECT, run_id=run.id, status=RunStatus.QUEUED)
        lot = (update_, bad) if i % 2 else (update_,)
        submissions.append(Submission(project=PROJECT, commands=lot, atomic=True))
    results = await asyncio.gather(*map(store.execute, submissions), return_exceptions=True)
    assert [outcome(result) for result in results] == ["list", "TransitionRefused"] * 10
    run = await store.get_run(PROJECT, run.id)
    assert run.metadata == {str(i): i for i in range(0, 20, 2)}
    history = await whole_history(store, run.id)
    assert [change.version for change in history] == list(range(1, 12))


# ------------------------------------------------------------------------------ batches and locks


async def test_no_run_gets_into_a_batch_after_its_seal(open_store: OpenStore) -> None:
    """A batch that is complete for one reader must not grow for the next.

    Taken out: the batch's lock in `Held`; on PostgreSQL runs were made after the seal.
    """
    stores = [await open_store(), await open_store()]
    batch_id = await open_batch(stores[0])

    async def make(store: RunStore) -> int:
        made = 0
        while True:
            try:
                await create(store, batch_id=batch_id)
            except Conflict:
                return made
            made += 1

    makers = [asyncio.create_task(make(store)) for store in stores for _ in range(4)]
    await until(lambda: all_runs(stores[0]))
    sealed = await one(stores[1], SealBatch(project=PROJECT, batch_id=batch_id))
    made = await asyncio.gather(*makers)
    assert sealed.batch is not None
    batch = await stores[0].get_batch(PROJECT, batch_id)
    assert batch.size == sealed.batch.size == sum(made)


async def test_locks_are_waited_for_in_one_order(own_postgres: str, open_any: OpenStore) -> None:
    """By id, and without those that come later in hand: so two groups never wait in a ring.

    Taken out: `ORDER BY` in `_lock_runs`, in `_lock_batches`; `sorted` in `_claim`.
    """
    store = await open_any(own_postgres)
    early, late = sorted(new_id("run") for _ in range(2))
    for run_id in (late, early):  # not as they lie in the table
        await one(store, a_create(run_id=run_id))
    first, second = sorted(new_id("batch") for _ in range(2))
    for batch_id in (second, first):
        await one(store, CreateBatch(project=PROJECT, batch_id=batch_id))
    lock_run = "SELECT 1 FROM runs WHERE id = $1 FOR UPDATE"
    lock_batch = "SELECT 1 FROM batches WHERE id = $1 FOR UPDATE"
    insert_key = "INSERT INTO idempotency_keys VALUES ('default', 'send-invoice', $1, 'run_x')"
    cases: list[tuple[str, str, str, list[Command]]] = [
        (
            lock_run,
            early,
            late,
            [UpdateRun(project=PROJECT, run_id=id, metadata={"a": 1}) for id in (late, early)],
        ),
        (
            lock_batch,
            first,
            second,
            [SealBatch(project=PROJECT, batch_id=id) for id in (second, first)],
        ),
        (
            insert_key,
            "a",
            "b",
            [a_create(idempotency_key=key) for key in "ba"],
        ),
    ]
    holder, other = await asyncpg.connect(own_postgres), await asyncpg.connect(own_postgres)
    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    try:
        for statement, held, free, commands in cases:
            transaction = holder.transaction()
            await transaction.start()
            await holder.execute(statement, held)
            group = asyncio.create_task(ask(store, *commands))
            await until(lambda: other.fetchval(waits))
            async with other.transaction():
                await other.execute("SET LOCAL lock_timeout = '1s'")
                await other.execute(statement, free)
            await other.execute("DELETE FROM idempotency_keys")
            await transaction.rollback()
            assert all(isinstance(result, Done) for result in await group)
    finally:
        await holder.close()
        await other.close()


async def test_many_overlapping_groups_from_two_servers_never_show_a_caller_an_error(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two groups that want the same runs wait for each other, and never in a ring."""
    stores = [await open_store(), await open_store()]
    alone = []
    for store in stores:
        commit_alone = store._writer._commit_alone

        async def counted(one: Any, commit_alone: Any = commit_alone) -> None:
            alone.append(one)
            await commit_alone(one)

        monkeypatch.setattr(store._writer, "_commit_alone", counted)
    ids = [(await create(stores[0], metadata={}, status=EXECUTING)).id for _ in range(12)]
    batch_ids = [await open_batch(stores[0]) for _ in range(3)]
    counts = dict.fromkeys(ids, 0)

    async def caller(number: int) -> None:
        store = stores[number % 2]
        for turn in range(8):
            some = [ids[(number * 7 + turn * 5 + k * (1 + number % 5)) % 12] for k in range(5)]
            for run_id in some:
                counts[run_id] += 1
            outcomes = await ask(
                store,
                *(
                    MutateMetadata(
                        project=PROJECT,
                        run_id=run_id,
                        operations=(MetadataOperation(op=MetadataOp.INCREMENT, path="n", value=1),),
                    )
                    for run_id in some
                ),
                a_create(
                    batch_id=batch_ids[(number + turn) % 3],
                    idempotency_key=f"k{(number + turn) % 4}",
                    parent_run_id=some[0],
                ),
            )
            assert all(isinstance(result, Done) for result in outcomes), outcomes

    await asyncio.gather(*(caller(number) for number in range(16)))
    assert not alone
    for run_id in ids:
        run = await stores[0].get_run(PROJECT, run_id)
        assert (run.metadata["n"], run.version) == (counts[run_id], counts[run_id] + 1)


async def test_a_lock_that_is_never_given_back_is_unavailable_not_a_crash(
    own_postgres: str, open_any: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody's forgotten psql session must not show callers an SQL error."""
    monkeypatch.setattr("store.engine.postgres.LOCK_WAIT", "100ms")
    store = await open_any(own_postgres)
    run, other = await create(store), await create(store)
    session = await asyncpg.connect(own_postgres)
    try:
        async with session.transaction():
            await session.execute("SELECT 1 FROM runs WHERE id = $1 FOR UPDATE", run.id)
            stuck, free = await asyncio.gather(
                update(store, run.id, metadata={"a": 1}),
                update(store, other.id, metadata={"a": 1}),
                return_exceptions=True,
            )
    finally:
        await session.close()
    assert [outcome(stuck), outcome(free)] == ["Unavailable", "Run"]
    assert (await update(store, run.id, metadata={"a": 1})).version == 2
