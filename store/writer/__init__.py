"""Group commit: takes the commands that are waiting, commits them together, then hints."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from store.broker import Hint
from store.commands import (
    Command,
    CreateBatch,
    CreateRun,
    FireTimer,
    Limits,
    SealBatch,
    Submission,
    UpdateRun,
)
from store.engine import Database
from store.errors import OutcomeUnknown, StoreError, Unavailable
from store.model import Change, Run, RunStatus
from store.once import Key
from store.tables import changes
from store.writer.group import Committed, run_group
from store.writer.held import Overtaken
from store.writer.open_claims import OpenClaim, OpenClaims
from store.writer.staged import Outcomes

log = logging.getLogger(__name__)

GROUP_COMMANDS = 500
"""How many commands one transaction takes at most, unless one submission has more."""

GROUP_BESIDE: Final = 32
"""So many commands make a group beside one in flight; fewer are gathered until that ends, and with
them claims, because a group of one costs the database and this process nearly as much as one of
thirty."""

GATHER_S: Final = 0.02
"""How long they are gathered at most: what is in flight may itself wait for a lock."""

WAITING_COMMANDS = 20_000
"""How many commands may wait; a caller beyond that is told so at once."""

OUTCOME_WAIT_S = 5.0
"""How long the outcome of a lost COMMIT is asked for."""

LOOK_AHEAD: Final = 2 * GROUP_COMMANDS
"""How many submissions that must wait for a group in flight are passed over for the next one."""

TRIES: Final = 4
"""How often a submission that stands in others' way is tried before its caller is told."""

_IN_THE_WAY: Final = frozenset({"40001", "40P01", "55P03"})
"""PostgreSQL: a serialization failure, a deadlock, a lock that was not had in time."""

_QUEUES: Final = frozenset({RunStatus.QUEUED, RunStatus.COMPLETED})
"""The statuses that lead to a queued run: its own, or the next step's."""


class _Waiting:
    """A submission and who waits for it."""

    __slots__ = ("future", "keys", "submission")

    def __init__(self, submission: Submission, future: asyncio.Future[Outcomes]) -> None:
        self.submission = submission
        self.future = future
        self.keys = frozenset(_keys(submission))


def _keys(submission: Submission) -> set[object]:
    """What a group in flight must not share with the next: answers and rows."""
    keys: set[object] = {_row(command) for command in submission.commands}
    if submission.key is not None:
        keys.add((submission.project, submission.key))
    return keys


def _row(command: Command) -> object:
    if isinstance(command, CreateBatch | SealBatch):
        return command.batch_id
    if isinstance(command, CreateRun) and command.new.idempotency_key is not None:
        return (command.project, command.new.task_identifier, command.new.idempotency_key)
    return command.run_id


def _may_queue(one: _Waiting) -> bool:
    """Whether a run may wait for a worker after the submission that did not before."""
    return any(
        isinstance(command, CreateRun | FireTimer)
        or (isinstance(command, UpdateRun) and command.status in _QUEUES)
        for command in one.submission.commands
    )


class Writer:
    """The one way into the database for commands, in this process.

    A caller on an idle server waits for nobody: whatever comes while a group is being
    committed makes the next group.
    """

    def __init__(
        self,
        database: Database,
        limits: Limits,
        publish: Callable[[Sequence[Hint]], None],
        *,
        in_flight: int = 1,
        committed: Callable[[int, float], None] = lambda _changes, _seconds: None,
        make_room: Callable[[], Awaitable[None]] | None = None,
        claims: OpenClaims | None = None,
    ) -> None:
        """`make_room` makes the log ready for the present day, where it is not; `claims` are taken
        along by the groups."""
        self._make_room = make_room
        self._database = database
        self._limits = limits
        self._publish = publish
        self._in_flight = in_flight
        self._committed = committed
        self._queue: deque[_Waiting] = deque()
        self._waiting = 0
        self._busy: set[object] = set()
        self._groups: set[asyncio.Task[None]] = set()
        self._claims = OpenClaims() if claims is None else claims
        self._claims.begin = self._start_groups
        self._claims.give_back = self._give_back
        self._begun_at = 0.0
        """When the last group was begun, by the loop's clock."""
        self._look: asyncio.TimerHandle | None = None
        self._closed = False

    async def submit(self, submission: Submission) -> Outcomes:
        """The outcomes of the commands, in their order, once they are on disk.

        Raises what refused an atomic submission, Unavailable if nothing was done, and
        OutcomeUnknown if that cannot be known. A caller that is cancelled before its group
        began has submitted nothing; later its commands are carried out all the same.
        """
        if self._closed:
            raise Unavailable("the server is stopping")
        if self._waiting + len(submission.commands) > WAITING_COMMANDS and self._waiting:
            raise Unavailable("too many commands are waiting")
        waiting = _Waiting(submission, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._waiting += len(submission.commands)
        self._start_groups()
        return await waiting.future

    async def close(self) -> None:
        """Takes no more, and returns when all that was taken is committed."""
        self._closed = True
        while self._groups:
            await asyncio.wait(self._groups)

    def _start_groups(self) -> None:
        while len(self._groups) < self._in_flight:
            if self._gathers():
                return
            group = self._take()
            claims = self._claims.take(waiting=any(map(_may_queue, group)))
            if not group and not claims:
                return
            self._begun_at = asyncio.get_running_loop().time()
            task = asyncio.get_running_loop().create_task(self._run(group, claims))
            self._groups.add(task)
            task.add_done_callback(self._ended)

    def _gathers(self) -> bool:
        """Whether what waits is better left until the group in flight ends."""
        if not self._groups or self._waiting >= GROUP_BESIDE:
            return False
        loop = asyncio.get_running_loop()
        until = self._begun_at + GATHER_S
        if loop.time() >= until:
            return False
        if self._look is None:
            self._look = loop.call_at(until, self._look_again)
        return True

    def _look_again(self) -> None:
        self._look = None
        self._start_groups()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._groups.discard(task)
        self._start_groups()

    def _take(self) -> list[_Waiting]:
        """The next group: in order, but for those that must wait for one in flight."""
        group: list[_Waiting] = []
        later: list[_Waiting] = []
        blocked: set[object] = set()
        commands = 0
        while self._queue and commands < GROUP_COMMANDS and len(later) < LOOK_AHEAD:
            one = self._queue.popleft()
            size = len(one.submission.commands)
            if one.future.cancelled():
                self._waiting -= size
                continue
            answer = (one.submission.project, one.submission.key)
            held = not one.keys.isdisjoint(self._busy) or not one.keys.isdisjoint(blocked)
            # The second of two with one idempotency key is answered with the first's outcomes,
            # and these exist only once that is committed.
            again = one.submission.key is not None and any(answer in o.keys for o in group)
            if held or again or (group and commands + size > GROUP_COMMANDS):
                later.append(one)
                blocked |= one.keys
                if not held and not again:
                    break
                continue
            group.append(one)
            commands += size
        self._queue.extendleft(reversed(later))
        self._waiting -= commands
        for one in group:
            self._busy |= one.keys
        return group

    async def _run(self, group: list[_Waiting], claims: list[OpenClaim]) -> None:
        try:
            await self._commit(group, claims)
        except Exception as error:
            for one in group:
                if not one.future.done():
                    one.future.set_exception(error)
            self._claims.fail([claim for claim in claims if claim.riding], error)
        finally:
            for one in group:
                self._busy -= one.keys

    async def _commit(self, group: list[_Waiting], claims: list[OpenClaim]) -> None:
        try:
            committed = await self._transact(self._work(group, claims))
        except (Unavailable, OutcomeUnknown):
            raise
        except Exception as error:
            if self._make_room is not None and _has_no_room(error):
                # The clock has jumped, or the machine has slept, past the days that stood ready.
                await self._make_room()
            # A deadlock, a lock not had in time, a statement refused: rolled back, and again
            # one by one, so that only the guilty one fails.
            for one in group:
                await self._commit_alone(one)
            if claims:
                await self._look_alone(claims)
        else:
            self._answer(group, committed, claims)

    async def _look_alone(self, claims: list[OpenClaim]) -> None:
        try:
            committed = await self._transact(self._work([], claims))
        except (Unavailable, OutcomeUnknown):
            raise
        except Exception as error:
            if _is_in_the_way(error):
                raise Unavailable(f"others were in the way: {error}") from error
            raise
        self._answer([], committed, claims)

    async def _commit_alone(self, one: _Waiting) -> None:
        for tries_left in reversed(range(TRIES)):
            try:
                committed = await self._transact(self._work([one], []))
            except OutcomeUnknown as error:
                if not one.future.done():
                    one.future.set_exception(error)
                # Of the rest of the group nothing was begun.
                raise Unavailable("the database went away") from error
            except Unavailable:
                # The rest of the group would only wait for the same, one after the other.
                raise
            except Exception as error:
                if not _is_in_the_way(error):
                    if not one.future.done():
                        one.future.set_exception(error)
                    return
                if not tries_left and not one.future.done():
                    one.future.set_exception(Unavailable(f"others were in the way: {error}"))
            else:
                self._answer([one], committed)
                return

    def _work(
        self, group: list[_Waiting], claims: list[OpenClaim]
    ) -> Callable[[Connection], Committed]:  # fmt: skip
        submissions = [one.submission for one in group]
        if not claims:
            return lambda connection: run_group(connection, submissions, self._limits)
        return lambda connection: run_group(connection, submissions, self._limits, claims)

    async def _transact(self, work: Callable[[Connection], Committed]) -> Committed:
        """One transaction; when this returns it is committed, and when it raises it is not."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        transaction = _Transaction(work)
        committed: Committed | None = None
        again = True
        while committed is None:
            try:
                committed = await self._database.write(transaction)
            except OutcomeUnknown as error:
                committed = await self._after_a_lost_commit(transaction, error)
                # If nothing was done, and the database is there to say so: once more.
                if committed is None and not again:
                    raise Unavailable(str(error)) from error
                again = False
        try:
            self._committed(len(committed.hints), loop.time() - began)
        except Exception:
            log.exception("a commit could not be counted")
        return committed

    def _answer(
        self, group: list[_Waiting], committed: Committed, claims: Sequence[OpenClaim] = ()
    ) -> None:
        # Hints first: a caller may act on its answer at once, and what it does then
        # comes after.
        if committed.hints:
            try:
                self._publish(committed.hints)
            except Exception:
                # The tail finds them; nothing may make the group look as if it had failed.
                log.exception("hints could not be published")
        for one, outcome in zip(group, committed.outcomes, strict=False):
            if one.future.done():
                continue
            if isinstance(outcome, StoreError):
                one.future.set_exception(outcome)
            else:
                one.future.set_result(outcome)
        self._claims.back(claims, committed.tried)

    def _give_back(self, run: Run, key: Key | None) -> None:
        """Queues a run again whose claimer is gone: before its lease would have run out.

        The claim's key is forgotten: who comes again with it would be told of an attempt that is
        over.
        """
        steps = tuple(
            UpdateRun(project=run.project, run_id=run.id, status=to, if_attempt=run.attempt)
            for to in (RunStatus.REATTEMPTING, RunStatus.QUEUED)
        )
        future: asyncio.Future[Outcomes] = asyncio.get_running_loop().create_future()
        future.add_done_callback(_given_back)
        submission = Submission(
            project=run.project,
            commands=steps,
            atomic=True,
            forgets=None if key is None else key.key,
        )
        self._queue.append(_Waiting(submission, future))
        self._waiting += len(steps)
        self._start_groups()

    async def _after_a_lost_commit(
        self, transaction: _Transaction, error: OutcomeUnknown
    ) -> Committed | None:
        """What was committed, if the database says that it was; None if it says it was not."""
        committed = transaction.result
        if committed is None or not committed.xid:
            return None  # nothing was written
        outcome = None
        try:
            async with asyncio.timeout(OUTCOME_WAIT_S):
                outcome = await self._outcome(committed)
        except TimeoutError:
            pass
        if outcome == "committed":
            return committed
        if outcome == "aborted":
            return None
        raise OutcomeUnknown("the database went away during the commit") from error

    async def _outcome(self, committed: Committed) -> str | None:
        wait_s = 0.05
        while True:
            try:
                outcome = await self._database.read(_outcome_of, committed.xid)
                # A crash makes PostgreSQL forget what had not reached the disk, and give the id
                # out again: so "committed" may be said of another's transaction.
                if outcome == "committed" and committed.hints:
                    first = committed.hints[0].change
                    if not await self._database.read(_is_in_the_log, first):
                        outcome = "aborted"
            except Unavailable:
                outcome = "in progress"
            if outcome != "in progress":
                return outcome
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, 0.5)


def _given_back(outcomes: asyncio.Future[Outcomes]) -> None:
    error = None if outcomes.cancelled() else outcomes.exception()
    if error is not None:
        log.info("a claimed run waits for its lease to run out: %s", error)


class _Transaction:
    """Work for the database, which remembers how far it came."""

    def __init__(self, work: Callable[[Connection], Committed]) -> None:
        self._work = work
        self.result: Committed | None = None

    def __call__(self, connection: Connection) -> Committed:
        self.result = None
        self.result = self._work(connection)
        return self.result


def _is_in_the_way(error: Exception) -> bool:
    """Whether it failed because of what others hold or did, and not by itself."""
    return isinstance(error, Overtaken) or (
        isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) in _IN_THE_WAY
    )


def _has_no_room(error: Exception) -> bool:
    """Whether PostgreSQL's log has no partition for the day."""
    return (
        isinstance(error, DBAPIError)
        and getattr(error.orig, "sqlstate", None) == "23514"
        and "no partition of relation" in str(error.orig)
    )


def _outcome_of(connection: Connection, xid: int) -> str | None:
    asked = sa.text("SELECT pg_xact_status(CAST(CAST(:xid AS text) AS xid8))")
    try:
        outcome: str | None = connection.execute(asked, {"xid": str(xid)}).scalar_one()
    except DBAPIError as error:
        # To ask for an id that was never given out is an error: a crash made it forgotten. No
        # snapshot says whether it was, for those that are in progress may be beyond all it knows.
        if getattr(error.orig, "sqlstate", None) == "22023":
            return "aborted"
        raise
    return outcome


def _is_in_the_log(connection: Connection, change: Change) -> bool:
    found = sa.select(changes.c.run_id).where(
        changes.c.project == change.project,
        changes.c.xid == change.xid,
        changes.c.run_id == change.run_id,
        changes.c.version == change.version,
        changes.c.at == change.at,
    )
    return connection.execute(found).first() is not None
