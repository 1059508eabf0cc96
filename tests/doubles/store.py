"""A store in memory that plays transactions."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from msgspec.structs import replace

from store.broker import Hint
from store.errors import CannotContinue, Unavailable
from store.lifecycle import FINAL
from store.model import (
    Batch,
    Change,
    ChangeKind,
    Facet,
    Group,
    Horizon,
    ListKey,
    LogPage,
    Run,
    RunStatus,
    Selection,
    SnapshotPage,
    list_key,
    wire_run,
    wire_value,
)
from store.tail import Commits

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


class FakeTransaction:
    """Some commands under one transaction id; nothing of it is seen before `commit`."""

    def __init__(self, store: FakeStore) -> None:
        self._store = store
        self.xid = store.next_xid
        store.next_xid += 1
        store.open_xids.add(self.xid)
        self._runs: dict[str, Run] = {}
        self._changes: list[tuple[Change, Run | None]] = []
        self._deleted: set[str] = set()
        self._sealed: set[str] = set()
        self._locks: set[str] = set()

    def can_lock(self, key: str) -> bool:
        """Whether nobody else holds the row."""
        return self._store.locks.get(key, self) is self

    def state(self, id: str) -> Run | None:
        """The run as this transaction sees it; None once it is deleted."""
        if id in self._deleted:
            return None
        return self._runs.get(id) or self._store.runs.get(id)

    def _lock(self, key: str) -> None:
        assert self.can_lock(key), f"{key} is locked"
        self._store.locks[key] = self
        self._locks.add(key)

    def create(self, id: str, **fields: Any) -> Run:
        """Makes a run, QUEUED unless said otherwise."""
        store = self._store
        store.clock += timedelta(milliseconds=1)
        store.number += 1
        values: dict[str, Any] = {
            "project": "default",
            "version": 1,
            "number": store.number,
            "task_identifier": "task",
            "status": RunStatus.QUEUED,
            "payload": {"of": id},
            "created_at": store.clock,
            "updated_at": store.clock,
        }
        batch_id = fields.get("batch_id")
        if batch_id is not None:
            self._lock(batch_id)
            assert store.batches[batch_id] is None
        run = Run(id=id, last_xid=self.xid, **(values | fields))
        self._lock(id)
        self._runs[id] = run
        changed = wire_run(run, frozenset({"payload", "version", "updatedAt"}))
        self._append(run, 0, changed, None)
        return run

    def update(self, id: str, **fields: Any) -> Run:
        """Changes a run: one version on."""
        store = self._store
        self._lock(id)
        old = self._runs.get(id) or store.runs[id]
        store.clock += timedelta(milliseconds=1)
        if fields.get("status") in FINAL:
            fields["finished_at"] = store.clock
        run = replace(
            old, version=old.version + 1, updated_at=store.clock, last_xid=self.xid, **fields
        )
        self._runs[id] = run
        names = {name: wire_value(value) for name, value in fields.items()}
        changed = {
            "finishedAt" if name == "finished_at" else name: value for name, value in names.items()
        }
        self._append(run, old.last_xid, changed, Facet(old.status, old.tags))
        return run

    def delete(self, id: str) -> None:
        """Deletes a final run."""
        self._lock(id)
        old = self._runs.get(id) or self._store.runs[id]
        assert old.status in FINAL
        run = replace(old, version=old.version + 1, last_xid=self.xid, has_payload=False)
        self._deleted.add(id)
        change = Change(
            project=run.project,
            run_id=id,
            version=run.version,
            xid=self.xid,
            previous_xid=old.last_xid,
            at=self._store.clock,
            changed={},
            before=Facet(old.status, old.tags),
            kind=ChangeKind.DELETED,
        )
        self._changes.append((change, run))

    def open_batch(self, id: str) -> None:
        """Makes a batch; no change of the log tells of it."""
        self._store.batches[id] = None

    def seal(self, id: str) -> None:
        """Takes no more runs into the batch."""
        self._lock(id)
        self._sealed.add(id)
        change = Change(
            project="default",
            run_id=id,
            version=1,
            xid=self.xid,
            previous_xid=0,
            at=self._store.clock,
            changed={},
            before=None,
            kind=ChangeKind.SEALED,
        )
        self._changes.append((change, None))

    def _append(
        self, run: Run, previous: int, changed: dict[str, Any], before: Facet | None
    ) -> None:
        change = Change(
            project=run.project,
            run_id=run.id,
            version=run.version,
            xid=self.xid,
            previous_xid=previous,
            at=run.updated_at,
            changed=changed,
            before=before,
        )
        self._changes.append((change, run))

    def _close(self) -> None:
        for key in self._locks:
            self._store.locks.pop(key, None)
        self._store.open_xids.discard(self.xid)
        self._store.transactions.remove(self)

    def commit(self, *, publish: bool = True) -> None:
        """From now on it is seen; then the hints go out."""
        store = self._store
        self._close()
        store.runs.update(self._runs)
        for id in self._deleted:
            del store.runs[id]
        for id in self._sealed:
            store.batches[id] = store.clock
        store.log += [change for change, _ in self._changes]
        for change, run in self._changes:
            if run is not None:
                store.states[change.run_id, change.version] = run
            if change.kind is ChangeKind.DELETED:
                assert run is not None
                store.kept[change.run_id] = run
        if publish:
            store.publish([store.hint(change, run) for change, run in self._changes])

    def abort(self) -> None:
        """Nothing of it ever was."""
        self._close()


class FakeStore:
    """Runs and their log in memory, with transactions that commit in any order.

    Each read sees what is committed at one moment between its begin and its end.
    """

    def __init__(self, chance: random.Random | None = None) -> None:
        self.chance = chance or random.Random(0)
        self.epoch = "e1"
        self.next_xid = 10
        self.open_xids: set[int] = set()
        self.transactions: list[FakeTransaction] = []
        self.locks: dict[str, FakeTransaction] = {}
        self.runs: dict[str, Run] = {}
        self.kept: dict[str, Run] = {}
        self.states: dict[tuple[str, int], Run] = {}
        """Every run at every version, as it was committed."""
        self.batches: dict[str, datetime | None] = {}
        self.log: list[Change] = []
        self.clock = START
        self.number = 0
        self.away = False
        self.cut_xid = 0
        self.reads: list[str] = []
        self.slowness = (0, 0, 1, 2)
        """How many turns of the loop a read may take, before and after it sees what it sees."""
        self.pages_of: int | None = None
        self.inline_bytes = 1_000_000
        self.publish: Callable[[Sequence[Hint]], None] = lambda hints: None
        self.meanwhile: Callable[[str], Awaitable[None]] | None = None
        """Called once, after the next read has seen what it sees and before it returns."""
        self.held: asyncio.Event | None = None
        """While it is there and not set, no read begins."""

    # Writing.

    def begin(self) -> FakeTransaction:
        transaction = FakeTransaction(self)
        self.transactions.append(transaction)
        return transaction

    def write(self, work: Callable[[FakeTransaction], Any], *, publish: bool = True) -> None:
        """One transaction, at once."""
        transaction = self.begin()
        work(transaction)
        transaction.commit(publish=publish)

    def create(self, id: str, **fields: Any) -> None:
        self.write(lambda tx: tx.create(id, **fields))

    def update(self, id: str, **fields: Any) -> None:
        self.write(lambda tx: tx.update(id, **fields))

    def hint(self, change: Change, run: Run | None) -> Hint:
        if run is not None and change.version > 1 and change.kind is ChangeKind.RUN:
            run = replace(run, payload=None, has_payload=False)
        if run is not None and len(msgspec.msgpack.encode(run.metadata)) > self.inline_bytes:
            return Hint(change, None, False)
        return Hint(change, run)

    def is_complete(self, batch_id: str) -> bool:
        """The truth about a batch."""
        return self.batches[batch_id] is not None and all(
            run.status in FINAL for run in self.runs.values() if run.batch_id == batch_id
        )

    # Reading.

    async def _begin_read(self, what: str) -> None:
        for _ in range(self.chance.choice(self.slowness)):
            await asyncio.sleep(0)
        while self.held is not None and not self.held.is_set():
            await self.held.wait()
        if self.away:
            raise Unavailable("away")
        self.reads.append(what)

    async def _end_read(self) -> None:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            await meanwhile(self.reads[-1])
        for _ in range(self.chance.choice(self.slowness)):
            await asyncio.sleep(0)

    def present(self) -> Horizon:
        """The horizon of just now."""
        xmin = min(self.open_xids, default=self.next_xid)
        return Horizon(xmin, self.next_xid, tuple(sorted(self.open_xids)))

    async def horizon(self, project: str) -> tuple[str, Horizon]:
        await self._begin_read("horizon")
        found = self.epoch, self.present()
        await self._end_read()
        return found

    async def snapshot(
        self, selection: Selection, *, after: ListKey | None = None, limit: int
    ) -> SnapshotPage:
        await self._begin_read("snapshot")
        if self.pages_of is not None:
            limit = min(limit, self.pages_of)
        rows = sorted(
            (
                run
                for run in self.runs.values()
                if selection.covers(run)
                and selection.admits(Facet(run.status, run.tags))
                and (after is None or list_key(run) < after)
            ),
            key=list_key,
            reverse=True,
        )
        batch = None
        found = True
        if selection.batch_id is not None:
            found = selection.batch_id in self.batches
            batch = self._batch(selection.batch_id) if found else None
        elif (target := selection.run_id or selection.job_run_id) is not None:
            found = target in self.runs
        page = SnapshotPage(
            runs=rows[:limit],
            horizon=self.present(),
            epoch=self.epoch,
            next=list_key(rows[limit - 1]) if len(rows) > limit else None,
            found=found,
            batch=batch,
        )
        await self._end_read()
        return page

    async def read_log(
        self,
        project: str,
        since: Horizon,
        *,
        epoch: str | None,
        after: str | None = None,
        limit: int,
        selection: Selection | None = None,
        batches: Sequence[str] = (),
        payloads: bool = False,
    ) -> LogPage:
        await self._begin_read("log")
        if epoch is not None and epoch != self.epoch:
            raise CannotContinue("epoch")
        if self.cut_xid and not since.seen(self.cut_xid):
            raise CannotContinue("retention")
        if self.pages_of is not None:
            limit = min(limit, self.pages_of)
        by_run: dict[str, list[Change]] = {}
        for change in self.log:
            if change.project == project and not since.seen(change.xid):
                by_run.setdefault(change.run_id, []).append(change)
        wanted = None if selection is None else selection.run_id
        ids = [
            id
            for id in sorted(by_run)
            if (after is None or id > after) and (wanted is None or id == wanted)
        ]
        groups: list[Group] = []
        next_: str | None = None
        for id in ids:
            if len(groups) >= limit:
                next_ = groups[-1].first.run_id
                break
            groups.append(self._group(by_run[id], payloads))
        page = LogPage(
            groups=groups,
            horizon=self.present(),
            epoch=self.epoch,
            next=next_,
            batches={id: self._batch(id) for id in batches if id in self.batches},
        )
        await self._end_read()
        return page

    def _group(self, found: list[Change], payloads: bool) -> Group:
        changes = tuple(sorted(found, key=lambda change: change.version))
        last = changes[-1]
        if last.kind is ChangeKind.SEALED:
            return Group(changes, None)
        if last.kind is ChangeKind.DELETED:
            return Group(changes, self.kept[last.run_id])
        run = self.runs[last.run_id]
        if not payloads:
            run = replace(run, payload=None, has_payload=False)
        return Group(changes, run)

    async def payloads(self, project: str, run_ids: Sequence[str]) -> dict[str, Any]:
        await self._begin_read("payloads")
        found = {id: self.runs[id].payload for id in run_ids if id in self.runs}
        await self._end_read()
        return found

    async def get_batches(self, project: str, batch_ids: Sequence[str]) -> dict[str, Batch]:
        await self._begin_read("batch")
        found = {id: self._batch(id) for id in batch_ids if id in self.batches}
        await self._end_read()
        return found

    async def witnesses(self, xmaxes: Sequence[int]) -> dict[int, int]:
        return {}

    def _batch(self, id: str) -> Batch:
        runs = [run for run in self.runs.values() if run.batch_id == id]
        counts: dict[RunStatus, int] = {}
        for run in runs:
            counts[run.status] = counts.get(run.status, 0) + 1
        finished = [run.finished_at for run in runs if run.finished_at is not None]
        return Batch(
            id=id,
            project="default",
            created_at=START,
            sealed_at=self.batches[id],
            counts=counts,
            last_finished_at=max(finished, default=None),
        )

    async def commits(self) -> Commits | None:
        return None
