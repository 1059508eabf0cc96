"""One transaction of many commands: what is read, locked, applied and written, in what order.

The order of locks is the same in every process, so that two groups never wait for each other in
a ring: keys and one-time tokens (by inserting them, sorted), batches, runs, each by id. What
never changes of a run (its parent, root, batch) is read before and needs no lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, Final, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from store import answers as answer_codec
from store import batches as batch_reads
from store import changes
from store.broker import Hint
from store.commands import (
    Command,
    CreateBatch,
    CreateRun,
    DeleteRun,
    Done,
    FireTimer,
    Limits,
    MetadataTarget,
    MutateMetadata,
    SealBatch,
    Submission,
    Timer,
    UpdateRun,
    apply,
    apply_delete,
    create,
)
from store.errors import (
    Conflict,
    IdempotencyKeyReused,
    Invalid,
    NotFound,
    StoreError,
    TokenUsed,
)
from store.lifecycle import due
from store.model import Change, ChangeKind, Facet, Run, RunStatus
from store.rows import WHOLE, bind, differing, row_of, run_of
from store.tables import answers, batches, heartbeats, idempotency_keys, run_tags, runs, used_tokens

Outcomes = list[Done | StoreError]

CLOCKS: Final = {
    RunStatus.DELAYED: Timer.DELAY,
    RunStatus.QUEUED: Timer.TTL,
    RunStatus.EXECUTING: Timer.MAX_DURATION,
}
"""The clock that runs in a status, but for heartbeats."""


class Committed(NamedTuple):
    """What came of a group, once its transaction is committed."""

    outcomes: list[Outcomes | StoreError]
    """For each submission its commands' outcomes, or what refused it whole."""
    hints: list[Hint]
    xid: int | None
    """The transaction's id; None if it wrote nothing into the log."""


class _Batch(msgspec.Struct):
    """A batch's row while the group is applied."""

    project: str
    created_at: datetime
    sealed_at: datetime | None
    deleted_counts: dict[str, int]
    deleted_finished_at: datetime | None
    is_new: bool = False
    is_changed: bool = False


def run_group(
    connection: Connection,
    submissions: Sequence[Submission],
    limits: Limits,
    note: Callable[[int], None] = lambda _: None,
) -> Committed:
    """Carries the submissions out in the connection's transaction.

    `note` is told the transaction's id before anything is committed, so that its outcome can be
    asked for if the answer to COMMIT is lost.
    """
    group = _Group(connection, limits)
    group.prepare(submissions)
    outcomes = [group.carry_out(submission) for submission in submissions]
    group.write()
    return group.settle(submissions, outcomes, note)


class _Group:
    def __init__(self, connection: Connection, limits: Limits) -> None:
        self._connection = connection
        self._limits = limits
        self._postgres = connection.dialect.name == "postgresql"
        self._kin: dict[str, _Kin] = {}
        self._parents: dict[str, Run] = {}
        self._known_answers: dict[tuple[str, str], tuple[str, str]] = {}
        self._key_owner: dict[tuple[str, str, str], str] = {}
        self._own_keys: dict[tuple[str, str, str], str] = {}
        self._token_use: dict[tuple[str, str], _TokenUse] = {}
        self._own_tokens: set[tuple[str, str]] = set()
        self._heartbeat_due: dict[str, datetime] = {}
        # As they were when they were locked, and as they are after what was applied so far.
        self._before: dict[str, Run] = {}
        self._runs: dict[str, Run] = {}
        self._deleted: dict[str, Run] = {}
        self._batches: dict[str, _Batch] = {}
        self._found: dict[str, Run] = {}
        self._changes: list[Change] = []
        self._hints: list[Hint] = []
        self._undo: list[Callable[[], None]] = []
        self._moment: changes.Moment
        self._numbers: Iterator[int] = iter(())

    # ------------------------------------------------------------------------------- prepare

    def prepare(self, submissions: Sequence[Submission]) -> None:
        """Reads and locks all that the group is about."""
        commands = [command for one in submissions for command in one.commands]
        self._read_kin(commands)
        self._claim_answers(submissions)
        live = [
            command
            for one in submissions
            if (one.project, one.key) not in self._known_answers
            for command in one.commands
        ]
        creates = [command for command in live if isinstance(command, CreateRun)]
        self._claim_keys(creates)
        self._claim_tokens(creates)
        self._lock_batches(live)
        self._lock_runs(live)
        self._moment = changes.begin(self._connection, len(creates))
        self._numbers = iter(self._moment.numbers)

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
                self._kin[row.id] = _Kin(*row[1:])

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
            self._known_answers[row.project, row.key] = (row.fingerprint, row.outcomes)

    def _claim_keys(self, creates: Iterable[CreateRun]) -> None:
        wanted: dict[tuple[str, str, str], str] = {}
        for command in creates:
            if _has_key(command):
                wanted.setdefault(_key_of(command), command.run_id)
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
        self._own_keys = {key: wanted[key] for key in won}
        for row in self._rows_of(idempotency_keys, columns, sorted(wanted.keys() - won)):
            self._key_owner[row.project, row.task_identifier, row.key] = row.run_id
        self._read_found(self._key_owner.values())

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
        self._own_tokens = set(won)
        for row in self._rows_of(used_tokens, columns, sorted(wanted.keys() - won)):
            self._token_use[row.project, row.token_id] = _TokenUse(
                row.run_id, row.task_identifier, row.idempotency_key
            )
        self._read_found(use.run_id for use in self._token_use.values())

    def _read_found(self, ids: Iterable[str]) -> None:
        wanted = sorted(set(ids))
        if wanted:
            for row in self._connection.execute(sa.select(*WHOLE).where(runs.c.id.in_(wanted))):
                self._found[row.id] = run_of(row)

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
                    kin = self._kin.get(command.run_id)
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
            self._batches[row.id] = _Batch(
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
                    target = self._target(command)
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
            self._before[run.id] = self._runs[run.id] = run
        if beating:
            beats = sa.select(heartbeats).where(heartbeats.c.run_id.in_(sorted(beating)))
            if self._postgres:
                beats = beats.order_by(heartbeats.c.run_id).with_for_update()
            for row in self._connection.execute(beats):
                self._heartbeat_due[row.run_id] = row.due_at

    def _target(self, command: MutateMetadata) -> str | None:
        if command.target is MetadataTarget.SELF:
            return command.run_id
        kin = self._kin.get(command.run_id)
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

    # --------------------------------------------------------------------------------- apply

    def carry_out(self, submission: Submission) -> Outcomes | StoreError:
        """Applies one submission's commands to the runs as they stand in this group."""
        if submission.key is not None:
            known = self._known_answers.get((submission.project, submission.key))
            if known is not None:
                fingerprint, outcomes = known
                if fingerprint != submission.fingerprint:
                    return IdempotencyKeyReused(submission.key)
                return answer_codec.decode(outcomes)
        if not submission.atomic:
            return [self._attempt(command) for command in submission.commands]
        with self._all_or_nothing() as mark:
            done: Outcomes = []
            for command in submission.commands:
                outcome = self._attempt(command)
                if isinstance(outcome, StoreError):
                    mark.refuse()
                    return outcome
                done.append(outcome)
            return done

    def _attempt(self, command: Command) -> Done | StoreError:
        with self._all_or_nothing() as mark:
            try:
                return self._apply(command)
            except StoreError as error:
                mark.refuse()
                return error

    @contextmanager
    def _all_or_nothing(self) -> Iterator[_Mark]:
        mark = _Mark(len(self._undo), len(self._changes))
        yield mark
        if mark.refused:
            while len(self._undo) > mark.undo:
                self._undo.pop()()
            del self._changes[mark.changes :]
            del self._hints[mark.changes :]

    def _apply(self, command: Command) -> Done:
        match command:
            case CreateRun():
                return self._create(command)
            case UpdateRun():
                run = self._named(command)
                return Done(run=self._take(run, *apply(run, command, self._at(run), self._limits)))
            case MutateMetadata():
                return self._mutate(command)
            case FireTimer():
                return Done(run=self._fire(command))
            case DeleteRun():
                return self._delete(command)
            case CreateBatch():
                self._put(
                    self._batches,
                    command.batch_id,
                    _Batch(command.project, self._moment.at, None, {}, None, is_new=True),
                )
                return Done()
            case SealBatch():
                return self._seal(command)

    def _at(self, run: Run) -> datetime:
        # Two servers' transactions may begin in one order and lock in the other.
        return max(self._moment.at, run.updated_at)

    def _named(self, command: UpdateRun | MutateMetadata | DeleteRun | FireTimer) -> Run:
        run = self._runs.get(command.run_id)
        if run is None or run.project != command.project:
            raise NotFound("run", command.run_id)
        return run

    def _create(self, command: CreateRun) -> Done:
        new = command.new
        if command.one_time_token is not None:
            use = self._token_use.get((command.project, command.one_time_token))
            if use is not None:
                first = self._found.get(use.run_id) or self._runs.get(use.run_id)
                same = (use.task_identifier, use.idempotency_key) == (
                    new.task_identifier,
                    new.idempotency_key,
                )
                if first is None or not same or new.idempotency_key is None:
                    raise TokenUsed("the one-time token was used before")
                return Done(run=first, first=False)
        if _has_key(command):
            owner = self._key_owner.get(_key_of(command))
            first = None if owner is None else self._found.get(owner) or self._runs.get(owner)
            if first is not None:
                return Done(run=first, first=False)
        if new.batch_id is not None:
            batch = self._batches.get(new.batch_id)
            if batch is None or batch.project != command.project:
                raise Invalid("batchId", f"there is no batch {new.batch_id}")
            if batch.sealed_at is not None:
                raise Conflict(f"batch {new.batch_id} is sealed and takes no more runs")
        run, changed = create(
            command,
            number=next(self._numbers),
            parent=self._parent(command),
            at=self._moment.at,
            limits=self._limits,
        )
        run = self._take(None, run, changed)
        if _has_key(command):
            self._put(self._key_owner, _key_of(command), run.id)
        if command.one_time_token is not None:
            self._put(
                self._token_use,
                (command.project, command.one_time_token),
                _TokenUse(run.id, new.task_identifier, new.idempotency_key),
            )
        return Done(run=run)

    def _parent(self, command: CreateRun) -> Run | None:
        parent_id = command.new.parent_run_id
        if parent_id is None:
            return None
        kin = self._kin.get(parent_id)
        if kin is None or kin.project != command.project:
            raise Invalid("parentRunId", f"there is no run {parent_id}")
        # Only what never changes of it is looked at.
        return Run(
            id=parent_id,
            project=kin.project,
            version=0,
            number=0,
            task_identifier="",
            status=RunStatus.EXECUTING,
            root_run_id=kin.root_run_id,
            depth=kin.depth,
            created_at=self._moment.at,
            updated_at=self._moment.at,
        )

    def _mutate(self, command: MutateMetadata) -> Done:
        named = self._named(command)
        target_id = self._target(command)
        target = None if target_id is None else self._runs.get(target_id)
        if target is None:
            raise Invalid("target", f"run {named.id} has no {command.target.value}")
        self._take(target, *apply(target, command, self._at(target), self._limits))
        return Done(run=self._runs[named.id])

    def _fire(self, command: FireTimer) -> Run | None:
        run = self._runs.get(command.run_id)
        if run is None:
            return None
        if command.timer is Timer.HEARTBEAT and self._heartbeat_due.get(run.id) != command.due_at:
            return run
        return self._take(run, *apply(run, command, self._moment.at, self._limits))

    def _delete(self, command: DeleteRun) -> Done:
        run = self._named(command)
        gone = apply_delete(run, self._at(run))
        gone = msgspec.structs.replace(gone, last_xid=self._moment.xid)
        self._log(run, gone, changes.kept(gone), ChangeKind.DELETED)
        self._put(self._deleted, run.id, run)
        self._drop(self._runs, run.id)
        if run.batch_id is not None and run.batch_id in self._batches:
            old = self._batches[run.batch_id]
            counts = dict(old.deleted_counts)
            counts[run.status.value] = counts.get(run.status.value, 0) + 1
            finished = max(
                (at for at in (old.deleted_finished_at, run.finished_at) if at is not None),
                default=None,
            )
            self._put(
                self._batches,
                run.batch_id,
                msgspec.structs.replace(
                    old, deleted_counts=counts, deleted_finished_at=finished, is_changed=True
                ),
            )
        return Done(run=run)

    def _seal(self, command: SealBatch) -> Done:
        batch = self._batches.get(command.batch_id)
        if batch is None or batch.project != command.project:
            raise NotFound("batch", command.batch_id)
        if batch.sealed_at is None:
            at = self._moment.at
            self._put(
                self._batches,
                command.batch_id,
                msgspec.structs.replace(batch, sealed_at=at, is_changed=True),
            )
            seal = Change(
                project=command.project,
                run_id=command.batch_id,
                version=1,
                xid=self._moment.xid,
                previous_xid=0,
                at=at,
                changed={},
                before=None,
                kind=ChangeKind.SEALED,
            )
            self._changes.append(seal)
            self._hints.append(Hint(seal, None))
        return Done()

    def _take(self, before: Run | None, after: Run, changed: dict[str, Any]) -> Run:
        """Keeps a run's new version, if it is one."""
        if before is after or not changed:
            return after
        after = msgspec.structs.replace(after, last_xid=self._moment.xid)
        self._log(before, after, changed, ChangeKind.RUN)
        self._put(self._runs, after.id, after)
        return after

    def _log(
        self, before: Run | None, after: Run, changed: dict[str, Any], kind: ChangeKind
    ) -> None:
        change = Change(
            project=after.project,
            run_id=after.id,
            version=after.version,
            xid=self._moment.xid,
            previous_xid=0 if before is None else before.last_xid,
            at=after.updated_at,
            changed=changed,
            before=None if before is None else Facet(before.status, before.tags),
            kind=kind,
        )
        self._changes.append(change)
        self._hints.append(
            Hint(change, changes.deleted_run(change) if kind is ChangeKind.DELETED else after)
        )

    def _put(self, mapping: dict[Any, Any], key: Any, value: Any) -> None:
        if key in mapping:
            old = mapping[key]
            self._undo.append(lambda: mapping.__setitem__(key, old))
        else:
            self._undo.append(lambda: mapping.pop(key, None))
        mapping[key] = value

    def _drop(self, mapping: dict[Any, Any], key: Any) -> None:
        old = mapping.pop(key)
        self._undo.append(lambda: mapping.__setitem__(key, old))

    # --------------------------------------------------------------------------------- write

    def write(self) -> None:
        """Writes the rows and the log, each kind in one statement."""
        self._write_batches()
        self._write_runs()
        self._write_tags()
        self._write_heartbeats()
        self._release()
        changes.append(self._connection, self._changes)

    def _write_batches(self) -> None:
        new = [(id, batch) for id, batch in self._batches.items() if batch.is_new]
        if new:
            self._connection.execute(
                sa.insert(batches),
                [
                    {
                        "id": id,
                        "project": batch.project,
                        "created_at": batch.created_at,
                        "sealed_at": batch.sealed_at,
                        "deleted_counts": batch.deleted_counts,
                        "deleted_finished_at": batch.deleted_finished_at,
                    }
                    for id, batch in new
                ],
            )
        for id, batch in self._batches.items():
            if batch.is_changed and not batch.is_new:
                self._connection.execute(
                    sa.update(batches)
                    .where(batches.c.id == id)
                    .values(
                        sealed_at=batch.sealed_at,
                        deleted_counts=batch.deleted_counts,
                        deleted_finished_at=batch.deleted_finished_at,
                    )
                )

    def _write_runs(self) -> None:
        new = [run for id, run in self._runs.items() if id not in self._before]
        if new:
            self._connection.execute(
                sa.insert(runs), [{**row_of(run), "due_at": _due(run)} for run in new]
            )
        # Rows that change in the same columns go into one statement.
        changed = [
            (sorted(differing(self._before[id], run)), run)
            for id, run in self._runs.items()
            if id in self._before and run is not self._before[id]
        ]
        changed.sort(key=lambda pair: (pair[0], pair[1].id))
        for columns, rows in groupby(changed, key=lambda pair: pair[0]):
            statement = (
                sa.update(runs)
                .where(runs.c.id == sa.bindparam("id_"))
                .values(bind([*columns, "due_at"]))
            )
            self._connection.execute(
                statement,
                [
                    {
                        "id_": run.id,
                        "new_due_at": _due(run),
                        **{f"new_{name}": value for name, value in row_of(run, columns).items()},
                    }
                    for _, run in rows
                ],
            )
        gone = sorted(id for id in self._deleted if id in self._before)
        if gone:
            self._connection.execute(sa.delete(runs).where(runs.c.id.in_(gone)))
            forgotten = [
                _key(run) for run in self._deleted.values() if run.idempotency_key is not None
            ]
            if forgotten:
                self._delete_keys(forgotten)

    def _write_tags(self) -> None:
        added = []
        removed = []
        for id, run in (*self._runs.items(), *((id, None) for id in self._deleted)):
            before = self._before.get(id)
            if run is before:
                continue
            old = set(() if before is None else before.tags)
            new = set(() if run is None else run.tags)
            one = run or before
            assert one is not None
            added += [(one.project, tag, one.number) for tag in new - old]
            removed += [(one.project, tag, one.number) for tag in old - new]
        if removed:
            self._connection.execute(
                sa.delete(run_tags).where(
                    sa.tuple_(run_tags.c.project, run_tags.c.tag, run_tags.c.number).in_(removed)
                )
            )
        if added:
            self._connection.execute(
                sa.insert(run_tags),
                [{"project": p, "tag": tag, "number": number} for p, tag, number in sorted(added)],
            )

    def _write_heartbeats(self) -> None:
        begun = []
        ended = []
        for id, run in self._runs.items():
            before = self._before.get(id)
            if run.heartbeat_timeout is None or run is before:
                continue
            if run.executing_since == (None if before is None else before.executing_since):
                continue
            ended.append(id)
            if run.executing_since is not None:
                begun.append(
                    {
                        "run_id": id,
                        "project": run.project,
                        "due_at": due(run, Timer.HEARTBEAT),
                    }
                )
        ended += [id for id, run in self._deleted.items() if run.heartbeat_timeout is not None]
        if ended:
            self._connection.execute(
                sa.delete(heartbeats).where(heartbeats.c.run_id.in_(sorted(ended)))
            )
        if begun:
            self._connection.execute(sa.insert(heartbeats), begun)

    def _release(self) -> None:
        """Gives back the keys and tokens that were taken for runs that came to nothing."""
        unused = [key for key, id in self._own_keys.items() if id not in self._runs]
        taken = {key for key in unused if self._key_owner.get(key) in self._runs}
        if unused:
            self._delete_keys(unused)
            # Another create of this group with the same key has made the run.
            if taken:
                self._connection.execute(
                    sa.insert(idempotency_keys),
                    [
                        {
                            "project": p,
                            "task_identifier": task,
                            "key": key,
                            "run_id": self._key_owner[p, task, key],
                        }
                        for p, task, key in sorted(taken)
                    ],
                )
        tokens = sorted(self._own_tokens - self._token_use.keys())
        if tokens:
            self._connection.execute(
                sa.delete(used_tokens).where(
                    sa.tuple_(used_tokens.c.project, used_tokens.c.token_id).in_(tokens)
                )
            )

    def _delete_keys(self, keys: Iterable[tuple[str, str, str]]) -> None:
        self._connection.execute(
            sa.delete(idempotency_keys).where(
                sa.tuple_(
                    idempotency_keys.c.project,
                    idempotency_keys.c.task_identifier,
                    idempotency_keys.c.key,
                ).in_(sorted(keys))
            )
        )

    # -------------------------------------------------------------------------------- settle

    def settle(
        self,
        submissions: Sequence[Submission],
        outcomes: list[Outcomes | StoreError],
        note: Callable[[int], None],
    ) -> Committed:
        """The outcomes as callers get them, kept for those who gave a key."""
        self._fill_batches(submissions, outcomes)
        kept = [
            {"b_project": one.project, "b_key": one.key, "b_outcomes": answer_codec.encode(result)}
            for one, result in zip(submissions, outcomes, strict=True)
            if one.key is not None
            and (one.project, one.key) not in self._known_answers
            and not isinstance(result, StoreError)
        ]
        dropped = [
            (one.project, one.key)
            for one, result in zip(submissions, outcomes, strict=True)
            if one.key is not None
            and (one.project, one.key) not in self._known_answers
            and isinstance(result, StoreError)
        ]
        if kept:
            self._connection.execute(
                sa.update(answers)
                .where(
                    answers.c.project == sa.bindparam("b_project"),
                    answers.c.key == sa.bindparam("b_key"),
                )
                .values(outcomes=sa.bindparam("b_outcomes")),
                kept,
            )
        if dropped:
            # What was refused whole changed nothing, and may be tried again.
            self._connection.execute(
                sa.delete(answers).where(
                    sa.tuple_(answers.c.project, answers.c.key).in_(sorted(dropped))
                )
            )
        xid = self._moment.xid if self._changes else None
        if xid is not None:
            note(xid)
        return Committed(outcomes, self._hints, xid)

    def _fill_batches(
        self, submissions: Sequence[Submission], outcomes: list[Outcomes | StoreError]
    ) -> None:
        for one, result in zip(submissions, outcomes, strict=True):
            if isinstance(result, StoreError):
                continue
            for i, (command, outcome) in enumerate(zip(one.commands, result, strict=True)):
                if (
                    isinstance(command, CreateBatch | SealBatch)
                    and isinstance(outcome, Done)
                    and outcome.batch is None
                ):
                    result[i] = Done(
                        batch=batch_reads.read(self._connection, one.project, command.batch_id)
                    )


class _Mark:
    """Where a command or an atomic submission began."""

    def __init__(self, undo: int, changes: int) -> None:
        self.undo = undo
        self.changes = changes
        self.refused = False

    def refuse(self) -> None:
        self.refused = True


class _Kin(NamedTuple):
    """What never changes of a run."""

    project: str
    parent_run_id: str | None
    root_run_id: str | None
    batch_id: str | None
    depth: int


class _TokenUse(NamedTuple):
    run_id: str
    task_identifier: str
    idempotency_key: str | None


def _has_key(command: CreateRun) -> bool:
    return command.new.idempotency_key is not None


def _key_of(command: CreateRun) -> tuple[str, str, str]:
    key = command.new.idempotency_key
    assert key is not None
    return command.project, command.new.task_identifier, key


def _key(run: Run) -> tuple[str, str, str]:
    assert run.idempotency_key is not None
    return run.project, run.task_identifier, run.idempotency_key


def _due(run: Run) -> datetime | None:
    clock = CLOCKS.get(run.status)
    return None if clock is None else due(run, clock)
