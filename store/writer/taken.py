"""What only one may have: idempotency keys and one-time tokens, taken by inserting their rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from store import answers as answer_codec
from store.among import among
from store.commands import CreateRun, Done, Submission
from store.errors import IdempotencyKeyReused, StoreError
from store.model import Run
from store.once import Key
from store.rows import WHOLE, run_of
from store.tables import answers, idempotency_keys, runs, used_tokens


class RunKey(NamedTuple):
    """A run's idempotency key with its project and task."""

    project: str
    task_identifier: str
    key: str


class TokenUse(NamedTuple):
    """What a one-time token was used for."""

    run_id: str
    task_identifier: str
    idempotency_key: str | None


class Taken:
    """The keys and tokens of a group, and what those stand for that were used before."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.answers: dict[tuple[str, str], tuple[str, str]] = {}
        """Fingerprint and outcomes of each idempotency key that was used before."""
        self.key_owner: dict[RunKey, str] = {}
        """The run that was made with a run's idempotency key before."""
        self.key_rows: dict[RunKey, str] = {}
        """The keys' rows as they are in this transaction: those that were there, and those that
        this group has taken, each for a run that it means to make."""
        self.token_use: dict[tuple[str, str], TokenUse] = {}
        """What one-time tokens were used for before."""
        self.own_tokens: dict[tuple[str, str], TokenUse] = {}
        """The rows of the one-time tokens that this group has taken."""
        self.found: dict[str, Run] = {}
        """The runs of keys and tokens that were used before; not locked."""

    def known(self, submission: Submission) -> list[Done | StoreError] | StoreError | None:
        """What a submission with an idempotency key that was used before is answered."""
        if submission.key is None:
            return None
        found = self.answers.get((submission.project, submission.key))
        if found is None:
            return None
        fingerprint, outcomes = found
        if fingerprint != submission.fingerprint:
            return IdempotencyKeyReused(submission.key)
        return answer_codec.decode(outcomes)

    def read_answers(self, keys: Iterable[Key]) -> None:
        """Looks which of the keys were used before, and takes none."""
        projects: dict[str, set[str]] = {}
        for key in keys:
            projects.setdefault(key.project, set()).add(key.key)
        for project, some in projects.items():
            named = sa.select(answers).where(
                answers.c.project == project, among(self._connection, answers.c.key, some)
            )
            for row in self._connection.execute(named):
                self.answers[row.project, row.key] = (row.fingerprint, row.outcomes)

    def take_answers(self, submissions: Iterable[Submission]) -> None:
        """Takes the keys of the submissions, and reads the answers to those that are taken."""
        # The time is this process's: it decides only when the answer may be forgotten.
        now = datetime.now(UTC)
        wanted = {
            (one.project, one.key): {
                "project": one.project,
                "key": one.key,
                "fingerprint": one.fingerprint,
                "outcomes": "",
                "created_at": now,
            }
            for one in submissions
            if one.key is not None
        }
        if not wanted:
            return
        columns = (answers.c.project, answers.c.key)
        for row in self._take(answers, columns, wanted, sa.select(answers)):
            self.answers[row.project, row.key] = (row.fingerprint, row.outcomes)

    def take_keys(self, creates: Iterable[CreateRun]) -> None:
        """Takes the idempotency keys of new runs; reads the runs of those that are taken."""
        wanted: dict[RunKey, dict[str, Any]] = {}
        for command in creates:
            if has_key(command):
                key = key_of(command)
                wanted.setdefault(key, {**key._asdict(), "run_id": command.run_id})
        if not wanted:
            return
        columns = (
            idempotency_keys.c.project,
            idempotency_keys.c.task_identifier,
            idempotency_keys.c.key,
        )
        # The run in the key's statement: between two it might be deleted, and the key with it.
        named = (
            sa.select(
                *(column.label(f"of_{column.name}") for column in columns),
                idempotency_keys.c.run_id.label("of_run_id"),
                *WHOLE,
            )
            .select_from(idempotency_keys)
            .outerjoin(runs, runs.c.id == idempotency_keys.c.run_id)
        )
        for row in self._take(idempotency_keys, columns, wanted, named):
            key = RunKey(row.of_project, row.of_task_identifier, row.of_key)
            del wanted[key]
            self.key_rows[key] = row.of_run_id
            if row.id is not None:
                self.key_owner[key] = row.id
                self.found[row.id] = run_of(row, skip=4)
        self.key_rows |= {key: row["run_id"] for key, row in wanted.items()}

    def take_tokens(self, creates: Iterable[CreateRun]) -> None:
        """Takes the one-time tokens of new runs; reads what those that are taken were used for."""
        now = datetime.now(UTC)
        wanted: dict[tuple[str, str], dict[str, Any]] = {}
        for command in creates:
            if command.one_time_token is not None:
                wanted.setdefault(
                    (command.project, command.one_time_token),
                    {
                        "project": command.project,
                        "token_id": command.one_time_token,
                        "run_id": command.run_id,
                        "task_identifier": command.new.task_identifier,
                        "idempotency_key": command.new.idempotency_key,
                        "used_at": now,
                    },
                )
        if not wanted:
            return
        columns = (used_tokens.c.project, used_tokens.c.token_id)
        for row in self._take(used_tokens, columns, wanted, sa.select(used_tokens)):
            token = (row.project, row.token_id)
            del wanted[token]
            self.token_use[token] = TokenUse(row.run_id, row.task_identifier, row.idempotency_key)
        self.own_tokens = {
            token: TokenUse(row["run_id"], row["task_identifier"], row["idempotency_key"])
            for token, row in wanted.items()
        }
        used_for = {use.run_id for use in self.token_use.values()}
        if used_for:
            named = sa.select(*WHOLE).where(among(self._connection, runs.c.id, used_for))
            for row in self._connection.execute(named):
                self.found[row.id] = run_of(row)

    def _take(
        self,
        table: sa.Table,
        key: tuple[sa.Column[Any], ...],
        wanted: Mapping[Any, dict[str, Any]],
        named: sa.Select[Any],
    ) -> Iterator[sa.Row[Any]]:
        """Inserts the wanted rows in the order of their keys; what is there already of them.

        Waits for whoever is inserting one just now. What is then neither inserted nor there has
        been given back in between, and is asked for again.
        """
        left = dict(sorted(wanted.items()))
        dialect = postgresql if self._connection.dialect.name == "postgresql" else sqlite
        insert = dialect.insert(table).on_conflict_do_nothing().returning(*key)
        while left:
            for row in self._connection.execute(insert, list(left.values())).all():
                del left[tuple(row)]
            if not left:
                return
            there = named.where(sa.tuple_(*key).in_(list(left)))
            for row in self._connection.execute(there).all():
                yield row
                del left[tuple(row)[: len(key)]]


def has_key(command: CreateRun) -> bool:
    """Whether the create names an idempotency key."""
    return command.new.idempotency_key is not None


def key_of(command: CreateRun) -> RunKey:
    """The key of a create that has one."""
    key = command.new.idempotency_key
    assert key is not None
    return RunKey(command.project, command.new.task_identifier, key)
