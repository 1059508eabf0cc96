"""Forgets in time: the log's old changes, old answers and tokens, and runs long over."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Set
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from store import changes as change_log
from store.commands import DeleteRun, Done, Submission
from store.engine import Database
from store.errors import StoreError
from store.tables import answers, changes, revoked_tokens, runs, used_tokens
from store.writer.staged import Outcomes

log = logging.getLogger(__name__)

DAYS_AHEAD = 7
"""For how many days PostgreSQL's partitions of the log stand ready."""

DETACH_AFTER_S = 120.0
"""How long after its mark a partition is taken away: longer than any read can last, so that
no read sees the log without the partition and without the mark."""

DROP_WAIT = "5s"
"""How long is waited for whoever still reads a partition, before it is left to the next round."""

_PARTITION = re.compile(r"changes_(\d{8})")

# Any numbers that other programs on the same PostgreSQL do not use.
MAKING = 0x52756E50
CUTTING = 0x52756E43
_FORGETTING = 0x52756E46


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """How long things are kept."""

    changes: timedelta = timedelta(days=7)
    final_runs: timedelta | None = None
    """None: for ever."""
    answers: timedelta = timedelta(hours=24)
    used_tokens: timedelta = timedelta(days=31)


class Housekeeping:
    """Cuts and deletes, in every server process alike: each step does no harm twice."""

    def __init__(
        self,
        database: Database,
        submit: Callable[[Submission], Awaitable[Outcomes]],
        retention: Retention,
        *,
        every_s: float = 600.0,
        detach_after_s: float = DETACH_AFTER_S,
    ) -> None:
        self._database = database
        self._submit = submit
        self._retention = retention
        self._every_s = every_s
        self._detach_after_s = detach_after_s
        self._marked_at: dict[str, float] = {}

    async def prepare(self) -> None:
        """Makes the log ready to be written to; to be awaited before the first command."""
        if self._database.dialect == "postgresql":
            await self._database.write(_make_partitions)

    async def run(self) -> None:
        """Keeps house until cancelled, whatever goes wrong."""
        while True:
            try:
                await self.prepare()
                await self.keep()
            except StoreError as error:
                log.warning("housekeeping: %s", error)
            except Exception:
                log.exception("housekeeping")
            await asyncio.sleep(self._every_s)

    async def keep(self) -> None:
        """One round of everything."""
        await self._cut_log()
        await self._database.write(_forget, self._retention)
        await self._delete_runs()

    async def _cut_log(self) -> None:
        if self._database.dialect == "sqlite":
            while await self._database.write(_cut_rows, self._retention.changes):
                pass
            return
        marked = set(self._marked_at)
        old = await self._database.write(_mark_partitions, self._retention.changes, marked)
        if old is None:
            return
        # Others take them away too.
        self._marked_at = {name: at for name, at in self._marked_at.items() if name in old}
        for partition in old:
            clock = asyncio.get_running_loop().time()
            if clock - self._marked_at.setdefault(partition, clock) < self._detach_after_s:
                continue
            try:
                await self._database.outside(_drop_partition, partition)
            except SQLAlchemyError as error:
                # Most likely a lock that was not had in time: the next round goes on from here.
                log.warning("housekeeping: partition %s: %s", partition, error)

    async def _delete_runs(self) -> None:
        if self._retention.final_runs is None:
            return
        progress = True
        while progress and (found := await self._database.read(_over, self._retention.final_runs)):
            progress = False
            for project in {one.project for one in found}:
                outcomes = await self._submit(
                    Submission(
                        project=project,
                        commands=tuple(
                            DeleteRun(project=project, run_id=one.id)
                            for one in found
                            if one.project == project
                        ),
                    )
                )
                progress |= any(isinstance(outcome, Done) for outcome in outcomes)


# ---------------------------------------------------------------------------------------- SQLite


def _cut_rows(connection: Connection, keep: timedelta, at_once: int = 10_000) -> bool:
    """Deletes the oldest changes and marks how far; whether there may be more."""
    newest = connection.execute(sa.select(sa.func.max(changes.c.seq))).scalar_one()
    oldest = (
        sa.select(changes.c.seq, changes.c.project, changes.c.at)
        .order_by(changes.c.seq)
        .limit(at_once)
    )
    before = datetime.now(UTC) - keep
    # In the log's order and up to the first that is kept, so that the mark covers a beginning.
    # The newest change stays: its stamp is the witness of new cursors.
    cuts: dict[str, int] = {}
    count = 0
    for seq, project, at in connection.execute(oldest):
        if at >= before or seq == newest:
            break
        cuts[project] = seq
        count += 1
    if count == 0:
        return False
    connection.execute(sa.delete(changes).where(changes.c.seq <= max(cuts.values())))
    change_log.mark_cut(connection, cuts)
    return count == at_once


# ------------------------------------------------------------------------------------ PostgreSQL


def _make_partitions(connection: Connection) -> None:
    """A partition a day, made apart and attached, which blocks no writer and no reader.

    Where none is missing nobody is waited for: a process that stands still with the lock must not
    keep others from starting.
    """
    if not _missing(connection):
        return
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MAKING)))
    for name, day in _missing(connection).items():
        connection.exec_driver_sql(f"CREATE TABLE {name} (LIKE changes INCLUDING ALL)")
        connection.exec_driver_sql(
            f"ALTER TABLE changes ATTACH PARTITION {name} FOR VALUES"
            f" FROM ('{day} 00:00+00') TO ('{day + timedelta(days=1)} 00:00+00')"
        )


def _missing(connection: Connection) -> dict[str, date]:
    """The partitions that should stand ready and do not, with their days."""
    today = change_log.database_time(connection).astimezone(UTC).date()
    days = (today + timedelta(days=ahead) for ahead in range(-1, DAYS_AHEAD + 1))
    wanted = {f"changes_{day:%Y%m%d}": day for day in days}
    for name in _partitions(connection):
        wanted.pop(name, None)
    return wanted


def _partitions(connection: Connection) -> list[str]:
    names = connection.execute(
        sa.text(
            "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
            " WHERE i.inhparent = 'changes'::regclass ORDER BY c.relname"
        )
    ).scalars()
    return [name for name in names if _PARTITION.fullmatch(name)]


def _day_of(partition: str) -> date:
    match = _PARTITION.fullmatch(partition)
    assert match is not None
    return datetime.strptime(match[1], "%Y%m%d").replace(tzinfo=UTC).date()


def _mark_partitions(connection: Connection, keep: timedelta, marked: Set[str]) -> list[str] | None:
    """Marks the log as cut where whole partitions are too old; all that may be taken away.

    `marked` are those that this process has marked before. None where another server is just
    about it, and what is looked at here could be gone in the middle of the look.
    """
    ours = sa.select(sa.func.pg_try_advisory_xact_lock(CUTTING))
    if not connection.execute(ours).scalar_one():
        return None
    connection.execute(sa.text("SET LOCAL enable_seqscan = on"))  # whole partitions are read
    before = (change_log.database_time(connection) - keep).astimezone(UTC).date()
    xmin = int(connection.execute(_XMIN).scalar_one())
    old = []
    for name in _partitions(connection):
        if _day_of(name) >= before:
            continue
        if name not in marked:
            newest = sa.text(f"SELECT project, max(xid) AS xid FROM {name} GROUP BY project")
            cuts = {row.project: row.xid for row in connection.execute(newest)}
            if any(xid >= xmin for xid in cuts.values()):
                continue  # not every horizon has seen it yet
            change_log.mark_cut(connection, cuts)
        old.append(name)
    # Detached by a server that did not come to drop them.
    old += [name for name in connection.execute(_LOOSE).scalars() if _is_old(name, before)]
    return old


_XMIN = sa.text("SELECT pg_snapshot_xmin(pg_current_snapshot())::text")

_LOOSE = sa.text(
    "SELECT c.relname FROM pg_class c"
    " WHERE c.relkind = 'r' AND NOT c.relispartition AND c.relname LIKE 'changes\\_%'"
    " AND c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'changes'::regclass)"
)

_STATE = sa.text(
    "SELECT i.inhdetachpending FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
    " WHERE i.inhparent = 'changes'::regclass AND c.relname = :name"
)


def _is_old(name: str, before: date) -> bool:
    return _PARTITION.fullmatch(name) is not None and _day_of(name) < before


def _drop_partition(connection: Connection, name: str) -> None:
    """Takes a partition away without a lock that writers or readers would wait for.

    Each statement is a transaction of its own: it goes on from wherever somebody was cut off.
    """
    mine = connection.execute(sa.select(sa.func.pg_try_advisory_lock(CUTTING))).scalar_one()
    if not mine:
        return
    connection.exec_driver_sql(f"SET lock_timeout = '{DROP_WAIT}'")
    try:
        attached = connection.execute(_STATE, {"name": name}).one_or_none()
        if attached is not None:
            how = "FINALIZE" if attached.inhdetachpending else "CONCURRENTLY"
            connection.exec_driver_sql(f"ALTER TABLE changes DETACH PARTITION {name} {how}")
        connection.exec_driver_sql(f"DROP TABLE IF EXISTS {name}")
    finally:
        connection.exec_driver_sql("RESET lock_timeout")
        connection.execute(sa.select(sa.func.pg_advisory_unlock(CUTTING)))


# ------------------------------------------------------------------------------------------ both


def _forget(connection: Connection, retention: Retention) -> None:
    if connection.dialect.name == "postgresql":
        # Two who delete the same rows in two orders would wait for each other.
        ours = sa.select(sa.func.pg_try_advisory_xact_lock(_FORGETTING))
        if not connection.execute(ours).scalar_one():
            return
    now = datetime.now(UTC)
    connection.execute(sa.delete(answers).where(answers.c.created_at < now - retention.answers))
    connection.execute(
        sa.delete(used_tokens).where(used_tokens.c.used_at < now - retention.used_tokens)
    )
    connection.execute(sa.delete(revoked_tokens).where(revoked_tokens.c.expires_at < now))


class _Over(NamedTuple):
    project: str
    id: str


def _over(connection: Connection, keep: timedelta) -> list[_Over]:
    rows = connection.execute(
        sa.select(runs.c.project, runs.c.id)
        .where(
            runs.c.finished_at < change_log.database_time(connection) - keep,
            runs.c.workflow_id.is_(None),  # the steps of a job run are deleted with it
        )
        .order_by(runs.c.finished_at)
        .limit(500)
    )
    return [_Over(row.project, row.id) for row in rows]
