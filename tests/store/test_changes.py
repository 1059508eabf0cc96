"""The log: whole runs in pages, groups that hold together, epochs, retention."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from store.changes import check_continues, now
from store.commands import DeleteRun, SealBatch, UpdateRun
from store.engine import Sqlite
from store.errors import CannotContinue
from store.housekeeping import Retention
from store.model import ChangeKind, Facet, Group, Horizon, RunStatus, Selection
from store.runs import RunStore
from store.schema import new_epoch
from store.tail import Commits
from tests.builders import PROJECT
from tests.store.asking import (
    ask,
    create,
    delete,
    finish,
    open_batch,
    read_all,
    seal,
    sql,
    update,
    whole_history,
)
from tests.store.conftest import OpenStore

QUEUED, EXECUTING, COMPLETED = RunStatus.QUEUED, RunStatus.EXECUTING, RunStatus.COMPLETED


async def begin(store: RunStore) -> Horizon:
    return (await store.horizon(PROJECT))[1]


def assert_holds_together(group: Group) -> None:
    """Consecutive versions, each beginning where the one before has ended, and the run as it
    stands after the last."""
    run = group.run
    assert run is not None
    assert [c.version for c in group.changes] == list(
        range(group.first.version, group.last.version + 1)
    )
    for earlier, later in zip(group.changes, group.changes[1:], strict=False):
        facet = earlier.before or Facet(QUEUED, ())
        after = Facet(
            RunStatus(earlier.changed.get("status", facet.status)),
            tuple(earlier.changed.get("tags", facet.tags)),
        )
        assert later.before == after
        assert later.previous_xid == earlier.xid
    if not group.deleted:
        assert (run.version, run.last_xid) == (group.last.version, group.last.xid)
        assert run.updated_at == group.last.at
        last = group.last
        assert last.changed.get("status", run.status) == run.status
        assert tuple(last.changed.get("tags", run.tags)) == run.tags
        assert not run.has_payload


# -------------------------------------------------------------------------------------- reading


async def test_a_read_has_what_came_since_in_groups_of_whole_runs(store: RunStore) -> None:
    before = await begin(store)
    run = await create(store, tags=("a",))
    middle = await begin(store)
    await update(store, run.id, status=EXECUTING, add_tags=("b",))
    run = await update(store, run.id, metadata={"progress": 1})
    other = await create(store)
    groups, end = await read_all(store, middle)
    assert [group.first.run_id for group in groups] == sorted([run.id, other.id])
    mine = next(group for group in groups if group.first.run_id == run.id)
    assert [change.version for change in mine.changes] == [2, 3]
    assert mine.facets() == [
        Facet(QUEUED, ("a",)),
        Facet(EXECUTING, ("a", "b")),
        Facet(EXECUTING, ("a", "b")),
    ]
    for group in groups:
        assert_holds_together(group)
    assert (await read_all(store, end))[0] == []
    groups, _ = await read_all(store, before, limit=1)
    assert sum(len(group.changes) for group in groups) == 4


async def test_a_read_of_one_run_and_with_payloads(store: RunStore) -> None:
    before = await begin(store)
    run, other = await create(store, payload=[1]), await create(store)
    selection = Selection(project=PROJECT, run_id=run.id)
    page = await store.read_log(PROJECT, before, limit=10, selection=selection, payloads=True)
    assert [group.run for group in page.groups] == [run]
    assert page.found
    assert await store.payloads(PROJECT, [run.id, other.id, "run_none"]) == {
        run.id: [1],
        other.id: other.payload,
    }


async def test_projects_are_read_apart(store: RunStore) -> None:
    before = await begin(store)
    await create(store, project="other")
    assert (await read_all(store, before))[0] == []
    groups, _ = await read_all(store, before, project="other")
    assert len(groups) == 1


async def test_a_deletion_and_a_seal_are_changes_like_any_other(store: RunStore) -> None:
    """A deleted run must leave the streams it was in, and a batch's stream must end."""
    batch_id = await open_batch(store)
    run = await finish(store, (await create(store, batch_id=batch_id, tags=("t",))).id)
    before = await begin(store)
    await seal(store, batch_id)
    await delete(store, run.id)
    groups, _ = await read_all(store, before)
    sealed, deleted = groups
    assert (sealed.first.kind, sealed.first.run_id, sealed.run) == (
        ChangeKind.SEALED,
        batch_id,
        None,
    )
    assert (deleted.deleted, deleted.first.version) == (True, run.version + 1)
    assert deleted.facets() == [Facet(COMPLETED, ("t",)), None]
    left = deleted.run
    assert left is not None
    for name in ("id", "project", "number", "task_identifier", "tags", "batch_id", "created_at"):
        assert getattr(left, name) == getattr(run, name), name
    assert_holds_together(deleted)


async def test_the_batches_that_were_asked_for_are_of_the_same_moment(store: RunStore) -> None:
    batch_id = await open_batch(store)
    before = await begin(store)
    run = await create(store, batch_id=batch_id)
    page = await store.read_log(PROJECT, before, batches=[batch_id, "batch_none", "\0"])
    assert {id: batch.size for id, batch in page.batches.items()} == {batch_id: 1}
    assert [group.first.run_id for group in page.groups] == [run.id]


@pytest.mark.parametrize("limit", [3, 1000])
async def test_nothing_is_lost_or_torn_while_two_servers_write(
    open_store: OpenStore, limit: int
) -> None:
    """In one page each change comes once. In several a run that changes meanwhile may come again,
    and is known by its version; none is left out.

    Taken out: the last run of a full page being left to the next; the snapshot that all
    statements of a read see (READ COMMITTED), with which states ran ahead of their changes.
    """
    stores = [await open_store(), await open_store()]
    ids = [(await create(stores[0], status=EXECUTING, metadata={})).id for _ in range(12)]
    known = dict.fromkeys(ids, 1)
    horizon = await begin(stores[0])
    writing = True

    async def write(number: int) -> None:
        dice = random.Random(number)
        for turn in range(15):
            await ask(
                stores[number % 2],
                *(
                    UpdateRun(
                        project=PROJECT,
                        run_id=run_id,
                        metadata={"n": [number, turn]},
                        add_tags=(f"t{turn % 3}",) if turn % 2 else (),
                        remove_tags=() if turn % 2 else (f"t{turn % 3}",),
                    )
                    for run_id in dice.sample(ids, 4)
                ),
            )

    async def read() -> None:
        nonlocal horizon
        ending = False
        while not ending:
            ending = not writing
            groups, horizon = await read_all(stores[0], horizon, limit=limit)
            for group in groups:
                assert_holds_together(group)
                run_id = group.first.run_id
                if limit == 1000:
                    assert group.first.version == known[run_id] + 1
                else:
                    assert group.first.version <= known[run_id] + 1
                known[run_id] = max(known[run_id], group.last.version)

    reader = asyncio.create_task(read())
    await asyncio.gather(*(write(number) for number in range(8)))
    writing = False
    await reader
    for run_id in ids:
        run = await stores[0].get_run(PROJECT, run_id)
        assert known[run_id] == run.version
        assert len(await whole_history(stores[0], run_id)) == run.version


async def test_a_run_with_more_changes_than_a_page_is_read_whole(store: RunStore) -> None:
    before = await begin(store)
    runs = [await create(store, metadata={}) for _ in range(3)]
    for n in range(7):
        await update(store, runs[1].id, metadata={"n": n})
    groups, _ = await read_all(store, before, limit=2)
    assert {group.first.run_id: len(group.changes) for group in groups} == {
        runs[0].id: 1,
        runs[1].id: 8,
        runs[2].id: 1,
    }


# --------------------------------------------------------------------------------------- epochs


async def refused(store: RunStore, since: Horizon, epoch: str | None = None) -> str | None:
    """Why it cannot be gone on from there; None: it can."""
    try:
        await read_all(store, since, epoch=epoch)
    except CannotContinue as error:
        return error.reason
    return None


async def test_a_new_epoch_refuses_every_cursor_from_before(store: RunStore) -> None:
    await create(store)
    epoch, horizon = await store.horizon(PROJECT)
    assert await refused(store, horizon, epoch) is None
    await new_epoch(store.database)
    assert await refused(store, horizon, epoch) == "epoch"
    epoch, horizon = await store.horizon(PROJECT)
    assert await refused(store, horizon, epoch) is None


async def test_a_cursor_that_is_ahead_is_of_another_history(store: RunStore) -> None:
    """ "Nothing new" would be its answer for as long as it takes the log to catch up."""
    await create(store)
    epoch, horizon = await store.horizon(PROJECT)
    ahead = Horizon(horizon.xmax + 1, horizon.xmax + 1)
    assert await refused(store, ahead, epoch) == "epoch"
    await create(store)
    await create(store)
    assert await refused(store, horizon, epoch) is None


async def test_an_older_copy_of_the_file_that_was_written_on_refuses_newer_cursors(
    migrated_sqlite: str, open_any: OpenStore, tmp_path: Path
) -> None:
    """The sequence goes past the cursor again, with other changes: only their stamps tell.

    Taken out: the look at the witness; the cursor was taken and three changes never shown.
    """
    path, copy = migrated_sqlite.removeprefix("sqlite:///"), str(tmp_path / "copy.db")
    store = await open_any(migrated_sqlite)
    for _ in range(3):
        await create(store)
    older = await store.horizon(PROJECT)
    with contextlib.closing(sqlite3.connect(path)) as source:
        with contextlib.closing(sqlite3.connect(copy)) as target:
            source.backup(target)
    for _ in range(3):
        await create(store)
    epoch, newer = await store.horizon(PROJECT)

    restored = await open_any(f"sqlite:///{copy}")
    assert await refused(restored, newer, epoch) == "epoch"
    for _ in range(5):
        await create(restored)
    assert await refused(restored, newer, epoch) == "epoch"
    assert await refused(restored, older[1], older[0]) is None
    assert await refused(store, newer, epoch) is None


# ------------------------------------------------------------------------------------- retention


async def test_a_cursor_from_before_a_cut_is_told_so_and_one_past_it_goes_on(
    migrated_sqlite: str, open_any: OpenStore
) -> None:
    """Taken out: the mark of the cut; the first cursor was answered with what is left."""
    store = await open_any(migrated_sqlite, retention=Retention(changes=timedelta(0)))
    quiet = await create(store, project="quiet")
    early = replace(await begin(store), witness=0)  # only the mark is to tell
    for _ in range(2):
        await create(store)
    late = await begin(store)
    await store.housekeeping.keep()
    assert await refused(store, early) == "retention"
    # The newest is kept, and so is its witness.
    assert await refused(store, late) is None
    assert (await begin(store)).witness == late.witness != 0
    # A project of which nothing was cut that its cursor had not seen.
    _, quiet_late = await store.horizon("quiet")
    await update(store, quiet.id, project="quiet", metadata={"a": 1})
    assert len((await read_all(store, quiet_late, project="quiet"))[0]) == 1
    await create(store)
    assert len((await read_all(store, late))[0]) == 1


async def test_a_cursor_whose_witness_was_cut_is_not_taken_at_its_word(
    migrated_sqlite: str, open_any: OpenStore, tmp_path: Path
) -> None:
    """An older copy of the file was written on until retention has cut just as much as the cursor
    had seen: nothing is left that would tell the one history from the other.

    Taken out: the refusal where no stamp is left; the cursor was taken, and changes of runs that
    its reader had never been shown followed.
    """
    path, copy = migrated_sqlite.removeprefix("sqlite:///"), str(tmp_path / "copy.db")
    store = await open_any(migrated_sqlite)
    with contextlib.closing(sqlite3.connect(path)) as source:
        with contextlib.closing(sqlite3.connect(copy)) as target:
            source.backup(target)
    for _ in range(3):
        await create(store)
    epoch, cursor = await store.horizon(PROJECT)

    restored = await open_any(f"sqlite:///{copy}", retention=Retention(changes=timedelta(0)))
    for _ in range(4):
        await create(restored)
    await restored.housekeeping.keep()
    assert await refused(restored, cursor, epoch) == "retention"


async def test_what_is_younger_than_the_retention_stays(
    migrated_sqlite: str, open_any: OpenStore
) -> None:
    store = await open_any(migrated_sqlite, retention=Retention(changes=timedelta(hours=1)))
    early = await begin(store)
    run = await create(store)
    await update(store, run.id, metadata={"a": 1})
    await sql(store, "UPDATE changes SET at = at - 7200000000 WHERE version = 1")
    await store.housekeeping.keep()
    assert [change.version for change in await whole_history(store, run.id)] == [2]
    assert await refused(store, early) == "retention"


async def test_places_in_the_log_are_never_given_twice(
    migrated_sqlite: str, open_any: OpenStore
) -> None:
    """Plain rowids begin again once a table is empty: a cursor would cover what comes.

    Taken out: AUTOINCREMENT.
    """
    store = await open_any(migrated_sqlite)
    for _ in range(3):
        await create(store)
    _, horizon = await store.horizon(PROJECT)
    await sql(store, "DELETE FROM changes")
    horizon = replace(horizon, witness=0)  # it went with the rest
    run = await create(store)
    assert run.last_xid >= horizon.xmax
    groups, _ = await read_all(store, horizon)
    assert [group.run.id for group in groups if group.run] == [run.id]


async def test_one_that_was_open_when_the_newest_cut_one_was_seen_is_not_past_the_cut(
    own_postgres: str, open_any: OpenStore
) -> None:
    """A cursor may have seen transaction 12 and not 10, which was open: both are cut together.

    Taken out: the look at `xip` in `check_continues`.
    """
    store = await open_any(own_postgres)
    await create(store)
    await sql(store, "INSERT INTO log_cuts VALUES ('default', 12)")

    def reason(since: Horizon) -> str | None:
        try:
            check_continues(None, since, None, at)  # type: ignore[arg-type]
        except CannotContinue as error:
            return error.reason
        return None

    at = await store.database.read(now, PROJECT)
    assert reason(Horizon(13, 13)) is None
    assert reason(Horizon(14, 15, (14,))) is None
    assert reason(Horizon(12, 12)) == "retention"
    assert reason(Horizon(10, 13, (10,))) == "retention"


async def test_another_process_sees_that_somebody_has_committed(
    migrated_sqlite: str, open_any: OpenStore
) -> None:
    stores = [await open_any(migrated_sqlite), await open_any(migrated_sqlite)]
    assert isinstance(stores[0].database, Sqlite)
    ours, theirs = stores

    async def look(store: RunStore) -> Commits:
        seen = await store.commits()
        assert seen is not None
        return seen

    before, before_there = await look(ours), await look(theirs)
    assert (await look(ours), await look(theirs)) == (before, before_there)
    await create(ours)
    own, there = await look(ours), await look(theirs)
    assert own.anybody != before.anybody
    assert own.others == before.others
    assert there.others != before_there.others
    # Also where its own is the newest when it looks.
    await create(theirs)
    await create(ours)
    assert (await look(ours)).others != own.others


async def test_a_read_does_not_wait_for_a_writer(store: RunStore) -> None:
    run = await create(store)

    async def busy() -> None:
        for _ in range(30):
            await create(store)

    writer = asyncio.create_task(busy())
    while not writer.done():
        assert await store.get_run(PROJECT, run.id) == run
    await writer


async def test_deleting_what_was_sealed_is_told_in_order(store: RunStore) -> None:
    batch_id = await open_batch(store)
    before = await begin(store)
    run = await finish(store, (await create(store, batch_id=batch_id)).id)
    outcomes: list[Any] = await ask(
        store,
        SealBatch(project=PROJECT, batch_id=batch_id),
        DeleteRun(project=PROJECT, run_id=run.id),
    )
    assert outcomes[0].batch.size == outcomes[0].batch.final([COMPLETED]) == 1
    groups, _ = await read_all(store, before)
    whole = next(group for group in groups if group.first.run_id == run.id)
    assert [change.version for change in whole.changes] == [1, 2, 3, 4]
    assert whole.deleted
