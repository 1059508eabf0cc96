"""The change log: append, horizons, reads of what a horizon has not seen, cuts."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Row

from store import bulk
from store.among import among
from store.errors import CannotContinue
from store.model import (
    Change,
    ChangeKind,
    Facet,
    Group,
    Horizon,
    Run,
    RunStatus,
)
from store.rows import SLIM, WHOLE, run_of
from store.tables import changes, log_cuts, runs

KEPT_OF_A_DELETED_RUN: Final = (
    "number",
    "task_identifier",
    "status",
    "tags",
    "batch_id",
    "parent_run_id",
    "root_run_id",
    "depth",
    "workflow_id",
    "job_id",
    "is_test",
    "created_at",
)
"""What a deletion leaves in the log: by it the streams that the run was in are found."""

STATES: Final = 5_000
"""How many runs are read in one statement."""


class _Kept(msgspec.Struct):
    number: int
    task_identifier: str
    status: RunStatus
    tags: tuple[str, ...]
    batch_id: str | None
    parent_run_id: str | None
    root_run_id: str | None
    depth: int
    is_test: bool
    created_at: datetime
    workflow_id: str | None = None
    job_id: str | None = None


# ----------------------------------------------------------------------------------- transactions


class Moment(NamedTuple):
    """Where in the log, and when, a transaction writes."""

    xid: int
    at: datetime
    numbers: Sequence[int]
    """The numbers for the runs that it makes."""


def begin(connection: Connection, numbers: int) -> Moment:
    """The transaction's id in the log, the database's time, and numbers for new runs.

    To be asked for once, after the locks were taken, so that a run's times rise with its
    versions.
    """
    if connection.dialect.name == "postgresql":
        row = connection.execute(_PG_BEGIN, {"numbers": numbers}).one()
        return Moment(int(row.xid), row.at, row.numbers)
    driver = bulk.sqlite(connection)
    newest, last_number = driver.execute(_SQLITE_BEGIN).fetchone()
    if numbers:
        driver.execute("UPDATE log_state SET last_number = last_number + ?", (numbers,))
    first = last_number + 1
    # One transaction's changes have consecutive places in the log; the first is its id.
    return Moment(newest + 1, _now(), range(first, first + numbers))


_PG_BEGIN = sa.text(
    "SELECT pg_current_xact_id()::text AS xid, clock_timestamp() AS at,"
    " ARRAY(SELECT nextval('run_number') FROM generate_series(1, :numbers)) AS numbers"
).columns(sa.column("xid"), sa.column("at", sa.DateTime(timezone=True)), sa.column("numbers"))

_SEQ = "coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'changes'), 0)"

SQLITE_NEWEST: Final = f"SELECT {_SEQ}"
"""The place of the newest change in the log."""

_SQLITE_BEGIN = f"SELECT {_SEQ}, last_number FROM log_state"


def _now() -> datetime:
    return datetime.now(UTC)


def database_time(connection: Connection) -> datetime:
    """What time it is for the timers: the database's, or on SQLite this machine's."""
    if connection.dialect.name == "postgresql":
        at: datetime = connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
        return at
    return _now()


def append(writes: bulk.Writes, new: Sequence[Change]) -> None:
    """Writes the changes of this transaction into the log."""
    if not new:
        return
    stamp = secrets.randbits(62) | 1 if writes.dialect == "sqlite" else None
    rows = [
        (
            change.project,
            change.run_id,
            change.version,
            change.kind.value,
            change.xid,
            change.previous_xid,
            change.at,
            change.changed,
            change.before,
            stamp,
        )
        for change in new
    ]
    writes.insert(changes, _WRITTEN, rows)


_WRITTEN: Final = (
    "project",
    "run_id",
    "version",
    "kind",
    "xid",
    "previous_xid",
    "at",
    "changed",
    "before",
    "stamp",
)


def mark_cut(connection: Connection, cuts: Mapping[str, int]) -> None:
    """Notes, for each project, the newest transaction that is cut out of its log."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    marks = dialect.insert(log_cuts)
    marks = marks.on_conflict_do_update(
        index_elements=[log_cuts.c.project],
        set_={"xid": marks.excluded.xid},
        where=log_cuts.c.xid < marks.excluded.xid,
    )
    rows = [{"project": project, "xid": xid} for project, xid in sorted(cuts.items())]
    if rows:
        connection.execute(marks, rows)


def kept(run: Run) -> dict[str, Any]:
    """What the log keeps of a run that is deleted."""
    fields: dict[str, Any] = msgspec.to_builtins(
        {name: getattr(run, name) for name in KEPT_OF_A_DELETED_RUN}
    )
    return fields


# ------------------------------------------------------------------------------------- horizons


class Now(NamedTuple):
    """One project's log as the present snapshot sees it."""

    epoch: str
    horizon: Horizon
    cut_xid: int


def now(connection: Connection, project: str) -> Now:
    """The epoch and the horizon; of the same snapshot as the other reads of the transaction."""
    if connection.dialect.name == "postgresql":
        row = connection.execute(_PG_NOW, {"project": project}).one()
        horizon = bounded(parse_snapshot(row.snapshot), max(row.newest, row.cut_xid))
    else:
        row = connection.execute(_SQLITE_NOW, {"project": project}).one()
        horizon = Horizon(row.seq + 1, row.seq + 1, (), row.stamp or 0)
    return Now(row.epoch, horizon, row.cut_xid)


def bounded(snapshot: Horizon, newest: int) -> Horizon:
    """The horizon that reaches no further than the newest transaction in the log.

    What lies between that and the snapshot's end has left nothing in the log; but PostgreSQL,
    when it crashes, forgets that those ids were given out, and gives them out again to
    transactions that do. A horizon that covered them would hide these. The newest transaction in
    the log is on disk, so no id up to that one comes a second time.
    """
    xmax = min(snapshot.xmax, newest + 1)
    return Horizon(min(snapshot.xmin, xmax), xmax, tuple(xid for xid in snapshot.xip if xid < xmax))


_CUT = "coalesce((SELECT xid FROM log_cuts WHERE project = :project), 0) AS cut_xid"

# Two clusters that were restored from one backup have the same id in the table; the system's
# identifier and the timeline tell them apart.
_PG_NOW = sa.text(
    f"SELECT s.epoch || '.' || c.system_identifier || '.'"
    f" || left(pg_walfile_name(pg_current_wal_lsn()), 8) AS epoch,"
    f" pg_current_snapshot()::text AS snapshot, {_CUT},"
    f" coalesce((SELECT max(xid) FROM changes WHERE project = :project), 0) AS newest"
    f" FROM log_state s, pg_control_system() c"
)

_SQLITE_NOW = sa.text(
    f"SELECT s.epoch, {_CUT}, q.seq, c.stamp FROM log_state s"
    f" JOIN (SELECT {_SEQ} AS seq) q LEFT JOIN changes c ON c.seq = q.seq"
)


def parse_snapshot(text: str) -> Horizon:
    """The horizon in PostgreSQL's `xmin:xmax:xip,…`."""
    match = re.fullmatch(r"(\d+):(\d+):([\d,]*)", text)
    if match is None:
        raise ValueError(f"not a transaction snapshot: {text!r}")
    xmin, xmax, xip = match.groups()
    return Horizon(int(xmin), int(xmax), tuple(int(xid) for xid in xip.split(",") if xid))


def check_continues(connection: Connection, since: Horizon, epoch: str | None, at: Now) -> None:
    """Raises CannotContinue if what `since` has not seen is not, or not all, in this log."""
    if epoch is not None and epoch != at.epoch:
        raise CannotContinue("epoch")
    if since.xmax > at.horizon.xmax:
        # It has seen transactions that this log has not had yet: another history.
        raise CannotContinue("epoch")
    if since.witness:
        _check_witness(connection, since)
    # Not only the newest that was cut must have been seen, but all: one that was still open
    # when a later one had been seen was cut along with that.
    if at.cut_xid and (at.cut_xid >= since.xmax or any(xid <= at.cut_xid for xid in since.xip)):
        raise CannotContinue("retention")


def _check_witness(connection: Connection, since: Horizon) -> None:
    """Raises CannotContinue unless the newest change that `since` has seen is in this log."""
    stamp = connection.execute(
        sa.select(changes.c.stamp).where(changes.c.seq == since.xmax - 1)
    ).scalar_one_or_none()
    if stamp is None:
        # Retention has cut it, and with it what would tell this history from another one in
        # which as much was cut. (The newest change of a log is never cut.)
        raise CannotContinue("retention")
    if stamp != since.witness:
        raise CannotContinue("epoch")


def witnesses(connection: Connection, xmaxes: Sequence[int]) -> dict[int, int]:
    """SQLite: the witness of the horizon that ends there, where the log still has it."""
    found: dict[int, int] = {}
    for start in range(0, len(xmaxes), 500):
        places = [xmax - 1 for xmax in xmaxes[start : start + 500]]
        rows = connection.execute(
            sa.select(changes.c.seq, changes.c.stamp).where(changes.c.seq.in_(places))
        )
        found |= {row.seq + 1: row.stamp for row in rows if row.stamp is not None}
    return found


# ---------------------------------------------------------------------------------------- reads


COLUMNS: Final = tuple(
    changes.c[name]
    for name in [
        "project",
        "run_id",
        "version",
        "kind",
        "xid",
        "previous_xid",
        "at",
        "changed",
        "before",
    ]
)


class Read(NamedTuple):
    """Groups of whole runs, in the order of their ids."""

    groups: list[Group]
    next: str | None
    """The id of the last run read, if there may be more."""


def read(
    connection: Connection,
    project: str,
    since: Horizon,
    *,
    after: str | None = None,
    limit: int,
    run_id: str | None = None,
    payloads: bool = False,
) -> Read:
    """What `since` has not seen, about `limit` changes of it, each run's all together."""
    rows = connection.execute(
        _unseen(connection, project, since, after, run_id).limit(limit + 1)
    ).all()
    more = len(rows) > limit
    if more:
        # The last run may be cut in the middle: it is left to the next page, or, if it fills
        # this one alone, read to its end.
        last = rows[-1].run_id
        whole = [row for row in rows if row.run_id != last]
        if whole:
            rows = whole
        else:
            rows = connection.execute(_unseen(connection, project, since, None, last)).all()
    by_run: dict[str, list[Change]] = {}
    for row in rows:
        by_run.setdefault(row.run_id, []).append(change_of(row))
    states = _states(connection, by_run, payloads)
    groups = [_group(found, states.get(id)) for id, found in by_run.items()]
    return Read(groups, rows[-1].run_id if more else None)


def _unseen(
    connection: Connection, project: str, since: Horizon, after: str | None, run_id: str | None
) -> sa.Select[Any]:
    def part(*where: sa.ColumnElement[bool]) -> sa.Select[Any]:
        found = sa.select(*COLUMNS).where(changes.c.project == project, *where)
        if after is not None:
            found = found.where(changes.c.run_id > after)
        if run_id is not None:
            found = found.where(changes.c.run_id == run_id)
        return found

    if connection.dialect.name == "sqlite":
        # The first place of a transaction is its id, so places compare as ids do.
        return part(changes.c.seq >= since.xmax).order_by(changes.c.run_id, changes.c.version)
    newer = part(changes.c.xid >= since.xmax)
    if not since.xip:
        return newer.order_by(changes.c.run_id, changes.c.version)
    # Two index scans; one condition with OR is planned as one scan of far too much.
    both = sa.union_all(newer, part(changes.c.xid.in_(since.xip))).subquery()
    return sa.select(both).order_by(both.c.run_id, both.c.version)


def change_of(row: Row[Any]) -> Change:
    before = row.before
    return Change(
        project=row.project,
        run_id=row.run_id,
        version=row.version,
        xid=row.xid,
        previous_xid=row.previous_xid,
        at=row.at,
        changed=row.changed,
        before=None if before is None else Facet(RunStatus(before[0]), tuple(before[1])),
        kind=ChangeKind(row.kind),
    )


def _states(connection: Connection, ids: Iterable[str], payloads: bool) -> dict[str, Run]:
    found: dict[str, Run] = {}
    wanted = list(ids)
    columns = WHOLE if payloads else SLIM
    for start in range(0, len(wanted), STATES):
        some = wanted[start : start + STATES]
        these = among(connection, runs.c.id, some)
        for row in connection.execute(sa.select(*columns).where(these)):
            found[row.id] = run_of(row)
    return found


def _group(found: list[Change], state: Run | None) -> Group:
    last = found[-1]
    if last.kind is ChangeKind.DELETED:
        state = deleted_run(last)
    return Group(tuple(found), state)


def deleted_run(change: Change) -> Run:
    """The run of a deletion, as far as the log has kept it."""
    kept = msgspec.convert(change.changed, _Kept)
    return Run(
        id=change.run_id,
        project=change.project,
        version=change.version,
        updated_at=change.at,
        last_xid=change.xid,
        has_payload=False,
        **msgspec.structs.asdict(kept),
    )


def history(
    connection: Connection, run_id: str, after_version: int, limit: int
) -> tuple[list[Change], int | None]:
    """A page of a run's changes by version, and the `after_version` of the next."""
    rows = connection.execute(
        sa.select(*COLUMNS)
        .where(changes.c.run_id == run_id, changes.c.version > after_version)
        .order_by(changes.c.version)
        .limit(limit + 1)
    ).all()
    page = [change_of(row) for row in rows[:limit]]
    return page, page[-1].version if len(rows) > limit else None
