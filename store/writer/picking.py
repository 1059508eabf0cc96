"""Finds in a transaction the runs that claims are given: the oldest, each to one alone."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from store.model import Run, RunStatus
from store.tables import runs
from store.writer.held import lock_runs
from store.writer.open_claims import OpenClaim, Queue, one_of
from store.writer.staged import Staged

PARTS: Final = 100
"""Into how many queues one statement on SQLite looks: it may not have more than 500 parts."""


class Picked(NamedTuple):
    """What there was for some claims."""

    run_ids: dict[OpenClaim, str]
    """The run that was found for each, staged and locked, as is the job run that it moves."""
    held: set[OpenClaim]
    """Those that got none, and that others' locks may have kept from one."""


class _Candidate(NamedTuple):
    """A run that waits; the older, the less."""

    number: int
    id: str
    queue: Queue
    job_run_id: str | None
    """The job run that it would begin."""


def pick(connection: Connection, staged: Staged, claims: Sequence[OpenClaim]) -> Picked:
    """The oldest runs that wait, for the claims in their order, as the group has left them.

    A claim that does not look is given what the group itself has queued, or what is older.
    It waits for no lock: whoever has one may be waiting for one of this transaction.
    """
    ours = [_candidate(run) for run in staged.runs.values() if _is_waiting(run)]
    asking = _asking(claims, Counter(one.queue for one in ours))
    if not asking:
        return Picked({}, set())
    most = Counter(queue for claim in asking for queue in claim.queues)
    # Until the group is written, what it has taken out of a queue still looks as if it waited.
    past = [
        _queue(run)
        for id, run in staged.locked.items()
        if _is_waiting(run) and not _is_waiting(staged.runs.get(id))
    ]
    most.update(queue for queue in past if queue in most)
    theirs, held = _oldest(connection, most)
    ours += (one for one in theirs if one.id not in staged.locked)
    # Whose claimer has gone by now would only have to give it back.
    matched = _matched([claim for claim in asking if not claim.future.done()], ours)
    needed = {id for one in matched.values() for id in (one.id, one.job_run_id) if id is not None}
    staged.hold(lock_runs(connection, needed - staged.runs.keys(), skip_locked=True))
    got = {
        claim: one.id
        for claim, one in matched.items()
        if one.id in staged.runs and (one.job_run_id is None or one.job_run_id in staged.runs)
    }
    held |= {one.queue for claim, one in matched.items() if claim not in got}
    return Picked(got, {w for w in asking if w not in got and not held.isdisjoint(w.queues)})


def _asking(claims: Iterable[OpenClaim], queued: Counter[Queue]) -> list[OpenClaim]:
    """The claims that look, and as many others as there are runs for them in the group."""
    return [claim for claim in claims if claim.looks or one_of(claim, queued)]


def _is_waiting(run: Run | None) -> bool:
    return run is not None and run.status == RunStatus.QUEUED and run.job_id is None


def _queue(run: Run) -> Queue:
    return (run.project, run.task_identifier)


def _candidate(run: Run) -> _Candidate:
    begins = run.workflow_id is not None and run.position == 0
    return _Candidate(run.number, run.id, _queue(run), run.parent_run_id if begins else None)


def _matched(
    claims: Iterable[OpenClaim], candidates: Collection[_Candidate]
) -> dict[OpenClaim, _Candidate]:  # fmt: skip
    queues: dict[Queue, deque[_Candidate]] = {}
    for one in sorted(candidates):
        queues.setdefault(one.queue, deque()).append(one)
    matched = {}
    for claim in claims:
        heads = [queues[queue][0] for queue in claim.queues if queues.get(queue)]
        if heads:
            oldest = min(heads)
            matched[claim] = queues[oldest.queue].popleft()
    return matched


# --------------------------------------------------------------------------------- the statements


# The conditions of the index `runs_waiting`, as the databases must see them to use it.
_WAITS: Final = "status = 'QUEUED' AND job_id IS NULL"

_BEGINS: Final = "CASE WHEN workflow_id IS NOT NULL AND position = 0 THEN parent_run_id END"

# How many there are in sight is counted apart, since of those that are passed over nothing tells.
_LOCK_OLDEST: Final = f"""
    SELECT asked.place, sight.seen, oldest.number, oldest.id, oldest.begins
    FROM unnest($1::text[], $2::text[], $3::bigint[])
        WITH ORDINALITY AS asked(project, task, most, place)
    CROSS JOIN LATERAL (
        SELECT count(*) AS seen FROM (
            SELECT FROM runs
            WHERE project = asked.project AND task_identifier = asked.task AND {_WAITS}
            LIMIT asked.most
        ) AS those
    ) AS sight
    LEFT JOIN LATERAL (
        SELECT number, id, {_BEGINS} AS begins FROM runs
        WHERE project = asked.project AND task_identifier = asked.task AND {_WAITS}
        ORDER BY number LIMIT asked.most FOR UPDATE SKIP LOCKED
    ) AS oldest ON true
"""


def _oldest(connection: Connection, most: Counter[Queue]) -> tuple[list[_Candidate], set[Queue]]:
    """So many of each queue, locked; and the queues of which others hold some."""
    queues = list(most)
    if connection.dialect.name == "sqlite":
        found = []
        for start in range(0, len(queues), PARTS):
            some = queues[start : start + PARTS]
            for place, *row in connection.execute(oldest(some, [most[queue] for queue in some])):
                found.append(_Candidate(row[0], row[1], some[place], row[2]))
        return found, set()
    projects, tasks = zip(*queues, strict=True)
    asked = (projects, tasks, [most[queue] for queue in queues])
    found = []
    seen: Counter[Queue] = Counter()
    for place, in_sight, number, id, begins in connection.exec_driver_sql(_LOCK_OLDEST, asked):
        queue = queues[place - 1]
        seen[queue] = in_sight
        if id is not None:
            found.append(_Candidate(number, id, queue, begins))
    seen.subtract(one.queue for one in found)
    return found, set(+seen)


def oldest(queues: Sequence[Queue], most: Sequence[int]) -> sa.Select[Any]:
    """The number, id and begun job run of the oldest in each queue, after its place: a scan each,
    of no more rows than are wanted."""
    parts = []
    for place, ((project, task), count) in enumerate(zip(queues, most, strict=True)):
        part = (
            sa.select(
                sa.literal(place).label("place"),
                runs.c.number,
                runs.c.id,
                sa.literal_column(_BEGINS, sa.Text).label("begins"),
            )
            .where(runs.c.project == project, runs.c.task_identifier == task, sa.text(_WAITS))
            .order_by(runs.c.number)
            .limit(count)
        )
        parts.append(sa.select(part.subquery()))
    return sa.select(sa.union_all(*parts).subquery())
