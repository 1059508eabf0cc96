"""What a group has made of its runs, and writing it down."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from store import answers as answer_codec
from store import batches as batch_reads
from store import bulk, changes
from store.among import among
from store.artifacts.rows import delete_of_runs
from store.broker import Hint
from store.commands import CreateBatch, Done, SealBatch, Submission, Timer
from store.errors import StoreError
from store.jobs import rows as job_rows
from store.lifecycle import beats, due
from store.model import Change, Run, RunStatus
from store.rows import insert_runs, update_runs
from store.tables import answers, batches, heartbeats, idempotency_keys, run_tags, runs, used_tokens
from store.writer.held import Held
from store.writer.taken import RunKey

Outcomes = list[Done | StoreError]

CLOCKS: Final = {
    RunStatus.DELAYED: Timer.DELAY,
    RunStatus.QUEUED: Timer.TTL,
    RunStatus.EXECUTING: Timer.MAX_DURATION,
}
"""The clock that runs in a status, but for heartbeats."""


class Staged:
    """The runs after what was applied so far, and the changes that led there."""

    def __init__(self, connection: Connection, held: Held) -> None:
        self._connection = connection
        self._held = held
        self.runs: dict[str, Run] = dict(held.runs)
        self.deleted: dict[str, Run] = {}
        self.job_runs: dict[str, job_rows.Snapshot] = {}
        """What the job runs that were made are to execute."""
        self.changes: list[Change] = []
        self.hints: list[Hint] = []

    @property
    def locked(self) -> Mapping[str, Run]:
        """The locked runs as they were before the group."""
        return self._held.runs

    def hold(self, locked: Iterable[Run]) -> None:
        """Takes in runs that were locked meanwhile."""
        for run in locked:
            self._held.runs[run.id] = self.runs[run.id] = run

    def write(self) -> None:
        """Writes the rows and the log."""
        self._write_batches()
        self._delete_runs()
        self._settle_keys()
        with bulk.together(self._connection) as writes:
            self._write_runs(writes)
            self._write_tags(writes)
            self._write_heartbeats(writes)
            changes.append(writes, self.changes)

    def _write_batches(self) -> None:
        new = [(id, batch) for id, batch in self._held.batches.items() if batch.is_new]
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
        for id, batch in self._held.batches.items():
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

    def _write_runs(self, writes: bulk.Writes) -> None:
        before = self._held.runs
        insert_runs(
            writes,
            [(run, _due(run)) for id, run in self.runs.items() if id not in before],
        )
        update_runs(
            writes,
            [
                (before[id], run, _due(run))
                for id, run in self.runs.items()
                if id in before and run is not before[id]
            ],
        )
        job_rows.write(writes, {id: s for id, s in self.job_runs.items() if id in self.runs})

    def _delete_runs(self) -> None:
        gone = sorted(id for id in self.deleted if id in self._held.runs)
        if gone:
            self._connection.execute(
                sa.delete(runs).where(among(self._connection, runs.c.id, gone))
            )
            delete_of_runs(self._connection, gone)
        job_rows.delete(
            self._connection, [id for id, run in self.deleted.items() if run.job_id is not None]
        )

    def _write_tags(self, writes: bulk.Writes) -> None:
        added = []
        removed = []
        for id, run in (*self.runs.items(), *((id, None) for id in self.deleted)):
            before = self._held.runs.get(id)
            if run is before:
                continue
            if run is not None and before is not None and run.tags is before.tags:
                continue
            old = set(() if before is None else before.tags)
            new = set(() if run is None else run.tags)
            one = run or before
            assert one is not None
            place = (one.created_at, one.number)
            added += [(one.project, tag, *place) for tag in new - old]
            removed += [(one.project, tag, *place) for tag in old - new]
        if removed:
            self._connection.execute(
                sa.delete(run_tags).where(
                    sa.tuple_(
                        run_tags.c.project,
                        run_tags.c.tag,
                        run_tags.c.created_at,
                        run_tags.c.number,
                    ).in_(removed)
                )
            )
        writes.insert(run_tags, ("project", "tag", "created_at", "number"), sorted(added))

    def _write_heartbeats(self, writes: bulk.Writes) -> None:
        begun = {}
        ended = []
        for id, run in self.runs.items():
            before = self._held.runs.get(id)
            if run is before:
                continue
            clock = beats(run)
            if clock is None and (before is None or beats(before) is None):
                continue
            if run.executing_since == (None if before is None else before.executing_since):
                continue
            if before is not None and before.executing_since is not None:
                ended.append(id)
            if run.executing_since is not None and clock is not None:
                begun[id] = (id, run.project, due(run, clock), clock is Timer.LEASE)
        for id in self.deleted:
            before = self._held.runs.get(id)
            if before is not None and beats(before) is not None:
                ended.append(id)
        writes.delete(heartbeats, "run_id", sorted(ended))
        if not begun.keys().isdisjoint(ended):
            writes.send()  # a row that makes room for another is written before it
        columns = ("run_id", "project", "due_at", "leased")
        writes.insert(heartbeats, columns, list(begun.values()))

    def _settle_keys(self) -> None:
        """Makes the rows of keys and one-time tokens say what came of those who named them."""
        rows, owners = self._held.taken.key_rows, self._held.taken.key_owner
        moved = [(key, owners[key]) for key in rows if owners.get(key, rows[key]) != rows[key]]
        if moved:
            # The one for which it was taken was refused, or deleted, and another has it now.
            self._connection.execute(
                sa.update(idempotency_keys)
                .where(
                    idempotency_keys.c.project == sa.bindparam("of_project"),
                    idempotency_keys.c.task_identifier == sa.bindparam("of_task"),
                    idempotency_keys.c.key == sa.bindparam("of_key"),
                )
                .values(run_id=sa.bindparam("new_run_id")),
                [
                    {"of_project": p, "of_task": task, "of_key": key, "new_run_id": run_id}
                    for (p, task, key), run_id in sorted(moved)
                ],
            )
        free = {key for key in rows if key not in owners}
        for run in self.deleted.values():
            if run.idempotency_key is not None:
                free.add(RunKey(run.project, run.task_identifier, run.idempotency_key))
        free -= owners.keys()
        if free:
            self._delete_keys(free)
        own, used = self._held.taken.own_tokens, self._held.taken.token_use
        other = [(token, used[token]) for token in own if used.get(token, own[token]) != own[token]]
        if other:
            self._connection.execute(
                sa.update(used_tokens)
                .where(
                    used_tokens.c.project == sa.bindparam("of_project"),
                    used_tokens.c.token_id == sa.bindparam("of_token"),
                )
                .values(
                    run_id=sa.bindparam("new_run_id"),
                    task_identifier=sa.bindparam("new_task"),
                    idempotency_key=sa.bindparam("new_key"),
                ),
                [
                    {
                        "of_project": project,
                        "of_token": token,
                        "new_run_id": use.run_id,
                        "new_task": use.task_identifier,
                        "new_key": use.idempotency_key,
                    }
                    for (project, token), use in sorted(other, key=lambda pair: pair[0])
                ],
            )
        unused = sorted(own.keys() - used.keys())
        if unused:
            self._connection.execute(
                sa.delete(used_tokens).where(
                    sa.tuple_(used_tokens.c.project, used_tokens.c.token_id).in_(unused)
                )
            )

    def _delete_keys(self, keys: Iterable[RunKey]) -> None:
        self._connection.execute(
            sa.delete(idempotency_keys).where(
                sa.tuple_(
                    idempotency_keys.c.project,
                    idempotency_keys.c.task_identifier,
                    idempotency_keys.c.key,
                ).in_(sorted(keys))
            )
        )

    def keep_answers(
        self, submissions: Sequence[Submission], outcomes: Sequence[Outcomes | StoreError]
    ) -> None:
        """Completes the outcomes, and keeps them for those who gave a key."""
        self._fill_batches(submissions, outcomes)
        kept = [
            {"b_project": one.project, "b_key": one.key, "b_outcomes": answer_codec.encode(result)}
            for one, result in zip(submissions, outcomes, strict=True)
            if one.key is not None
            and (one.project, one.key) not in self._held.taken.answers
            and not isinstance(result, StoreError)
        ]
        dropped = [
            (one.project, one.key)
            for one, result in zip(submissions, outcomes, strict=True)
            if one.key is not None
            and (one.project, one.key) not in self._held.taken.answers
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
        dropped += [
            (one.project, one.forgets)
            for one, result in zip(submissions, outcomes, strict=True)
            if one.forgets is not None and not isinstance(result, StoreError)
        ]
        if dropped:
            # What was refused whole changed nothing, and may be tried again.
            self._connection.execute(
                sa.delete(answers).where(
                    sa.tuple_(answers.c.project, answers.c.key).in_(sorted(dropped))
                )
            )

    def _fill_batches(
        self, submissions: Sequence[Submission], outcomes: Sequence[Outcomes | StoreError]
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


def _due(run: Run) -> datetime | None:
    clock = CLOCKS.get(run.status)
    return None if clock is None else due(run, clock)
