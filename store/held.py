"""What a group has read and locked, before anything is applied.

The order of locks is the same in every process, so that two groups never wait for each other in
a ring: keys and one-time tokens (by inserting them, sorted), batches, runs, each by id. What
never changes of a run (its parent, root, batch) is read before and needs no lock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from store.commands import (
    Command,
    CreateRun,
    DeleteRun,
    FireTimer,
    MetadataTarget,
    MutateMetadata,
    SealBatch,
    Submission,
    Timer,
    UpdateRun,
)
from store.model import Run
from store.rows import WHOLE, run_of
from store.tables import answers, batches, heartbeats, idempotency_keys, runs, used_tokens

RunKey = tuple[str, str, str]
"""A run's idempotency key with its project and task."""


class Kin(NamedTuple):
    """What never changes of a run."""

    project: str
    parent_run_id: str | None
    root_run_id: str | None
    batch_id: str | None
    depth: int


class TokenUse(NamedTuple):
    """What a one-time token was used for."""

    run_id: str
    task_identifier: str
    idempotency_key: str | None


class BatchRow(msgspec.Struct):
    """A batch's row while a group is applied."""

    project: str
    created_at: datetime
    sealed_at: datetime | None
    deleted_counts: dict[str, int]
    deleted_finished_at: datetime | None
    is_new: bool = False
    is_changed: bool = False


class Held:
    """The rows and keys that a group of submissions is about, read and locked."""

    def __init__(self, connection: Connection, submissions: Sequence[Submission]) -> None:
        self._connection = connection
        self._postgres = connection.dialect.name == "postgresql"
        self.answers: dict[tuple[str, str], tuple[str, str]] = {}
        """Fingerprint and outcomes of each idempotency key that was used before."""
        self.key_owner: dict[RunKey, str] = {}
        """The run that was made with a run's idempotency key before."""
        self.own_keys: dict[RunKey, str] = {}
        """The keys that this group has taken, each for a run that it means to make."""
        self.token_use: dict[tuple[str, str], TokenUse] = {}
        self.own_tokens: set[tuple[str, str]] = set()
        self.found: dict[str, Run] = {}
        """The runs of keys and tokens that were used before; not locked."""
        self.batches: dict[str, BatchRow] = {}
        self.runs: dict[str, Run] = {}
        """The locked runs."""
        self.heartbeat_due: dict[str, datetime] = {}
        self.kin: dict[str, Kin] = {}

        self._read_kin(command for one in submissions for command in one.commands)
        self._claim_answers(submissions)
        live = [
            command
            for one in submissions
            if (one.project, one.key) not in self.answers
            for command in one.commands
        ]
        creates = [command for command in live if isinstance(command, CreateRun)]
        self.creates = len(creates)
        """How many runs may be made."""
        self._claim_keys(creates)
        self._claim_tokens(creates)
        self._lock_batches(live)
        self._lock_runs(live)

    def _read_kin(self, commands: Iterable[Command]) -> None:
        ids = set()
        for command in commands:
            match command:
                case MutateMetadata(target=target) if target is not MetadataTarget.SELF:
                    ids.add(command.run_id)
                case DeleteRun():
                    ids.add(command.run_id)
                case CreateRun(new=new) if new.parent_run_id is not None:
                    ids.add(new.parent_run_id)
                case _:
                    pass
        if ids:
            kin = sa.select(
                runs.c.id,
                runs.c.project,
                runs.c.parent_run_id,
                runs.c.root_run_id,
                runs.c.batch_id,
                runs.c.depth,
            ).where(runs.c.id.in_(sorted(ids)))
            for row in self._connection.execute(kin):
                self.kin[row.id] = Kin(*row[1:])

    def _claim_answers(self, submissions: Iterable[Submission]) -> None:
        # The time is this process's: it decides only when the answer may be forgotten.
        now = datetime.now(UTC)
        wanted = {
            (one.project, one.key): one.fingerprint for one in submissions if one.key is not None
        }
        if not wanted:
            return
        won = self._insert_ignoring(
            answers,
            [
                {
                    "project": project,
                    "key": key,
                    "fingerprint": fingerprint,
                    "outcomes": "",
                    "created_at": now,
                }
                for (project, key), fingerprint in sorted(wanted.items())
            ],
            (answers.c.project, answers.c.key),
        )
        lost = sorted(wanted.keys() - won)
        for row in self._rows_of(answers, (answers.c.project, answers.c.key), lost):
            self.answers[row.project, row.key] = (row.fingerprint, row.outcomes)

    def _claim_keys(self, creates: Iterable[CreateRun]) -> None:
        wanted: dict[tuple[str, str, str], str] = {}
        for command in creates:
            if has_key(command):
                wanted.setdefault(key_of(command), command.run_id)
        if not wanted:
            return
        columns = (
            idempotency_keys.c.project,
            idempotency_keys.c.task_identifier,
            idempotency_keys.c.key,
        )
        won = self._insert_ignoring(
            idempotency_keys,
            [
                {"project": p, "task_identifier": task, "key": key, "run_id": run_id}
                for (p, task, key), run_id in sorted(wanted.items())
            ],
            columns,
        )
        self.own_keys = {key: wanted[key] for key in won}
        for row in self._rows_of(idempotency_keys, columns, sorted(wanted.keys() - won)):
            self.key_owner[row.project, row.task_identifier, row.key] = row.run_id
        self._read_found(self.key_owner.values())

    def _claim_tokens(self, creates: Iterable[CreateRun]) -> None:
        wanted = {
            (command.project, command.one_time_token): command
            for command in creates
            if command.one_time_token is not None
        }
        if not wanted:
            return
        columns = (used_tokens.c.project, used_tokens.c.token_id)
        now = datetime.now(UTC)
        won = self._insert_ignoring(
            used_tokens,
            [
                {
                    "project": project,
                    "token_id": token,
                    "run_id": command.run_id,
                    "task_identifier": command.new.task_identifier,
                    "idempotency_key": command.new.idempotency_key,
                    "used_at": now,
                }
                for (project, token), command in sorted(wanted.items(), key=lambda item: item[0])
            ],
            columns,
        )
        self.own_tokens = set(won)
        for row in self._rows_of(used_tokens, columns, sorted(wanted.keys() - won)):
            self.token_use[row.project, row.token_id] = TokenUse(
                row.run_id, row.task_identifier, row.idempotency_key
            )
        self._read_found(use.run_id for use in self.token_use.values())

    def _read_found(self, ids: Iterable[str]) -> None:
        wanted = sorted(set(ids))
        if wanted:
            for row in self._connection.execute(sa.select(*WHOLE).where(runs.c.id.in_(wanted))):
                self.found[row.id] = run_of(row)

    def _lock_batches(self, commands: Iterable[Command]) -> None:
        ids = set()
        exclusive = False
        for command in commands:
            match command:
                case CreateRun(new=new) if new.batch_id is not None:
                    ids.add(new.batch_id)
                case SealBatch():
                    ids.add(command.batch_id)
                    exclusive = True
                case DeleteRun():
                    kin = self.kin.get(command.run_id)
                    if kin is not None and kin.batch_id is not None:
                        ids.add(kin.batch_id)
                        exclusive = True
                case _:
                    pass
        if not ids:
            return
        # All in one mode: two statements would take them in two orders.
        locked = sa.select(batches).where(batches.c.id.in_(sorted(ids))).order_by(batches.c.id)
        if self._postgres:
            locked = locked.with_for_update(read=not exclusive)
        for row in self._connection.execute(locked):
            self.batches[row.id] = BatchRow(
                row.project,
                row.created_at,
                row.sealed_at,
                row.deleted_counts,
                row.deleted_finished_at,
            )

    def _lock_runs(self, commands: Iterable[Command]) -> None:
        ids = set()
        beating = set()
        for command in commands:
            match command:
                case UpdateRun() | DeleteRun():
                    ids.add(command.run_id)
                case FireTimer():
                    ids.add(command.run_id)
                    if command.timer is Timer.HEARTBEAT:
                        beating.add(command.run_id)
                case MutateMetadata():
                    ids.add(command.run_id)
                    target = self.target(command)
                    if target is not None:
                        ids.add(target)
                case _:
                    pass
        if not ids:
            return
        locked = sa.select(*WHOLE).where(runs.c.id.in_(sorted(ids))).order_by(runs.c.id)
        if self._postgres:
            locked = locked.with_for_update()
        for row in self._connection.execute(locked):
            run = run_of(row)
            self.runs[run.id] = run
        if beating:
            beats = sa.select(heartbeats).where(heartbeats.c.run_id.in_(sorted(beating)))
            if self._postgres:
                beats = beats.order_by(heartbeats.c.run_id).with_for_update()
            for row in self._connection.execute(beats):
                self.heartbeat_due[row.run_id] = row.due_at

    def target(self, command: MutateMetadata) -> str | None:
        """The id of the run whose metadata is meant; None if there is none."""
        if command.target is MetadataTarget.SELF:
            return command.run_id
        kin = self.kin.get(command.run_id)
        if kin is None:
            return None
        if command.target is MetadataTarget.PARENT:
            return kin.parent_run_id
        return kin.root_run_id or command.run_id

    def _insert_ignoring(
        self,
        table: sa.Table,
        rows: list[dict[str, Any]],
        key: tuple[sa.Column[Any], ...],
    ) -> set[Any]:
        """Inserts what is not there yet; the keys of what it inserted."""
        dialect = postgresql if self._postgres else sqlite
        insert = dialect.insert(table).on_conflict_do_nothing().returning(*key)
        return {tuple(row) for row in self._connection.execute(insert, rows)}

    def _rows_of(
        self, table: sa.Table, key: tuple[sa.Column[Any], ...], values: Sequence[tuple[Any, ...]]
    ) -> Sequence[sa.Row[Any]]:
        if not values:
            return ()
        return self._connection.execute(sa.select(table).where(sa.tuple_(*key).in_(values))).all()


def has_key(command: CreateRun) -> bool:
    """Whether the create names an idempotency key."""
    return command.new.idempotency_key is not None


def key_of(command: CreateRun) -> RunKey:
    """The key of a create that has one."""
    key = command.new.idempotency_key
    assert key is not None
    return command.project, command.new.task_identifier, key
