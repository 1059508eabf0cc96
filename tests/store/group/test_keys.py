"""Idempotency keys: one run for a key, however many ask for it at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import event

from store.commands import DeleteRun, UpdateRun
from store.errors import Invalid
from store.model import RunStatus
from store.runs import RunStore
from store.tables import idempotency_keys
from tests.builders import PROJECT, a_create
from tests.servers import Postgres
from tests.store.asking import all_runs, ask, create, finish, one, outcome, rows, whole_history
from tests.store.conftest import OpenStore

EXECUTING = RunStatus.EXECUTING


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

    opened: Any = store.database
    event.listen(opened._write_engine.sync_engine, "after_cursor_execute", delete_behind)
    done = await one(store, a_create(idempotency_key="k"))
    assert len(seen) >= after
    assert done.first == (after == 1)
    keys = [(key.key, key.run_id) for key in await rows(store, idempotency_keys)]
    assert keys == [(run.idempotency_key, run.id) for run in await all_runs(store)]
