"""Clocks: whatever is due is done once, by whichever server sees it first."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from store import changes
from store.commands import FireTimer, Timer
from store.errors import NotFound
from store.model import Run, RunStatus
from store.runs import RunStore
from store.tables import heartbeats, runs
from store.timers import Timers
from tests.builders import PROJECT
from tests.faults import Proxy
from tests.store.asking import ask, create, one, rows, sql, until, update, whole_history
from tests.store.conftest import OpenStore

EXECUTING, QUEUED = RunStatus.EXECUTING, RunStatus.QUEUED

LEADS_TO = {
    Timer.DELAY: QUEUED,
    Timer.TTL: RunStatus.EXPIRED,
    Timer.MAX_DURATION: RunStatus.TIMED_OUT,
    Timer.HEARTBEAT: RunStatus.CRASHED,
}


async def ticking(store: RunStore) -> dict[Timer, Run]:
    """A run for each of the four clocks, which runs out a second from now."""
    soon = datetime.now(UTC) + timedelta(seconds=1)
    none: dict[str, Any] = {"ttl": None, "max_duration": None, "heartbeat_timeout": None}
    return {
        Timer.DELAY: await create(store, **none, delay_until=soon),
        Timer.TTL: await create(store, **(none | {"ttl": 1})),
        Timer.MAX_DURATION: await create(store, **(none | {"max_duration": 1}), status=EXECUTING),
        Timer.HEARTBEAT: await create(store, **(none | {"heartbeat_timeout": 1}), status=EXECUTING),
    }


async def has_fired(store: RunStore, which: Iterable[Run]) -> bool:
    now = [await store.get_run(PROJECT, run.id) for run in which]
    return all(run.version > 1 for run in now)


async def test_each_clock_fires_once_and_soon_with_three_servers(open_store: OpenStore) -> None:
    """Taken out: the due time under the lock in `_fire`; the losers of the race refused nothing,
    since their steps were none, but a run that was queued again would have expired at once."""
    stores = [await open_store() for _ in range(3)]
    clocks = await ticking(stores[0])
    servers = [asyncio.create_task(store.timers.run()) for store in stores]
    await until(lambda: has_fired(stores[0], clocks.values()))
    # Another round of everybody finds nothing left to do.
    assert await asyncio.gather(*(store.timers.fire() for store in stores)) == [0, 0, 0]
    for server in servers:
        server.cancel()
    await asyncio.gather(*servers, return_exceptions=True)
    for timer, before in clocks.items():
        run = await stores[0].get_run(PROJECT, before.id)
        assert (run.status, run.version) == (LEADS_TO[timer], 2), timer
        history = await whole_history(stores[0], run.id)
        assert [change.version for change in history] == [1, 2]
        due = before.delayed_until or before.created_at + timedelta(seconds=1)
        # Due within a second; the machine may be busy.
        assert timedelta(0) <= history[-1].at - due < timedelta(seconds=3)
        if timer is not Timer.DELAY:
            assert run.error["name"] in ("Expired", "TimedOut", "HeartbeatLost")
            assert run.finished_at == run.updated_at
    assert await rows(stores[0], heartbeats) == []


async def test_who_comes_too_late_to_a_clock_changes_nothing(store: RunStore) -> None:
    """The worker has taken the run between the look at the clock and the lock."""
    clocks = await ticking(store)
    old = datetime.now(UTC) - timedelta(seconds=60)
    for timer, run in clocks.items():
        for due_at in (old, old + timedelta(days=1)):
            late = FireTimer(project=PROJECT, run_id=run.id, timer=timer, due_at=due_at)
            assert (await one(store, late)).run == run
    gone = FireTimer(project=PROJECT, run_id="run_none", timer=Timer.TTL, due_at=old)
    assert (await one(store, gone)).run is None
    taken = await update(store, clocks[Timer.TTL].id, status=EXECUTING)
    due_at = taken.created_at + timedelta(seconds=1)
    await ask(store, FireTimer(project=PROJECT, run_id=taken.id, timer=Timer.TTL, due_at=due_at))
    assert await store.get_run(PROJECT, taken.id) == taken


async def test_of_many_who_fire_one_clock_one_does(open_store: OpenStore) -> None:
    stores = [await open_store() for _ in range(3)]
    run = await create(stores[0], ttl=1)
    due_at = run.created_at + timedelta(seconds=1)
    fire = FireTimer(project=PROJECT, run_id=run.id, timer=Timer.TTL, due_at=due_at)
    await until(lambda: datetime.now(UTC) > due_at)
    done = await asyncio.gather(*(one(stores[i % 3], fire) for i in range(12)))
    assert {answer.run.version for answer in done if answer.run} == {2}
    assert len(await whole_history(stores[0], run.id)) == 2


async def test_heartbeats_move_the_clock_and_nothing_else(store: RunStore) -> None:
    """Outside the run, its version and the log: thousands of workers say so every few seconds."""
    run = await create(store, status=EXECUTING, heartbeat_timeout=30, ttl=None, max_duration=None)
    (first,) = await rows(store, heartbeats)
    assert first.due_at == run.created_at + timedelta(seconds=30)
    # As if that had been 29.9 s ago.
    await age(store, timedelta(seconds=29.9))
    before = await store.get_run(PROJECT, run.id)
    await store.heartbeat(PROJECT, run.id)
    (beat,) = await rows(store, heartbeats)
    assert beat.due_at > first.due_at
    await until(lambda: datetime.now(UTC) > run.created_at + timedelta(seconds=0.1))
    assert await store.timers.fire() == 0
    assert await store.get_run(PROJECT, run.id) == before
    await age(store, timedelta(seconds=31))
    assert await store.timers.fire() == 1
    assert (await store.get_run(PROJECT, run.id)).status == RunStatus.CRASHED


async def age(store: RunStore, by: timedelta) -> None:
    """As if the run had begun, and its worker had been heard, so much earlier."""

    def work(connection: Connection) -> None:
        since = connection.execute(sa.select(runs.c.executing_since)).scalar_one()
        due_at = connection.execute(sa.select(heartbeats.c.due_at)).scalar_one()
        connection.execute(sa.update(runs).values(executing_since=since - by))
        connection.execute(sa.update(heartbeats).values(due_at=due_at - by))

    await store.database.write(work)


async def test_a_heartbeat_means_nothing_to_a_run_that_promised_none(store: RunStore) -> None:
    quiet = await create(store, heartbeat_timeout=None, status=EXECUTING)
    waiting = await create(store, heartbeat_timeout=5)
    for run in (quiet, waiting):
        await store.heartbeat(PROJECT, run.id)
    assert await rows(store, heartbeats) == []
    with pytest.raises(NotFound):
        await store.heartbeat(PROJECT, "run_none")


async def test_a_new_spell_of_executing_begins_its_heartbeats_anew(store: RunStore) -> None:
    run = await create(store, status=EXECUTING, heartbeat_timeout=600)
    await update(store, run.id, status=RunStatus.FROZEN)
    assert await rows(store, heartbeats) == []
    run = await update(store, run.id, status=EXECUTING)
    (row,) = await rows(store, heartbeats)
    assert row.due_at == run.updated_at + timedelta(seconds=600)


async def test_postgresql_itself_says_what_time_it_is(
    migrated_postgres: str, open_any: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two servers' clocks differ: by them a run would expire before it was queued.

    Taken out: the database's time in `database_time`.
    """

    def no_such_clock() -> datetime:
        raise AssertionError("this machine's clock was asked")

    monkeypatch.setattr(changes, "_now", no_such_clock)
    store = await open_any(migrated_postgres)
    run = await create(store, delay_until=datetime.now(UTC) + timedelta(hours=1))
    past = "UPDATE runs SET due_at = now() - interval '1 s', delayed_until = now() - interval '1 s'"
    await sql(store, past)
    assert await store.timers.fire() == 1
    assert (await store.get_run(PROJECT, run.id)).status == QUEUED


async def test_a_backlog_is_worked_off_oldest_first_in_lots(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.timers.AT_ONCE", 4)
    waiting = [await create(store, ttl=1, heartbeat_timeout=None) for _ in range(10)]
    await until(lambda: datetime.now(UTC) > waiting[-1].created_at + timedelta(seconds=1))
    fired = [await store.timers.fire() for _ in range(4)]
    assert fired == [4, 4, 2, 0]


async def test_timers_outlive_a_database_that_goes_away(
    migrated_postgres: str, open_any: OpenStore
) -> None:
    """Taken out: what `Timers.run` catches; the clocks of that process stood still for good."""
    async with Proxy(migrated_postgres) as proxy:
        store = await open_any(proxy.url)
        run = await create(store, ttl=1)
        failed = asyncio.Event()

        class Told(Timers):
            async def fire(self) -> int:
                try:
                    return await super().fire()
                except Exception:
                    failed.set()
                    raise

        timers = Told(store.database, store._writer.submit, look_every_s=0.05)
        task = asyncio.create_task(timers.run())
        async with proxy.closed():
            await failed.wait()
        await until(lambda: has_fired(store, [run]))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
