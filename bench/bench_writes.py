"""How many changes a second the store commits: single updates by many callers, and bulk changes.

SQLite syncs each commit, PostgreSQL has fsync on: what was answered is on disk. Before a number
is printed it is seen that every run stands at the version that its callers were told, with a
history of every version once.
"""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from bench.stats import Spread, measured, table
from store.broker.memory import MemoryBroker
from store.commands import CreateRun, Done, NewRun, Submission, UpdateRun
from store.model import Run, RunStatus, new_id
from store.runs import RunStore
from store.tables import changes, runs
from tests.servers import Postgres

PROJECT = "bench"
CALLERS = 64
SECONDS = 5.0
BULK_CALLERS = 4
BULK = 500
"""Commands a submission; 1,000 is what one request may hold."""


@dataclass
class Load:
    """What the callers of one measurement did."""

    changes: int = 0
    commits: int = 0
    took_s: list[float] = field(default_factory=list)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, Postgres(fsync=True) as postgres:
        rows = [
            *asyncio.run(measure("SQLite", f"sqlite:///{Path(folder) / 'bench.db'}")),
            *asyncio.run(measure(f"PostgreSQL {postgres.version}", postgres.create_database())),
        ]
    head = ("database", "load", "changes/s", "commits/s", "p50 ms", "p90 ms", "p99 ms", "µs CPU")
    print(
        f"{CALLERS} callers of single updates; {BULK_CALLERS} callers of {BULK} commands each;"
        f" {SECONDS:.0f} s each; milliseconds from the call to its answer;"
        " CPU of this process for each change\n"
    )
    print(table(head, rows))


async def measure(name: str, url: str) -> list[tuple[object, ...]]:
    load = Load()

    def committed(_changes: int, _seconds: float) -> None:
        load.commits += 1

    store = await RunStore.open(url, broker=MemoryBroker(), committed=committed)
    try:
        rows: list[tuple[object, ...]] = []
        for title, callers, call in (
            ("single updates", CALLERS, single),
            ("bulk updates", BULK_CALLERS, bulk_updates),
            ("bulk creates", BULK_CALLERS, bulk_creates),
        ):
            made = await make(store, CALLERS if call is single else BULK_CALLERS * BULK)
            share = len(made) // callers
            lots = [made[i * share : (i + 1) * share] for i in range(callers)]
            load.changes, load.commits, load.took_s = 0, 0, []
            with measured() as cost:
                until = time.perf_counter() + SECONDS
                await asyncio.gather(*(repeat(call, store, lot, load, until) for lot in lots))
            await assert_whole(store)
            spread = Spread.of(load.took_s).times(1_000)
            rows.append(
                (
                    name,
                    title,
                    load.changes / cost.wall_s,
                    load.commits / cost.wall_s,
                    spread.p50,
                    spread.p90,
                    spread.p99,
                    cost.per(load.changes),
                )
            )
        return rows
    finally:
        await store.close()


Call = Callable[[RunStore, Sequence[Run], int], Awaitable[int]]


async def repeat(call: Call, store: RunStore, lot: Sequence[Run], load: Load, until: float) -> None:
    turn = 0
    while (began := time.perf_counter()) < until:
        turn += 1
        done = await call(store, lot, turn)
        load.changes += done  # not in one line: others add to it while this one waits
        load.took_s.append(time.perf_counter() - began)


async def single(store: RunStore, lot: Sequence[Run], turn: int) -> int:
    (run,) = lot
    return await submit(store, [update(run, turn)], expected=turn + 1)


async def bulk_updates(store: RunStore, lot: Sequence[Run], turn: int) -> int:
    return await submit(store, [update(run, turn) for run in lot], expected=turn + 1)


async def bulk_creates(store: RunStore, lot: Sequence[Run], turn: int) -> int:
    return await submit(store, [a_create(turn) for _ in lot], expected=1)


async def submit(
    store: RunStore, commands: Sequence[CreateRun | UpdateRun], *, expected: int
) -> int:
    outcomes = await store.execute(Submission(project=PROJECT, commands=tuple(commands)))
    for done in outcomes:
        if not isinstance(done, Done) or done.run is None or done.run.version != expected:
            raise AssertionError(f"not version {expected}: {done}")
    return len(outcomes)


async def make(store: RunStore, count: int) -> list[Run]:
    made: list[Run] = []
    while len(made) < count:
        some = tuple(a_create(0) for _ in range(min(BULK, count - len(made))))
        outcomes = await store.execute(Submission(project=PROJECT, commands=some))
        made += [done.run for done in outcomes if isinstance(done, Done) and done.run]
    return made


def a_create(number: int) -> CreateRun:
    new = NewRun(
        task_identifier="send-invoice",
        payload={"invoice": number, "to": "somebody@example.com"},
        tags=("user:7",),
        metadata={"progress": 0},
        status=RunStatus.EXECUTING,
    )
    return CreateRun(project=PROJECT, run_id=new_id("run"), new=new)


def update(run: Run, turn: int) -> UpdateRun:
    return UpdateRun(
        project=PROJECT, run_id=run.id, metadata={"progress": turn, "step": f"step {turn}"}
    )


async def assert_whole(store: RunStore) -> None:
    """Raises unless each run's history has every version up to its own, once."""
    history = (
        sa.select(
            changes.c.run_id,
            sa.func.count().label("count"),
            sa.func.count(changes.c.version.distinct()).label("versions"),
            sa.func.max(changes.c.version).label("last"),
        )
        .group_by(changes.c.run_id)
        .subquery()
    )
    torn = (
        sa.select(sa.func.count())
        .select_from(runs)
        .outerjoin(history, history.c.run_id == runs.c.id)
        .where(
            sa.or_(
                history.c.count.is_(None),
                history.c.count != runs.c.version,
                history.c.versions != runs.c.version,
                history.c.last != runs.c.version,
            )
        )
    )
    bad = await store.database.read(lambda connection: connection.execute(torn).scalar_one())
    if bad:
        raise AssertionError(f"{bad} runs have lost or doubled changes")


if __name__ == "__main__":
    main()
