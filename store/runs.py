"""The face of the run store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Self

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from store import batches as batch_reads
from store import changes, reads, timers
from store.artifacts import SIZE_MAX, Artifacts
from store.artifacts.blobs import Blobs
from store.broker import Broker, Hint
from store.claims import Claims
from store.commands import Limits, Submission, check, is_id
from store.engine import Database, Sqlite, open_database
from store.errors import Invalid, NotFound, StoreError
from store.housekeeping import Housekeeping, Retention
from store.jobs.definitions import Definitions
from store.jobs.runs import JobRuns
from store.jsonvalue import is_text
from store.model import (
    Batch,
    Change,
    Horizon,
    ListKey,
    LogPage,
    Run,
    RunQuery,
    Selection,
    SnapshotPage,
)
from store.schema import migrate
from store.tail import Commits
from store.timers import Timers
from store.webhooks import AddressPolicy, Webhooks
from store.writer import Writer
from store.writer.open_claims import OpenClaims
from store.writer.staged import Outcomes

KEY_CHARS = 512
"""How long an `Idempotency-Key` may be."""


class RunStore:
    """Runs, batches and their log in one database; commits are hinted through the broker.

    Every method raises Unavailable while the database cannot be reached.
    """

    def __init__(
        self,
        database: Database,
        broker: Broker,
        *,
        limits: Limits,
        retention: Retention,
        addresses: AddressPolicy | None = None,
        blobs: str | None = None,
        artifact_bytes: int = SIZE_MAX,
        committed: Callable[[int, float], None] = lambda _changes, _seconds: None,
    ) -> None:
        self.database = database
        self.broker = broker
        self.limits = limits
        open_claims = OpenClaims()
        self._writer = Writer(
            database,
            limits,
            self._publish,
            in_flight=1 if database.dialect == "sqlite" else 2,
            committed=committed,
            make_room=lambda: self.housekeeping.prepare(),
            claims=open_claims,
        )
        self.timers = Timers(database, self._writer.submit)
        self.housekeeping = Housekeeping(database, self._writer.submit, retention)
        self.definitions = Definitions(database, limits)
        self.job_runs = JobRuns(database)
        self.webhooks = Webhooks(database, addresses or AddressPolicy())
        self.artifacts = Artifacts(
            database, Blobs(blobs or _folder_beside(database)), size_max=artifact_bytes
        )
        self._newest_own = 0
        """SQLite: the newest place in the log that this process has written."""
        self._others = 0
        """How often it was found that another process has written into the log."""
        self._version = 0
        self.claims = Claims(database, open_claims)

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        broker: Broker,
        limits: Limits | None = None,
        retention: Retention | None = None,
        committed: Callable[[int, float], None] = lambda _changes, _seconds: None,
    ) -> Self:
        """Opens the database, migrates it and makes its log ready.

        Raises ValueError for a URL that is none, SchemaTooNew for a database that a newer
        version has migrated. The broker is used, not owned: who made it starts and closes it.
        """
        database = await open_database(url)
        try:
            await migrate(database)
            store = cls(
                database,
                broker,
                limits=limits or Limits(),
                retention=retention or Retention(),
                committed=committed,
            )
            await store.housekeeping.prepare()
        except BaseException:
            await database.close()
            raise
        return store

    async def close(self) -> None:
        """Commits what was taken, then closes the database."""
        await self.claims.close()
        await self._writer.close()
        await self.database.close()

    async def run(self) -> None:
        """Timers, housekeeping and what else is to be done, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.timers.run())
            tasks.create_task(self.claims.run())
            tasks.create_task(self.webhooks.run())
            tasks.create_task(self.artifacts.run())
            tasks.create_task(self.housekeeping.run())

    def _publish(self, hints: Sequence[Hint]) -> None:
        # On SQLite a transaction's id is the place of its first change, and the others follow.
        first = hints[0].change.xid
        if first != self._newest_own + 1:
            self._others += 1
        self._newest_own = first + len(hints) - 1
        self.broker.publish(hints)
        self.told(hints)

    def told(self, hints: Sequence[Hint]) -> None:
        """Wakes whoever waits in this process for such changes; this process's own are told."""
        self.claims.told(hints)
        self.webhooks.told(hints)

    # ------------------------------------------------------------------------------- commands

    async def execute(self, submission: Submission) -> Outcomes:
        """Carries the commands out; their outcomes in order, on disk.

        Raises the first refusal of an atomic submission, IdempotencyKeyReused, Unavailable
        (nothing was done) or OutcomeUnknown.
        """
        if submission.key is not None and not (
            1 <= len(submission.key) <= KEY_CHARS and is_text(submission.key)
        ):
            raise Invalid("Idempotency-Key", f"must be text of 1 to {KEY_CHARS} characters")
        refused: dict[int, StoreError] = {}
        for place, command in enumerate(submission.commands):
            try:
                check(command, self.limits)
            except StoreError as error:
                if submission.atomic:
                    raise
                refused[place] = error
        if not refused:
            return await self._writer.submit(submission)
        fit = tuple(
            command for place, command in enumerate(submission.commands) if place not in refused
        )
        outcomes: Outcomes = []
        if fit:
            outcomes = await self._writer.submit(msgspec.structs.replace(submission, commands=fit))
        for place in sorted(refused):
            outcomes.insert(place, refused[place])
        return outcomes

    async def heartbeat(self, project: str, run_id: str, attempt: int | None = None) -> None:
        """Notes that the run's worker lives; raises NotFound, or Conflict in another attempt."""
        if not is_id(run_id):
            raise NotFound("run", run_id)
        await self.database.write(timers.beat, project, run_id, attempt)

    # ---------------------------------------------------------------------------------- reads

    async def get_run(self, project: str, run_id: str) -> Run:
        """The run; raises NotFound."""
        return await self.database.read(reads.get, project, run_id)

    async def list_runs(self, query: RunQuery) -> tuple[list[Run], ListKey | None]:
        """A page of runs, newest first, and the `after` of the next page."""
        return await self.database.read(reads.page, query)

    async def history(
        self, project: str, run_id: str, after_version: int, limit: int
    ) -> tuple[list[Change], int | None]:
        """A page of a run's changes, and the `after_version` of the next; raises NotFound."""
        return await self.database.read(reads.history, project, run_id, after_version, limit)

    async def get_batch(self, project: str, batch_id: str) -> Batch:
        """The batch as it stands; raises NotFound."""
        return await self.database.read(batch_reads.read, project, batch_id)

    async def get_batches(self, project: str, batch_ids: Sequence[str]) -> dict[str, Batch]:
        """Those of the batches that are there, as they stand, by id."""
        return await self.database.read(batch_reads.read_several, project, batch_ids)

    async def check(self) -> None:
        """Raises Unavailable if the database cannot be read."""
        await self.database.read(_one)

    # -------------------------------------------------------------------------------- streams

    async def horizon(self, project: str) -> tuple[str, Horizon]:
        """The epoch and the horizon of just now."""
        return await self.database.read(reads.present, project)

    async def snapshot(
        self, selection: Selection, *, after: ListKey | None = None, limit: int
    ) -> SnapshotPage:
        """A page of the selection's runs, newest first, with the horizon it was read at."""
        return await self.database.read(reads.snapshot, selection, after, limit)

    async def read_log(
        self,
        project: str,
        since: Horizon,
        *,
        epoch: str | None = None,
        after: str | None = None,
        limit: int = 1000,
        selection: Selection | None = None,
        batches: Sequence[str] = (),
        payloads: bool = False,
    ) -> LogPage:
        """A page of what `since` has not seen, whole runs at a time, by run id.

        Raises CannotContinue if that is not, or not all, in this log any more.
        """
        return await self.database.read(
            reads.log, project, since, epoch, after, limit, selection, batches, payloads
        )

    async def witnesses(self, xmaxes: Sequence[int]) -> dict[int, int]:
        """SQLite: the witness of the horizon that ends there, where the log still has it."""
        if isinstance(self.database, Sqlite):
            return await self.database.read(changes.witnesses, xmaxes)
        return {}

    async def payloads(self, project: str, run_ids: Sequence[str]) -> dict[str, Any]:
        """The payloads of those of the runs that are there, by id."""
        return await self.database.read(reads.payloads, project, run_ids)

    async def commits(self) -> Commits | None:
        """SQLite: whether anybody has committed to the file, and whether others have to the log."""
        if not isinstance(self.database, Sqlite):
            return None
        version, newest = await self.database.look(changes.SQLITE_NEWEST)
        if version != self._version:
            self._version = version
            if newest != self._newest_own:
                self._others += 1
        return Commits(version, self._others)


def _folder_beside(database: Database) -> str:
    """Where artifacts are kept if nobody says: beside the database's file, or right here."""
    if isinstance(database, Sqlite):
        return f"{database.path}.artifacts"
    return "runstream-artifacts"


def _one(connection: Connection) -> None:
    connection.execute(sa.text("SELECT epoch FROM log_state"))
