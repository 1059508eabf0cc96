"""A gateway on a free port, in this process, over a store and a broker of memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from uvicorn.server import ServerState
from websockets.asyncio.client import ClientConnection, connect

from realtime import sse
from realtime.auth import Denied, Unauthorized
from realtime.gateway import WebSocketEndpoint
from realtime.hub import Hub, HubSettings
from realtime.subscription import Grant
from tests.doubles import FakeBroker, FakeGrant, FakeStore

LONG_S = 30.0
"""A bound for whatever should happen; nothing is expected to take so long."""


async def until(condition: Callable[[], object], what: str = "it") -> None:
    """Waits for a condition, never for a time."""
    try:
        async with asyncio.timeout(LONG_S):
            while not condition():
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"{what} did not happen in {LONG_S} s") from None


class Serving:
    """What a test finds: the parts, and where to connect."""

    def __init__(self, hub: Hub, store: FakeStore, broker: FakeBroker, port: int) -> None:
        self.hub = hub
        self.store = store
        self.broker = broker
        self.port = port

    @asynccontextmanager
    async def reader(self, **how: Any) -> AsyncIterator[Reader]:
        """A WebSocket client that has connected."""
        how.setdefault("max_size", None)
        async with connect(f"ws://127.0.0.1:{self.port}/v1/realtime", **how) as socket:
            yield Reader(socket)

    async def get(self, path: str, headers: dict[str, str] | None = None) -> Response:
        """The beginning of an answer to GET; its body is read as it comes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        lines = [f"GET {path} HTTP/1.1", "Host: test"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), LONG_S)
        return Response(head.decode(), reader, writer)


class Reader:
    """Reads protocol messages, one by one."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.seen: list[dict[str, Any]] = []
        self._ready: list[dict[str, Any]] = []

    async def say(self, *messages: dict[str, Any]) -> None:
        """Several messages, in one WebSocket message."""
        await self.socket.send("\n".join(json.dumps(message) for message in messages))

    async def next(self) -> dict[str, Any]:
        """The next message."""
        if not self._ready:
            text = await asyncio.wait_for(self.socket.recv(), LONG_S)
            assert isinstance(text, str)
            self._ready = [json.loads(line) for line in text.split("\n")]
        message = self._ready.pop(0)
        self.seen.append(message)
        return message

    async def until(self, type_: str, **fields: Any) -> dict[str, Any]:
        """The next message of that type and with those fields."""
        while True:
            message = await self.next()
            if message["type"] == type_ and fields.items() <= message.items():
                return message

    async def closed(self) -> int:
        """Reads to the end; returns the close code."""
        await asyncio.wait_for(self.socket.wait_closed(), LONG_S)
        assert self.socket.close_code is not None
        return self.socket.close_code


class Response:
    """An HTTP answer whose body is a stream of events, or a short text."""

    def __init__(
        self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.status = int(head.split(" ")[1])
        self.head = head.lower()
        self.over = False
        self._reader = reader
        self._writer = writer
        self._text = ""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def chunk(self) -> str:
        """The next part of the body; none at its end."""
        size = int(await asyncio.wait_for(self._reader.readline(), LONG_S), 16)
        data = await self._reader.readexactly(size + 2)
        if not size:
            self.over = True
        return data[:-2].decode()

    async def problem(self) -> dict[str, Any]:
        """The body as JSON."""
        size = int(self.head.split("content-length: ")[1].split("\r\n")[0])
        found: dict[str, Any] = json.loads(await self._reader.readexactly(size))
        return found

    async def event(self) -> dict[str, str]:
        """The next event: its fields; a comment has the field ''."""
        while "\n\n" not in self._text:
            assert not self.over, "the stream is over"
            self._text += await self.chunk()
        text, _, self._text = self._text.partition("\n\n")
        found = {}
        for line in text.split("\n"):
            name, _, value = line.partition(":")
            found[name] = value.strip()
        return found

    async def until(self, type_: str) -> dict[str, Any]:
        """The next event of that type: its message, and its id under `_id`."""
        while True:
            event = await self.event()
            if event.get("event") == type_:
                message: dict[str, Any] = json.loads(event["data"])
                assert message["type"] == type_
                return message | {"_id": event.get("id")}

    async def ended(self) -> None:
        """Reads to the end of the body."""
        while not self.over:
            await self.chunk()


async def everybody(token: str | None, host: str | None) -> Grant:
    """Asks for no token."""
    return FakeGrant()


def with_tokens(**grants: FakeGrant) -> Callable[[str | None, str | None], Awaitable[Grant]]:
    """Knows these tokens."""

    async def authority(token: str | None, host: str | None) -> Grant:
        if token is None:
            raise Unauthorized(Denied.MISSING)
        if token not in grants:
            raise Unauthorized(Denied.INVALID)
        return grants[token]

    return authority


@asynccontextmanager
async def serving(
    *,
    ws: Any = "realtime.frames:FramesProtocol",
    http: Any = "realtime.frames:HttpProtocol",
    settings: HubSettings | None = None,
    authority: Callable[[str | None, str | None], Awaitable[Grant]] = everybody,
    **config: Any,
) -> AsyncIterator[Serving]:
    """Serves until the block is left; then nothing of it may be left behind."""
    store, broker = FakeStore(), FakeBroker()
    store.publish = broker.publish
    hub = Hub(store, broker, settings=settings or HubSettings(tail_s=0.1))
    app = Starlette(
        routes=[
            WebSocketRoute("/v1/realtime", WebSocketEndpoint(hub, authority)),
            *sse.routes(hub, authority),
        ]
    )
    how = uvicorn.Config(app, ws=ws, http=http, lifespan="off", log_config=None, **config)
    how.load()
    state = ServerState()
    loop = asyncio.get_running_loop()

    def protocol() -> asyncio.Protocol:
        made: asyncio.Protocol = how.http_protocol_class(  # type: ignore[call-arg]
            config=how, server_state=state, app_state={}
        )
        return made

    # Without uvicorn's own loop, which looks ten times a second whether it is to stop.
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(hub.run())
        await hub.ready.wait()
        server = await loop.create_server(protocol, "127.0.0.1", 0)
        try:
            yield Serving(hub, store, broker, server.sockets[0].getsockname()[1])
        finally:
            server.close()
            running.cancel()
            await asyncio.wait([running])
            for connection in list(state.connections):
                connection.transport.abort()
            await until(lambda: not state.tasks and not state.connections, "the end")
