"""The client's side of the protocol: what is known of the connection, and what follows from what comes.

A core without I/O: each method is something that has happened, and returns the effects that
it asks for; the time is an argument, and so is chance. `docs/client-session.md` shows it as a
table of states and events, which a test holds against this file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Final

from runstream import protocol
from runstream.effects import (
    CONNECTED,
    OPENED,
    AskToken,
    Dial,
    DialFailed,
    Effect,
    Fetch,
    Hangup,
    Send,
    State,
    Tell,
    Wake,
)
from runstream.errors import (
    BadRequest,
    ClientClosed,
    ProtocolError,
    Refused,
    RunstreamError,
    refusal,
)
from runstream.models import AnyRun
from runstream.roster import Roster
from runstream.shown_token import ShownToken
from runstream.stats import Stats
from runstream.stream import Stream, StreamState
from runstream.timing import Backoff, Timing

# Close codes with a meaning of their own.
TOO_LONG: Final = 1009
UNAUTHORIZED: Final = 4401
SLOW: Final = 4408
BUSY: Final = 4429
LAST_REFUSAL: Final = 4407


class Session:
    """The state of one client's connection and of its subscriptions."""

    def __init__(
        self,
        *,
        token: str | None,
        has_provider: bool,
        chance: Callable[[], float],
        wall_clock: Callable[[], datetime],
        timing: Timing = Timing(),
    ) -> None:
        self.state = State.IDLE
        self.stats = Stats()
        self.streams: dict[Stream, None] = {}
        self.is_stale = False
        self.last_error: str | None = None
        self.server: str | None = None

        self._token = ShownToken(
            token, has_provider=has_provider, timing=timing, wall_clock=wall_clock
        )
        self._backoff = Backoff(timing, chance)
        self._timing = timing
        self._roster = Roster()
        # Those that are to be asked for again at their `retry_at`.
        self._retrying: dict[Stream, None] = {}

        self._ever_welcome = False
        self._is_welcome = False
        self._heartbeat_s = 15.0
        self._max_message_bytes = 65_536
        # The token goes with the header, so subscriptions need not wait for `welcome`.
        self._joins_early = True

        self._heard_at = 0.0
        self._doubted_at: float | None = None
        self._next_try_at: float | None = None
        self._come_back_at: float | None = None
        self._greeted_by: float | None = None
        self._idle_at: float | None = None

    # What callers ask

    def subscribe(self, stream: Stream, now: float) -> list[Effect]:
        """A stream that is wanted from now on."""
        if self.state is State.CLOSED:
            stream.fail(ClientClosed("the client is closed"))
            return [Wake((stream,))]
        self.streams[stream] = None
        self._idle_at = None
        if self.state is State.IDLE:
            return self._begin()
        return self._join([stream], now)

    def unsubscribe(self, stream: Stream, now: float) -> list[Effect]:
        """A stream that is wanted no more."""
        if stream not in self.streams:
            stream.close()
            return []
        effects = self._let_go(stream)
        stream.close()
        return effects + self._dropped(stream, now)

    def drained(self, stream: Stream, now: float) -> list[Effect]:
        """The caller of a paused stream has caught up."""
        if stream.state is not StreamState.PAUSED or stream not in self.streams:
            return []
        stream.state = StreamState.IDLE
        return self._join([stream], now)

    def close(self) -> list[Effect]:
        """The owner closes the client."""
        if self.state is State.CLOSED:
            return []
        effects: list[Effect] = []
        if self.state in (*CONNECTED, State.DIALING):
            effects.append(Hangup())
        self._lose()
        self._next_try_at = None
        streams = tuple(self.streams)
        self.streams.clear()
        self._retrying.clear()
        for stream in streams:
            stream.cut("closed")
        if streams:
            effects.append(Wake(streams))
        return effects + self._turn(State.CLOSED)

    def break_off(self, error: RunstreamError) -> list[Effect]:
        """The shell has failed: whoever waits is told, and the next subscription starts anew."""
        if self.state is State.CLOSED:
            return []
        return [Hangup(), *self._give_up(error)]

    # Tokens

    def token_came(self, token: str, now: float) -> list[Effect]:
        """The provider gave a token."""
        if self.state is State.ASKING:
            if self._token.was_refused(token):
                return self._give_up(
                    refusal("unauthorized", "the token provider gave the token that was refused")
                )
            self._token.replaced(token)
            return self._dial()
        if self.state in OPENED and self._token.is_asked_early:
            if token == self._token.value:
                self._token.stays(now)
                return []
            self._token.replaced(token)
            return [self._send(protocol.Authenticate(token))]
        return []

    def token_failed(self, error: RunstreamError | None, now: float) -> list[Effect]:
        """The provider failed: with an error that ends the streams, or None to ask it again."""
        if self.state is State.ASKING:
            if error is not None:
                return self._give_up(error)
            return self._wait(now, self._backoff.next())
        if self._token.is_asked_early:
            self._token.stays(now)
        return []

    # The socket

    def opened(self, now: float) -> list[Effect]:
        """The socket is open."""
        if self.state is not State.DIALING:
            return [Hangup()]
        self._heard_at = now
        self._doubted_at = None
        self._greeted_by = now + self._timing.greeting_s
        self._roster.clear()
        return [*self._turn(State.GREETING), *self._join(self._unasked(), now)]

    def dial_failed(self, failure: DialFailed, now: float) -> list[Effect]:
        """The socket could not be opened."""
        if self.state is not State.DIALING:
            return []
        self.last_error = failure.reason
        if failure.unauthorized:
            return self._refused_token(failure.reason)
        if failure.error is not None:
            return self._give_up(failure.error)
        return self._wait(
            now, self._backoff.next(busy=failure.busy, at_least=failure.retry_after_s)
        )

    def closed(self, code: int | None, reason: str, now: float) -> list[Effect]:
        """The socket is closed, or broke: then there is no code, or it is 1006."""
        if self.state not in CONNECTED:
            return []
        self.last_error = f"closed with {code or 'no code'} {reason}".rstrip()
        come_back_at = self._come_back_at
        if code == TOO_LONG and not self._is_welcome:
            # This server takes less than is usual; how much, it says in `welcome`.
            self._joins_early = False
        self._lose()
        if code == UNAUTHORIZED:
            return self._refused_token(reason or "the token is not accepted")
        if code is not None and 4400 <= code <= LAST_REFUSAL:
            word = {4400: "bad_request", 4403: "forbidden", 4404: "not_found"}.get(code)
            return self._give_up(refusal(word, reason or f"closed with {code}"))
        if not self.streams:
            return self._turn(State.IDLE)
        if come_back_at is not None:
            return self._wait(now, come_back_at - now)
        return self._wait(now, self._backoff.next(busy=code == BUSY))

    def received(self, text: bytes, now: float) -> list[Effect]:
        """A WebSocket message has come."""
        if self.state not in CONNECTED:
            return []
        self._heard_at = now
        self._doubted_at = None
        try:
            messages = protocol.read(text)
        except ProtocolError as error:
            self._lose()
            return [Hangup(1002), *self._give_up(error)]
        touched: dict[Stream, None] = {}
        effects: list[Effect] = []
        weight = len(text) / (len(messages) or 1)
        by_id = self._roster.by_id
        for message in messages:
            # Nearly all messages are changes, so they are looked at first.
            if type(message) is protocol.Change:
                for stream_id in message.ids:
                    stream = by_id.get(stream_id)
                    if stream is not None:
                        stream.change(message.kind, message.run, weight)
                        touched[stream] = None
            else:
                effects += self._other(message, weight, touched, now)
                if self.state not in CONNECTED:
                    # The socket was given up; what is left on it is not heard.
                    break
        for stream in touched:
            effects += self._look_after(stream, now)
        if touched:
            effects.append(Wake(tuple(touched)))
        return effects

    def fetched(self, run_id: str, run: AnyRun | None, now: float) -> list[Effect]:
        """A run that was to be fetched; None if there is none."""
        effects: list[Effect] = []
        touched: list[Stream] = []
        for stream in [stream for stream in self.streams if stream.wants(run_id)]:
            if stream.fetched(run_id, run):
                effects += self._look_after(stream, now)
                touched.append(stream)
            elif not effects or Fetch(run_id, again=True) not in effects:
                effects.append(Fetch(run_id, again=True))
        if touched:
            effects.append(Wake(tuple(touched)))
        return effects

    # Time

    @property
    def deadline(self) -> float | None:
        """When `tick` should be called at the latest."""
        # Asked for with each message: this is the price of one that holds a single change.
        soonest = self._silent_at() if self.state in OPENED else None
        for time in (
            self._next_try_at,
            self._come_back_at,
            self._greeted_by,
            self._token.refresh_at,
            self._idle_at,
        ):
            if time is not None and (soonest is None or time < soonest):
                soonest = time
        if self._retrying and self._can_ask:
            retry_at = min(stream.retry_at or 0.0 for stream in self._retrying)
            soonest = retry_at if soonest is None else min(soonest, retry_at)
        return soonest

    def tick(self, now: float) -> list[Effect]:
        """Time has passed."""
        match self.state:
            case State.WAITING if _due(self._next_try_at, now):
                self._next_try_at = None
                return self._begin() if self.streams else self._turn(State.IDLE)
            case State.GREETING if _due(self._greeted_by, now):
                return self._hang_up("the server does not say welcome", now)
            case State.DRAINING if _due(self._come_back_at, now):
                self._lose()
                return [Hangup(), *(self._begin() if self.streams else self._turn(State.IDLE))]
            case State.OPEN | State.DRAINING:
                return self._tick_connected(now)
            case State.GREETING:
                return self._retries(now)
        return []

    def _tick_connected(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        if now >= self._silent_at():
            if self._doubted_at is not None:
                return self._hang_up("the server is silent", now)
            # Perhaps it was us who did not listen: a caller that keeps the loop busy for
            # long. What is in the socket is read before the grace is over.
            self._doubted_at = now
            effects.append(self._send(protocol.Ping()))
        if _due(self._idle_at, now):
            self._lose()
            return [Hangup(), *self._turn(State.IDLE)]
        if _due(self._token.refresh_at, now):
            self._token.ask_early()
            effects.append(AskToken())
        return effects + self._retries(now)

    def _retries(self, now: float) -> list[Effect]:
        return self._join([each for each in self._retrying if _due(each.retry_at, now)], now)

    def _silent_at(self) -> float:
        timing = self._timing
        if self._doubted_at is not None:
            grace = max(timing.min_grace_s, timing.grace_heartbeats * self._heartbeat_s)
            return self._doubted_at + grace
        return self._heard_at + timing.silent_heartbeats * self._heartbeat_s

    # Messages that are no changes

    def _other(
        self,
        message: protocol.ServerMessage,
        weight: float,
        touched: dict[Stream, None],
        now: float,
    ) -> list[Effect]:
        match message:
            case protocol.Heartbeat(cursor=cursor):
                if cursor is not None:
                    self._mark(cursor)
            case protocol.Checkpoint(cursor=cursor):
                self._mark(cursor)
            case protocol.Welcome():
                return self._welcome(message, now)
            case protocol.Authenticated(expires_at=expires_at):
                self._token.accepted(expires_at, now)
            case protocol.Reconnect(after_ms=after_ms):
                if self.state is State.OPEN or self.state is State.GREETING:
                    self._come_back_at = now + after_ms / 1000
                    # If it does not greet until then, it is left all the same.
                    self._greeted_by = None
                    return self._turn(State.DRAINING)
            case protocol.Stale():
                self.is_stale = True
                return [Tell(self.state)]
            case protocol.Fresh():
                self.is_stale = False
                return [Tell(self.state)]
            case protocol.Pong():
                pass
            case protocol.Error():
                return self._error(message, touched, now)
            case protocol.End():
                return self._end(message, touched, now)
            case protocol.Change():
                pass
            case _:
                stream = self._roster.by_id.get(message.id)
                if stream is not None:
                    touched[stream] = None
                    self._about(stream, message, weight)
        return []

    def _about(
        self,
        stream: Stream,
        message: protocol.Snapshot | protocol.Live | protocol.BatchMessage | protocol.Reset,
        weight: float,
    ) -> None:
        match message:
            case protocol.Snapshot(runs=runs):
                stream.snapshot(runs, weight / (len(runs) or 1))
            case protocol.Live(cursor=cursor, resumed=resumed, truncated=truncated):
                self._backoff.reset()
                stream.live(cursor, resumed=resumed, truncated=truncated)
            case protocol.BatchMessage(batch=batch):
                stream.batch_progress(batch)
            case protocol.Reset(reason=reason):
                stream.reset(reason)

    def _mark(self, cursor: str) -> None:
        for stream in self._roster.by_id.values():
            if stream.state is StreamState.LIVE:
                stream.mark(cursor)

    def _welcome(self, message: protocol.Welcome, now: float) -> list[Effect]:
        self._heartbeat_s = message.heartbeat_s
        self._max_message_bytes = int(message.limits.get("messageBytes") or 65_536)
        self.server = message.server
        self._greeted_by = None
        self._token.accepted(message.expires_at, now)
        if self._is_welcome:
            # An answer to `authenticate`, which may be either of two messages.
            return []
        self._is_welcome = True
        self.stats.connects += 1
        if self._ever_welcome:
            self.stats.reconnects += 1
        self._ever_welcome = True
        self.last_error = None
        if not self.streams:
            self._idle_at = now + self._timing.linger_s
        # Told to come back before it was greeted, it still is.
        turn = self._turn(State.OPEN) if self.state is State.GREETING else []
        return [*turn, *self._join(self._unasked(), now)]

    def _error(
        self, message: protocol.Error, touched: dict[Stream, None], now: float
    ) -> list[Effect]:
        if message.id is None:
            self.last_error = f"{message.code}: {message.message}"
            return []
        stream = self._roster.by_id.get(message.id)
        self._roster.refused(message.id, message.code)
        if stream is None:
            return []
        touched[stream] = None
        # A limit may be reached for a moment only, as when many come back at once;
        # whoever asks for the first time is told.
        busy = message.code == "too_many_requests" and stream.was_live
        if message.code == "unavailable" or (busy and stream.refusals < self._timing.busy_retries):
            stream.later(now + self._backoff.after(stream.refusals, busy=True))
            self._retrying[stream] = None
            return []
        stream.refused(refusal(message.code, message.message))
        return self._dropped(stream, now)

    def _end(self, message: protocol.End, touched: dict[Stream, None], now: float) -> list[Effect]:
        stream = self._roster.by_id.get(message.id)
        if stream is None:
            self._roster.ended(message.id, message.reason)
            return []
        if message.reason in ("token_expired", "token_revoked"):
            # It is the grant that ends, for all streams; a close with 4401 would follow.
            self._lose()
            word = message.reason.removeprefix("token_")
            return [Hangup(), *self._refused_token(f"the token is {word}")]
        self._roster.ended(message.id, message.reason)
        touched[stream] = None
        stream.end(message.reason)
        # One that waits for a fetch is over when that has come.
        return self._dropped(stream, now) if stream.is_over else []

    # Parts of the above

    def _begin(self) -> list[Effect]:
        if self._token.is_needed:
            return [*self._turn(State.ASKING), AskToken()]
        return self._dial()

    def _dial(self) -> list[Effect]:
        return [*self._turn(State.DIALING), Dial(self._token.value)]

    def _wait(self, now: float, delay: float) -> list[Effect]:
        if not self.streams:
            return self._turn(State.IDLE)
        self._next_try_at = now + max(0.0, delay)
        return self._turn(State.WAITING)

    def _turn(self, state: State) -> list[Effect]:
        self.state = state
        return [Tell(state)]

    def _hang_up(self, reason: str, now: float) -> list[Effect]:
        self.last_error = reason
        come_back_at = self._come_back_at
        self._lose()
        delay = self._backoff.next() if come_back_at is None else come_back_at - now
        return [Hangup(), *self._wait(now, delay)]

    def _lose(self) -> None:
        for stream in self.streams:
            stream.lost()
        self._roster.clear()
        self._doubted_at = None
        self._come_back_at = None
        self._greeted_by = None
        self._is_welcome = False
        self._idle_at = None
        self._token.lost()
        self.is_stale = False

    def _refused_token(self, reason: str) -> list[Effect]:
        if not self._token.refused() or not self.streams:
            return self._give_up(refusal("unauthorized", reason))
        return [*self._turn(State.ASKING), AskToken()]

    def _give_up(self, error: RunstreamError) -> list[Effect]:
        self._backoff.reset()
        # Whoever subscribes next starts with a fresh token, if this was about the old one.
        self._token.start_anew(with_fresh=isinstance(error, Refused))
        effects = self._fail_all(error)
        return effects + self._turn(State.IDLE)

    def _fail_all(self, error: RunstreamError) -> list[Effect]:
        self._lose()
        self._next_try_at = None
        streams = tuple(self.streams)
        self.streams.clear()
        self._retrying.clear()
        for stream in streams:
            stream.fail(error)
        return [Wake(streams)] if streams else []

    @property
    def _can_ask(self) -> bool:
        return self.state in CONNECTED and (self._joins_early or self._is_welcome)

    def _unasked(self) -> list[Stream]:
        return [
            stream
            for stream in self.streams
            if stream.state is StreamState.IDLE and stream not in self._retrying
        ]

    def _join(self, streams: Iterable[Stream], now: float) -> list[Effect]:
        """Asks for these, as far as it is time to; refuses what is longer than the server takes."""
        if not self._can_ask:
            return []
        messages: list[protocol.Wish] = []
        refused: list[Stream] = []
        for stream in streams:
            self._retrying.pop(stream, None)
            message = self._roster.join(stream)
            length = protocol.length(message)
            if length <= self._max_message_bytes:
                messages.append(message)
                continue
            # Sent, it would close the socket, for all streams, and so again and again.
            self._roster.free(message.id)
            stream.lost()
            if not self._is_welcome:
                continue  # `welcome` may tell of a larger limit.
            limit = f"{self._max_message_bytes:,} bytes"
            stream.fail(BadRequest(f"a subscription of {length:,} bytes; the server takes {limit}"))
            refused.append(stream)
        effects: list[Effect] = [self._send(*messages)] if messages else []
        for stream in refused:
            effects += self._dropped(stream, now)
        return [*effects, Wake(tuple(refused))] if refused else effects

    def _let_go(self, stream: Stream) -> list[Effect]:
        return [self._send(message) for message in self._roster.leave(stream)]

    def _dropped(self, stream: Stream, now: float) -> list[Effect]:
        self.streams.pop(stream, None)
        self._retrying.pop(stream, None)
        if self.streams:
            return []
        match self.state:
            case State.OPEN | State.DRAINING:
                self._idle_at = now + self._timing.linger_s
            case State.DIALING | State.GREETING:
                self._lose()
                return [Hangup(), *self._turn(State.IDLE)]
            case State.WAITING | State.ASKING:
                self._next_try_at = None
                return self._turn(State.IDLE)
        return []

    def _look_after(self, stream: Stream, now: float) -> Iterable[Effect]:
        if stream.is_over:
            # It failed, or what its end has waited for has come.
            return [*self._let_go(stream), *self._dropped(stream, now)]
        effects: list[Effect] = [Fetch(run_id) for run_id in stream.wanted()]
        if stream.is_overfull and stream.id is not None:
            effects += self._let_go(stream)
            stream.pause()
        return effects

    def _send(self, *messages: protocol.ClientMessage) -> Send:
        return Send(messages, self._max_message_bytes)


def _due(at: float | None, now: float) -> bool:
    return at is not None and now >= at
