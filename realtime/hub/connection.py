"""One connection: its session, its mailbox, and the outlet that they are emptied into."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeAlias, cast
from weakref import proxy

from realtime import protocol
from realtime.errors import MailboxFull
from realtime.hub.packing import Packing
from realtime.limits import TooMany
from realtime.mailbox import Mailbox
from realtime.protocol import ClientMessage, CloseCode, EndReason, Refusal
from realtime.session import (
    Authentication,
    Close,
    Effect,
    Join,
    Leave,
    Member,
    Moment,
    Recheck,
    Rejoin,
    Session,
    SessionSettings,
    State,
)
from realtime.subscription import Grant
from store.errors import StoreError

log = logging.getLogger(__name__)

Authenticate: TypeAlias = Callable[[str | None], Awaitable["Grant | str"]]
"""What a token grants, or why it grants nothing. Raises StoreError if that can't be found out."""

AUTHENTICATION_S = 10.0
"""How long finding out what a token grants may take."""


class Outlet(Protocol):
    """Where a connection's messages go. Nothing of it waits or raises."""

    @property
    def writable(self) -> bool:
        """Whether it takes another message just now; if not, `Connection.flush` is called when
        it does again."""
        ...

    def write(self, lines: Sequence[bytes], packing: Packing) -> None:
        """Sends the lines as one message."""
        ...

    def file(self) -> int | None:
        """The file descriptor to which finished frames may be written past it, until it calls
        `Connection.step_out`; None if there is none, or something waits to be sent."""
        ...

    def finish_frame(self, frame: bytes, written: int) -> None:
        """Sends what is left of a frame that was written to the file up to there."""
        ...

    def progress(self) -> int:
        """A number that moves as the peer takes bytes."""
        ...

    def close(self, code: int, reason: str) -> None:
        """Closes after what was written."""
        ...

    def abort(self) -> None:
        """Drops the connection as it is."""
        ...


class Cohort(Protocol):
    """Connections that are told the same, and one of which this one is."""

    def admit(self, connection: Connection) -> None:
        """Nothing waits for it: what it is told may be written past its mailbox."""


class Desk(Protocol):
    """What a connection needs of the hub."""

    def now(self) -> Moment: ...

    def dirty(self, connection: Connection) -> None:
        """Its mailbox is no longer empty: flush it at the end of this turn."""

    def lags(self, connection: Connection) -> None:
        """It was flushed, and something is left to be sent."""

    def has_news(self, connection: Connection) -> None:
        """It was told something that no cursor stands for yet."""

    def look(self, connection: Connection) -> None:
        """The time has changed at which something is due without anybody's doing."""

    def opened(self, connection: Connection) -> None:
        """It is known which project it reads."""

    def join(self, connection: Connection, member: Member) -> None: ...

    def leave(self, connection: Connection, member: Member) -> None: ...

    def recheck(self, connection: Connection, member: Member) -> None: ...

    def was_slow(self, cursor: str) -> None:
        """Whoever resumed from there was too slow to come as far as `live`."""

    def closed(self, connection: Connection, code: int) -> None:
        """It is over; nothing more is sent."""


class Connection:
    """Carries what the session decides to the hub and to the outlet.

    The gateway calls `open`, then `received` for each message, then `lost`; nothing it calls
    raises for what a client or another connection did.
    """

    __slots__ = (
        "__weakref__",
        "_authenticate",
        "_awake",
        "_closing",
        "_desk",
        "_drained",
        "_flushing",
        "_gone",
        "_progress",
        "_progress_at",
        "cohort",
        "file",
        "kind",
        "mailbox",
        "outlet",
        "page_turn",
        "session",
    )

    def __init__(
        self,
        desk: Desk,
        outlet: Outlet,
        authenticate: Authenticate,
        connection_id: str,
        settings: SessionSettings,
        mailbox_bytes: int,
        kind: str = "websocket",
    ) -> None:
        self._desk = desk
        self.kind = kind
        self.outlet = outlet
        self._authenticate = authenticate
        self.mailbox = Mailbox(self, mailbox_bytes)
        self.session = Session(connection_id, self.mailbox, settings, desk.now())
        self.page_turn = asyncio.Lock()
        """Held by whoever has a page of history in the mailbox: one at a time."""
        self._drained: list[asyncio.Future[None]] = []
        self._awake = False
        self._flushing = False
        self._gone = False
        self._closing: Close | None = None
        self._progress: int | None = None
        self._progress_at = 0.0
        self.cohort: Cohort | None = None
        """The cohort that its only subscription is in."""
        self.file = -1
        """Where the cohort writes to it, while it is plain."""

    @property
    def project(self) -> str | None:
        """Which project it reads, once it is authenticated."""
        return None if self.session.grant is None else self.session.grant.project

    # -------------------------------------------------------------------------- the client's side

    async def open(self, token: str | None) -> None:
        """Takes the token out of the header, or finds out that nobody needs one."""
        await self._find_out(token, must=token is not None)

    async def received(self, data: str | bytes) -> None:
        """One WebSocket message. Returns when the next may come."""
        if len(data) > self.session.settings.message_bytes:
            self._guarded(
                lambda: self.session.close(CloseCode.TOO_LARGE, "the message is too long")
            )
            return
        for message in protocol.decode(data):
            if self.session.state is State.CLOSED:
                return
            await self.take(message)

    async def take(self, message: ClientMessage | Refusal) -> None:
        """One protocol message."""
        now = self._desk.now()
        for effect in self._guarded(lambda: self.session.receive(message, now)):
            if isinstance(effect, Authentication):
                # In line, so that what was sent after the token is read with its grant.
                await self._find_out(effect.token, must=True)

    async def _find_out(self, token: str | None, *, must: bool) -> None:
        try:
            async with asyncio.timeout(AUTHENTICATION_S):
                found = await self._authenticate(token)
        except (StoreError, TimeoutError):
            self._guarded(
                lambda: self.session.close(
                    CloseCode.RESTARTING, "the token can't be looked up just now"
                )
            )
            return
        except TooMany as refused:
            said = str(refused)
            self._guarded(lambda: self.session.close(CloseCode.TOO_MANY, said))
            return
        if isinstance(found, str):
            if must:
                self._guarded(lambda: self.session.refused(found))
            return
        was = self.session.grant
        self._guarded(lambda: self.session.granted(found, self._desk.now()))
        self._desk.look(self)
        if was is None and self.session.grant is not None:
            self._desk.opened(self)

    def lost(self) -> None:
        """The connection is gone, for whatever reason."""
        self._finish(self.session.gone(), code=None)

    # ------------------------------------------------------------------------------ the hub's side

    def perform(self, effects: Sequence[Effect]) -> None:
        """Does what the session asks for."""
        for effect in effects:
            match effect:
                case Join(member) | Rejoin(member):
                    self._desk.join(self, member)
                case Leave(member):
                    self._desk.leave(self, member)
                case Close():
                    self._close(effect)
                case Authentication():
                    pass  # done by who read the message
                case Recheck(member):
                    self._desk.recheck(self, member)

    def say(self, decide: Callable[[], Sequence[Effect]]) -> None:
        """Lets the session decide something, and does it."""
        self._guarded(decide)

    def _guarded(self, decide: Callable[[], Sequence[Effect]]) -> Sequence[Effect]:
        try:
            effects = decide()
            self.perform(effects)
        except MailboxFull:
            self.overflowed()
            return ()
        return effects

    def overflowed(self) -> None:
        """It is owed more than it may be, or for too long."""
        for member in self.session.subscriptions.values():
            if member.cursor_text and not member.was_live:
                self._desk.was_slow(member.cursor_text)
        # Whoever is just now handing on what concerns several of its subscriptions goes on with
        # the next: nothing may come after what is thrown away here.
        self.mailbox.close()
        self.perform(self.session.close(CloseCode.SLOW_CONSUMER, "too slow: resume"))

    def close(self, code: CloseCode, reason: str) -> None:
        """Closes it, once what is owed has been sent."""
        self.say(lambda: self.session.close(code, reason))

    def broke(self, error: Exception) -> None:
        """Something of ours failed; only this connection has to bear it."""
        self.perform(self.session.close(CloseCode.INTERNAL, "internal error"))

    def _close(self, effect: Close) -> None:
        self._closing = effect
        if not self._gone:
            self._desk.dirty(self)

    def tick(self, now: Moment) -> None:
        """What the passing of time brings about."""
        if not self._gone:
            self._guarded(lambda: self.session.tick(now))

    def is_late(self, now: float, slow_consumer_s: float) -> bool:
        """Whether something is still left to be sent to it; one too slow for that is let go."""
        if self._gone:
            return False
        if self.outlet.writable and not self.mailbox:
            self._progress = None
            return False
        progress = self.outlet.progress()
        if progress != self._progress:
            self._progress, self._progress_at = progress, now
        elif now - self._progress_at > slow_consumer_s:
            # It takes nothing at all, so it would not take a close either.
            log.info("dropped a reader that took nothing for %s s", slow_consumer_s)
            self.abort()
            return False
        if self._closing is None and self.mailbox.is_overdue(now, slow_consumer_s):
            self.overflowed()
        return True

    def abort(self) -> None:
        """Drops it as it is."""
        self.outlet.abort()
        self._finish(self.session.gone(), code=CloseCode.SLOW_CONSUMER)

    def _finish(self, effects: Sequence[Effect], code: int | None) -> None:
        self.perform(effects)
        self.mailbox.close()
        self._wake_drained()
        if not self._gone:
            self._gone = True
            self._desk.closed(self, code or (self._closing.code if self._closing else 0))
            # Each holds the other, and only the garbage collector, which looks seldom, would find
            # out that nobody needs them any more.
            self.mailbox.owner = proxy(self)

    # -------------------------------------------------------------------------------- the mailbox

    def owed(self) -> None:
        """The mailbox is no longer empty."""
        if not self._awake and not self._gone:
            self._awake = True
            self._desk.dirty(self)

    def pressed(self) -> None:
        """The mailbox is about to be full."""
        # Something is being put into it, perhaps by its cohort: it is not told together with the
        # others again before the end of the turn.
        self._flush(self._desk.now().monotonic, Packing())

    def writable(self) -> None:
        """The outlet takes more again."""
        self.flush(self._desk.now().monotonic, Packing())

    def flush(self, now: float, packing: Packing) -> None:
        """Writes what is owed, as much as the outlet takes."""
        self._flush(now, packing)
        if self.cohort is not None and self.mailbox.lane is None and self.is_quiet:
            self.cohort.admit(self)

    def _flush(self, now: float, packing: Packing) -> None:
        if self._gone or self._flushing:
            return
        self._awake = False
        self._flushing = True
        try:
            outlet, mailbox = self.outlet, self.mailbox
            wrote = False
            # Nothing is in it without counting as one of these; to ask so is cheap.
            while (mailbox.size or mailbox.pages) and outlet.writable:
                outlet.write(mailbox.take(), packing)
                wrote = True
            if wrote:
                self.session.sent(now)
                if self.session.has_news:
                    self._desk.has_news(self)
        finally:
            self._flushing = False
        if mailbox.size or mailbox.pages or not outlet.writable:
            self._desk.lags(self)
        if self._drained and not mailbox.pages and outlet.writable:
            self._wake_drained()
        if self._closing is not None and not mailbox:
            outlet.close(self._closing.code, self._closing.reason)
            self._finish([], code=self._closing.code)

    @property
    def is_quiet(self) -> bool:
        """Whether nothing waits to be sent to it, or to be done once it was."""
        return not (self.mailbox or self._gone or self._flushing or self._closing)

    def step_out(self) -> None:
        """Its outlet's file is not to be written to any more."""
        if self.mailbox.lane is not None:
            self.mailbox.lane.leave(self.mailbox)

    def parted(self) -> None:
        """What it is told is counted for it alone again."""
        if self.session.has_news:
            self._desk.has_news(self)

    async def drained(self) -> None:
        """Until no page of history waits in the mailbox and the outlet takes more."""
        while not self._gone and (self.mailbox.pages or not self.outlet.writable):
            future = asyncio.get_running_loop().create_future()
            self._drained.append(future)
            try:
                await future
            finally:
                if future in self._drained:
                    self._drained.remove(future)

    def _wake_drained(self) -> None:
        waiting, self._drained = self._drained, []
        for future in waiting:
            if not future.done():
                future.set_result(None)


def connection_of(member: Member) -> Connection:
    """Whose mailbox it is: in the hub every mailbox belongs to a connection."""
    return cast("Connection", member.mailbox.owner)


def look_again(member: Member) -> None:
    """Has the store say whether the token covers the one run as it stands."""
    connection_of(member).say(lambda: [Recheck(member)])


def end(member: Member, reason: EndReason) -> None:
    """The subscription is over: it is told so, and leaves the hub."""
    connection = connection_of(member)
    connection.say(lambda: connection.session.end(member, reason))
