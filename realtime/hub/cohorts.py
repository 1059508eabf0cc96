"""Cohorts: subscriptions that are told the same, and what they are owed together."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeAlias, cast

from realtime import protocol
from realtime.errors import MailboxFull
from realtime.hub.connection import Connection, connection_of
from realtime.hub.packing import text_frame
from realtime.mailbox import MESSAGE_BYTES, Mailbox
from realtime.protocol import Delivery
from realtime.session import Member, Moment, Told
from realtime.subscription import Phase, Wish

SMALLEST: Final = 2
"""So many must be told something together before it is looked who is told the same."""
AUDIENCES: Final = 64
"""So many audiences are remembered."""

Due: TypeAlias = Callable[["Cohort"], None]
"""It is owed something: flush it at the end of this turn."""
CursorFor: TypeAlias = Callable[[Connection], str]
"""What stands in for the cursor of each of a connection's subscriptions."""

_write = os.write


class Cohort:
    """Subscriptions with the same wish and the same id, each the only one of its connection, that
    are told all that there is as it comes: so they are owed the same lines.

    Connections for which nothing waits are *plain*: the lines of a turn become one frame, which is
    written straight to their sockets, and what they were told is counted once for all of them.
    The others get the lines into their mailboxes. A connection is plain until anything else is put
    into its mailbox, or its socket does not take a whole frame; and again when a flush has left
    nothing to be sent.
    """

    __slots__ = (
        "_bound",
        "_due",
        "_is_due",
        "_lines",
        "_mailboxes",
        "_owed",
        "_owed_size",
        "_plain",
        "_size",
        "company",
        "count",
        "id",
        "told",
        "wish",
    )

    def __init__(self, company: Cohorts, wish: Wish, id: int, bound: int, due: Due) -> None:
        self.company = company
        self.wish = wish
        self.id = id
        self.count = 0
        """How many lines the plain ones were ever told."""
        self.told = Told()
        self._bound = bound
        self._due = due
        self._is_due = False
        self._lines: list[bytes] = []
        """What all are owed that was gathered since the last `spread`."""
        self._size = 0
        self._owed: list[bytes] = []
        """What the plain ones are owed since the last `flush`."""
        self._owed_size = 0
        self._plain: dict[int, Connection] = {}
        """By their sockets' file descriptors."""
        self._mailboxes: dict[Mailbox, None] = {}
        """Of those that are not plain."""

    def __len__(self) -> int:
        return len(self._plain) + len(self._mailboxes)

    @property
    def taken(self) -> int:
        """How many of the lines were written to the plain ones."""
        return self.count - len(self._owed)

    # ---------------------------------------------------------------------------------- who is in it

    def add(self, connection: Connection) -> None:
        """It is one of them; what was gathered before is not its own."""
        self._mailboxes[connection.mailbox] = None
        connection.cohort = self
        if connection.is_quiet:
            self.admit(connection)

    def admit(self, connection: Connection) -> None:
        """Nothing waits for it: it may be plain from now on."""
        if self._owed or self._lines:
            return  # they are in its mailbox, or will be
        file = connection.outlet.file()
        if file is None or file in self._plain:
            return
        mailbox = connection.mailbox
        if not self._plain:
            self.told = Told()
        del self._mailboxes[mailbox]
        self._plain[file] = connection
        connection.file = file
        mailbox.enter(self)
        connection.session.joined(self.told)

    def leave(self, mailbox: Mailbox) -> None:
        """It is plain no more: what it is owed and was not written is in its mailbox now."""
        connection = cast("Connection", mailbox.owner)
        del self._plain[connection.file]
        self._left(connection)

    def _left(self, connection: Connection) -> None:
        mailbox = connection.mailbox
        self._mailboxes[mailbox] = None
        connection.session.parted(self.told)
        mailbox.left(self._owed)
        connection.parted()

    def part(self, member: Member) -> None:
        """It is none of them any more."""
        connection = connection_of(member)
        mailbox = connection.mailbox
        member.company = None
        if mailbox.lane is self:
            self.leave(mailbox)
        self._mailboxes.pop(mailbox, None)
        connection.cohort = None
        self.company.changed()
        if not self._plain and not self._mailboxes:
            self.company.forget(self)
        if self._lines:
            # Gathered, so said to all of them before whatever made this one go.
            _put(mailbox, self._lines, self._size)

    # ------------------------------------------------------------------------------ what it is owed

    def owe(self, line: bytes) -> bool:
        """One more line for all of them, when it is spread; whether it is the first."""
        self._lines.append(line)
        self._size += len(line)
        return len(self._lines) == 1

    def spread(self) -> None:
        """Whatever was gathered is in the mailboxes, or owed to the plain ones."""
        lines, size = self._lines, self._size
        self._lines, self._size = [], 0
        for mailbox in list(self._mailboxes):
            _put(mailbox, lines, size)
        if not self._plain:
            return
        if self._owed_size + size > self._bound:
            # So much is for the mailboxes, which have their bound, and send it message by message.
            for connection in self._all_leave():
                _put(connection.mailbox, lines, size)
        else:
            self._say(lines, size)
            self.told.since_cursor += len(lines)
            self.told.has_news = True

    def _all_leave(self) -> list[Connection]:
        everybody = list(self._plain.values())
        self._plain.clear()
        for connection in everybody:
            self._left(connection)
        return everybody

    def _say(self, lines: Sequence[bytes], size: int) -> None:
        self._owed += lines
        self._owed_size += size
        self.count += len(lines)
        if not self._is_due:
            self._is_due = True
            self._due(self)

    def flush(self, now: float) -> None:
        """Writes to the plain ones what they are owed."""
        self._is_due = False
        lines, self._owed, self._owed_size = self._owed, [], 0
        if not lines or not self._plain:
            return
        frame = text_frame(b"\n".join(lines))
        size = len(frame)
        write = _write
        late: list[tuple[int, int]] = []
        # What is done here is done for each reader of each change: not a thing more than that.
        for file in self._plain:
            try:
                sent = write(file, frame)
            except OSError:
                sent = 0  # its socket takes nothing now, or never again: its transport finds out
            if sent != size:
                late.append((file, sent))
        self.told.sent_at = now
        for file, sent in late:
            connection = self._plain.pop(file)
            self._left(connection)
            connection.outlet.finish_frame(frame, sent)

    # -------------------------------------------------------------------------------------- cursors

    def send_cursor(self, now: Moment, cursor: CursorFor, *, heartbeat: bool) -> None:
        """A checkpoint to the plain ones if it is due; or a heartbeat, if that may be and is.

        All that the cursor covers has been handed on.
        """
        if not self._plain or self._owed or self._lines:
            return
        connection = next(iter(self._plain.values()))
        settings = connection.session.settings
        told = self.told
        if heartbeat and now.monotonic - told.sent_at >= settings.heartbeat_s:
            text = cursor(connection)
            line = protocol.heartbeat(now.wall, text)
        elif told.has_news and now.monotonic - told.checkpoint_at >= settings.checkpoint_s:
            text = cursor(connection)
            if heartbeat and text == told.last_cursor:
                return
            told.checkpoint_at = now.monotonic
            line = protocol.checkpoint(text)
        else:
            return
        if len(line) > self._bound:
            return
        self._say([line], len(line))
        told.last_cursor = text
        told.cursors += 1
        told.since_cursor = 0
        told.has_news = False


class Audience(NamedTuple):
    """Whom a group may concern, by what they are told."""

    members: list[Member]
    cohorts: list[Cohort]
    others: list[Member]
    """Who joins, has joined just now, wants the latest or has other subscriptions besides: what
    they are told is their own."""


class Cohorts:
    """The cohorts of one project. They stay from one turn to the next; who is in which is looked
    at again when a group concerns others than before, or somebody joins, leaves or changes."""

    def __init__(self, due: Due, intern: Callable[[Member], None]) -> None:
        self._due = due
        self._intern = intern
        self._cohorts: dict[tuple[Wish, int], Cohort] = {}
        self._audiences: dict[tuple[Member, int], Audience] = {}
        self._gathered: list[Cohort] = []
        """Those that are owed lines which are not spread."""

    def __len__(self) -> int:
        return len(self._cohorts)

    def audience(self, members: list[Member]) -> Audience:
        """Those members, by cohorts."""
        key = (members[0], len(members))
        found = self._audiences.get(key)
        if found is None or found.members != members:
            # What was said before is not for those who come to a cohort now.
            self.spread()
            found = self._look_at(members)
            if len(self._audiences) >= AUDIENCES:
                self._audiences.clear()
            self._audiences[key] = found
        return found

    def _look_at(self, members: list[Member]) -> Audience:
        cohorts: dict[Cohort, None] = {}
        others = []
        for member in members:
            cohort = member.company
            if cohort is None:
                cohort = self._join(member)
            if cohort is None:
                others.append(member)
            else:
                cohorts[cast(Cohort, cohort)] = None
        return Audience(members, list(cohorts), others)

    def _join(self, member: Member) -> Cohort | None:
        """The cohort of a member that is in none; None if it stands alone."""
        if (
            member.phase is not Phase.LIVE
            or member.delivery is not Delivery.EVERY
            or not member.is_settled
            or member.over is not None
            or member.is_ending
        ):
            return None
        connection = connection_of(member)
        if len(connection.session.subscriptions) > 1 or not connection.session.holds(member):
            return None
        self._intern(member)  # its wish may be another one than it joined with
        key = (member.wish, member.id)
        cohort = self._cohorts.get(key)
        if cohort is None:
            bound = min(MESSAGE_BYTES, member.mailbox.max_bytes)
            cohort = self._cohorts[key] = Cohort(self, member.wish, member.id, bound, self._due)
        member.company = cohort
        cohort.add(connection)
        return cohort

    def forget(self, cohort: Cohort) -> None:
        """Nobody is in it any more."""
        del self._cohorts[cohort.wish, cohort.id]

    def changed(self) -> None:
        """Somebody has come, gone, or is told otherwise from now on."""
        self._audiences.clear()

    def owe(self, cohort: Cohort, line: bytes) -> None:
        """One more line for all in it, when it is spread."""
        if cohort.owe(line):
            self._gathered.append(cohort)

    def spread(self) -> None:
        """Whatever was gathered is owed to each by now."""
        gathered, self._gathered = self._gathered, []
        for cohort in gathered:
            cohort.spread()

    def send_cursors(self, now: Moment, cursor: CursorFor, *, heartbeat: bool) -> None:
        """Checkpoints, and heartbeats if that is asked for, to those of whom it is time."""
        for cohort in self._cohorts.values():
            cohort.send_cursor(now, cursor, heartbeat=heartbeat)


def _put(mailbox: Mailbox, lines: Sequence[bytes], size: int) -> None:
    try:
        mailbox.put_all(lines, size)
    except MailboxFull:
        cast("Connection", mailbox.owner).overflowed()
