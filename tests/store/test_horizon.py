"""Why the log is read by horizon: what a place in a sequence loses, a transaction snapshot has.

On PostgreSQL alone: on SQLite there is one writer, and places are in the order of commits.
"""

from __future__ import annotations

import asyncio
import random

import asyncpg
from hypothesis import given
from hypothesis import strategies as st

from store.changes import bounded, parse_snapshot
from store.model import Horizon, new_id
from tests.builders import PROJECT
from tests.faults import open_transaction
from tests.servers import Postgres
from tests.store.asking import create, read_all, update
from tests.store.conftest import OpenStore, bare_store, template

WRITERS = 16
TURNS = 20

INSERT_CHANGE = """
INSERT INTO changes (project, run_id, version, kind, xid, previous_xid, at, changed)
SELECT $1, $2, 1, 'run', pg_current_xact_id()::text::bigint, 0, clock_timestamp(), '{}'
"""


async def test_a_reader_by_sequence_loses_changes_and_a_reader_by_horizon_loses_none(
    own_postgres: str, open_any: OpenStore
) -> None:
    """The experiment that the log is built on.

    A place in a sequence is taken when a row is inserted, and the row is seen when it is
    committed: a reader that has gone past a place never sees who commits there later. 16 writers,
    of whom some are slow to commit; two readers of the same rows. What one transaction wrote is
    here read twice, by place and by horizon.

    Taken out: `xid IN (xip)` in `_unseen`, with which it loses as the other does; `bounded` to
    the wrong end, with which it reads twice.
    """
    store = await open_any(own_postgres)
    admin = await asyncpg.connect(own_postgres)
    await admin.execute("CREATE TABLE scratch (seq bigserial PRIMARY KEY, run_id text)")
    written: list[str] = []
    rounds = 0
    done = asyncio.Event()

    async def write(number: int) -> None:
        dice = random.Random(number)
        connection = await asyncpg.connect(own_postgres)
        try:
            for _ in range(TURNS):
                run_id = new_id("run")
                async with connection.transaction():
                    await connection.execute("INSERT INTO scratch (run_id) VALUES ($1)", run_id)
                    await connection.execute(INSERT_CHANGE, PROJECT, run_id)
                    if dice.random() < 0.1:
                        began = rounds
                        while rounds < began + 2:  # both readers have gone past it
                            await asyncio.sleep(0.001)
                written.append(run_id)
        finally:
            await connection.close()

    by_place: list[str] = []
    by_horizon: list[str] = []

    async def read() -> None:
        nonlocal rounds
        last, horizon = 0, Horizon(0, 0)
        while True:
            ending = done.is_set()
            rows = await admin.fetch(
                "SELECT seq, run_id FROM scratch WHERE seq > $1 ORDER BY seq", last
            )
            if rows:
                last = rows[-1]["seq"]
            by_place.extend(row["run_id"] for row in rows)
            groups, horizon = await read_all(store, horizon)
            by_horizon.extend(group.first.run_id for group in groups)
            rounds += 1
            if ending:
                return

    reader = asyncio.create_task(read())
    await asyncio.gather(*(write(number) for number in range(WRITERS)))
    done.set()
    await reader
    await admin.close()
    lost = len(set(written) - set(by_place))
    assert lost > 0
    assert sorted(by_horizon) == sorted(written)  # each once


async def test_a_transaction_held_open_costs_one_entry(
    own_postgres: str, open_any: OpenStore
) -> None:
    """With `xmin` alone everything since the oldest open transaction would be read each time."""
    store = await open_any(own_postgres)
    async with open_transaction(own_postgres) as open_xid:
        made = [await create(store) for _ in range(5)]
        _, horizon = await store.horizon(PROJECT)
        assert (horizon.xmin, horizon.xip) == (open_xid, (open_xid,))
        for _ in range(20):
            await update(store, made[0].id, metadata={"n": random.random()})
            groups, horizon = await read_all(store, horizon)
            assert [len(group.changes) for group in groups] == [1]
            assert horizon.xip == (open_xid,)
    groups, horizon = await read_all(store, horizon)
    assert groups == []


async def test_what_was_committed_late_is_read_then(own_postgres: str, open_any: OpenStore) -> None:
    store = await open_any(own_postgres)
    slow = await asyncpg.connect(own_postgres)
    transaction = slow.transaction()
    await transaction.start()
    await slow.execute(INSERT_CHANGE, PROJECT, "run_slow")
    await create(store)
    groups, horizon = await read_all(store, Horizon(0, 0))
    assert "run_slow" not in [group.first.run_id for group in groups]
    await transaction.commit()
    groups, horizon = await read_all(store, horizon)
    assert [group.first.run_id for group in groups] == ["run_slow"]
    assert (await read_all(store, horizon))[0] == []
    await slow.close()


async def test_no_change_hides_behind_ids_that_a_crash_has_forgotten() -> None:
    """PostgreSQL writes down nothing of a transaction that was rolled back until some later time;
    if it crashes before, it gives the id out again. A horizon that had covered the id would then
    cover what the second transaction committed, and nobody would ever read that.

    Taken out: `bounded`; the change was not read, at first refused as of another epoch and, once
    the ids had gone past the horizon, without a word.
    """
    with Postgres(config={"wal_writer_delay": "10s"}) as postgres:
        url = postgres.create_database(template(postgres))
        store = await bare_store(url)
        try:
            run = await create(store)
            connection = await asyncpg.connect(url)
            for _ in range(10):
                transaction = connection.transaction()
                await transaction.start()
                await connection.execute("SELECT pg_current_xact_id()")
                await transaction.rollback()
            rolled_back = await connection.fetchval(
                "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
            )
            epoch, horizon = await store.horizon(PROJECT)
            postgres.kill()
            connection.terminate()
            postgres.start()
            changed = await update(store, run.id, metadata={"after": "the crash"})
            assert changed.last_xid < rolled_back, "the crash forgot nothing: no experiment"
            groups, _ = await read_all(store, horizon, epoch=epoch)
            assert [group.last.xid for group in groups] == [changed.last_xid]
        finally:
            await store.close()


# ----------------------------------------------------------------------------- what a horizon is

XIDS = st.integers(1, 30)


@given(st.lists(XIDS, unique=True, max_size=8), XIDS, st.integers(0, 40), st.integers(1, 40))
def test_a_bounded_horizon_covers_what_the_snapshot_does_up_to_the_newest(
    open_xids: list[int], xmax: int, newest: int, xid: int
) -> None:
    xip = tuple(sorted(one for one in open_xids if one < xmax))
    snapshot = Horizon(xip[0] if xip else xmax, xmax, xip)
    horizon = bounded(snapshot, newest)
    assert horizon.is_sound()
    assert horizon.seen(xid) == (snapshot.seen(xid) and xid <= newest)


@st.composite
def horizons(draw: st.DrawFn) -> Horizon:
    xmax = draw(st.integers(1, 12))
    xip = draw(st.frozensets(st.integers(1, 12), max_size=4))
    below = tuple(sorted(xid for xid in xip if xid < xmax))
    return Horizon(below[0] if below else xmax, xmax, below)


@given(horizons(), horizons())
def test_one_covers_another_if_it_has_seen_all_of_it(one: Horizon, other: Horizon) -> None:
    has_seen_all = all(one.seen(xid) for xid in range(20) if other.seen(xid))
    assert one.covers(other) is (has_seen_all and one.xmax >= other.xmax)


def test_a_snapshot_is_read_as_postgresql_writes_it() -> None:
    assert parse_snapshot("10:10:") == Horizon(10, 10, ())
    assert parse_snapshot("10:14:10,12") == Horizon(10, 14, (10, 12))
