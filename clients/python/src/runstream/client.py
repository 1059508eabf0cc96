"""`Runstream`: the way in. Triggers runs, and follows them as they change."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, Final, Self, Unpack, overload
from urllib.parse import urlsplit

from runstream.commands import NewRun, RunOptions
from runstream.connection import Connection, log
from runstream.credentials import Credentials, TokenProvider
from runstream.effects import State
from runstream.http import Http
from runstream.models import AnyRun, AnyTask, OutputT, PayloadT, Run, Task
from runstream.report import ENTRY_S, FLUSH_S, Report
from runstream.resources import (
    Artifacts,
    Batches,
    JobRuns,
    Jobs,
    Runs,
    Tokens,
    Webhooks,
    Workflows,
)
from runstream.stats import Stats
from runstream.subscribing import Subscribing
from runstream.timing import Timing


class Runstream(Subscribing):
    """A client of one Runstream server.

    One WebSocket carries all its subscriptions; it is opened with the first one and, if
    it is lost, opened again for ever, each subscription going on where it was. The HTTP
    calls are `client.runs`, `client.batches` and so on.

    `api_key` or `token` says who you are: a key, a token, or an async function that gives
    a token, which is asked again before it expires and when it is refused. Closing the
    client, or leaving its `async with`, ends all its subscriptions. A client belongs to one
    event loop.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        *,
        api_key: str | None = None,
        token: str | TokenProvider | None = None,
        timeout_s: float = 30.0,
        ssl_context: ssl.SSLContext | None = None,
        on_state: Callable[[State], None] | None = None,
        timing: Timing | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no address of a server: http://host:port is meant")
        if api_key is not None and token is not None:
            raise ValueError("either an api_key or a token, not both")
        self.url = url
        if callable(token):
            credentials = Credentials(None, token)
        else:
            credentials = Credentials(api_key if token is None else token, None)
        self.http: Final = Http(url, credentials, timeout_s=timeout_s, ssl_context=ssl_context)
        self._callbacks: list[Callable[[State], None]] = [] if on_state is None else [on_state]
        self._closed = False
        self.runs = Runs(self.http)
        self.batches = Batches(self.http)
        self.workflows = Workflows(self.http)
        self.jobs = Jobs(self.http)
        self.job_runs = JobRuns(self.http)
        self.artifacts = Artifacts(self.http)
        self.webhooks = Webhooks(self.http)
        self.tokens = Tokens(self.http)
        self._connection = Connection(
            url,
            credentials,
            self.runs.get,
            ssl_context=ssl_context,
            timing=timing,
            on_state=self._tell,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Ends all subscriptions and closes all connections. May be called again."""
        self._closed = True
        try:
            await self._connection.aclose()
        finally:
            await self.http.aclose()

    # How the connection stands

    @property
    def state(self) -> State:
        """Where the WebSocket stands; IDLE while there is no subscription."""
        return self._connection.session.state

    @property
    def is_stale(self) -> bool:
        """Whether the server cannot read its store just now: nothing is lost, but nothing comes."""
        return self._connection.session.is_stale

    @property
    def last_error(self) -> str | None:
        """Why the WebSocket is not open, in words; None while it is."""
        return self._connection.session.last_error

    @property
    def stats(self) -> Stats:
        """What has happened so far: reconnects, resumes, repeats dropped, resets …"""
        return self._connection.session.stats

    def on_state(self, callback: Callable[[State], None]) -> Callable[[], None]:
        """Calls the function with each new state, and when the server turns stale or fresh.

        Returns a function that stops it.
        """
        self._callbacks.append(callback)

        def stop() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return stop

    async def states(self) -> AsyncIterator[State]:
        """The present state, then each new one, until the client is closed.

        Who takes them slowly misses the oldest of more than a hundred.
        """
        waiting: deque[State] = deque([self.state], maxlen=100)
        more = asyncio.Event()

        def note(state: State) -> None:
            waiting.append(state)
            more.set()

        stop = self.on_state(note)
        try:
            while True:
                while waiting:
                    state = waiting.popleft()
                    yield state
                    if state is State.CLOSED:
                        return
                more.clear()
                await more.wait()
        finally:
            stop()

    def _tell(self, state: State) -> None:
        for callback in tuple(self._callbacks):
            try:
                callback(state)
            except Exception:
                log.exception("a callback to the client's state failed")

    # Making runs

    @overload
    async def trigger(
        self,
        task: Task[PayloadT, OutputT],
        payload: PayloadT | None = None,
        **options: Unpack[RunOptions],
    ) -> Run[PayloadT, OutputT]: ...
    @overload
    async def trigger(
        self, task: str, payload: Any = None, **options: Unpack[RunOptions]
    ) -> AnyRun: ...
    async def trigger(
        self, task: AnyTask | str, payload: Any = None, **options: Unpack[RunOptions]
    ) -> AnyRun:
        """Makes a run; with an `idempotency_key` that was used before, returns the first one.

        The server has it on disk when this returns. See `client.runs.create` for the token
        that comes with it.
        """
        return (await self.runs.create(task, payload, **options)).run

    # Reporting

    @overload
    def report(
        self,
        work: Task[PayloadT, OutputT],
        payload: PayloadT | None = None,
        *,
        entry_s: float = ENTRY_S,
        flush_s: float = FLUSH_S,
        **options: Unpack[RunOptions],
    ) -> Report[PayloadT, OutputT]: ...
    @overload
    def report(
        self, work: Run[PayloadT, OutputT], *, entry_s: float = ENTRY_S, flush_s: float = FLUSH_S
    ) -> Report[PayloadT, OutputT]: ...
    @overload
    def report(
        self,
        work: str,
        payload: Any = None,
        *,
        entry_s: float = ENTRY_S,
        flush_s: float = FLUSH_S,
        **options: Unpack[RunOptions],
    ) -> Report[Any, Any]: ...
    def report(
        self,
        work: AnyTask | str | AnyRun,
        payload: Any = None,
        *,
        entry_s: float = ENTRY_S,
        flush_s: float = FLUSH_S,
        **options: Unpack[RunOptions],
    ) -> Report[Any, Any]:
        """Reports a job as a run: `async with client.report(task, payload) as run:`.

        Or on a function, each call of which is then a run: `@client.report(task)`. With a
        run instead of a task, one from `runs.claim` say, that run is reported on.

        The job never waits for the server or fails because of it: at the entry for
        `entry_s` at most, and at the end for `flush_s`, until what was said has been sent.
        What cannot be said then is lost, and a log says so.
        """
        # Unknown options are a mistake of the caller's, to be told now and not in a log.
        NewRun("", **options)
        return Report(self.http, work, payload, options, entry_s=entry_s, flush_s=flush_s)
