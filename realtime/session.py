"""One connection's side of the protocol: messages in, effects out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Final, NamedTuple, TypeAlias

from realtime import protocol
from realtime.bucket import Bucket
from realtime.errors import BadCursor
from realtime.mailbox import Mailbox
from realtime.protocol import (
    Authenticate,
    ClientMessage,
    CloseCode,
    EndReason,
    ErrorCode,
    Ping,
    Refusal,
    ResetReason,
    Subscribe,
    Unsubscribe,
)
from realtime.subscription import Grant, Phase, Subscription, Wish, read_cursor
from store.model import Cursor, Horizon

Member: TypeAlias = Subscription[Mailbox]

NO_CURSOR: Final = Cursor("", Horizon(0, 0)).encode()
"""What a heartbeat carries where nothing is live: it holds for no subscription."""


class Moment(NamedTuple):
    """Now, by both clocks: waits go by the one that never jumps."""

    monotonic: float
    wall: datetime


@dataclass(frozen=True, kw_only=True)
class SessionSettings:
    """What every session is told from outside."""

    heartbeat_s: float = 15.0
    authenticate_s: float = 10.0
    checkpoint_s: float = 5.0
    subscriptions: int = 1_000
    message_bytes: int = 65_536
    key_messages_per_s: float = 0.0
    token_messages_per_s: float = 0.0
    """Of messages that are work; 0: any number."""
    server: str = "runstream"


# --------------------------------------------------------------------------------------- effects


class Authentication(NamedTuple):
    """Find out what the token grants, then say `granted` or `refused`."""

    token: str


class Join(NamedTuple):
    """Join the subscription to the stream of changes."""

    subscription: Member


class Leave(NamedTuple):
    """The subscription is over: nothing more is to be offered to it."""

    subscription: Member


class Rejoin(NamedTuple):
    """A `reset` was said: join the subscription again, from a snapshot."""

    subscription: Member


class Recheck(NamedTuple):
    """See whether the token covers the subscription's run as it stands, and how far its batch is:
    the token is another one, or was when the run changed."""

    subscription: Member


class Close(NamedTuple):
    """Close the connection, once what is owed has been sent."""

    code: CloseCode
    reason: str


Effect: TypeAlias = Authentication | Join | Leave | Rejoin | Recheck | Close


@dataclass(slots=True)
class Told:
    """What all connections were told that are told together."""

    sent_at: float = 0.0
    checkpoint_at: float = 0.0
    last_cursor: str = ""
    cursors: int = 0
    """How many cursors they were sent together."""
    since_cursor: int = 0
    """How many lines since the last of them."""
    has_news: bool = False
    """Whether one of them was told anything that its last cursor does not stand for."""


class State(Enum):
    """Where a session stands."""

    CONNECTING = "connecting"
    OPEN = "open"
    CLOSED = "closed"


class Session:
    """What one connection asked for and what it was told of it.

    What it says goes into its mailbox; what needs anybody else is an effect. Not a line of it
    waits or reads a clock.
    """

    __slots__ = (
        "_bucket",
        "_checkpoint_at",
        "_close_at",
        "_connected_at",
        "_cursors",
        "_sent_at",
        "_stale",
        "_told",
        "_wishes",
        "connection_id",
        "grant",
        "last_cursor",
        "mailbox",
        "settings",
        "state",
        "subscriptions",
    )

    def __init__(
        self, connection_id: str, mailbox: Mailbox, settings: SessionSettings, now: Moment
    ) -> None:
        self.connection_id = connection_id
        self.mailbox = mailbox
        self.settings = settings
        self.state = State.CONNECTING
        self.grant: Grant | None = None
        self.subscriptions: dict[int, Member] = {}
        self.last_cursor = ""
        """The cursor that was sent last for all that is live."""
        self._told = 0
        """How much had been put into the mailbox when the last cursor was."""
        self._connected_at = now.monotonic
        self._sent_at = now.monotonic
        self._checkpoint_at = now.monotonic
        self._close_at: float | None = None
        self._stale = False
        self._wishes: tuple[int, ...] | None = None
        self._cursors = 0
        self._bucket: Bucket | None = None

    # ------------------------------------------------------------------------------- messages in

    def receive(self, message: ClientMessage | Refusal, now: Moment) -> list[Effect]:
        """What follows from a message of the client."""
        if self.state is State.CLOSED:
            return []
        match message:
            case Refusal(detail, _, CloseCode() as code):
                return self.close(code, detail)
            case Refusal(detail, id):
                if self.state is State.CONNECTING:
                    return self._unauthenticated()
                self._error(id, ErrorCode.BAD_REQUEST, detail)
                return []
            case Authenticate() | Ping() | Subscribe() if not self._in_time(message, now):
                return []
            case Authenticate(token=token):
                return [Authentication(token)]
            case _ if self.state is State.CONNECTING:
                return self._unauthenticated()
            case Ping(data=data):
                self._say(protocol.pong(data))
                return []
            case Unsubscribe(id=id):
                return self._unsubscribe(id)
            case Subscribe():
                return self._subscribe(message, now)
        raise AssertionError(message)

    def _in_time(self, message: Authenticate | Ping | Subscribe, now: Moment) -> bool:
        """Whether it does not come too soon after those before it; else that is said."""
        wait_s = 0.0 if self._bucket is None else self._bucket.take(now.monotonic)
        if wait_s:
            self._error(
                message.id if isinstance(message, Subscribe) else None,
                ErrorCode.TOO_MANY_REQUESTS,
                f"too many messages: try again in {wait_s:.2f} s",
            )
        return not wait_s

    def _bucket_for(self, grant: Grant, now: Moment) -> Bucket | None:
        settings = self.settings
        rate = (
            settings.key_messages_per_s if grant.token_id is None else settings.token_messages_per_s
        )
        # Whoever comes back subscribes to all it had, at once.
        burst = max(10 * rate, settings.subscriptions + 1)
        return Bucket(rate, burst, now.monotonic) if rate else None

    def granted(self, grant: Grant, now: Moment) -> list[Effect]:
        """A token was good: the first one, or one in place of another."""
        if self.state is State.CLOSED:
            return []
        if grant.expires_at is not None and grant.expires_at <= now.wall:
            return self.refused("the token has expired")
        if self.grant is None:
            self.grant = grant
            self.state = State.OPEN
            self._bucket = self._bucket_for(grant, now)
            self._say(
                protocol.welcome(
                    connection_id=self.connection_id,
                    heartbeat_s=self.settings.heartbeat_s,
                    server=self.settings.server,
                    expires_at=grant.expires_at,
                    subscriptions=self.settings.subscriptions,
                    message_bytes=self.settings.message_bytes,
                )
            )
            self._told = self.mailbox.count
            return []
        if grant.project != self.grant.project:
            return self.close(CloseCode.FORBIDDEN, "the token is of another project")
        self.grant = grant
        self._say(protocol.authenticated(grant.expires_at))
        effects: list[Effect] = []
        for subscription in list(self.subscriptions.values()):
            effects.extend(self._regrant(subscription, grant))
        return effects

    def refused(self, detail: str) -> list[Effect]:
        """A token was not good."""
        return self.close(CloseCode.UNAUTHENTICATED, detail)

    def _regrant(self, subscription: Member, grant: Grant) -> list[Effect]:
        old = subscription.wish
        if not grant.allows(old.selection):
            return self.end(subscription, EndReason.FORBIDDEN)
        subscription.stand_alone()
        # Nothing that only the new one lets be seen takes a place before `authenticated`.
        self.mailbox.part(subscription.id)
        subscription.wish = Wish(old.selection, grant, skip=old.skip, stop=old.stop)
        self._wishes = None
        # Of a job run's children a token may cover some; all else it covers whole or not at all.
        sees_others = old.selection.job_run_id is not None and old.grant.sight != grant.sight
        if old.grant.skip != grant.skip or sees_others:
            return self.reset(subscription, ResetReason.TOKEN)
        # Whether it covers one run can depend on the run's tags, which only the store knows; and
        # that of a batch may now be told how far it is.
        is_about_one = old.is_about_one or old.selection.batch_id is not None
        return [Recheck(subscription)] if is_about_one else []

    def _subscribe(self, asked: Subscribe, now: Moment) -> list[Effect]:
        assert self.grant is not None
        if asked.id in self.subscriptions:
            self._error(asked.id, ErrorCode.CONFLICT, f"subscription {asked.id} is in use")
            return []
        if len(self.subscriptions) >= self.settings.subscriptions:
            self._error(
                asked.id,
                ErrorCode.TOO_MANY_REQUESTS,
                f"{self.settings.subscriptions} subscriptions are open; that is the limit",
            )
            return []
        selection = asked.selection(self.grant.project)
        wish = Wish(
            selection, self.grant, skip=frozenset(asked.skip), stop=asked.stop_on_completion
        )
        cursor: Cursor | None = None
        if asked.cursor is not None:
            try:
                cursor = read_cursor(asked.cursor, wish)
            except BadCursor as error:
                self._error(asked.id, ErrorCode.BAD_REQUEST, str(error))
                return []
        if not self.grant.allows(selection):
            self._error(asked.id, ErrorCode.FORBIDDEN, "the token does not cover it")
            return []
        subscription: Member = Subscription(
            asked.id,
            wish,
            self.mailbox,
            delivery=asked.delivery,
            cursor=cursor,
            cursor_text=asked.cursor or "",
            snapshot=asked.snapshot,
            limit=asked.snapshot_limit,
        )
        for other in self.subscriptions.values():
            # Those of one connection are told what they share in one message, or take turns.
            other.stand_alone()
        self.subscriptions[asked.id] = subscription
        return [Join(subscription)]

    def _unsubscribe(self, id: int) -> list[Effect]:
        subscription = self.subscriptions.get(id)
        if subscription is None:
            self._error(id, ErrorCode.NOT_FOUND, f"there is no subscription {id}")
            return []
        return self.end(subscription, EndReason.UNSUBSCRIBED)

    # ------------------------------------------------------------------ what a subscription is told

    def holds(self, subscription: Member) -> bool:
        """Whether it is still this one that lives under its id."""
        return self.state is State.OPEN and self.subscriptions.get(subscription.id) is subscription

    def live(
        self, subscription: Member, epoch: str, horizon: Horizon, *, resumed: bool, truncated: bool
    ) -> None:
        """History was shown; from here changes are sent as they happen."""
        subscription.phase = Phase.LIVE
        subscription.was_live = True
        subscription.cursor = None
        self._wishes = None
        self.mailbox.part(subscription.id)
        had_news = self.has_news
        cursor = Cursor(epoch, horizon, (subscription.cursor_hash,), subscription.wish.forced)
        self.mailbox.put_page(
            protocol.live(subscription.id, cursor.encode(), resumed=resumed, truncated=truncated)
        )
        subscription.live_at = self.mailbox.count
        if not had_news:
            self._told = self.mailbox.count

    def reset(self, subscription: Member, reason: ResetReason) -> list[Effect]:
        """The stream can't go on as it was: it starts again."""
        if not self.holds(subscription):
            return []
        self.mailbox.part(subscription.id)
        self._wishes = None
        subscription.restart()
        self._say(protocol.reset(subscription.id, reason))
        return [Rejoin(subscription)]

    def end(self, subscription: Member, reason: EndReason) -> list[Effect]:
        """The subscription is over, and is told why."""
        if not self.holds(subscription):
            return []
        self._drop(subscription)
        # The end of a grant comes with the end of the connection, which says it to those too
        # that have not heard their `live`.
        if reason.is_final or subscription.was_live:
            self._say(protocol.end(subscription.id, reason))
        return [Leave(subscription)]

    def deny(self, subscription: Member, code: ErrorCode, message: str) -> list[Effect]:
        """The request was refused after a look at the store."""
        if not self.holds(subscription):
            return []
        self._error(subscription.id, code, message)
        if code is ErrorCode.NOT_FOUND:
            return self.end(subscription, EndReason.NOT_FOUND)
        self._drop(subscription)
        return [Leave(subscription)]

    def _drop(self, subscription: Member) -> None:
        del self.subscriptions[subscription.id]
        subscription.stand_alone()
        subscription.phase = Phase.ENDED
        subscription.clear_buffer()
        self.mailbox.part(subscription.id)
        self._wishes = None

    # ------------------------------------------------------------------- what a connection is told

    def cursor_for(self, epoch: str, horizon: Horizon) -> Cursor:
        """What stands in for the cursor of every subscription that is live; the horizon is one
        that it `has_come_to`."""
        if self._wishes is None:
            hashes = {each.cursor_hash for each in self.subscriptions.values() if each.is_live}
            self._wishes = tuple(sorted(hashes))
        forced = next((each.wish.forced for each in self.subscriptions.values()), 0)
        return Cursor(epoch, horizon, self._wishes, forced)

    def has_come_to(self, horizon: Horizon) -> bool:
        """Whether no live subscription has joined later than that: a cursor of it would take who
        has to before what its snapshot showed, and show it what is over as if it were news."""
        return all(
            each.join_horizon is None or horizon.covers(each.join_horizon)
            for each in self.subscriptions.values()
            if each.is_live
        )

    def wishes_changed(self) -> None:
        """A subscription is named otherwise from now on."""
        self._wishes = None

    @property
    def has_news(self) -> bool:
        """Whether anything was said that the last cursor does not stand for."""
        return self.mailbox.count > self._told

    def checkpoint_is_due(self, now: Moment) -> bool:
        """Whether changes have flowed, and the last cursor is old enough."""
        return (
            self.has_news
            and self.state is State.OPEN
            and now.monotonic - self._checkpoint_at >= self.settings.checkpoint_s
            and any(each.is_live for each in self.subscriptions.values())
        )

    def checkpoint(self, cursor: str, now: Moment) -> None:
        """All that the cursor covers has been put into the mailbox."""
        self._checkpoint_at = now.monotonic
        self.last_cursor = cursor
        self.mailbox.put_checkpoint(protocol.checkpoint(cursor))
        self._told = self.mailbox.count

    def heartbeat_is_due(self, now: Moment) -> bool:
        """Whether nothing was sent for so long that the client may wonder."""
        return (
            self.state is State.OPEN
            and not self.mailbox
            and now.monotonic - self._sent_at >= self.settings.heartbeat_s
        )

    def heartbeat(self, cursor: str, now: Moment) -> None:
        """Shows that the connection lives."""
        self.last_cursor = cursor
        self._say(protocol.heartbeat(now.wall, cursor))
        self._told = self.mailbox.count

    def sent(self, now: float) -> None:
        """Something was just written to the socket."""
        self._sent_at = now

    def joined(self, told: Told) -> None:
        """From now on it is told together with others, in its mailbox's lane."""
        if not told.sent_at:
            told.sent_at, told.checkpoint_at = self._sent_at, self._checkpoint_at
        self._cursors = told.cursors
        told.has_news = told.has_news or self.has_news

    def parted(self, told: Told) -> None:
        """It was told together with others until now; its mailbox is in the lane still."""
        self._sent_at = max(self._sent_at, told.sent_at)
        if told.cursors != self._cursors:
            self._checkpoint_at = max(self._checkpoint_at, told.checkpoint_at)
            self.last_cursor = told.last_cursor
            self._told = self.mailbox.count - told.since_cursor

    def looks_again_at(self, now: Moment) -> float:
        """When, by the monotonic clock, the passing of time may bring something about next, if
        nothing is said until then."""
        if self.state is State.CONNECTING:
            at = self._connected_at + self.settings.authenticate_s
        elif self.mailbox.lane is not None:
            at = now.monotonic + self.settings.heartbeat_s
        else:
            at = self._sent_at + self.settings.heartbeat_s
        if self._close_at is not None:
            at = min(at, self._close_at)
        if self.grant is not None and self.grant.expires_at is not None:
            left_s = (self.grant.expires_at - now.wall).total_seconds()
            at = min(at, now.monotonic + left_s)
        return at

    def say_stale(self) -> None:
        """Shows that the connection lives while nothing can be read, and no cursor can be given."""
        self._say(protocol.STALE)

    def mark_stale(self, stale: bool) -> None:
        """The store can't be read just now, or can again."""
        if self.state is State.OPEN and stale is not self._stale:
            self._stale = stale
            self._say(protocol.STALE if stale else protocol.FRESH)

    def send_away(self, after_ms: int, reason: str, now: Moment) -> None:
        """The server is going away: closes after that time, and delivers until then."""
        if self.state is State.CLOSED or self._close_at is not None:
            return
        self._close_at = now.monotonic + after_ms / 1000
        if self.state is State.OPEN:
            self._say(protocol.reconnect(after_ms, reason))

    def turn_away(self, after_ms: int, reason: str) -> list[Effect]:
        """The server is going away already: come back later, to another one."""
        self._say(protocol.reconnect(after_ms, reason))
        return self.close(CloseCode.RESTARTING, "the server is going away")

    def tick(self, now: Moment) -> list[Effect]:
        """What the passing of time brings about."""
        if self.state is State.CLOSED:
            return []
        if self._close_at is not None and now.monotonic >= self._close_at:
            return self.close(CloseCode.RESTARTING, "the server is going away")
        if self.state is State.CONNECTING:
            if now.monotonic - self._connected_at >= self.settings.authenticate_s:
                return self.close(CloseCode.UNAUTHENTICATED, "no token came")
            return []
        assert self.grant is not None
        expires_at = self.grant.expires_at
        if expires_at is not None and now.wall >= expires_at:
            return self.lose_grant(EndReason.TOKEN_EXPIRED)
        return []

    def lose_grant(self, reason: EndReason) -> list[Effect]:
        """The token is over, and its streams with it: nothing more is delivered."""
        if self.state is not State.OPEN:
            return []
        for subscription in self.subscriptions.values():
            # No end may come before the first `live`: one that waits goes with the rest.
            subscription.was_live = subscription.was_live and (
                subscription.live_at <= self.mailbox.taken
            )
        # What waits may hold what the token no longer lets its bearer see.
        self.mailbox.clear()
        effects: list[Effect] = []
        for subscription in list(self.subscriptions.values()):
            effects.extend(self.end(subscription, reason))
        said = "was revoked" if reason is EndReason.TOKEN_REVOKED else "has expired"
        return [*effects, *self.close(CloseCode.UNAUTHENTICATED, f"the token {said}")]

    def close(self, code: CloseCode, reason: str) -> list[Effect]:
        """The connection is over."""
        if self.state is State.CLOSED:
            return []
        return [*self.gone(), Close(code, reason)]

    def gone(self) -> list[Effect]:
        """The connection is lost, or about to be: its subscriptions leave."""
        self.state = State.CLOSED
        left = list(self.subscriptions.values())
        for subscription in left:
            self._drop(subscription)
        return [Leave(subscription) for subscription in left]

    def _unauthenticated(self) -> list[Effect]:
        self._error(None, ErrorCode.UNAUTHORIZED, "authenticate first")
        return self.close(CloseCode.UNAUTHENTICATED, "the first message must be authenticate")

    def _error(self, id: int | None, code: ErrorCode, message: str) -> None:
        self._say(protocol.error(id, code, message))

    def _say(self, line: bytes) -> None:
        self.mailbox.put(line)
