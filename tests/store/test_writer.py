"""Group commit: many callers, few commits, and what a caller is told when things break."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from store.broker import Hint
from store.broker.memory import MemoryBroker
from store.commands import CreateRun, Limits, Submission, UpdateRun
from store.errors import NotFound, Unavailable
from store.model import Run, RunQuery, RunStatus
from store.runs import RunStore
from store.writer import group
from store.writer.group import Committed
from tests.builders import PROJECT, a_create
from tests.store.asking import (
    ask,
    assert_whole,
    create,
    outcome,
    update,
    whole_history,
)
from tests.store.conftest import OpenStore

EXECUTING = RunStatus.EXECUTING


class Heard(MemoryBroker):
    """Keeps what was published, in its order."""

    def __init__(self, *, broken: bool = False) -> None:
        super().__init__()
        self.hints: list[Hint] = []
        self.broken = broken

    def publish(self, hints: Sequence[Hint]) -> None:
        self.hints += hints
        if self.broken:
            raise ZeroDivisionError


# ---------------------------------------------------------------------------------- group commit


async def test_64_callers_share_their_commits(open_store: OpenStore) -> None:
    """A commit costs a sync of the disk; a caller who had one alone would have a 64th of it."""
    commits: list[int] = []
    store = await open_store(committed=lambda count, _s: commits.append(count))
    runs = [await create(store, metadata={}) for _ in range(64)]
    commits.clear()

    async def caller(run: Run) -> None:
        for n in range(5):
            await update(store, run.id, metadata={"n": n})

    await asyncio.gather(*map(caller, runs))
    assert sum(commits) == 320
    assert len(commits) <= 320 / 8
    await assert_whole(store, runs)


async def test_a_caller_on_an_idle_server_waits_for_nobody(open_store: OpenStore) -> None:
    commits: list[int] = []
    store = await open_store(committed=lambda count, _s: commits.append(count))
    for _ in range(3):
        await create(store)
    assert commits == [1, 1, 1]


async def test_hints_are_published_after_the_commit_and_in_its_order(
    open_store: OpenStore,
) -> None:
    """A hint of something that is then rolled back would be believed."""
    heard = Heard()
    store = await open_store(broker=heard)
    run = await create(store, metadata={}, payload="secret")
    for n in range(3):
        await update(store, run.id, metadata={"n": n})
    with pytest.raises(NotFound):
        await update(store, "run_none", metadata={})
    history = await whole_history(store, run.id)
    assert [(hint.change.version, hint.change.xid) for hint in heard.hints] == [
        (change.version, change.xid) for change in history
    ]
    assert [hint.run.version for hint in heard.hints if hint.run] == [1, 2, 3, 4]


async def test_a_broker_that_fails_does_not_make_a_commit_fail(open_store: OpenStore) -> None:
    """Taken out: the look at what `publish` raises; the group counted as rolled back and was
    carried out again."""
    store = await open_store(broker=Heard(broken=True))
    run = await create(store)
    assert (await update(store, run.id, metadata={"a": 1})).version == 2
    await assert_whole(store, [run])


async def test_one_guilty_statement_fails_alone(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken out: running a failed group again one by one; all eleven failed."""
    runs = [await create(store, metadata={}) for _ in range(11)]
    sizes: list[int] = []

    def with_a_bad_statement(
        connection: Connection, submissions: Sequence[Submission], limits: Limits
    ) -> Committed:
        committed = group.run_group(connection, submissions, limits)
        sizes.append(len(submissions))
        for submission in submissions:
            if submission.commands[0].run_id == runs[5].id:  # type: ignore[union-attr]
                connection.execute(sa.text("INSERT INTO no_such_table VALUES (1)"))
        return committed

    monkeypatch.setattr("store.writer.run_group", with_a_bad_statement)
    # One is in flight, or two, when the others come: those make one group.
    results = await asyncio.gather(
        *(update(store, run.id, metadata={"a": 1}) for run in runs), return_exceptions=True
    )
    failed = [i for i, result in enumerate(results) if isinstance(result, BaseException)]
    assert failed == [5]
    assert max(sizes) > 1
    monkeypatch.undo()
    assert [(await store.get_run(PROJECT, run.id)).version for run in runs] == [
        1 if i == 5 else 2 for i in range(11)
    ]
    await assert_whole(store, runs)


async def test_a_caller_who_is_cancelled_at_any_await_leaves_all_or_nothing(
    store: RunStore,
) -> None:
    """And does no harm to whoever comes after, or shares the group."""
    run = await create(store, metadata={})
    done = 0
    for turns in range(40):
        before = (await store.get_run(PROJECT, run.id)).version
        task = asyncio.create_task(update(store, run.id, metadata={"turn": turns}))
        beside = asyncio.create_task(update(store, run.id, metadata={"beside": turns}))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        results = await asyncio.gather(task, beside, return_exceptions=True)
        assert isinstance(results[1], Run)
        done = (await update(store, run.id, metadata={"after": turns})).version
        assert done - before in (2, 3)
    history = await whole_history(store, run.id)
    assert [change.version for change in history] == list(range(1, done + 1))


async def test_cancelled_readers_leave_the_readers_connections_whole(store: RunStore) -> None:
    run = await create(store)
    for turns in range(40):
        tasks = [asyncio.create_task(store.get_run(PROJECT, run.id)) for _ in range(10)]
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    found = await asyncio.gather(*(store.get_run(PROJECT, run.id) for _ in range(20)))
    assert found == [run] * 20


async def test_closing_commits_what_was_taken_and_takes_no_more(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller that was not refused is answered.

    Taken out: waiting for more than the group in flight.
    """
    monkeypatch.setattr("store.writer.GROUP_COMMANDS", 10)
    store, other = await open_store(), await open_store()
    tasks = [asyncio.create_task(create(store)) for _ in range(100)]
    await asyncio.sleep(0)
    closing = asyncio.create_task(store.close())
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await create(store)
    made = await asyncio.gather(*tasks)
    await closing
    found, _ = await other.list_runs(RunQuery(project=PROJECT, limit=1000))
    assert {run.id for run in found} == {run.id for run in made}


async def test_who_comes_when_too_many_wait_is_told_so_at_once(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue without a bound is memory without a bound, and answers that nobody waits for."""
    monkeypatch.setattr("store.writer.WAITING_COMMANDS", 10)
    monkeypatch.setattr("store.writer.GROUP_COMMANDS", 4)
    results = await asyncio.gather(*(create(store) for _ in range(40)), return_exceptions=True)
    words = [outcome(result) for result in results]
    assert set(words) == {"Run", "Unavailable"}
    assert words.count("Run") >= 10
    assert len((await store.list_runs(RunQuery(project=PROJECT, limit=1000)))[0]) == words.count(
        "Run"
    )
    await create(store)


async def test_many_who_wait_for_one_busy_run_do_not_hold_up_the_others(
    store: RunStore,
) -> None:
    """Each new one used to look through all who wait: with thousands that is quadratic."""
    busy = await create(store, metadata={})
    waiting = [asyncio.create_task(update(store, busy.id, metadata={"n": n})) for n in range(600)]
    quick = [await create(store) for _ in range(5)]
    await asyncio.gather(*waiting)
    assert (await store.get_run(PROJECT, busy.id)).version == 601
    assert len(quick) == 5


async def test_a_group_costs_three_statements_however_many_its_commands(store: RunStore) -> None:
    """Runs locked, transaction and time had, rows and log written; and the commit. To SQLite the
    driver hands what is written, row by row."""
    statements: list[str] = []
    engine: Any = store.database._write_engine  # type: ignore[attr-defined]
    sa.event.listen(
        getattr(engine, "sync_engine", engine),
        "before_cursor_execute",
        lambda _c, _cursor, statement, *_: statements.append(statement),
    )
    creates: list[CreateRun] = [a_create(status=EXECUTING) for _ in range(50)]
    outcomes = await ask(store, *creates)
    statements.clear()
    await ask(
        store,
        *(UpdateRun(project=PROJECT, run_id=done.run.id, metadata={"a": 1}) for done in outcomes),
    )
    assert len([s for s in statements if not s.startswith("BEGIN")]) <= 3, statements
