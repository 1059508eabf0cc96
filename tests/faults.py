"""Faults on purpose: a TCP proxy that misbehaves, and ways to take connections from servers."""

import asyncio
import contextlib
import enum
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from tests.servers import Postgres, Valkey

PIECE = 65_536


class Way(enum.Enum):
    """Which way bytes go, seen from whoever dialled."""

    UP = "to the server"
    DOWN = "to the client"


class Cut(enum.Enum):
    """How a connection ends."""

    FIN = "as if each side had closed it in order"
    RST = "as if the other side had crashed"


BOTH = (Way.UP, Way.DOWN)


class Proxy:
    """Stands on loopback between a client and a server; what it does to bytes can change any time.

    Settings hold for the connections that stand and for those to come:

        async with Proxy(valkey.url) as proxy:
            broker = await open_broker(proxy.url)
            proxy.stall(Way.DOWN)
    """

    def __init__(self, url: str, *, receive_buffer: int | None = None) -> None:
        """`receive_buffer` bounds what the kernel takes in for a stalled reader, in bytes."""
        self.target = url
        self.connections = 0
        self.forwarded = dict.fromkeys(Way, 0)
        self.port = 0
        parts = urlsplit(url)
        if parts.hostname is None or parts.port is None:
            raise ValueError(f"a URL with host and port is needed, not {url}")
        self._host, self._target_port = parts.hostname, parts.port
        self._receive_buffer = receive_buffer
        self._delay_s = dict.fromkeys(Way, 0.0)
        self._flows = {way: asyncio.Event() for way in Way}
        self._piece = dict.fromkeys(Way, PIECE)
        self._left: dict[Way, int | None] = dict.fromkeys(Way)
        self._cut_how = Cut.RST
        self._refusals = 0
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        for flow in self._flows.values():
            flow.set()

    @property
    def url(self) -> str:
        """The server's URL, by way of the proxy."""
        parts = urlsplit(self.target)
        login, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{login}{at}127.0.0.1:{self.port}"))

    @property
    def standing(self) -> int:
        """How many connections stand."""
        return len(self._links)

    @property
    def ports(self) -> set[int]:
        """From which ports it is connected to the server."""
        return {link.port for link in self._links}

    # What a test asks for.

    def delay(self, seconds: float, *ways: Way) -> None:
        """Each piece comes at least this much later; 0: no more delay."""
        for way in ways or BOTH:
            self._delay_s[way] = seconds

    def stall(self, *ways: Way) -> None:
        """Connections stand, new ones are taken, and nothing is read or handed on."""
        for way in ways or BOTH:
            self._flows[way].clear()

    def flow(self, *ways: Way) -> None:
        """What was stalled flows again, with nothing lost."""
        for way in ways or BOTH:
            self._flows[way].set()

    @contextlib.contextmanager
    def stalled(self, *ways: Way) -> Iterator[None]:
        self.stall(*ways)
        try:
            yield
        finally:
            self.flow(*ways)

    def pieces(self, size: int, *ways: Way) -> None:
        """Hands on at most so many bytes at a time: 1 finds every wrong guess about framing."""
        for way in ways or BOTH:
            self._piece[way] = size

    def cut(self, how: Cut = Cut.RST) -> int:
        """Ends all connections now, and says how many there were."""
        links = tuple(self._links)
        for link in links:
            link.end(how)
        return len(links)

    def cut_after(self, size: int, way: Way, how: Cut = Cut.FIN) -> None:
        """Hands on exactly so many more bytes that way, then ends all connections, once.

        A reset may overtake the last of them, as it does in life.
        """
        self._left[way] = size
        self._cut_how = how

    def refuse(self, dials: int = 1) -> None:
        """The next so many connections are taken and reset at once."""
        self._refusals = dials

    @contextlib.asynccontextmanager
    async def closed(self) -> AsyncIterator[None]:
        """Nobody listens: all that stands is cut, and whoever dials is refused."""
        await self._close()
        try:
            yield
        finally:
            await self._listen()

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._close()

    # How it is done.

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self._refusals > 0:
            self._refusals -= 1
            reset(writer)
            return
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def _serve(
        self, client_reader: asyncio.StreamReader, client_writer: asyncio.StreamWriter
    ) -> None:
        try:
            server_reader, server_writer = await self._dial()
        except OSError:
            reset(client_writer)
            return
        except asyncio.CancelledError:
            reset(client_writer)
            raise
        link = _Link(client_writer, server_writer)
        self._links.add(link)
        pumps = [
            asyncio.create_task(self._pump(client_reader, server_writer, Way.UP)),
            asyncio.create_task(self._pump(server_reader, client_writer, Way.DOWN)),
        ]
        for pump in pumps:
            self._tasks.add(pump)
            pump.add_done_callback(self._ended)
        both = asyncio.gather(*pumps, return_exceptions=True)
        try:
            # The first that fails, or both when they are through.
            standing: set[asyncio.Future[Any]] = {*pumps}
            while standing and not link.cut.done():
                done, standing = await asyncio.wait(
                    {*standing, link.cut}, return_when=asyncio.FIRST_COMPLETED
                )
                standing.discard(link.cut)
                if any(end is not link.cut and failed(end) for end in done):
                    link.end(Cut.RST)  # One side has crashed: the other is told so.
            if link.cut.done() and link.cut.result() is Cut.FIN:
                await stopped(both)
                # Closing a socket with bytes unread would be a reset.
                with contextlib.suppress(OSError, TimeoutError):
                    async with asyncio.timeout(1):
                        await asyncio.gather(drain(client_reader), drain(server_reader))
        finally:
            # All that need not be waited for comes first: a second cancellation, or a pump that
            # has failed, must not keep the other pump and the sockets standing.
            self._links.discard(link)
            link.close()
            await stopped(both)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        failed(task)  # which is heard so, also if whoever waited for it was cancelled

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        sock = socket.socket()
        sock.setblocking(False)
        if self._receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        try:
            await asyncio.get_running_loop().sock_connect(sock, (self._host, self._target_port))
        except BaseException:
            sock.close()
            raise
        return await asyncio.open_connection(sock=sock, limit=self._receive_buffer or PIECE)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way
    ) -> None:
        writer.transport.set_write_buffer_limits(high=0)
        flow = self._flows[way]
        while True:
            await flow.wait()
            piece = await reader.read(self._piece[way])
            if self._delay_s[way]:
                await asyncio.sleep(self._delay_s[way])
            await flow.wait()
            if not piece:
                finish(writer)
                return
            left = self._left[way]
            if left is not None:
                piece = piece[:left]
                self._left[way] = left - len(piece)
            writer.write(piece)
            self.forwarded[way] += len(piece)
            await writer.drain()
            if self._left[way] == 0:
                self._left[way] = None
                self.cut(self._cut_how)


class _Link:
    """Both sockets of one connection."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self._writers = (client, server)
        self.port: int = server.get_extra_info("sockname")[1]
        self.cut: asyncio.Future[Cut] = asyncio.get_running_loop().create_future()

    def end(self, how: Cut) -> None:
        if self.cut.done():
            return
        self.cut.set_result(how)
        for writer in self._writers:
            if how is Cut.RST:
                reset(writer)
            else:
                finish(writer)

    def close(self) -> None:
        for writer in self._writers:
            writer.close()
        self.cut.cancel()


def finish(writer: asyncio.StreamWriter) -> None:
    """Tells the peer by FIN that nothing more comes, unless it has gone."""
    with contextlib.suppress(OSError, RuntimeError):
        writer.write_eof()


def reset(writer: asyncio.StreamWriter) -> None:
    """Closes a socket so that its peer is told by RST."""
    sock: socket.socket = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def failed(work: asyncio.Future[Any]) -> bool:
    """Whether it has come to an end by an error of its own."""
    return not work.cancelled() and work.exception() is not None


async def stopped(work: asyncio.Future[Any]) -> None:
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)


async def drain(reader: asyncio.StreamReader) -> None:
    while await reader.read(PIECE):
        pass


def client_kill(valkey: Valkey, kind: str = "pubsub") -> int:
    """Cuts off all subscribers, as Redis does with slow ones; says how many there were."""
    killed: int = valkey.execute("CLIENT", "KILL", "TYPE", kind)
    return killed


def terminate_backends(postgres: Postgres, url: str | None = None) -> int:
    """Cuts off all connections to a database (None: to any), until they are gone; says how many
    there were."""
    database = None if url is None else url.rpartition("/")[2]
    ((ended,),) = postgres.fetch(
        """
        SELECT count(*) FILTER (WHERE pg_terminate_backend(pid, 30000)) FROM pg_stat_activity
        WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
          AND ($1::text IS NULL OR datname = $1)
        """,
        database,
    )
    return int(ended)


@contextlib.asynccontextmanager
async def open_transaction(url: str) -> AsyncIterator[int]:
    """A transaction that has its id and does nothing more, held open meanwhile; gives the id."""
    connection = await asyncpg.connect(url)
    try:
        transaction = connection.transaction()
        await transaction.start()
        xid = await connection.fetchval("SELECT pg_current_xact_id()::text::bigint")
        yield int(xid)
        if not connection.is_closed():
            await transaction.rollback()
    finally:
        connection.terminate()
