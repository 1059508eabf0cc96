"""Publishes from a bounded queue through one connection, in pipelines."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import redis.exceptions
from redis.asyncio import Connection, ConnectionPool, Redis, SSLConnection
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import MovedError, RedisError, ResponseError

from store.broker.metrics import BrokerMetrics
from store.broker.redis.address import Address
from store.broker.redis.backoff import Backoff
from store.broker.redis.subscriber import keepalive_options
from store.broker.redis.tuning import Tuning

log = logging.getLogger(__name__)

PIPELINE_BYTES: Final = 1_000_000
PIPELINE_MESSAGES: Final = 1_000

SLOW: Final = (TimeoutError, redis.exceptions.TimeoutError)
FAILED: Final = (RedisError, OSError, TimeoutError)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message that waits to be published."""

    channel: bytes
    message: bytes
    hints: int
    """How many it holds; 0 for a heartbeat."""


class Publisher:
    """Takes messages at any time and never waits; `run` sends them, one pipeline at a time.

    A pipeline holds whatever has queued up, so a busy server is spoken to in few large ones. One
    that failed because its connection was cut is sent once more on the next connection if that
    can be had at once (what came twice is dropped by whoever reads it). All else that fails is
    dropped, and so is what has waited when a dial fails: the tail has found it by then.
    """

    def __init__(
        self,
        address: Address,
        tuning: Tuning,
        metrics: BrokerMetrics,
        *,
        sharded: bool = False,
        refused: Callable[[], None] = lambda: None,
        demoted: Callable[[], None] = lambda: None,
    ) -> None:
        """`refused()`: the server would not publish a message; perhaps its channel's slot is
        another node's. `demoted()`: the server is a replica."""
        self.away = False
        """The last dial failed: whoever encodes may spare itself the work."""
        self._address = address
        self._tuning = tuning
        self._metrics = metrics
        self._command = "SPUBLISH" if sharded else "PUBLISH"
        self._refused = refused
        self._demoted = demoted
        self._pool = Pool(address, tuning)
        self._client = Redis.from_pool(self._pool)
        self._queue: deque[Outgoing] = deque()
        self._bytes = 0
        self._beat: Outgoing | None = None
        self._work = asyncio.Event()
        self._worn = False
        self._complaint = ""

    def put(self, outgoing: Outgoing) -> None:
        """Queues it; over the bound the oldest are dropped, which are the least news."""
        self._queue.append(outgoing)
        self._bytes += len(outgoing.message)
        while (
            self._bytes > self._tuning.queue_bytes or len(self._queue) > self._tuning.queue_messages
        ):
            oldest = self._queue.popleft()
            self._bytes -= len(oldest.message)
            self._metrics.dropped(oldest.hints, "overflow")
        self._work.set()

    def beat(self, channel: bytes, message: bytes) -> None:
        """Sends a heartbeat with the next pipeline, ahead of the queue and in no bound's way."""
        self._beat = Outgoing(channel, message, 0)
        self._work.set()

    def renew(self) -> None:
        """A new connection before the next pipeline."""
        self._worn = True

    async def run(self) -> None:
        """Sends until it is cancelled."""
        backoff = Backoff(self._tuning)
        loop = asyncio.get_running_loop()
        since = loop.time()
        again = False
        try:
            while True:
                heed_cancellation()
                await self._work.wait()
                pipeline = self._take()
                try:
                    if self._worn:
                        self._worn = False
                        await self._pool.disconnect()
                    await self._send(pipeline)
                    again = False
                except FAILED as error:
                    self._complain(error)
                    if again or isinstance(error, SLOW):
                        self._drop(pipeline)
                    else:
                        self._put_back(pipeline)
                        again = True
                    await self._dial(backoff, loop.time() - since)
                    since = loop.time()
        finally:
            # Without a wait: whoever cancels twice would find the connection still open.
            self._pool.abort()

    async def _send(self, pipeline: Sequence[Outgoing]) -> None:
        async with (
            asyncio.timeout(self._tuning.send_s),
            self._client.pipeline(transaction=False) as commands,
        ):
            for outgoing in pipeline:
                commands.execute_command(self._command, outgoing.channel, outgoing.message)
            beats = pipeline[0].hints == 0
            if beats:
                commands.execute_command("ROLE")
            answers: list[Any] = await commands.execute(raise_on_error=False)
        if beats:
            self._look_at_role(answers.pop())
        self._complaint = ""
        for outgoing, answer in zip(pipeline, answers, strict=True):
            if isinstance(answer, RedisError):
                self._metrics.dropped(outgoing.hints, "refused")
                self._refused()
                if not isinstance(answer, MovedError):
                    self._complain(answer)
            else:
                self._metrics.published(outgoing.hints)

    def _look_at_role(self, answer: Any) -> None:
        # After a failover the old primary may live on as a replica of the new one. What is
        # published to a replica stays there, and yet the canary is heard. A login that may not
        # ask (NOPERM) is not held against the server.
        if isinstance(answer, list) and answer and answer[0] != b"master":
            self._demoted()

    async def _dial(self, backoff: Backoff, stood_s: float) -> None:
        """Comes back once the server answers again."""
        while True:
            heed_cancellation()
            await asyncio.sleep(backoff.next_s(stood_s))
            stood_s = 0.0
            try:
                async with asyncio.timeout(self._tuning.connect_s):
                    await self._pool.disconnect()
                    await self._client.ping()
                break
            except ResponseError:
                break  # A login that may publish and no more: it was let in, and answered.
            except FAILED as error:
                self.away = True
                self._complain(error)
                while self._queue:
                    self._metrics.dropped(self._queue.popleft().hints, "away")
                self._bytes = 0
        self.away = False
        self._metrics.reconnected("publisher")

    def _take(self) -> list[Outgoing]:
        taken: list[Outgoing] = []
        if self._beat is not None:
            taken.append(self._beat)
            self._beat = None
        size = 0
        while self._queue and size < PIPELINE_BYTES and len(taken) < PIPELINE_MESSAGES:
            outgoing = self._queue.popleft()
            size += len(outgoing.message)
            taken.append(outgoing)
        self._bytes -= size
        if not self._queue:
            self._work.clear()
        return taken

    def _put_back(self, pipeline: Sequence[Outgoing]) -> None:
        hints = [outgoing for outgoing in pipeline if outgoing.hints]
        self._queue.extendleft(reversed(hints))
        self._bytes += sum(len(outgoing.message) for outgoing in hints)
        if hints:
            self._work.set()

    def _drop(self, pipeline: Sequence[Outgoing]) -> None:
        for outgoing in pipeline:
            self._metrics.dropped(outgoing.hints, "away")

    def _complain(self, error: BaseException) -> None:
        complaint = str(error) or type(error).__name__
        if complaint != self._complaint:
            self._complaint = complaint
            log.warning("publishing to Redis at %s failed: %s", self._address, complaint)


class _Abrupt(AbstractConnection):
    """Ends at once. A polite close first waits until all that was written has been taken, which
    a frozen server never does."""

    async def disconnect(self, *args: Any, **kwargs: Any) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
        await super().disconnect(*args, **kwargs)

    def abort(self) -> None:
        """Ends the connection, if there is one, without a wait."""
        if self._writer is not None:
            self._writer.transport.abort()
            self._reader = self._writer = None


class _PlainConnection(_Abrupt, Connection): ...


class _TlsConnection(_Abrupt, SSLConnection): ...


class Pool(ConnectionPool):
    """One connection, which tries everything once: when to try again is decided here, by whoever
    knows what is worth it."""

    def __init__(self, address: Address, tuning: Tuning) -> None:
        super().__init__(
            connection_class=_PlainConnection if address.tls is None else _TlsConnection,
            host=address.host,
            port=address.port,
            username=address.username,
            password=address.password,
            db=address.db,
            protocol=2,
            max_connections=1,
            socket_timeout=tuning.send_s,
            socket_connect_timeout=tuning.connect_s,
            socket_keepalive=True,
            socket_keepalive_options=keepalive_options(),
            retry=Retry(NoBackoff(), 0),
            **({} if address.tls is None else address.tls.client_options()),
        )
        self._made: list[_Abrupt] = []

    def make_connection(self) -> Any:
        connection = super().make_connection()  # type: ignore[no-untyped-call]
        self._made.append(connection)
        return connection

    def abort(self) -> None:
        """Ends the connection, also one that is lent out or just being made."""
        for connection in self._made:
            connection.abort()


def heed_cancellation() -> None:
    """Raises CancelledError if this task was cancelled and somebody has kept that to himself.

    The client library waits by `asyncio.wait_for`, which until Python 3.12 forgets a cancellation
    that comes in the turn in which its wait is over; whoever cancelled us would wait for ever.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
