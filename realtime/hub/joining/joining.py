"""One subscription on its way to live."""

from __future__ import annotations

from typing import Final

from realtime.hub.connection import Connection, end
from realtime.hub.joining.replay import Replay
from realtime.hub.joining.shared import Shared
from realtime.hub.joining.showing import Showing
from realtime.hub.joining.snapshot import FromSnapshot
from realtime.hub.joining.target import Target, covers_id
from realtime.protocol import ErrorCode, ResetReason
from realtime.session import Member
from store.errors import CannotContinue
from store.model import Cursor, Horizon

AT_ONCE: Final = 50
"""So few changes are handed over in one go; more wait for the socket, slice by slice."""
OVERFLOWS: Final = 10
"""So often may the buffer overflow while one subscription joins."""


class Joining:
    """Shows the subscription its history, then what came meanwhile, then `live`.

    It is in the index already: whatever is handed on from now on is held back for it. `run` is
    cancelled when the subscription ends or starts again.
    """

    def __init__(self, shared: Shared, connection: Connection, member: Member) -> None:
        project = shared.project
        self._shared = shared
        self._project = project
        self._services = project.services
        self._connection = connection
        self._member = member
        self._target = Target(connection, member)
        self._showing = Showing(
            connection,
            member,
            self._target,
            project.services.payloads,
            shared.parcels,
            shared.reading,
        )
        self._replay = Replay(project, shared.log, member, self._showing)

    async def run(self) -> None:
        """Until it is live, refused or to start again. Raises StoreAway."""
        await self._shared.reading.until(self._project.ready.wait)
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
        """The subscription is refused."""
        self._target.deny(code, message)

    async def _from_snapshot(self) -> None:
        shown = await FromSnapshot(
            self._project,
            self._shared.snapshots,
            self._member,
            self._target,
            self._showing,
            self._replay,
        ).show()
        if shown is not None:
            horizon, truncated = shown
            await self._go_live(horizon, truncated=truncated)

    # ------------------------------------------------------------------------------- from a cursor

    def _why_not(self, cursor: Cursor) -> ResetReason | None:
        if cursor.forced != self._member.wish.forced:
            return ResetReason.TOKEN
        if cursor.epoch != self._project.order.epoch:
            return ResetReason.EPOCH
        if self._services.is_slow(self._member.cursor_text):
            return ResetReason.TOO_FAR_BEHIND
        return None

    async def _from_cursor(self, cursor: Cursor) -> None:
        if not await self._look_at_target(cursor):
            return
        project, member, target = self._project, self._member, self._target
        # A run that is over, or gone, may be so by a change that has not been handed on yet: the
        # log has that, the ring has not.
        is_over = target.expected is not None or target.is_missing
        selection = member.wish.selection
        groups = None if is_over else await self._shared.recent.since(cursor, selection)
        # No await between the look into the ring and here: what is handed on from now on is held
        # back, what was before is in the ring.
        horizon = project.order.horizon
        if groups is not None and horizon is not None:
            member.clear_buffer()
            member.join_horizon = cursor.horizon
            await self._showing.groups(groups)
            self._showing.remember(groups, horizon)
            member.join_horizon = horizon
            outcome = "ring"
        else:
            horizon = await self._replay.show(cursor.horizon)
            outcome = "log"
        if target.is_missing and target.ending is None and target.over is None:
            target.not_found()
            return
        await self._go_live(horizon, resumed=True)
        self._services.measures.resumes_total.labels(outcome=outcome).inc()

    async def _look_at_target(self, cursor: Cursor) -> bool:
        """Whether the one run or job run is there, is the token's to see, and is over.

        Before its changes are read: if it is over by now, they hold its end.
        """
        target, selection = self._target, self._member.wish.selection
        id = selection.run_id or selection.job_run_id
        if id is None:
            return True
        while True:
            wish = self._member.wish
            if wish.hash_going_on in cursor.wishes and covers_id(wish, id):
                return True  # it was not over, so the log has whatever became of it
            page = await self._shared.snapshots.one(id)
            if self._member.wish is wish:
                break  # the run is as it stood when this token was there already
        if not page.runs:
            target.is_missing = True  # deleted since, and then the log says so; or never there
            return True
        run = page.runs[0]
        if not target.may_be_seen(run):
            return False
        target.note_end(run)
        target.expected, target.ending = target.ending, None
        return True

    # ------------------------------------------------------------------------------------ to live

    async def _go_live(
        self, horizon: Horizon, *, resumed: bool = False, truncated: bool = False
    ) -> None:
        """Shows what was held back meanwhile; says `live` when nothing is."""
        member, connection, session = self._member, self._connection, self._connection.session
        showing, target = self._showing, self._target
        overflows = 0
        loaded: dict[str, bytes | None] = {}
        while True:
            if member.overflowed:
                overflows += 1
                if overflows > OVERFLOWS:
                    connection.overflowed()
                    return
                member.clear_buffer()
                horizon = await self._replay.show(horizon)
                continue
            groups = member.take_buffer()
            if sum(len(group.changes) for group in groups) > AT_ONCE:
                await showing.groups(groups)
                showing.remember(groups, horizon)
                continue
            lacking = showing.lacking(groups, loaded)
            if not lacking:
                break
            member.buffer[:0] = groups
            member.buffered += sum(len(group.changes) for group in groups)
            # Kept from one look to the next, or those read before would be lacking again.
            loaded |= await showing.load(lacking)
        # No await from here on: what is handed on next goes to a live subscription.
        if not session.holds(member):
            return
        for line in showing.lines(groups, loaded):
            connection.mailbox.put_page(line)
        showing.remember(groups, horizon)
        member.over = member.over or target.over
        ending = target.ending or target.expected
        member.is_ending = ending is not None
        epoch = self._project.order.epoch
        session.live(member, epoch, horizon, resumed=resumed, truncated=truncated)
        self._project.went_live(connection, member)
        if ending is not None:
            end(member, ending)
