"""Finds the newest runs that fit: what every list of runs begins with.

The order is that of `created_at` and, within one moment, `number`; neither ever changes. Every
index here ends in these two, so what is wanted lies together in the order in which it is wanted,
between two times as well, and a page costs what it shows and not what it passes over.

Neither database finds the right index by itself: SQLite counts nothing, and PostgreSQL expects
that what two conditions have in common is spread evenly. So it is looked first how many rows each
of them leaves, up to a bound, and the fewest are gone through.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Connection

from store.jsonvalue import is_text
from store.model import ListKey, Match, RunStatus
from store.tables import UtcTime, run_tags, runs

Condition = sa.ColumnElement[bool]

FEW: Final = 2_000
"""So many rows are gone through faster than it could be found out how not to."""

REACHES: Final = (2, 8, 32)
"""So many times a page is gone along one index before the other one is tried."""

PARTS: Final = 60
"""From so many kinds the newest are taken one kind after the other; of more, all are sorted."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What the runs must fit. Empty or None asks for nothing."""

    project: str
    statuses: frozenset[RunStatus] | None = None
    tasks: frozenset[str] | None = None
    tags: tuple[str, ...] = ()
    match: Match = Match.ALL
    is_test: bool | None = None
    is_job_run: bool = False
    created_after: datetime | None = None
    created_before: datetime | None = None
    after: ListKey | None = None
    """Only what comes after that place in the list."""


def newest(connection: Connection, wanted: Wanted, limit: int) -> list[str]:
    """The ids of the newest that fit, in order."""
    for asked in (wanted.statuses, wanted.tasks):
        if asked is not None and not asked:
            return []
    tags = sorted(set(wanted.tags))
    known = [tag for tag in tags if is_text(tag)]
    if tags and (not known or (wanted.match is Match.ALL and len(known) < len(tags))):
        return []
    if tags and not (wanted.match is Match.ANY and len(known) > 1):
        return _by_the_fewest(connection, wanted, known, limit)
    if tags:
        found = _by_any_tag(wanted, known, limit)
    else:
        found = _by_runs(connection.dialect.name, wanted, (), limit)
    return list(connection.scalars(found))


def of_few(wanted: Wanted, condition: Condition, limit: int) -> sa.Select[Any]:
    """The same among those that a condition leaves few of: all of them are looked at."""
    # Written so that no index but that of the condition is thought of.
    found = (
        sa.select(runs.c.id)
        .where(condition, sa.func.coalesce(runs.c.project, "") == wanted.project)
        .where(*_rest(wanted, covered=()))
        .order_by(runs.c.created_at.desc(), runs.c.number.desc())
        .limit(limit)
    )
    if wanted.created_after is not None:
        found = found.where(runs.c.created_at > wanted.created_after)
    if wanted.created_before is not None:
        found = found.where(runs.c.created_at < wanted.created_before)
    if wanted.after is not None:
        found = found.where(_place(runs.c) < _there(wanted.after))
    tags = sorted(tag for tag in set(wanted.tags) if is_text(tag))
    if wanted.tags and wanted.match is Match.ALL:
        found = found.where(*(_has_tag(tag) for tag in tags))
        if len(tags) < len(set(wanted.tags)):
            found = found.where(sa.false())
    elif wanted.tags:
        found = found.where(sa.or_(sa.false(), *(_has_tag(tag) for tag in tags)))
    return found


# ----------------------------------------------------------------------------------- which index


def _by_the_fewest(
    connection: Connection, wanted: Wanted, tags: Sequence[str], limit: int
) -> list[str]:
    counts = {tag: _count(connection, _tagged(wanted, tag)) for tag in tags}
    rarest = min(tags, key=lambda tag: counts[tag])
    others = [tag for tag in tags if tag != rarest]
    dialect = connection.dialect.name
    along_tag = _by_tag(wanted, rarest, others, limit)
    narrowed = wanted.statuses is not None or wanted.tasks is not None
    if counts[rarest] < FEW or not narrowed:
        return list(connection.scalars(along_tag))
    if _count(connection, _by_runs(dialect, wanted, (), FEW, of=_KEY)) < FEW:
        return list(connection.scalars(_by_runs(dialect, wanted, tags, limit)))
    # Many have the tag and many have the rest, and how many have both nobody knows. So both are
    # gone along in turn, each time further: whichever leads to a page soonest, little more than
    # that is read.
    for reach in (limit * times for times in REACHES):
        for some in (
            _within_runs(dialect, wanted, tags, limit, reach),
            _by_tag(wanted, rarest, others, limit, reach),
        ):
            found = list(connection.scalars(some))
            if len(found) == limit:
                return found
    return list(connection.scalars(along_tag))


def _count(connection: Connection, found: sa.Select[Any]) -> int:
    """How many rows there are, counted up to FEW."""
    some = found.limit(FEW).order_by(None).subquery()
    return int(connection.execute(sa.select(sa.func.count()).select_from(some)).scalar_one())


def _tagged(wanted: Wanted, tag: str) -> sa.Select[Any]:
    found = sa.select(run_tags.c.number).where(
        run_tags.c.project == wanted.project, run_tags.c.tag == tag
    )
    return found.where(*_between(run_tags.c, wanted))


def _by_tag(
    wanted: Wanted, tag: str, others: Sequence[str], limit: int, reach: int | None = None
) -> sa.Select[Any]:
    """Along the tag's own index, looking at each run that has it, or at the newest `reach`."""
    tagged = (
        sa.select(run_tags.c.created_at, run_tags.c.number)
        .where(run_tags.c.project == wanted.project, run_tags.c.tag == tag)
        .where(*_between(run_tags.c, wanted))
    )
    if reach is not None:
        tagged = tagged.order_by(run_tags.c.created_at.desc(), run_tags.c.number.desc())
        tagged = tagged.limit(reach)
    return _of_keys(wanted, tagged.subquery(), others, limit)


def _within_runs(
    dialect: str, wanted: Wanted, tags: Sequence[str], limit: int, reach: int
) -> sa.Select[Any]:
    """Among the newest `reach` along an index of runs, whatever else they have."""
    keys = _by_runs(dialect, wanted, (), reach, of=_KEY).subquery()
    return _of_keys(wanted, keys, tags, limit)


def _of_keys(
    wanted: Wanted, keys: sa.FromClause, tags: Sequence[str], limit: int
) -> sa.Select[Any]:
    """Of the runs with those places in the list the newest that have the tags and the rest."""
    # Not as a join: PostgreSQL expects hardly a run to be met by both columns, and would rather
    # read all of the table.
    one = (
        sa.select(runs.c.id)
        .where(
            runs.c.project == wanted.project,
            runs.c.created_at == keys.c.created_at,
            runs.c.number == keys.c.number,
        )
        .where(*_rest(wanted, covered=()), *(_has_tag(tag) for tag in tags))
        .correlate(keys)
        .scalar_subquery()
    )
    each = sa.select(one.label("id"), keys.c.created_at, keys.c.number).subquery()
    return (
        sa.select(each.c.id, each.c.created_at, each.c.number)
        .where(each.c.id.is_not(None))
        .order_by(each.c.created_at.desc(), each.c.number.desc())
        .limit(limit)
    )


def _by_any_tag(wanted: Wanted, tags: Sequence[str], limit: int) -> sa.Select[Any]:
    parts = [sa.select(_by_tag(wanted, tag, (), limit).subquery()) for tag in tags]
    every = sa.union(*parts).subquery()
    return (
        sa.select(every.c.id)
        .order_by(every.c.created_at.desc(), every.c.number.desc())
        .limit(limit)
    )


Columns = tuple[sa.Column[Any], ...]

# Read from the index alone, where the columns of all conditions are in it.
_KEY: Final = (runs.c.created_at, runs.c.number)
_PLACED: Final = (runs.c.id, runs.c.created_at, runs.c.number)


def _by_runs(
    dialect: str,
    wanted: Wanted,
    tags: Sequence[str],
    limit: int,
    *,
    of: Columns | None = None,
) -> sa.Select[Any]:
    """Along an index of runs: one scan for each kind, of no more rows than are wanted.

    With `of` these columns of all that lie along the index, whatever else is wanted of them.
    """
    statuses = None
    if wanted.statuses is not None and len(wanted.statuses) < len(RunStatus):
        statuses = sorted(status.value for status in wanted.statuses)
    tasks = None if wanted.tasks is None else sorted(filter(is_text, wanted.tasks))
    covered: tuple[str, ...] = ()
    columns: tuple[sa.Column[Any], ...] = ()
    kinds: list[tuple[str, ...]] = [()]
    if tasks is not None and len(tasks) * len(statuses or RunStatus) <= PARTS:
        covered = ("tasks", "statuses")
        columns = (runs.c.task_identifier, runs.c.status)
        kinds = [
            (task, status)
            for task in tasks
            for status in statuses or sorted(status.value for status in RunStatus)
        ]
    elif statuses is not None:
        covered = ("statuses",)
        columns = (runs.c.status,)
        kinds = [(status,) for status in statuses]
    if not kinds:
        return sa.select(runs.c.id).where(sa.false())
    base = (
        sa.select(*(of or _PLACED))
        .where(runs.c.project == wanted.project)
        .where(*_between(runs.c, wanted))
        .where(*(_has_tag(tag) for tag in tags))
        .order_by(runs.c.created_at.desc(), runs.c.number.desc())
        .limit(limit)
    )
    if of is None:
        base = base.where(*_rest(wanted, covered=covered))
    elif wanted.is_job_run and tasks is None:
        base = base.where(runs.c.job_id.is_not(None))
    if len(kinds) == 1:
        only = (column == value for column, value in zip(columns, kinds[0], strict=True))
        return base.where(*only)
    every = _of_each_kind(dialect, base, columns, kinds)
    return sa.select(every).order_by(every.c.created_at.desc(), every.c.number.desc()).limit(limit)


def _of_each_kind(
    dialect: str,
    base: sa.Select[Any],
    columns: Sequence[sa.Column[Any]],
    kinds: Sequence[tuple[str, ...]],
) -> sa.FromClause:
    """The newest of the first kind, then those of the next …"""
    if dialect == "postgresql":
        # As one part that is gone through again and again: it is planned once.
        lists = (
            sa.literal(list(values), postgresql.ARRAY(sa.Text))
            for values in zip(*kinds, strict=True)
        )
        names = [column.name for column in columns]
        kind = sa.func.unnest(*lists).table_valued(*names, name="kind").render_derived()
        fits = (column == kind.c[column.name] for column in columns)
        part = base.where(*fits).lateral("newest")
        return sa.select(part).select_from(kind.join(part, sa.true())).subquery()
    parts = []
    for values in kinds:
        fits = (column == value for column, value in zip(columns, values, strict=True))
        parts.append(sa.select(base.where(*fits).subquery()))
    return sa.union_all(*parts).subquery()


# ------------------------------------------------------------------------------------- conditions


def _between(columns: Any, wanted: Wanted) -> Iterable[Condition]:
    """The part of the list that is wanted, in columns of runs or of their tags."""
    if wanted.created_after is not None:
        yield columns.created_at > wanted.created_after
    if wanted.created_before is not None:
        yield columns.created_at < wanted.created_before
    if wanted.after is not None:
        yield _place(columns) < _there(wanted.after)


def _place(columns: Any) -> Any:
    return sa.tuple_(columns.created_at, columns.number)


def _there(place: ListKey) -> Any:
    return sa.tuple_(sa.literal(place.created_at, UtcTime), sa.literal(place.number, sa.BigInteger))


def _rest(wanted: Wanted, covered: Sequence[str]) -> Iterable[Condition]:
    """What is looked at in each row, and for which no index is to be thought of."""
    if wanted.is_job_run:
        yield runs.c.job_id.is_not(None)
    if wanted.is_test is not None:
        yield runs.c.is_test.is_(wanted.is_test)
    if wanted.statuses is not None and "statuses" not in covered:
        statuses = sorted(status.value for status in wanted.statuses)
        yield sa.func.coalesce(runs.c.status, "").in_(statuses)
    if wanted.tasks is not None and "tasks" not in covered:
        tasks = sorted(filter(is_text, wanted.tasks))
        yield sa.func.coalesce(runs.c.task_identifier, "").in_(tasks)


def _has_tag(tag: str) -> Condition:
    one = run_tags.alias()
    # Not EXISTS, of which PostgreSQL makes a join: see `_by_tag`.
    there = (
        sa.select(one.c.number)
        .where(
            one.c.project == runs.c.project,
            one.c.tag == tag,
            one.c.created_at == runs.c.created_at,
            one.c.number == runs.c.number,
        )
        .correlate(runs)
        .scalar_subquery()
    )
    return there.is_not(None)
