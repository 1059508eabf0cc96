"""The socket under a session: carries what comes in to it, and its effects out."""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import websockets
from websockets.asyncio.client import ClientConnection, connect

from runstream import protocol
from runstream.bell import Bell
from runstream.credentials import PASSING, Credentials
from runstream.dialing import why
from runstream.effects import AskToken, Dial, Effect, Fetch, Hangup, Send, State, Tell, Wake
from runstream.errors import Forbidden, NotFound, RunstreamError
from runstream.models import AnyRun
from runstream.session import Session
from runstream.stream import Stream
from runstream.timing import Timing

log: Final = logging.getLogger("runstream")

AT_REST: Final = frozenset({State.IDLE, State.CLOSED})
MAX_FETCHES: Final = 8
LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class Connection:
    """One WebSocket at a time, dialled again as often as the session says.

    All that runs for it runs inside one task, which is there while there is anything to
    do: it starts with the first subscription and is over when the session is at rest.
    """

    def __init__(
        self,
        url: str,
        credentials: Credentials,
        fetch: Callable[[str], Awaitable[AnyRun]],
        *,
        ssl_context: ssl.SSLContext | None = None,
        timing: Timing | None = None,
        on_state: Callable[[State], None] = lambda state: None,
    ) -> None:
        parts = urlsplit(url)
        scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
        path = parts.path.rstrip("/") + protocol.PATH
        self._uri = urlunsplit((scheme, parts.netloc, path, "", ""))
        self._is_loopback = parts.hostname in LOOPBACK
        self._ssl = ssl_context
        self._credentials = credentials
        self._fetch_run = fetch
        self._on_state = on_state
        self.session: Final = Session(
            token=credentials.token,
            has_provider=credentials.has_provider,
            chance=random.random,
            wall_clock=lambda: datetime.now(UTC),
            timing=timing or Timing(),
        )
        self._bells: dict[Stream, Bell] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._roots: set[asyncio.Task[None]] = set()
        self._group: asyncio.TaskGroup | None = None
        self._jobs: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self._attempt = 0
        self._at_rest: asyncio.Event | None = None
        self._dialing: asyncio.Task[None] | None = None
        self._socket: ClientConnection | None = None
        self._carriers: list[asyncio.Task[None]] = []
        self._outgoing: list[Send] = []
        self._has_outgoing: asyncio.Event | None = None
        self._fetching: set[str] = set()
        # For an answer that may take as long as somebody else likes.
        self._waits: set[asyncio.Task[Any]] = set()
        self._fetch_slots: asyncio.Semaphore | None = None
        self._timer: asyncio.TimerHandle | None = None

    # What subscriptions ask

    def subscribe(self, stream: Stream, bell: Bell) -> None:
        """Begins to fill the stream; `bell` is rung when it has something."""
        self._loop = asyncio.get_running_loop()
        self._bells[stream] = bell
        self._perform(self.session.subscribe(stream, self._now()))

    def unsubscribe(self, stream: Stream) -> None:
        """Ends the stream. May be called again, and from a finalizer."""
        self._bells.pop(stream, None)
        if self._loop is None or self._loop.is_closed():
            stream.close()
        else:
            self._perform(self.session.unsubscribe(stream, self._now()))

    def unsubscribe_soon(self, stream: Stream) -> None:
        """The same, from wherever the garbage collector happens to run."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.unsubscribe, stream)

    def drained(self, stream: Stream) -> None:
        """The caller of a stream that was paused has caught up."""
        self._perform(self.session.drained(stream, self._now()))

    async def aclose(self) -> None:
        """Ends all streams and closes the socket; returns when nothing runs any more."""
        self._perform(self.session.close())
        self._bells.clear()
        while self._roots:
            # Not gathered: who cancels this does not mean to cancel the closing.
            await asyncio.wait(self._roots)

    # Effects

    def _perform(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Wake(streams):
                    for stream in streams:
                        bell = self._bells.get(stream)
                        if bell is not None:
                            bell.ring()
                case Send():
                    self._outgoing.append(effect)
                    if self._has_outgoing is not None:
                        self._has_outgoing.set()
                case Tell(state):
                    self._tell(state)
                case Fetch(run_id, again):
                    if run_id not in self._fetching:
                        self._fetching.add(run_id)
                        self._launch(partial(self._fetch, run_id, again))
                case AskToken():
                    self._launch(self._ask)
                case Dial(token):
                    self._attempt += 1
                    self._launch(partial(self._dial, token, self._attempt))
                case Hangup(code):
                    self._hang_up(code)
        self._set_timer()

    def _tell(self, state: State) -> None:
        if state in AT_REST and self._at_rest is not None:
            self._at_rest.set()
        log.debug("%s: %s", self._uri, state)
        self._on_state(state)

    def _launch(self, job: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if self._group is not None:
            self._group.create_task(job())
            return
        # The group takes tasks only once it is entered, in a task of its own.
        self._jobs.append(job)
        if self._at_rest is None:
            self._at_rest = asyncio.Event()
            root = asyncio.get_running_loop().create_task(
                self._run(self._at_rest), name="runstream connection"
            )
            self._roots.add(root)
            root.add_done_callback(self._roots.discard)

    async def _run(self, at_rest: asyncio.Event) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                jobs, self._jobs = self._jobs, []
                for job in jobs:
                    group.create_task(job())
                while self.session.state not in AT_REST:
                    at_rest.clear()
                    await at_rest.wait()
                # Looked at and let go in one breath: what is asked for from here on
                # starts another task.
                self._group = self._at_rest = None
                for task in self._waits:
                    task.cancel()
        except BaseExceptionGroup as broken:
            log.exception("the connection has broken; this is a fault of the client")
            self._group = self._at_rest = None
            error = RunstreamError(f"the client has failed: {broken.exceptions[0]!r}")
            error.__cause__ = broken
            self._perform(self.session.break_off(error))
        finally:
            if self._at_rest is at_rest:
                # Cancelled from outside: the loop is being stopped, and nobody closes.
                self._group = self._at_rest = None
                if self._socket is not None:
                    self._socket.transport.abort()
            if self.session.state in AT_REST:
                self._stop_timer()

    # Time

    def _now(self) -> float:
        return self._loop.time() if self._loop is not None else 0.0

    def _set_timer(self) -> None:
        deadline = self.session.deadline
        if deadline is None or self._loop is None:
            self._stop_timer()
            return
        # One that is early looks again; so the timer is not set anew with each message.
        if self._timer is None or self._timer.when() > deadline:
            self._stop_timer()
            self._timer = self._loop.call_at(deadline, self._tick)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = None
        self._perform(self.session.tick(self._now()))

    # The socket

    async def _dial(self, token: str | None, attempt: int) -> None:
        if attempt != self._attempt:
            return  # It was given up before it began.
        self._dialing = asyncio.current_task()
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        kwargs: dict[str, Any] = {} if self._ssl is None else {"ssl": self._ssl}
        try:
            socket = await connect(
                self._uri,
                subprotocols=[websockets.Subprotocol(protocol.SUBPROTOCOL)],
                additional_headers=headers,
                compression=None,
                # A proxy that the environment names is not meant for this machine itself.
                proxy=None if self._is_loopback else True,
                # The server's heartbeats are watched instead: they also show that it works.
                ping_interval=None,
                close_timeout=1,
                # A page of runs may be long, and refusing it would only mean to ask again.
                max_size=None,
                **kwargs,
            )
        except Exception as error:
            self._dialing = None
            self._perform(self.session.dial_failed(why(error, self.session), self._now()))
            return
        self._dialing = None
        self._socket = socket
        self._outgoing.clear()
        self._has_outgoing = asyncio.Event()
        self._carriers = []
        self._launch(partial(self._read, socket))
        self._launch(partial(self._write, socket, self._has_outgoing))
        self._perform(self.session.opened(self._now()))

    async def _read(self, socket: ClientConnection) -> None:
        self._carry(socket)
        session, now = self.session, self._now
        try:
            while self._socket is socket:
                self._perform(session.received(await socket.recv(decode=False), now()))
        except websockets.ConnectionClosed as closed:
            if self._socket is socket:
                self._let_go()
                code = None if closed.rcvd is None else closed.rcvd.code
                reason = "" if closed.rcvd is None else closed.rcvd.reason
                self._perform(session.closed(code, reason, now()))

    async def _write(self, socket: ClientConnection, has_outgoing: asyncio.Event) -> None:
        self._carry(socket)
        while self._socket is socket:
            await has_outgoing.wait()
            has_outgoing.clear()
            sends, self._outgoing = self._outgoing, []
            if not sends:
                continue
            messages = [message for send in sends for message in send.messages]
            try:
                for text in protocol.write(messages, sends[-1].max_bytes):
                    await socket.send(text, text=True)
            except websockets.ConnectionClosed:
                return  # The reader hears of it, too, and says why.

    def _carry(self, socket: ClientConnection) -> None:
        task = asyncio.current_task()
        if task is not None and self._socket is socket:
            self._carriers.append(task)

    def _hang_up(self, code: int) -> None:
        self._attempt += 1
        if self._dialing is not None:
            self._dialing.cancel()
            self._dialing = None
        socket = self._socket
        if socket is not None:
            self._let_go()
            self._launch(partial(_close, socket, code))

    def _let_go(self) -> None:
        self._socket = None
        self._outgoing.clear()
        self._has_outgoing = None
        for carrier in self._carriers:
            # The one that found it ends by itself: it must not be cut in what it is doing.
            if carrier is not asyncio.current_task():
                carrier.cancel()
        self._carriers = []

    # The rest

    async def _ask(self) -> None:
        session = self.session
        if session.state in AT_REST:
            return  # It was given up before it began.
        try:
            with self._waiting():
                # Another than the present one, also if that was never refused: it ends soon.
                token = await self._credentials.fresh(self._credentials.token)
        except PASSING as error:
            log.warning("the token provider failed, it is asked again: %r", error)
            self._perform(session.token_failed(None, self._now()))
        except RunstreamError as error:
            self._perform(session.token_failed(error, self._now()))
        else:
            self._perform(session.token_came(token, self._now()))

    async def _fetch(self, run_id: str, again: bool) -> None:
        try:
            with self._waiting():
                run = await self._fetched(run_id, 0.05 if again else 0.0)
        finally:
            self._fetching.discard(run_id)
        self._perform(self.session.fetched(run_id, run, self._now()))

    async def _fetched(self, run_id: str, pause_s: float) -> AnyRun | None:
        if self._fetch_slots is None:
            self._fetch_slots = asyncio.Semaphore(MAX_FETCHES)
        async with self._fetch_slots:
            while any(stream.wants(run_id) for stream in self.session.streams):
                await asyncio.sleep(pause_s)
                try:
                    return await self._fetch_run(run_id)
                except (NotFound, Forbidden):
                    break
                except RunstreamError as error:
                    log.warning("run %s could not be read, it is tried again: %s", run_id, error)
                    pause_s = min(10.0, 2 * pause_s + 0.5) * random.uniform(0.5, 1)
        return None

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        task = asyncio.current_task()
        assert task is not None
        self._waits.add(task)
        try:
            yield
        finally:
            self._waits.discard(task)


async def _close(socket: ClientConnection, code: int) -> None:
    await socket.close(code)
