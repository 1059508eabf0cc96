"""What the database says: every version of every run of one project, as it was committed."""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from store.changes import COLUMNS, change_of
from store.engine import Database
from store.lifecycle import FINAL
from store.model import Change, ChangeKind, Run, rfc3339, wire_run
from store.rows import WHOLE, run_of
from store.tables import batches, changes, runs

State = dict[str, Any]
"""A run as clients hold it: the wire's names and values."""


class Ledger:
    """Filled from the log and the rows; what was read stays, whatever is cut afterwards."""

    def __init__(self, project: str) -> None:
        self.project = project
        self.states: dict[str, list[State]] = {}
        """The state after each version, from 1; after its deletion a run is in `deleted`."""
        self.xids: dict[str, list[int]] = {}
        self.deleted: dict[str, int] = {}
        """The version by which a run was deleted."""
        self.sealed: set[str] = set()
        self.batch_ids: set[str] = set()
        self.payloads: dict[str, Any] = {}
        self.rows: dict[str, Run] = {}

    async def refresh(self, database: Database) -> None:
        """Reads what is new. Raises AssertionError where rows and log do not fit."""
        log, rows, opened = await database.read(_read, self.project)
        for change in log:
            self._append(change)
        self.rows = alive = {run.id: run for run in rows}
        for run in rows:
            self.payloads[run.id] = run.payload
        for id, states in self.states.items():
            if id in self.payloads:
                for state in states:
                    state["payload"] = self.payloads[id]
            if id in self.deleted:
                assert id not in alive, f"{id} was deleted and is there"
                continue
            assert id in alive, f"{id} is in the log and not there"
            assert states[-1] == _wire(wire_run(alive[id])), (
                f"{id}: its row is not what its log says"
            )
        assert alive.keys() <= self.states.keys(), "a run without a change"
        for run in rows:
            assert run.parent_run_id is None or run.parent_run_id in self.states, f"{run}: parent"
        self.batch_ids = {batch.id for batch in opened}
        self.sealed = {batch.id for batch in opened if batch.sealed_at is not None}
        for run in rows:
            assert run.batch_id is None or run.batch_id in self.batch_ids, f"{run}: batch"

    def _append(self, change: Change) -> None:
        if change.kind is ChangeKind.SEALED:
            return
        id = change.run_id
        states = self.states.setdefault(id, [])
        xids = self.xids.setdefault(id, [])
        if change.version <= len(xids):
            return
        assert change.version == len(xids) + 1, f"{id}: {len(xids)} is followed by {change.version}"
        assert change.previous_xid == (xids[-1] if xids else 0), f"{id}: {change}"
        if states:
            last = states[-1]
            assert change.before is not None
            assert [change.before.status, list(change.before.tags)] == [
                last["status"],
                last["tags"],
            ], f"{id}: {change.before} before {change.version}, and not {last}"
        else:
            assert change.before is None
        xids.append(change.xid)
        if change.kind is ChangeKind.DELETED:
            self.deleted[id] = change.version
            return
        state = dict(states[-1]) if states else {"payload": None}
        state |= _wire(change.changed)
        state |= {"version": change.version, "updatedAt": rfc3339(change.at)}
        states.append(state)

    # What can be asked of it.

    def at(self, run_id: str, version: int) -> State | None:
        """The run after that version; None if there is no such version of it."""
        states = self.states.get(run_id, [])
        return states[version - 1] if 1 <= version <= len(states) else None

    def now(self) -> dict[str, State]:
        """Every run that is there, as it stands."""
        return {id: states[-1] for id, states in self.states.items() if id not in self.deleted}

    def is_complete(self, batch_id: str) -> bool:
        """Whether a batch is sealed and all its runs are final."""
        return batch_id in self.sealed and all(
            states[-1]["status"] in FINAL
            for states in self.states.values()
            if states[-1]["batchId"] == batch_id
        )

    def counts(self, batch_id: str) -> dict[str, int]:
        """How many of the batch's runs stand where, those deleted by the status they had."""
        counts: dict[str, int] = {}
        for states in self.states.values():
            if states[-1]["batchId"] == batch_id:
                status = states[-1]["status"]
                counts[status] = counts.get(status, 0) + 1
        return counts


def _wire(fields: State) -> State:
    decoded: State = msgspec.json.decode(msgspec.json.encode(fields))
    return decoded


def _read(
    connection: Connection, project: str
) -> tuple[list[Change], list[Run], list[sa.Row[Any]]]:
    log = connection.execute(
        sa.select(*COLUMNS)
        .where(changes.c.project == project)
        .order_by(changes.c.run_id, changes.c.version)
    )
    rows = connection.execute(sa.select(*WHOLE).where(runs.c.project == project))
    opened = connection.execute(sa.select(batches).where(batches.c.project == project))
    return [change_of(row) for row in log], [run_of(row) for row in rows], list(opened)
