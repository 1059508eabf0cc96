"""The answer to a COMMIT that is lost: what is done, and what a caller is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import asyncpg
import msgspec
import pytest
from sqlalchemy.engine import Connection

from store import writer
from store.broker import Hint
from store.commands import CreateBatch, MutateMetadata, Submission
from store.errors import OutcomeUnknown, Unavailable
from store.metadata import MetadataOp, MetadataOperation
from store.model import RunQuery, new_id
from store.runs import RunStore
from store.writer import group
from store.writer.group import Committed
from tests.builders import PROJECT, a_create
from tests.faults import Proxy, Way
from tests.store.asking import create, one, until, whole_history
from tests.store.conftest import OpenStore
from tests.store.gated import Gated


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


async def is_committed(url: str, xid: int) -> bool:
    connection = await asyncpg.connect(url)
    try:
        text = "SELECT pg_xact_status($1::text::xid8)"
        return bool(await connection.fetchval(text, str(xid)) == "committed")
    finally:
        await connection.close()


async def lose_the_answer(proxy: Proxy, at: AtCommit, url: str) -> None:
    """Cuts the connection off that waits for it, once the group is committed."""
    committed = await until(lambda: at.committed)
    await until(lambda: is_committed(url, committed.xid))
    proxy.cut()
    proxy.flow(Way.DOWN)


async def test_a_commit_whose_answer_is_lost_is_a_success_if_it_was_committed(
    proxied: tuple[Proxy, RunStore, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken out: asking for the outcome; the caller was told that nothing was done, tried again,
    and had two runs."""
    proxy, store, url = proxied
    await create(store)
    at = AtCommit(monkeypatch, lambda: proxy.stall(Way.DOWN))
    task = asyncio.create_task(create(store, payload="once"))
    await lose_the_answer(proxy, at, url)
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
    await lose_the_answer(proxy, at, url)
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
    waiting = [
        writer._Waiting(submission, asyncio.get_running_loop().create_future()) for _ in "abc"
    ]
    gated.open.set()
    await under_test._run(waiting, [])
    told = [type(one.future.exception()) for one in waiting]
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
    under_test = store._writer
    (change,) = await whole_history(store, run.id)
    mine = Committed([], [Hint(change, None)], change.xid)
    assert await under_test._outcome(mine) == "committed"
    lost = msgspec.structs.replace(change, run_id=new_id("run"))
    assert await under_test._outcome(Committed([], [Hint(lost, None)], change.xid)) == "aborted"
    # An id that was never given out, or is forgotten.
    assert await under_test._outcome(Committed([], [], change.xid + 1_000_000)) == "aborted"


async def test_a_commit_that_is_under_way_is_waited_for(
    own_postgres: str, open_any: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may wait for a disk or a standby after its connection is lost. On a server where few
    write it is the newest transaction, which no snapshot knows of.

    Taken out: `pg_xact_status` asked of every id, and not only of those below a snapshot's xmax;
    it was taken for aborted, done once more, and the metadata counted two.
    """
    store = await open_any(own_postgres)
    run = await create(store, metadata={"n": 0})
    database: Any = store.database
    asked = asyncio.Event()
    late: list[asyncio.Task[None]] = []

    async def lost(work: Callable[[Connection], Committed]) -> Any:
        monkeypatch.undo()
        monkeypatch.setattr("store.writer._outcome_of", looked)
        carried_out = asyncio.Event()

        async def commits_late() -> None:
            async with database._write_engine.connect() as connection:
                await connection.run_sync(work)
                carried_out.set()
                await asked.wait()
                await connection.commit()

        late.append(asyncio.create_task(commits_late()))
        await carried_out.wait()
        raise OutcomeUnknown("the connection was lost")

    outcome_of = writer._outcome_of

    def looked(connection: Connection, xid: int) -> str | None:
        outcome = outcome_of(connection, xid)
        asked.set()
        return outcome

    monkeypatch.setattr(database, "write", lost)
    counted = MutateMetadata(
        project=PROJECT,
        run_id=run.id,
        operations=(MetadataOperation(op=MetadataOp.INCREMENT, path="n", value=1),),
    )
    assert (await one(store, counted)).run is not None
    await asyncio.gather(*late)
    now = await store.get_run(PROJECT, run.id)
    assert (now.version, now.metadata) == (2, {"n": 1})
