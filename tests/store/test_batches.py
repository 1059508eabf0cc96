"""Batches: open until sealed, complete when all their runs are over, and from then on."""

from __future__ import annotations

import asyncio

import pytest

from store.commands import CreateBatch, DeleteRun, Done, SealBatch
from store.errors import Conflict, Invalid, NotFound
from store.lifecycle import FINAL
from store.model import RunStatus, new_id
from store.runs import RunStore
from store.tables import changes
from tests.builders import PROJECT, a_create
from tests.store.asking import (
    ask,
    create,
    delete,
    finish,
    one,
    open_batch,
    rows,
    seal,
    update,
)
from tests.store.conftest import OpenStore

QUEUED, EXECUTING, COMPLETED = RunStatus.QUEUED, RunStatus.EXECUTING, RunStatus.COMPLETED


async def test_a_batch_counts_its_runs_by_status(store: RunStore) -> None:
    batch_id = await open_batch(store)
    runs = [await create(store, batch_id=batch_id) for _ in range(5)]
    await create(store)
    await finish(store, runs[0].id)
    await update(store, runs[1].id, status=EXECUTING)
    batch = await store.get_batch(PROJECT, batch_id)
    assert batch.counts == {QUEUED: 3, EXECUTING: 1, COMPLETED: 1}
    assert (batch.size, batch.final(FINAL), batch.sealed_at) == (5, 1, None)
    assert batch.last_finished_at == (await store.get_run(PROJECT, runs[0].id)).finished_at


async def test_a_batch_made_and_sealed_in_one_submission_is_whole_in_its_answer(
    store: RunStore,
) -> None:
    batch_id = new_id("batch")
    outcomes = await ask(
        store,
        CreateBatch(project=PROJECT, batch_id=batch_id),
        *(a_create(batch_id=batch_id) for _ in range(3)),
        SealBatch(project=PROJECT, batch_id=batch_id),
        atomic=True,
    )
    batch = outcomes[0].batch
    assert (batch.size, batch.sealed_at is not None) == (3, True)
    assert outcomes[-1].batch == batch == await store.get_batch(PROJECT, batch_id)
    assert {done.run.batch_id for done in outcomes[1:4]} == {batch_id}


async def test_sealing_twice_is_sealing_once(open_store: OpenStore) -> None:
    stores = [await open_store(), await open_store()]
    batch_id = await open_batch(stores[0])
    sealed = await asyncio.gather(*(seal(stores[i % 2], batch_id) for i in range(8)))
    assert len({batch.sealed_at for batch in sealed}) == 1
    assert [row.run_id for row in await rows(stores[0], changes)] == [batch_id]


async def test_a_sealed_batch_takes_no_more(store: RunStore) -> None:
    batch_id = await open_batch(store)
    await seal(store, batch_id)
    with pytest.raises(Conflict):
        await create(store, batch_id=batch_id)
    outcomes = await ask(
        store,
        a_create(batch_id=batch_id),
        a_create(),
    )
    assert [isinstance(result, Done) for result in outcomes] == [False, True]


async def test_a_batch_of_another_project_is_not_there(store: RunStore) -> None:
    batch_id = await open_batch(store)
    with pytest.raises(NotFound):
        await store.get_batch("other", batch_id)
    with pytest.raises(NotFound):
        await one(store, SealBatch(project="other", batch_id=batch_id), project="other")
    with pytest.raises(Invalid):
        await create(store, project="other", batch_id=batch_id)


async def test_a_complete_batch_stays_complete_when_its_runs_are_deleted(
    open_store: OpenStore,
) -> None:
    """A subscriber that comes late must be told the same end as one that was there.

    Taken out: the lock of the batch where a run is deleted; of two deletions at once one was
    not counted.
    """
    stores = [await open_store(), await open_store()]
    batch_id = await open_batch(stores[0])
    runs = [await create(stores[0], batch_id=batch_id) for _ in range(8)]
    await seal(stores[0], batch_id)
    for run in runs:
        await finish(stores[0], run.id)
    before = await stores[0].get_batch(PROJECT, batch_id)
    assert before.final(FINAL) == before.size == 8
    await asyncio.gather(*(delete(stores[i % 2], run.id) for i, run in enumerate(runs)))
    assert await stores[0].get_batch(PROJECT, batch_id) == before


async def test_deletions_of_one_submission_are_all_counted(store: RunStore) -> None:
    batch_id = await open_batch(store)
    runs = [await create(store, batch_id=batch_id) for _ in range(3)]
    for run in runs:
        await finish(store, run.id)
    before = await store.get_batch(PROJECT, batch_id)
    await ask(store, *(DeleteRun(project=PROJECT, run_id=run.id) for run in runs))
    assert await store.get_batch(PROJECT, batch_id) == before
