"""Turns the change log into deliveries: each change once for each endpoint, whatever dies.

The log is read by horizon, as every reader of it does, and the cursor is moved in the
transaction that writes the deliveries. Several servers may read the same; the first to write
moves the cursor, and the others find that they have read in vain.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from store import batches as batch_reads
from store import changes
from store.errors import CannotContinue, NotFound
from store.jobs import runs as job_runs
from store.jobs.following import status_of
from store.model import Group, Horizon, Run, RunStatus, new_id, rfc3339, wire_run, wire_value
from store.tables import changes as log
from store.tables import runs
from store.tables.webhooks import deliveries, webhook_cursors, webhooks
from store.webhooks import endpoints as endpoint_rows
from store.webhooks.schedule import TRIED_FOR
from store.webhooks.values import (
    BATCH_COMPLETED,
    Endpoint,
    State,
    Told,
    as_of,
    may_complete_batch,
    told,
)
from store.wire import wire_batch, wire_job_run

PAGE_CHANGES: Final = 500
BODY_BYTES: Final = 1_000_000
"""A longer body goes without the parts that make it so."""

HISTORY_CHANGES: Final = 2_000
"""A run with more changes is told of as it stands, not as it stood."""


class CursorRow(NamedTuple):
    """How far a project's log has been turned into deliveries."""

    project: str
    epoch: str
    horizon: Horizon
    bound: Horizon | None
    after: str | None
    serial: int


class Planned(NamedTuple):
    """Deliveries, and how far the log is told with them."""

    cursor: CursorRow
    rows: list[dict[str, Any]]
    lost: str | None = None
    """Why part of the log cannot be told any more."""

    @property
    def more(self) -> bool:
        return self.cursor.after is not None


def projects(connection: Connection) -> list[str]:
    """The projects that have, or had, webhooks."""
    return list(connection.scalars(sa.select(webhook_cursors.c.project)))


def plan(connection: Connection, project: str) -> Planned | None:
    """The next page of the log as deliveries; None if there is nothing new.

    To be called in a transaction that sees one snapshot.
    """
    cursor = _cursor(connection, project)
    if cursor is None:
        return None
    at = changes.now(connection, project)
    asked = endpoint_rows.of_project(connection, project)
    if not asked:
        if cursor.after is None and cursor.horizon == at.horizon and cursor.epoch == at.epoch:
            return None
        return Planned(_moved(cursor, at.epoch, at.horizon), [])
    # Without its witness: the cursor goes wherever the log goes, and a project in which nothing
    # happens keeps one whose witness, some other project's change, is cut.
    since = msgspec.structs.replace(cursor.horizon, witness=0)
    try:
        changes.check_continues(connection, since, cursor.epoch, at)
    except CannotContinue as error:
        return Planned(_moved(cursor, at.epoch, at.horizon), [], error.reason)
    found = changes.read(
        connection, project, cursor.horizon, after=cursor.after, limit=PAGE_CHANGES
    )
    if not found.groups and cursor.after is None and not cursor.horizon.xip:
        # With transactions that were open the cursor moves all the same: once they are cut out
        # of the log, a cursor that still named them would look like one that has missed them.
        return None
    page = _Page(connection, asked, at.epoch)
    for group in found.groups:
        page.tell(group)
    for batch_id in page.batches:
        page.tell_batch(project, batch_id)
    # What was committed while a long log is read in pages is read again with the next round:
    # an endpoint is told once all the same.
    bound = cursor.bound or at.horizon
    if found.next is None:
        return Planned(_moved(cursor, at.epoch, bound), page.rows)
    moved = cursor._replace(bound=bound, after=found.next, serial=cursor.serial + 1)
    return Planned(moved, page.rows)


def _cursor(connection: Connection, project: str) -> CursorRow | None:
    row = connection.execute(
        sa.select(webhook_cursors).where(webhook_cursors.c.project == project)
    ).one_or_none()
    if row is None:
        return None
    return CursorRow(
        row.project,
        row.epoch,
        msgspec.convert(row.horizon, Horizon),
        None if row.bound is None else msgspec.convert(row.bound, Horizon),
        row.after,
        row.serial,
    )


def _moved(cursor: CursorRow, epoch: str, horizon: Horizon) -> CursorRow:
    return CursorRow(cursor.project, epoch, horizon, None, None, cursor.serial + 1)


def keep(connection: Connection, planned: Planned) -> bool:
    """Writes the deliveries down and moves the cursor; False if somebody else has moved it."""
    cursor = planned.cursor
    moved = connection.execute(
        sa.update(webhook_cursors)
        .where(
            webhook_cursors.c.project == cursor.project,
            webhook_cursors.c.serial == cursor.serial - 1,
        )
        .values(
            epoch=cursor.epoch,
            horizon=msgspec.to_builtins(cursor.horizon),
            bound=None if cursor.bound is None else msgspec.to_builtins(cursor.bound),
            after=cursor.after,
            serial=cursor.serial,
        )
    )
    if not moved.rowcount:
        return False
    if planned.rows:
        # Those that are being deleted just now take their deliveries along.
        held = sa.select(webhooks.c.id).where(
            webhooks.c.id.in_(sorted({row["webhook_id"] for row in planned.rows}))
        )
        there = set(connection.scalars(held.order_by(webhooks.c.id).with_for_update(read=True)))
        rows = [row for row in planned.rows if row["webhook_id"] in there]
        if rows:
            dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
            connection.execute(dialect.insert(deliveries).on_conflict_do_nothing(), rows)
    return True


class _Page:
    """The deliveries of one page of the log."""

    def __init__(self, connection: Connection, asked: Iterable[Endpoint], epoch: str) -> None:
        self._connection = connection
        self._endpoints = list(asked)
        self._epoch = epoch
        self._at = changes.database_time(connection)
        self.rows: list[dict[str, Any]] = []
        self.batches: dict[str, list[Group]] = {}
        """The groups that may have completed each of them."""

    def tell(self, group: Group) -> None:
        """Makes the deliveries of one run's changes."""
        batch_id = may_complete_batch(group)
        if batch_id is not None:
            self.batches.setdefault(batch_id, []).append(group)
        for one in told(group):
            assert group.run is not None
            self._tell_change(one, group, group.run)

    def _tell_change(self, one: Told, group: Group, run: Run) -> None:
        change = one.change
        wanted = [
            (endpoint, entry)
            for endpoint in self._endpoints
            for entry in one.entries
            if endpoint.wants(entry) is not None and not endpoint.saw(change, self._epoch)
        ]
        if not wanted:
            return
        stood = self._as_it_stood(run, group, change.version)
        facet = msgspec.structs.replace(run, tags=tuple(stood["tags"]))
        bodies: dict[str, str] = {}
        for endpoint, entry in wanted:
            if not endpoint.covers(facet):
                continue
            type = endpoint.wants(entry)
            assert type is not None
            if type not in bodies:
                data = self._job_run(run, stood) if type.startswith("job_run.") else stood
                bodies[type] = body_of(type, change.at, data)
            subject = f"{change.run_id}:{change.version}:{entry[0]}"
            self._deliver(endpoint, type, subject, bodies[type])

    def _as_it_stood(self, run: Run, group: Group, version: int) -> dict[str, Any]:
        """The run as it stood at that version, as the wire has it."""
        if not run.has_payload and not group.deleted:
            run = msgspec.structs.replace(
                run, payload=self._payload(run.id), has_payload=True
            )  # fmt: skip
        if version == run.version and not group.deleted:
            return wire_run(run)
        rows = self._connection.execute(
            sa.select(*changes.COLUMNS)
            .where(log.c.run_id == run.id, log.c.version <= version)
            .order_by(log.c.version)
            .limit(HISTORY_CHANGES + 1)
        ).all()
        history = [changes.change_of(row) for row in rows]
        if not history or history[0].version != 1 or len(history) > HISTORY_CHANGES:
            # The log has not all of it any more: as it stands, with the change's own fields.
            (change,) = (one for one in group.changes if one.version == version)
            return {
                **wire_run(run),
                **change.changed,
                "version": version,
                "updatedAt": rfc3339(change.at),
            }
        stood = as_of(run, history)
        return {name: wire_value(value) for name, value in stood.items()}

    def _payload(self, run_id: str) -> Any:
        return self._connection.scalar(sa.select(runs.c.payload).where(runs.c.id == run_id))

    def _job_run(self, run: Run, stood: Mapping[str, Any]) -> dict[str, Any]:
        try:
            body = wire_job_run(job_runs.get(self._connection, run.project, run.id))
        except NotFound:  # it was deleted meanwhile; what was left of it is told
            body = {
                "id": run.id,
                "jobId": run.job_id,
                "jobConfigJsonSnapshot": None,
                "workflows": [],
                "workflowRuns": [],
            }
        return body | {
            "status": status_of(RunStatus(stood["status"])),
            "createdAt": stood.get("createdAt"),
            "startedAt": stood.get("startedAt"),
            "finishedAt": stood.get("finishedAt"),
            "run": dict(stood),
        }

    def tell_batch(self, project: str, batch_id: str) -> None:
        """Makes the deliveries of a batch's completion, if it is complete.

        No writer knows that; readers find it, each as soon as it has read the change by which it
        came about. An endpoint is told once, however many do.
        """
        wanted = [
            endpoint
            for endpoint in self._endpoints
            if endpoint.wants([BATCH_COMPLETED]) and endpoint.covers(None)
        ]
        if not wanted:
            return
        try:
            body = wire_batch(batch_reads.read(self._connection, project, batch_id))
        except NotFound:
            return
        if body["completedAt"] is None:
            return
        found = [group.last for group in self.batches[batch_id]]
        for endpoint in wanted:
            if not all(endpoint.saw(change, self._epoch) for change in found):
                text = body_of(BATCH_COMPLETED, datetime.fromisoformat(body["completedAt"]), body)
                self._deliver(endpoint, BATCH_COMPLETED, f"{batch_id}:completed", text)

    def _deliver(self, endpoint: Endpoint, type: str, subject: str, body: str) -> None:
        self.rows.append(
            {
                "id": new_id("msg"),
                "project": endpoint.project,
                "webhook_id": endpoint.id,
                "type": type,
                "subject": subject,
                "body": body,
                "state": State.PENDING,
                "attempts": [],
                "created_at": self._at,
                "gives_up_at": self._at + TRIED_FOR,
                "next_at": self._at,
                "by_hand": False,
            }
        )


def body_of(type: str, at: datetime, data: Mapping[str, Any]) -> str:
    """The body of a message; too long, it goes without payload, output and metadata."""
    message = {"type": type, "timestamp": rfc3339(at), "data": data}
    text = msgspec.json.encode(message)
    if len(text) > BODY_BYTES:
        message["data"] = _without(data, _HEAVY)
        text = msgspec.json.encode(message)
    if len(text) > BODY_BYTES:
        message["data"] = _without(
            data, (*_HEAVY, "workflowRuns", "jobConfigJsonSnapshot", "error")
        )
        text = msgspec.json.encode(message)
    return text.decode()


_HEAVY: Final = ("payload", "output", "metadata")


def _without(data: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The data less these fields, here and in the runs inside, and with a word about it."""
    left: dict[str, Any] = {}
    for name, value in data.items():
        if name in names:
            continue
        if name == "run":
            value = {k: v for k, v in value.items() if k not in names}
        elif name == "workflowRuns":
            value = [{k: v for k, v in one.items() if k not in names} for one in value]
        left[name] = value
    return {**left, "omitted": list(names)}
