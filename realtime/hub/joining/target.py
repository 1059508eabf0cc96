"""The one thing that a subscription is about, if it is about one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from realtime.hub.connection import Connection
from realtime.protocol import EndReason, ErrorCode
from realtime.session import Member
from realtime.subscription import Wish
from store.lifecycle import FINAL
from store.model import Facet, Run, RunStatus, SnapshotPage


class Target:
    """Whether it is there, is the token's to see, and is over: what its history says of it."""

    def __init__(self, connection: Connection, member: Member) -> None:
        self._connection = connection
        self._member = member
        self.ending: EndReason | None = None
        """What has been shown is the end of the stream: `live` and this are left to say."""
        self.expected: EndReason | None = None
        """The stream was over before its changes were read; they may not say so themselves."""
        self.over: EndReason | None = None
        """The job run is over: the stream is when the tail has passed."""
        self.is_missing = False

    def is_there(self, page: SnapshotPage) -> bool:
        """Whether the first page of a snapshot has it, and it may be shown; else it is told why
        not."""
        if not page.found or (self._member.wish.is_about_one and not page.runs):
            self.not_found()
            return False
        return not page.runs or self.may_be_seen(page.runs[0])

    def may_be_seen(self, run: Run) -> bool:
        """Whether the token covers the one run; else it is told so."""
        wish = self._member.wish
        if wish.is_about_one and not wish.has(run):
            self.deny(ErrorCode.FORBIDDEN, "the token does not cover it")
            return False
        return True

    def note_end(self, run: Run) -> None:
        """Looks whether the stream is over with the run as it stands."""
        wish = self._member.wish
        if not wish.stop or run.status not in FINAL:
            return
        if wish.selection.run_id == run.id:
            self.ending = EndReason.COMPLETED
        elif wish.selection.job_run_id == run.id:
            self.over = EndReason.COMPLETED

    def not_found(self) -> None:
        """There is no such thing: it is told so, if it may know."""
        wish = self._member.wish
        selection = wish.selection
        target = selection.run_id or selection.job_run_id or selection.batch_id or ""
        # Who may not see it must not learn whether it is there.
        if wish.is_about_one and not covers_id(wish, target):
            self.deny(ErrorCode.FORBIDDEN, "the token does not cover it")
        else:
            self.deny(ErrorCode.NOT_FOUND, f"there is no {target}")

    def deny(self, code: ErrorCode, message: str) -> None:
        """The subscription is refused."""
        session = self._connection.session
        self._connection.say(lambda: session.deny(self._member, code, message))


_LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)


def covers_id(wish: Wish, run_id: str) -> bool:
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
