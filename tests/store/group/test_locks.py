"""Locks: taken in one order, and waited for but not for ever."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from store.commands import Command, CreateBatch, Done, MutateMetadata, SealBatch, UpdateRun
from store.errors import Conflict
from store.metadata import MetadataOp, MetadataOperation
from store.model import RunStatus, new_id
from store.runs import RunStore
from tests.builders import PROJECT, a_create
from tests.store.asking import all_runs, ask, create, one, open_batch, outcome, until, update
from tests.store.conftest import OpenStore

EXECUTING = RunStatus.EXECUTING


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

    Taken out: `ORDER BY` in `_lock`, in `_lock_batches`; `sorted` in `_claim`.
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
