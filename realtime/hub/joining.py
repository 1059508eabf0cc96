"""Joins history to live, in the order that can only repeat and never lose."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Final, TypeVar

from realtime import protocol
from realtime.errors import StoreAway
from realtime.hub.connection import Connection
from realtime.hub.parcel import Parcel
from realtime.hub.project import SLICE, Project
from realtime.mailbox import MESSAGE_BYTES
from realtime.protocol import EndReason, ErrorCode, ResetReason
from realtime.ring import FIRST_STEP, Ring, meet
from realtime.session import Member
from realtime.subscription import Wish
from store.errors import CannotContinue, Unavailable
from store.lifecycle import FINAL
from store.model import (
    Cursor,
    Facet,
    Group,
    Horizon,
    ListKey,
    LogPage,
    Run,
    RunStatus,
    Selection,
    SnapshotPage,
)

T = TypeVar("T")

log = logging.getLogger(__name__)

PAGE_RUNS: Final = 100
PAGE_RUNS_MAX: Final = 1_000
PAGE_BYTES: Final = 1_000_000
"""About how much a page of a snapshot should hold; pages are made larger or smaller for it."""
PAGE_CHANGES: Final = 1_000
RING_PAGE: Final = 5_000
OPEN_SHARED: Final = 1_000
"""Those who share a read may name so many open transactions together."""
AT_ONCE: Final = 50
"""So few changes are handed over in one go; more wait for the socket, slice by slice."""
OVERFLOWS: Final = 10
"""So often may the buffer overflow while one subscription joins."""


async def join(project: Project, connection: Connection, member: Member) -> None:
    """Shows the subscription its history, then what came meanwhile, then `live`.

    It is in the index already: whatever is handed on from now on is held back for it. Cancelled
    when the subscription ends or starts again.
    """
    joining = _Joining(project, connection, member)
    try:
        await joining.run()
    except StoreAway:
        joining.deny(ErrorCode.UNAVAILABLE, "the store can't be read just now; try again")


class _Joining:
    def __init__(self, project: Project, connection: Connection, member: Member) -> None:
        self._project = project
        self._services = project.services
        self._connection = connection
        self._member = member
        self._ending: EndReason | None = None
        """What has been shown is the end of the stream: `live` and this are left to say."""
        self._expected: EndReason | None = None
        """The stream was over before its changes were read; they may not say so themselves."""
        self._over: EndReason | None = None
        """The job run is over: the stream is when the tail has passed."""
        self._is_missing = False

    async def run(self) -> None:
        try:
            async with asyncio.timeout(self._services.join_s):
                await self._project.ready.wait()
        except TimeoutError:
            raise StoreAway from None
        cursor = self._member.cursor
        reason = None if cursor is None else self._why_not(cursor)
        if reason is None:
            try:
                if cursor is None:
                    # It reads the log too, from its own horizon, if what it holds back overflows.
                    await self._from_snapshot()
                else:
                    await self._from_cursor(cursor)
            except CannotContinue as error:
                reason = ResetReason(error.reason)
        if reason is not None:
            # Starts this again without the cursor, and cancels what is left of this.
            if cursor is not None:
                self._services.measures.resumes_total.labels(outcome="reset").inc()
            self._project.reset(self._member, reason)

    def deny(self, code: ErrorCode, message: str) -> None:
        connection = self._connection
        connection.say(lambda: connection.session.deny(self._member, code, message))

    # ------------------------------------------------------------------------------- from a cursor

    def _why_not(self, cursor: Cursor) -> ResetReason | None:
        if cursor.forced != self._member.wish.forced:
            return ResetReason.TOKEN
        if cursor.epoch != self._project.epoch:
            return ResetReason.EPOCH
        if self._services.is_slow(self._member.cursor_text):
            return ResetReason.TOO_FAR_BEHIND
        return None

    async def _from_cursor(self, cursor: Cursor) -> None:
        if not await self._look_at_target(cursor):
            return
        project, member = self._project, self._member
        # A run that is over, or gone, may be so by a change that has not been handed on yet: the
        # log has that, the ring has not.
        is_over = self._expected is not None or self._is_missing
        groups = None if is_over else await self._from_ring(cursor)
        # No await between the look into the ring and here: what is handed on from now on is held
        # back, what was before is in the ring.
        if groups is not None and project.horizon is not None:
            horizon = project.horizon
            member.clear_buffer()
            member.join_horizon = cursor.horizon
            await self._show(groups)
            self._remember(groups, horizon)
            member.join_horizon = horizon
            outcome = "ring"
        else:
            horizon = await self._replay(cursor.horizon)
            outcome = "log"
        if self._is_missing and self._ending is None and self._over is None:
            self._not_found()
            return
        await self._go_live(horizon, resumed=True)
        self._services.measures.resumes_total.labels(outcome=outcome).inc()

    async def _from_ring(self, cursor: Cursor) -> Sequence[Group] | None:
        """What the ring has for the cursor, once it has what it can have; None: ask the log.

        Nothing is awaited after the last look.
        """
        project, wish = self._project, self._member.wish
        for mend in (self._catch_up, self._find_witness, self._reach_back):
            ring = project.ring
            groups = None if ring is None else ring.since(cursor, wish.selection)
            if ring is None or groups is not None:
                return groups
            await mend(ring, cursor.horizon)
        return None if project.ring is None else project.ring.since(cursor, wish.selection)

    async def _catch_up(self, ring: Ring, since: Horizon) -> None:
        """Has the tail come as far as the cursor, which another process made."""
        if ring.is_behind(since):
            try:
                async with asyncio.timeout(self._services.join_s):
                    await self._project.caught_up()
            except TimeoutError:
                raise StoreAway from None

    async def _find_witness(self, ring: Ring, since: Horizon) -> None:
        """Has the ring learn whether the cursor is of this history; for all who wait, at once."""
        project = self._project
        if ring.knows(since) or ring.is_behind(since):
            return

        async def read() -> None:
            wanted, project.wanted_witnesses = project.wanted_witnesses, set()
            ring.learn(await self._services.store.witnesses(sorted(wanted)))

        def ask() -> Awaitable[None]:
            project.wanted_witnesses.add(since.xmax)
            return self._services.flights.get(("witnesses", project.project), read)

        await self._patiently(ask)

    async def _reach_back(self, ring: Ring, since: Horizon) -> None:
        """Has the ring begin as early as the cursor: the log is read once for all who come from
        about there, and not again for those who come after them."""
        project = self._project
        if not ring.may_reach(since) or not ring.knows(since):
            return
        step = ring.step_to(since)
        wanted = project.wanted_beginnings
        if _open_of(since, wanted.get(step, ())) > OPEN_SHARED:
            return

        async def read() -> None:
            beginning = ring.beginning(step, wanted.pop(step))
            if project.ring is ring and beginning is not None:
                await self._read_beginning(ring, beginning)

        def ask() -> Awaitable[None]:
            wanted.setdefault(step, set()).add(since)
            return self._services.flights.get(("beginning", project.project, step), read)

        await self._patiently(ask)

    async def _read_beginning(self, ring: Ring, since: Horizon) -> None:
        project = self._project
        groups: list[Group] = []
        room, after = min(ring.room, self._services.replay_changes), None
        while True:
            try:
                page = await self._read_log(since, after, None, RING_PAGE)
            except CannotContinue:
                # Retention, most likely: those for whom nothing was cut read the log themselves.
                ring.give_up(since)
                return
            # What it brings and no hint has told yet is handed on, or it would be shown twice to
            # those who wait: out of the ring, and again when it comes.
            await project.found(page.groups)
            if project.ring is not ring:
                return
            groups += page.groups
            room -= sum(len(group.changes) for group in page.groups)
            after = page.next
            if room < 0:
                ring.give_up(since)
                return
            if after is None:
                ring.reach_back(since, groups)
                return

    async def _look_at_target(self, cursor: Cursor) -> bool:
        """Whether the one run or job run is there, is the token's to see, and is over.

        Before its changes are read: if it is over by now, they hold its end.
        """
        wish = self._member.wish
        target = wish.selection.run_id or wish.selection.job_run_id
        if target is None:
            return True
        if wish.hash_going_on in cursor.wishes and _covers_id(wish, target):
            return True  # it was not over, so the log has whatever became of it
        page = await self._read_target(target)
        if not page.runs:
            self._is_missing = True  # deleted since, and then the log says so; or never there
            return True
        run = page.runs[0]
        if wish.is_about_one and not wish.has(run):
            self.deny(ErrorCode.FORBIDDEN, "the token does not cover it")
            return False
        self._note_end(run)
        self._expected, self._ending = self._ending, None
        return True

    async def _read_target(self, run_id: str) -> SnapshotPage:
        selection = Selection(project=self._project.project, run_id=run_id)
        return await self._read(
            ("snapshot", selection, 1),
            lambda: self._services.store.snapshot(selection, limit=1),
        )

    async def _replay(self, since: Horizon) -> Horizon:
        """Shows what `since` has not seen; returns what the first page has."""
        member, project = self._member, self._project
        member.join_horizon = since
        page, meet, narrowed = await self._first_log_page(since, member.wish.selection.run_id)
        first = page.horizon
        if project.ring is not None:
            project.ring.saw(first)
        count = 0
        while True:
            count += sum(
                not since.seen(change.xid) for group in page.groups for change in group.changes
            )
            if count > self._services.replay_changes:
                raise CannotContinue("too_far_behind")
            await self._show(page.groups)
            self._remember(page.groups, first)
            after = page.next
            if after is None:
                break
            page = await self._log_page(meet, after, narrowed)
        member.join_horizon = first
        return first

    def _remember(self, groups: Sequence[Group], horizon: Horizon) -> None:
        """What was shown and is newer than the horizon that stands for the rest."""
        for group in groups:
            if not horizon.seen(group.last.xid):
                shown = self._member.shown
                run_id, version = group.first.run_id, group.last.version
                shown[run_id] = max(shown.get(run_id, 0), version)

    async def _first_log_page(
        self, since: Horizon, run_id: str | None
    ) -> tuple[LogPage, Horizon, Selection | None]:
        """The page, what it was read since, and of what.

        Those who resume from about the same place share it, from what all of them have seen on,
        and of all runs; none of them reads more than about twice what it needs.
        """
        ring, horizon = self._project.ring, self._project.horizon
        if ring is not None and horizon is not None and ring.vouches_for(since):
            distance = max(horizon.xmax - since.xmax, 0) // FIRST_STEP
            try:
                found = await self._shared_log_page(since, run_id, distance.bit_length())
            except CannotContinue:
                pass  # perhaps only for another of them
            else:
                if since.xmax <= found[0].horizon.xmax:
                    return found
        return await self._shared_log_page(since, run_id, since)

    async def _shared_log_page(
        self, since: Horizon, run_id: str | None, near: Horizon | int
    ) -> tuple[LogPage, Horizon, Selection | None]:
        project = self._project
        wanted = project.wanted_logs
        place = (project.epoch, near)
        if _open_of(since, wanted.get(place, ())) > OPEN_SHARED:
            place = (project.epoch, since)

        async def read() -> tuple[LogPage, Horizon, Selection | None]:
            waiting = wanted.pop(place)
            runs = set().union(*waiting.values())
            only = next(iter(runs)) if len(runs) == 1 else None
            selection = None if only is None else Selection(project=project.project, run_id=only)
            seen_by_all = meet(waiting)
            return await self._read_log(seen_by_all, None, selection), seen_by_all, selection

        def ask() -> Awaitable[tuple[LogPage, Horizon, Selection | None]]:
            wanted.setdefault(place, {}).setdefault(since, set()).add(run_id)
            return self._services.flights.get(("log", project.project, place), read)

        return await self._patiently(ask)

    async def _log_page(self, since: Horizon, after: str, selection: Selection | None) -> LogPage:
        key = ("log", self._project.project, self._project.epoch, since, after, selection)
        return await self._read(key, lambda: self._read_log(since, after, selection))

    async def _read_log(
        self,
        since: Horizon,
        after: str | None,
        selection: Selection | None,
        limit: int = PAGE_CHANGES,
    ) -> LogPage:
        return await self._services.store.read_log(
            self._project.project,
            since,
            epoch=self._project.epoch,
            after=after,
            limit=limit,
            selection=selection,
        )

    # ----------------------------------------------------------------------------- from a snapshot

    async def _from_snapshot(self) -> None:
        member, wish = self._member, self._member.wish
        selection = wish.selection
        if not member.snapshot and _is_open(selection):
            epoch, horizon = await self._read(
                ("horizon", selection.project),
                lambda: self._services.store.horizon(selection.project),
            )
            await self._same_epoch(epoch)
            member.join_horizon = horizon
            await self._go_live(horizon)
            return
        limit = member.limit if member.snapshot else 1
        page = await self._snapshot_page(None, min(PAGE_RUNS, limit))
        await self._same_epoch(page.epoch)
        if not self._is_there(page):
            return
        first = page.horizon
        member.join_horizon = first
        if self._project.ring is not None:
            self._project.ring.saw(first)
        count = 0
        rows = PAGE_RUNS
        met_job_run = False
        while True:
            count += len(page.runs)
            for run in page.runs:
                if run.id in (selection.run_id, selection.job_run_id):
                    met_job_run = True
                    self._note_end(run)
                if not first.seen(run.last_xid):
                    member.shown[run.id] = run.version
            if member.snapshot:
                size = await self._show_runs(page.runs)
                # As many of the like as fit a page.
                per_run = size // max(len(page.runs), 1) + 1
                rows = max(1, min(PAGE_RUNS_MAX, PAGE_BYTES // per_run))
            if page.next is None or count >= limit:
                break
            page = await self._snapshot_page(page.next, min(rows, limit - count))
        truncated = member.snapshot and page.next is not None
        if page.horizon is not first:
            # A run that left before its page was read was not shown, and what is held back of it
            # would be changes of a run that the client does not have. The log has all of it.
            member.clear_buffer()
            first = await self._replay(first)
        if selection.job_run_id is not None and not met_job_run:
            target = await self._read_target(selection.job_run_id)
            for run in target.runs:
                self._note_end(run)
        await self._go_live(first, truncated=truncated)

    async def _snapshot_page(self, after: ListKey | None, limit: int) -> SnapshotPage:
        selection = self._member.wish.selection
        return await self._read(
            ("snapshot", selection, after, limit),
            lambda: self._services.store.snapshot(selection, after=after, limit=limit),
        )

    async def _same_epoch(self, epoch: str) -> None:
        if epoch != self._project.epoch:
            # The tail will find that too, and start everything again, this included.
            self._project.wake_tail()
            await asyncio.sleep(self._services.join_s)
            raise StoreAway

    def _is_there(self, page: SnapshotPage) -> bool:
        wish = self._member.wish
        if not page.found or (wish.is_about_one and not page.runs):
            self._not_found()
            return False
        if wish.is_about_one and not wish.has(page.runs[0]):
            self.deny(ErrorCode.FORBIDDEN, "the token does not cover it")
            return False
        return True

    def _not_found(self) -> None:
        wish = self._member.wish
        selection = wish.selection
        target = selection.run_id or selection.job_run_id or selection.batch_id or ""
        # Who may not see it must not learn whether it is there.
        if wish.is_about_one and not _covers_id(wish, target):
            self.deny(ErrorCode.FORBIDDEN, "the token does not cover it")
        else:
            self.deny(ErrorCode.NOT_FOUND, f"there is no {target}")

    def _note_end(self, run: Run) -> None:
        wish = self._member.wish
        if not wish.stop or run.status not in FINAL:
            return
        if wish.selection.run_id == run.id:
            self._ending = EndReason.COMPLETED
        elif wish.selection.job_run_id == run.id:
            self._over = EndReason.COMPLETED

    # ------------------------------------------------------------------------------------ to live

    async def _go_live(
        self, horizon: Horizon, *, resumed: bool = False, truncated: bool = False
    ) -> None:
        """Shows what was held back meanwhile; says `live` when nothing is."""
        member, connection, session = self._member, self._connection, self._connection.session
        overflows = 0
        loaded: dict[str, bytes | None] = {}
        while True:
            if member.overflowed:
                overflows += 1
                if overflows > OVERFLOWS:
                    connection.overflowed()
                    return
                member.clear_buffer()
                horizon = await self._replay(horizon)
                continue
            groups = member.take_buffer()
            if sum(len(group.changes) for group in groups) > AT_ONCE:
                await self._show(groups)
                self._remember(groups, horizon)
                continue
            lacking = self._lacking(groups, loaded)
            if not lacking:
                break
            member.buffer[:0] = groups
            member.buffered += sum(len(group.changes) for group in groups)
            # Kept from one look to the next, or those read before would be lacking again.
            loaded |= await self._patiently(partial(self._project.load, lacking))
        # No await from here on: what is handed on next goes to a live subscription.
        if not session.holds(member):
            return
        for line in self._lines(groups, loaded):
            connection.mailbox.put_page(line)
        self._remember(groups, horizon)
        member.over = member.over or self._over
        ending = self._ending or self._expected
        member.is_ending = ending is not None
        session.live(member, self._project.epoch, horizon, resumed=resumed, truncated=truncated)
        self._project.went_live(connection, member)
        if ending is not None:
            self._project.end(member, ending)

    def _lacking(self, groups: Sequence[Group], loaded: dict[str, bytes | None]) -> list[str]:
        """The runs among them whose payload it takes to show them."""
        lacking = []
        for group in groups:
            run_id = group.first.run_id
            left = self._member.trim(group)
            if left is None or run_id in loaded:
                continue
            parcel = self._project.parcel(group, self._services.payloads.get(run_id))
            wish = self._member.wish
            if parcel.lacks_payload(parcel.verdict(wish, left), wish):
                lacking.append(run_id)
        return lacking

    def _lines(self, groups: Sequence[Group], loaded: dict[str, bytes | None]) -> list[bytes]:
        """What the groups mean to the subscription, as messages."""
        lines: list[bytes] = []
        member, wish = self._member, self._member.wish
        for group in groups:
            if self._ending is not None:
                break
            left = member.trim(group)
            if left is None:
                continue
            run_id = group.first.run_id
            payload = loaded.get(run_id) or self._services.payloads.get(run_id)
            if payload is None and run_id in loaded:
                parcel = Parcel(group, None, gone=True)
            else:
                parcel = self._project.parcel(group, payload)
            verdict = parcel.verdict(wish, left)
            lines += [item.line((member.id,)) for item in parcel.items(verdict, wish)]
            self._ending = verdict.end
            self._over = verdict.over or self._over
        return lines

    async def _show(self, groups: Sequence[Group]) -> None:
        """Puts groups on the socket, slice by slice."""
        for start in range(0, len(groups), SLICE):
            some = groups[start : start + SLICE]
            loaded: dict[str, bytes | None] = {}
            # Until nothing is lacking at one look: while some are read, others may be forgotten.
            while lacking := self._lacking(some, loaded):
                loaded |= await self._patiently(partial(self._project.load, lacking))
            await self._put(self._lines(some, loaded))

    async def _show_runs(self, runs: Sequence[Run]) -> int:
        """Puts whole runs on the socket; returns how many bytes they took."""
        member, wish = self._member, self._member.wish
        hides_payload = "payload" in wish.hidden
        objects = []
        for run in runs:
            if not wish.grant.covers(run, Facet(run.status, run.tags)):
                continue
            payload = b"null" if hides_payload else self._services.payloads.put(run.id, run.payload)
            fields = protocol.without(protocol.whole_run(run, payload), wish.hidden)
            objects.append(protocol.run_object(fields))
        lines = []
        total = size = start = 0
        for end, each in enumerate(objects):
            if end > start and size + len(each) > MESSAGE_BYTES:
                lines.append(protocol.snapshot(member.id, objects[start:end]))
                start, size = end, 0
            size += len(each) + 1
            total += len(each)
        if start < len(objects):
            lines.append(protocol.snapshot(member.id, objects[start:]))
        await self._put(lines)
        return total

    async def _put(self, lines: Sequence[bytes]) -> None:
        """Puts lines into the mailbox, and waits until they are out of it."""
        if not lines:
            return
        connection = self._connection
        async with connection.page_turn:
            if not connection.session.holds(self._member):
                return
            for line in lines:
                connection.mailbox.put_page(line)
            await connection.drained()

    # ------------------------------------------------------------------------------------- reading

    async def _read(self, key: tuple[object, ...], read: Callable[[], Awaitable[T]]) -> T:
        """A read that others may share, as soon as the store can be read."""
        return await self._patiently(lambda: self._services.flights.get(key, read))

    async def _patiently(self, read: Callable[[], Awaitable[T]]) -> T:
        now = asyncio.get_running_loop().time
        deadline = now() + self._services.join_s
        wait_s = 0.1
        while True:
            try:
                return await read()
            except Unavailable:
                if now() + wait_s > deadline:
                    raise StoreAway from None
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, 2.0)


_LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)


def _covers_id(wish: Wish, run_id: str) -> bool:
    """Whether the token lets a run of that id be seen whatever it is like."""
    bare = Run(
        id=run_id,
        project=wish.selection.project,
        version=1,
        number=0,
        task_identifier="",
        status=RunStatus.QUEUED,
        created_at=_LONG_AGO,
        updated_at=_LONG_AGO,
    )
    return wish.grant.covers(bare, Facet(bare.status, ()))


def _open_of(since: Horizon, waiting: Iterable[Horizon]) -> int:
    """How many open transactions they name together, or more; most name none."""
    if not since.xip:
        return 0
    return len(since.xip) + sum(len(each.xip) for each in waiting)


def _is_open(selection: Selection) -> bool:
    """Whether it is about no one thing that may be missing or over."""
    return selection.run_id is None and selection.batch_id is None and selection.job_run_id is None
