"""PostgreSQL: connections that are cut off, which of them are used, and what is asked over them."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from store.commands import UpdateRun
from store.errors import OutcomeUnknown, Unavailable
from store.model import RunQuery, RunStatus
from store.runs import RunStore
from tests.builders import PROJECT, a_create
from tests.faults import Proxy, terminate_backends
from tests.servers import Postgres
from tests.store.asking import ask, assert_whole, create, one, outcome, until, update
from tests.store.conftest import OpenStore
from tests.store.jobs.jobbing import a_job, begin

EXECUTING = RunStatus.EXECUTING


async def test_no_acknowledged_write_is_lost_or_doubled_when_backends_are_terminated(
    own_postgres: str, open_any: OpenStore, postgres: Postgres
) -> None:
    """Each caller counts what it was told: the run must have exactly that.

    Taken out: the second try on another connection; callers were told Unavailable for nothing.
    """
    stores = [await open_any(own_postgres), await open_any(own_postgres)]
    runs = [await create(stores[0], metadata={}) for _ in range(16)]
    stop = asyncio.Event()

    async def caller(number: int) -> dict[str, int]:
        counts = {"Run": 0, "Unavailable": 0, "OutcomeUnknown": 0}
        while not stop.is_set():
            command = UpdateRun(
                project=PROJECT,
                run_id=runs[number].id,
                metadata={str(sum(counts.values())): True},
            )
            try:
                await one(stores[number % 2], command)
                counts["Run"] += 1
            except (Unavailable, OutcomeUnknown) as error:
                counts[outcome(error)] += 1
        return counts

    async def versions() -> dict[str, int]:
        found, _ = await stores[1].list_runs(RunQuery(project=PROJECT))
        return {run.id: run.version for run in found}

    callers = [asyncio.create_task(caller(number)) for number in range(16)]
    for _ in range(5):
        before = await versions()
        # Each caller has got on: no group that was cut is still on its second try.
        while any(version <= before[id] for id, version in (await versions()).items()):
            await asyncio.sleep(0.01)
        await asyncio.to_thread(terminate_backends, postgres, own_postgres)
    stop.set()
    told = list(await asyncio.gather(*callers))
    for run, counts in zip(runs, told, strict=True):
        now = await stores[0].get_run(PROJECT, run.id)
        assert counts["Run"] <= now.version - 1 <= counts["Run"] + counts["OutcomeUnknown"]
    await assert_whole(stores[0], runs)
    assert all(counts["Run"] >= 5 for counts in told)
    assert sum(counts["Unavailable"] for counts in told) == 0


async def test_a_database_that_is_away_is_unavailable_soon_and_back_without_an_error(
    proxied: tuple[Proxy, RunStore, str],
) -> None:
    """The pool is full of connections that are no more: each would cost somebody an error.

    Taken out: the look at a connection as it is taken from the pool, together with the second
    try; seven reads and three writes failed.
    """
    proxy, store, _url = proxied
    run = await create(store, metadata={})

    async def everybody() -> list[Any]:
        return await asyncio.gather(
            *(store.get_run(PROJECT, run.id) for _ in range(16)),
            *(create(store) for _ in range(8)),
            store.heartbeat(PROJECT, run.id),
            return_exceptions=True,
        )

    await everybody()
    async with proxy.closed():
        began = time.monotonic()
        assert {outcome(result) for result in await everybody()} == {"Unavailable"}
        assert time.monotonic() - began < 4
    results = await everybody()
    assert {outcome(result) for result in results} == {"Run", "NoneType"}, results


async def test_a_lost_connection_is_not_seen_by_who_takes_it_next(
    own_postgres: str, open_any: OpenStore, postgres: Postgres
) -> None:
    store = await open_any(own_postgres)
    run = await create(store)
    for _ in range(3):
        await asyncio.gather(*(store.get_run(PROJECT, run.id) for _ in range(8)))
        await asyncio.to_thread(terminate_backends, postgres, own_postgres)
        found = await asyncio.gather(*(store.get_run(PROJECT, run.id) for _ in range(8)))
        assert found == [run] * 8
        await create(store)


async def test_readers_take_turns_on_few_connections(
    own_postgres: str, open_any: OpenStore
) -> None:
    """Each keeps what it has prepared: twelve that are handed everything in turn grow for an hour.

    Taken out: `pool_use_lifo`; all that had ever been needed at once were used.
    """
    store = await open_any(own_postgres)

    def backend(connection: Connection) -> int:
        pid = connection.scalar(sa.text("SELECT pg_backend_pid()"))
        assert isinstance(pid, int)
        return pid

    await asyncio.gather(*(store.database.read(backend) for _ in range(6)))
    assert len({await store.database.read(backend) for _ in range(12)}) == 1


@pytest.mark.parametrize("analyzed", [False, True])
async def test_plans_made_while_a_table_is_small_do_not_read_all_of_it_later(
    own_postgres: str, open_any: OpenStore, *, analyzed: bool
) -> None:
    """PostgreSQL keeps a statement's plan, and while there are three runs the cheapest is to read
    them all; until the table is next analyzed, each group would read every run that there is.

    Taken out: `enable_seqscan` in `store/engine/postgres.py`; the keys by themselves in an update.
    """
    store = await open_any(own_postgres)
    job = await a_job(store, *(f"step-{n}" for n in range(30)))
    await begin(store, job)
    run = await create(store, status=EXECUTING)
    admin = await asyncpg.connect(own_postgres)
    try:
        if analyzed:
            await admin.execute("VACUUM ANALYZE runs, job_runs")

        async def work(first: int) -> None:
            for n in range(first, first + 12):
                await update(store, run.id, metadata={"n": n})
                step = await store.claims.claim(PROJECT, [f"step-{n}"], "w", 60)
                assert step is not None
                await update(store, step.id, status=RunStatus.COMPLETED)

        await work(0)
        before = await admin.fetchval(_READ)
        await ask(store, *(a_create() for _ in range(MANY)))
        for _ in range(100):
            await begin(store, job)
        await work(12)
        await store.close()  # what a connection has counted is known when it is gone

        async def is_counted() -> bool:
            return bool(await admin.fetchval(_WRITTEN) >= MANY + 200)

        await until(is_counted)
        assert await admin.fetchval(_READ) - before < 5 * MANY
    finally:
        await admin.close()


MANY = 3_000
_READ = (
    "SELECT sum(seq_tup_read + idx_tup_fetch) FROM pg_stat_user_tables"
    " WHERE relname IN ('runs', 'job_runs')"
)
_WRITTEN = "SELECT n_tup_ins FROM pg_stat_user_tables WHERE relname = 'runs'"
