"""Short ways to ask a store, for tests that are about what comes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from store.commands import (
    Command,
    CreateBatch,
    CreateRun,
    DeleteRun,
    Done,
    SealBatch,
    Submission,
    UpdateRun,
)
from store.model import Batch, Change, Group, Horizon, Run, RunQuery, RunStatus, new_id
from store.runs import RunStore
from tests.builders import PROJECT, a_create, a_new_run

LONG_S = 30.0
"""A bound for whatever should happen; nothing is expected to take so long."""

UNTOLD = frozenset({"payload", "version", "updatedAt"})
"""What a history does not tell of a run, or says beside its fields."""


async def ask(store: RunStore, *commands: Command, **over: Any) -> list[Any]:
    """The outcomes of commands that each stand or fall alone."""
    submission = Submission(**({"project": PROJECT, "commands": commands} | over))
    return list(await store.execute(submission))


async def one(store: RunStore, command: Command, **over: Any) -> Done:
    """What came of a command; raises what refused it."""
    (outcome,) = await ask(store, command, **({"atomic": True} | over))
    assert isinstance(outcome, Done)
    return outcome


async def create(store: RunStore, *, project: str = PROJECT, **over: Any) -> Run:
    done = await one(store, a_create(project=project, **over), project=project)
    assert done.run is not None
    return done.run


async def update(store: RunStore, run_id: str, *, project: str = PROJECT, **fields: Any) -> Run:
    command = UpdateRun(project=project, run_id=run_id, **fields)
    done = await one(store, command, project=project)
    assert done.run is not None
    return done.run


async def finish(store: RunStore, run_id: str) -> Run:
    """Brings a queued run to COMPLETED."""
    await update(store, run_id, status=RunStatus.EXECUTING)
    return await update(store, run_id, status=RunStatus.COMPLETED)


async def delete(store: RunStore, run_id: str) -> Run:
    done = await one(store, DeleteRun(project=PROJECT, run_id=run_id))
    assert done.run is not None
    return done.run


async def open_batch(store: RunStore) -> str:
    batch_id = new_id("batch")
    await one(store, CreateBatch(project=PROJECT, batch_id=batch_id))
    return batch_id


async def seal(store: RunStore, batch_id: str) -> Batch:
    done = await one(store, SealBatch(project=PROJECT, batch_id=batch_id))
    assert done.batch is not None
    return done.batch


async def whole_history(store: RunStore, run_id: str, *, project: str = PROJECT) -> list[Change]:
    found: list[Change] = []
    after: int | None = 0
    while after is not None:
        page, after = await store.history(project, run_id, after, 1000)
        found += page
    return found


async def replayed(store: RunStore, run: Run) -> dict[str, Any]:
    """The run as its history tells it."""
    fields: dict[str, Any] = {}
    for change in await whole_history(store, run.id, project=run.project):
        fields |= change.changed
    return fields


def as_json(value: Any) -> bytes:
    """What the value is on the wire: there 1 is not true, and 1.0 is not 1."""
    return msgspec.json.encode(value, order="deterministic")


async def read_all(
    store: RunStore, since: Horizon, *, project: str = PROJECT, limit: int = 1000, **over: Any
) -> tuple[list[Group], Horizon]:
    """All that `since` has not seen, page by page, and the horizon to go on from."""
    groups: list[Group] = []
    page = await store.read_log(project, since, limit=limit, **over)
    first = page.horizon
    while True:
        groups += page.groups
        if page.next is None:
            return groups, first
        page = await store.read_log(project, since, after=page.next, limit=limit, **over)


async def rows(store: RunStore, table: sa.Table) -> list[sa.Row[Any]]:
    """All there is in a table."""
    # The log has no place of its own on PostgreSQL.
    columns = [c for c in table.c if c.name != "seq" or store.database.dialect == "sqlite"]
    return await store.database.read(lambda c: list(c.execute(sa.select(*columns)).all()))


async def sql(store: RunStore, text: str, **values: Any) -> Sequence[sa.Row[Any]]:
    """Carries out a statement behind the store's back; its rows, if it has any."""

    def work(connection: sa.Connection) -> Sequence[sa.Row[Any]]:
        result = connection.execute(sa.text(text), values)
        return result.all() if result.returns_rows else ()

    return await store.database.write(work)


async def until(condition: Callable[[], Any], what: str = "it") -> Any:
    """What the condition gives, once that is true; it may be awaited."""
    try:
        async with asyncio.timeout(LONG_S):
            while True:
                value = condition()
                if isinstance(value, Awaitable):
                    value = await value
                if value:
                    return value
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"{what} did not happen in {LONG_S} s") from None


async def all_runs(store: RunStore) -> list[Run]:
    return (await store.list_runs(RunQuery(project=PROJECT, limit=1000)))[0]


def with_token(token: str, **over: Any) -> CreateRun:
    """The command that makes `a_new_run(**over)` by a one-time token."""
    return CreateRun(
        project=PROJECT, run_id=new_id("run"), new=a_new_run(**over), one_time_token=token
    )


def outcome(result: object) -> str:
    """A word for what came of something: to count them."""
    return type(result).__name__


async def assert_whole(store: RunStore, runs: Sequence[Run]) -> None:
    """Each run's history has every version once, and ends where the run stands."""
    for run in runs:
        now = await store.get_run(PROJECT, run.id)
        versions = [change.version for change in await whole_history(store, run.id)]
        assert versions == list(range(1, now.version + 1))
