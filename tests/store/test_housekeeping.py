"""What is forgotten, when, and that nobody is in anybody's way meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from store.broker.memory import MemoryBroker
from store.errors import CannotContinue
from store.housekeeping import CUTTING, DAYS_AHEAD, MAKING, Housekeeping, Retention
from store.model import Horizon, RunQuery
from store.runs import RunStore
from store.schema import LOCK
from store.tables import answers, idempotency_keys, used_tokens
from tests.builders import PROJECT, a_create
from tests.store.asking import ask, create, finish, open_batch, read_all, rows, sql, update
from tests.store.conftest import OpenStore

WEEK = Retention(changes=timedelta(days=7))


def keeper(store: RunStore, *, detach_after_s: float = 0.0) -> Housekeeping:
    return Housekeeping(store.database, store._writer.submit, WEEK, detach_after_s=detach_after_s)


def partition_of(day: datetime) -> str:
    return f"changes_{day:%Y%m%d}"


async def partitions(store: RunStore) -> list[str]:
    """All tables of the log's days, attached or not."""
    found = await sql(store, "SELECT relname FROM pg_class WHERE relname ~ '^changes_[0-9]{8}$'")
    return sorted(row.relname for row in found)


async def an_old_day(store: RunStore, *, days: int = 10, project: str = PROJECT) -> str:
    """A partition of so many days ago, with two changes in it."""
    day = datetime.now(UTC) - timedelta(days=days)
    name = partition_of(day)
    if name not in await partitions(store):
        await sql(store, f"CREATE TABLE {name} (LIKE changes INCLUDING ALL)")
        await sql(
            store,
            f"ALTER TABLE changes ATTACH PARTITION {name} FOR VALUES FROM"
            f" ('{day.date()} 00:00+00') TO ('{day.date() + timedelta(days=1)} 00:00+00')",
        )
    for i in range(2):
        await sql(
            store,
            "INSERT INTO changes (project, run_id, version, kind, xid, previous_xid, at, changed)"
            " SELECT :project, :run_id, 1, 'run', pg_current_xact_id()::text::bigint, 0,"
            " CAST(CAST(:at AS text) AS timestamptz), '{}'",
            project=project,
            run_id=f"run_old{i}",
            at=day.isoformat(),
        )
    return name


async def refused(store: RunStore, since: Horizon, project: str = PROJECT) -> str | None:
    try:
        await read_all(store, since, project=project)
    except CannotContinue as error:
        return error.reason
    return None


# --------------------------------------------------------------------- PostgreSQL's partitions


async def test_partitions_stand_ready_for_the_days_ahead(
    own_postgres: str, open_any: OpenStore
) -> None:
    """A change for which there is no partition cannot be written."""
    store = await open_any(own_postgres)
    today = datetime.now(UTC)
    wanted = [partition_of(today + timedelta(days=n)) for n in range(-1, DAYS_AHEAD + 1)]
    assert await partitions(store) == wanted
    await sql(store, f"DROP TABLE {wanted[-1]}")
    others = [await open_any(own_postgres) for _ in range(2)]
    await asyncio.gather(*(one.housekeeping.prepare() for one in (store, *others)))
    assert await partitions(store) == wanted


async def test_a_process_that_stands_still_keeps_no_other_from_starting(own_postgres: str) -> None:
    """It may be stopped with what all take at their start, as a machine is that is frozen.

    Taken out: the looks before the locks in `_make_partitions` and `_migrate`; a server that was
    started ended with an SQL error after five seconds, or waited for ever.
    """
    frozen = await asyncpg.connect(own_postgres)
    try:
        await frozen.execute("SELECT pg_advisory_lock($1)", MAKING)
        await frozen.execute("SELECT pg_advisory_lock($1)", LOCK)
        store = await RunStore.open(own_postgres, broker=MemoryBroker())
        await store.close()
    finally:
        await frozen.close()


async def test_a_day_for_which_nothing_stood_ready_is_made_when_it_comes(
    own_postgres: str, open_any: OpenStore
) -> None:
    """A machine that slept for more than a week must not refuse every command until the next
    round of housekeeping.

    Taken out: `make_room`; the create failed with an SQL error.
    """
    store = await open_any(own_postgres)
    for name in await partitions(store):
        await sql(store, f"DROP TABLE {name}")
    made = await asyncio.gather(*(create(store) for _ in range(5)))
    assert {run.version for run in made} == {1}


async def test_who_comes_while_another_cuts_leaves_it_to_them(
    own_postgres: str, open_any: OpenStore
) -> None:
    """A partition could be gone in the middle of the look at it.

    Taken out: the lock; of two servers that kept house at once, one ended with an SQL error.
    """
    store = await open_any(own_postgres)
    before = (await store.horizon(PROJECT))[1]
    name = await an_old_day(store)
    cutter = await asyncpg.connect(own_postgres)
    await cutter.execute("SELECT pg_advisory_lock($1)", CUTTING)
    await keeper(store).keep()
    assert name in await partitions(store)
    assert await refused(store, before) is None
    await cutter.execute("SELECT pg_advisory_unlock($1)", CUTTING)
    await cutter.close()
    await keeper(store).keep()
    assert name not in await partitions(store)
    assert await refused(store, before) == "retention"


async def test_an_old_day_is_marked_and_then_taken_away_while_everybody_goes_on(
    own_postgres: str, open_any: OpenStore
) -> None:
    """Marked first: a read that does not see the day's changes any more must see the mark.

    Taken out: the mark; a cursor from before was answered with what is left. The waiting time.
    """
    store, other = await open_any(own_postgres), await open_any(own_postgres)
    before = (await store.horizon(PROJECT))[1]
    name = await an_old_day(store)
    await an_old_day(store, project="old")
    past = (await store.horizon(PROJECT))[1]
    run = await create(store, metadata={})
    quiet = (await store.horizon("quiet"))[1]

    assert await refused(store, before) is None
    await keeper(store, detach_after_s=3600).keep()
    assert name in await partitions(store)
    assert await refused(store, before) == "retention"
    assert await refused(store, past) is None

    working, finished = True, False

    async def write() -> int:
        n = 0
        while working:
            n += 1
            await update(other, run.id, metadata={"n": n})
        return n

    async def read() -> int:
        horizon, seen = past, 0
        while not finished:
            groups, horizon = await read_all(store, horizon)
            seen += sum(len(group.changes) for group in groups)
        groups, _ = await read_all(store, horizon)
        return seen + sum(len(group.changes) for group in groups)

    writer, reader = asyncio.create_task(write()), asyncio.create_task(read())
    while (await store.get_run(PROJECT, run.id)).version < 3:
        await asyncio.sleep(0.01)
    # Two servers keep house at once.
    await asyncio.gather(keeper(store).keep(), keeper(other).keep())
    assert name not in await partitions(store)
    now = (await store.get_run(PROJECT, run.id)).version
    while (await store.get_run(PROJECT, run.id)).version < now + 2:
        await asyncio.sleep(0.01)
    working = False
    written = await writer
    finished = True
    assert await reader == written + 1
    assert await refused(store, before) == "retention"
    assert await refused(store, past) is None
    assert await refused(store, quiet, "quiet") is None
    assert await refused(store, Horizon(1, 1), "old") == "retention"


async def test_a_day_is_kept_while_a_transaction_from_before_is_open(
    own_postgres: str, open_any: OpenStore
) -> None:
    store = await open_any(own_postgres)
    session = await asyncpg.connect(own_postgres)
    try:
        async with session.transaction():
            await session.execute("SELECT pg_current_xact_id()")
            name = await an_old_day(store)
            before = (await store.horizon(PROJECT))[1]
            await keeper(store).keep()
            assert name in await partitions(store)
            assert await refused(store, before) is None
    finally:
        await session.close()
    await keeper(store).keep()
    assert name not in await partitions(store)


async def test_a_day_that_could_not_be_taken_away_is_finished_in_a_later_round(
    own_postgres: str, open_any: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long read held the partition; or the server died between detaching and dropping.

    Taken out: FINALIZE; and the look for loose tables.
    """
    monkeypatch.setattr("store.housekeeping.DROP_WAIT", "200ms")
    store = await open_any(own_postgres)
    name, loose = await an_old_day(store), await an_old_day(store, days=11)
    await sql(store, f"ALTER TABLE changes DETACH PARTITION {loose}")
    keeping = keeper(store)
    session = await asyncpg.connect(own_postgres)
    try:
        async with session.transaction():
            await session.execute("SELECT count(*) FROM changes")
            await keeping.keep()
            assert name in await partitions(store)
            await create(store)
    finally:
        await session.close()
    await keeping.keep()
    left = await partitions(store)
    assert name not in left
    assert loose not in left
    await create(store)


# --------------------------------------------------------------------------------------- on both


async def test_housekeeping_goes_on_whatever_goes_wrong(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken out: what `Housekeeping.run` catches; one SQL error ended it for good."""
    rounds = 0

    async def keep() -> None:
        nonlocal rounds
        rounds += 1
        raise ZeroDivisionError

    house = Housekeeping(store.database, store._writer.submit, WEEK, every_s=0.0)
    monkeypatch.setattr(house, "keep", keep)
    task = asyncio.create_task(house.run())
    while rounds < 3:
        await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_answers_and_tokens_are_forgotten_in_time(open_store: OpenStore) -> None:
    store = await open_store(retention=Retention(answers=timedelta(0), used_tokens=timedelta(0)))
    other = await open_store()
    await ask(store, a_create(), key="k", fingerprint="f")
    await ask(store, a_create())
    await sql(
        store,
        "INSERT INTO used_tokens (project, token_id, run_id, task_identifier, used_at)"
        " SELECT project, 't', id, 'a', created_at FROM runs LIMIT 1",
    )
    await other.housekeeping.keep()
    assert len(await rows(store, answers)) == len(await rows(store, used_tokens)) == 1
    # Two at once: one of them does it.
    twin = await open_store(retention=Retention(answers=timedelta(0), used_tokens=timedelta(0)))
    await asyncio.gather(store.housekeeping.keep(), twin.housekeeping.keep())
    assert await rows(store, answers) == await rows(store, used_tokens) == []


async def test_final_runs_are_deleted_in_time_and_tell_their_streams(
    open_store: OpenStore,
) -> None:
    store = await open_store(retention=Retention(final_runs=timedelta(0)))
    keeps = await open_store()
    batch_id = await open_batch(store)
    over = [await create(store, batch_id=batch_id, idempotency_key=str(n)) for n in range(3)]
    for run in over:
        await finish(store, run.id)
    alive = await create(store)
    batch = await store.get_batch(PROJECT, batch_id)
    _, horizon = await store.horizon(PROJECT)
    await keeps.housekeeping.keep()
    assert len(await all_runs(store)) == 4
    await asyncio.gather(store.housekeeping.keep(), keeps.housekeeping.keep())
    assert await all_runs(store) == [alive]
    groups, _ = await read_all(store, horizon)
    assert sorted(group.first.run_id for group in groups if group.deleted) == sorted(
        run.id for run in over
    )
    assert await rows(store, idempotency_keys) == []
    assert await store.get_batch(PROJECT, batch_id) == batch


async def all_runs(store: RunStore) -> Sequence[Any]:
    return (await store.list_runs(RunQuery(project=PROJECT)))[0]


async def test_deletions_that_are_refused_end_a_round(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would ask for the same runs for ever.

    Taken out: `progress`.
    """
    store = await open_store(retention=Retention(final_runs=timedelta(0)))
    await finish(store, (await create(store)).id)
    asked = 0

    async def refusing(submission: Any) -> list[Any]:
        nonlocal asked
        asked += 1
        assert asked < 5
        return [ValueError() for _ in submission.commands]

    monkeypatch.setattr(store.housekeeping, "_submit", refusing)
    await store.housekeeping.keep()
    assert asked == 1
