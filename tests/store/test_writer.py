"""Group commit: many callers, few commits, and what a caller is told when things break."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import asyncpg
import msgspec
import pytest
import pytest_asyncio
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from store import writer
from store.broker import Hint
from store.broker.memory import MemoryBroker
from store.commands import CreateBatch, CreateRun, Limits, Submission, UpdateRun
from store.errors import NotFound, OutcomeUnknown, Unavailable
from store.model import Run, RunQuery, RunStatus, new_id
from store.runs import RunStore
from store.writer import group
from store.writer.group import Committed
from store.writer.open_claims import NOTHING, OpenClaim, OpenClaims, Tried
from tests.builders import PROJECT, a_create
from tests.faults import Proxy, Way, terminate_backends
from tests.servers import Postgres
from tests.store.asking import (
    ask,
    create,
    one,
    outcome,
    until,
    update,
    whole_history,
)
from tests.store.conftest import OpenStore
from tests.store.jobbing import a_job, begin

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


async def assert_whole(store: RunStore, runs: Sequence[Run]) -> None:
    """Each run's history has every version once, and ends where the run stands."""
    for run in runs:
        now = await store.get_run(PROJECT, run.id)
        versions = [change.version for change in await whole_history(store, run.id)]
        assert versions == list(range(1, now.version + 1))


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


class Gated:
    """A database whose commits wait for a gate; keeps how many submissions each was of, and how
    many claims went along."""

    dialect = "postgresql"

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = asyncio.Event()
        self.sizes: list[int] = []
        self.claims: list[int] = []
        self.open_claims = OpenClaims()
        monkeypatch.setattr(writer, "run_group", self._run_group)

    def _run_group(
        self,
        _connection: Any,
        submissions: Sequence[Submission],
        _limits: Any,
        claims: Sequence[OpenClaim] = (),
    ) -> Any:
        self.sizes.append(len(submissions))
        self.claims.append(len(claims))
        return Committed([[] for _ in submissions], [], 1, [NOTHING for _ in claims])

    async def write(self, work: Callable[[Any], Any]) -> Any:
        committed = work(None)
        await self.open.wait()
        return committed

    def make_writer(self) -> writer.Writer:
        database: Any = self
        return writer.Writer(
            database, Limits(), lambda hints: None, in_flight=2, claims=self.open_claims
        )

    def look(self) -> asyncio.Future[Tried]:
        return self.open_claims.look(OpenClaim(PROJECT, frozenset({"task"}), "w", 60, None))

    @staticmethod
    async def submit(under_test: writer.Writer) -> None:
        await under_test.submit(Submission(project=PROJECT, commands=(a_create(),)))


async def test_few_who_come_during_a_commit_share_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group of one costs nearly as much as one of thirty: at half a server's rate, groups begun
    beside each other doubled its work, and what changed reached its readers twice as late."""
    monkeypatch.setattr(writer, "GATHER_S", 60.0)
    gated = Gated(monkeypatch)
    async with asyncio.TaskGroup() as tasks:
        under_test = gated.make_writer()
        for _ in range(6):
            tasks.create_task(gated.submit(under_test))
        await until(lambda: gated.sizes)
        assert gated.sizes == [1]
        gated.open.set()
    assert gated.sizes == [1, 5]


async def test_many_who_come_during_a_commit_make_a_group_beside_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While one commit is synced to disk, the next is worked out."""
    monkeypatch.setattr(writer, "GATHER_S", 60.0)
    gated = Gated(monkeypatch)
    async with asyncio.TaskGroup() as tasks:
        under_test = gated.make_writer()
        for _ in range(1 + writer.GROUP_BESIDE):
            tasks.create_task(gated.submit(under_test))
        await until(lambda: gated.sizes == [1, writer.GROUP_BESIDE])
        gated.open.set()


async def test_nobody_is_gathered_for_long_behind_a_commit_that_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may wait for a lock that another process holds."""
    gated = Gated(monkeypatch)
    async with asyncio.TaskGroup() as tasks:
        under_test = gated.make_writer()
        for _ in range(3):
            tasks.create_task(gated.submit(under_test))
        await until(lambda: gated.sizes == [1, 2])
        gated.open.set()


async def test_claims_that_look_during_a_commit_go_with_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A small group of their own beside it makes both slower.

    Taken out: in `_gathers`, that claims wait too; each began a group.
    """
    monkeypatch.setattr(writer, "GATHER_S", 60.0)
    gated = Gated(monkeypatch)
    async with asyncio.TaskGroup() as tasks:
        under_test = gated.make_writer()
        tasks.create_task(gated.submit(under_test))
        await until(lambda: gated.sizes)
        looks = [gated.look() for _ in range(3)]
        tasks.create_task(gated.submit(under_test))
        await asyncio.sleep(0)
        assert gated.claims == [0]
        gated.open.set()
        assert await asyncio.gather(*looks) == [NOTHING] * 3
    assert (gated.sizes, gated.claims) == ([1, 1], [0, 3])


async def test_no_claim_is_gathered_for_long_behind_a_commit_that_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gated = Gated(monkeypatch)
    async with asyncio.TaskGroup() as tasks:
        under_test = gated.make_writer()
        tasks.create_task(gated.submit(under_test))
        await until(lambda: gated.sizes)
        look = gated.look()
        await until(lambda: gated.claims == [0, 1])
        gated.open.set()
        assert await look == NOTHING


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


# --------------------------------------------------------- the answer to a COMMIT that is lost


@pytest_asyncio.fixture
async def proxied(
    own_postgres: str, open_any: OpenStore
) -> AsyncIterator[tuple[Proxy, RunStore, str]]:
    """A store on PostgreSQL by way of a proxy, and the database's own URL."""
    async with Proxy(own_postgres) as proxy:
        yield proxy, await open_any(proxy.url), own_postgres


class AtCommit:
    """Calls something when a group has been carried out and is about to be committed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, then: Callable[[], None]) -> None:
        self.committed: Committed | None = None

        def carried_out(*args: Any) -> Committed:
            committed = group.run_group(*args)
            if self.committed is None:
                self.committed = committed
                then()
            return committed

        monkeypatch.setattr("store.writer.run_group", carried_out)


async def status_of(url: str, xid: int) -> str:
    connection = await asyncpg.connect(url)
    try:
        text = "SELECT pg_xact_status($1::text::xid8)"
        return str(await connection.fetchval(text, str(xid)))
    finally:
        await connection.close()


async def test_a_commit_whose_answer_is_lost_is_a_success_if_it_was_committed(
    proxied: tuple[Proxy, RunStore, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken out: asking for the outcome; the caller was told that nothing was done, tried again,
    and had two runs."""
    proxy, store, url = proxied
    await create(store)
    at = AtCommit(monkeypatch, lambda: proxy.stall(Way.DOWN))
    task = asyncio.create_task(create(store, payload="once"))
    committed = await until(lambda: at.committed)
    while await status_of(url, committed.xid) != "committed":
        await asyncio.sleep(0.01)
    proxy.cut()
    proxy.flow(Way.DOWN)
    run = await task
    assert run == await store.get_run(PROJECT, run.id)
    assert len((await store.list_runs(RunQuery(project=PROJECT)))[0]) == 2


async def test_a_batch_alone_leaves_nothing_in_the_log_and_is_asked_for_all_the_same(
    proxied: tuple[Proxy, RunStore, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken out: the transaction's id where nothing was logged; the caller was told that nothing
    was done."""
    proxy, store, url = proxied
    at = AtCommit(monkeypatch, lambda: proxy.stall(Way.DOWN))
    batch_id = new_id("batch")
    task = asyncio.create_task(one(store, CreateBatch(project=PROJECT, batch_id=batch_id)))
    committed = await until(lambda: at.committed)
    while await status_of(url, committed.xid) != "committed":
        await asyncio.sleep(0.01)
    proxy.cut()
    proxy.flow(Way.DOWN)
    assert (await task).batch == await store.get_batch(PROJECT, batch_id)


async def test_a_claim_that_found_nothing_has_no_outcome_to_be_unknown(
    proxied: tuple[Proxy, RunStore, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has written nothing, so it is looked once more. Without an id to ask for, all who waited
    for a run were told that theirs may be claimed."""
    proxy, store, _url = proxied
    await create(store)
    at = AtCommit(monkeypatch, lambda: proxy.stall(Way.DOWN))
    task = asyncio.create_task(store.claims.claim(PROJECT, ["nobody-makes-it"], "w", 60))
    await until(lambda: at.committed is not None)
    proxy.cut()
    proxy.flow(Way.DOWN)
    assert await task is None


async def test_a_commit_that_never_arrived_is_made_again_once(
    proxied: tuple[Proxy, RunStore, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database says that nothing was done: then to do it again is no risk.

    Taken out: the second try; callers were told Unavailable by a database that was there.
    """
    proxy, store, _url = proxied
    await create(store)
    at = AtCommit(monkeypatch, lambda: proxy.stall(Way.UP))
    task = asyncio.create_task(create(store, payload="once"))
    await until(lambda: at.committed)
    await asyncio.sleep(0)
    proxy.cut()
    proxy.flow(Way.UP)
    run = await task
    assert run == await store.get_run(PROJECT, run.id)
    assert len((await store.list_runs(RunQuery(project=PROJECT)))[0]) == 2


async def test_what_cannot_be_known_is_said_as_unknown(
    proxied: tuple[Proxy, RunStore, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither "done" nor "not done" would be true."""
    monkeypatch.setattr("store.writer.OUTCOME_WAIT_S", 0.3)
    proxy, store, _url = proxied
    await create(store)
    at = AtCommit(monkeypatch, lambda: proxy.stall(Way.DOWN))
    task = asyncio.create_task(create(store))
    await until(lambda: at.committed)
    async with proxy.closed():
        with pytest.raises(OutcomeUnknown):
            await task
    proxy.flow(Way.DOWN)
    await create(store)


async def test_what_was_not_begun_is_not_said_to_be_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One by one, after the group has failed: the first loses its COMMIT, and nobody can say what
    became of that; of the others nothing was sent."""
    monkeypatch.setattr(writer, "OUTCOME_WAIT_S", 0.05)
    gated = Gated(monkeypatch)
    failures = [ZeroDivisionError(), OutcomeUnknown("lost")]

    async def write(work: Callable[[Any], Any]) -> Any:
        work(None)
        await gated.open.wait()
        raise failures.pop(0)

    async def read(*_: Any) -> Any:
        raise Unavailable("away")

    monkeypatch.setattr(gated, "write", write)
    monkeypatch.setattr(gated, "read", read, raising=False)
    under_test = gated.make_writer()
    submission = Submission(project=PROJECT, commands=(a_create(),))
    group = [writer._Waiting(submission, asyncio.get_running_loop().create_future()) for _ in "abc"]
    gated.open.set()
    await under_test._run(group, [])
    told = [type(one.future.exception()) for one in group]
    assert told == [OutcomeUnknown, Unavailable, Unavailable]


async def test_another_transaction_under_the_same_id_is_not_taken_for_ours(
    own_postgres: str, open_any: OpenStore
) -> None:
    """A crash makes PostgreSQL forget ids, and give them out again: "committed" is then said of
    somebody else's.

    Taken out: the look into the log after "committed".
    """
    store = await open_any(own_postgres)
    run = await create(store)
    writer = store._writer
    (change,) = await whole_history(store, run.id)
    mine = Committed([], [Hint(change, None)], change.xid)
    assert await writer._outcome(mine) == "committed"
    lost = msgspec.structs.replace(change, run_id=new_id("run"))
    assert await writer._outcome(Committed([], [Hint(lost, None)], change.xid)) == "aborted"
    # An id that was never given out, or is forgotten.
    assert await writer._outcome(Committed([], [], change.xid + 1_000_000)) == "aborted"


# ------------------------------------------------------------------- connections that are cut off


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
