"""A server that says what a test tells it to: WebSocket and HTTP on one port of this machine."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

from websockets import Frame, Opcode, Request, Subprotocol
from websockets.server import ServerProtocol

PATIENCE_S = 20.0
"""How long a test waits for what should come; nothing is expected to take it."""


@dataclass
class Asked:
    """An HTTP request, as it came."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    content: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.content) if self.content else None


@dataclass
class Answer:
    """What an HTTP request is answered with; `cut` drops the connection instead."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False


async def until(holds: Callable[[], object]) -> None:
    """Waits for a condition that nothing tells of."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110 - there is nothing else to wait for
            await asyncio.sleep(0.001)


def problem(status: int, code: str, detail: str = "no", **more: Any) -> Answer:
    """An error as the server gives it."""
    headers = {"Content-Type": "application/problem+json"}
    if "retry_after" in more:
        headers["Retry-After"] = str(more.pop("retry_after"))
    body = {"type": "about:blank", "title": code, "status": status, "detail": detail}
    return Answer(status, {**body, "code": code, **more}, headers)


Respond = Callable[[Asked], Answer | Awaitable[Answer]]


class Socket:
    """One WebSocket, at the server's end."""

    def __init__(
        self, asked: Request, protocol: ServerProtocol, writer: asyncio.StreamWriter
    ) -> None:
        self.headers = asked.headers
        self._protocol = protocol
        self._writer = writer
        self._messages: deque[dict[str, Any]] = deque()
        self._more = asyncio.Event()
        self.frames = 0
        self.close_code: int | None = None
        self.closed = asyncio.Event()

    @property
    def token(self) -> str | None:
        """What its header shows."""
        return self.headers.get("Authorization", "").removeprefix("Bearer ") or None

    async def send(self, *messages: dict[str, Any] | str) -> None:
        """Sends these as one WebSocket message."""
        lines = [m if isinstance(m, str) else json.dumps(m) for m in messages]
        self._protocol.send_text("\n".join(lines).encode())
        self._flush()
        await self._writer.drain()

    async def welcome(self, heartbeat_s: float = 15, **fields: Any) -> None:
        """Greets the client."""
        limits = {"subscriptions": 1000, "messageBytes": 65536}
        welcome = {"connectionId": "c1", "heartbeatS": heartbeat_s, "server": "scripted/1"}
        await self.send(
            {"type": "welcome", **welcome, "expiresAt": None, "limits": limits, **fields}
        )

    async def receive(self) -> dict[str, Any]:
        """The client's next message."""
        async with asyncio.timeout(PATIENCE_S):
            while not self._messages:
                if self.closed.is_set():
                    raise ConnectionError(f"the client closed with {self.close_code}")
                self._more.clear()
                await self._more.wait()
        return self._messages.popleft()

    async def expect(self, kind: str, **fields: Any) -> dict[str, Any]:
        """The client's next message, which must be of this type and have these fields."""
        message = await self.receive()
        assert message["type"] == kind, message
        assert {name: message.get(name) for name in fields} == fields, message
        return message

    @property
    def has_heard_all(self) -> bool:
        """Whether there is no message that the test has not looked at."""
        return not self._messages

    async def close(self, code: int, reason: str = "") -> None:
        """Closes it, and waits until the client has gone."""
        self._protocol.send_close(code, reason)
        self._flush()
        async with asyncio.timeout(PATIENCE_S):
            await self.closed.wait()

    def cut(self) -> None:
        """Drops it, without a word."""
        self._writer.transport.abort()

    def _take(self, frame: Frame) -> None:
        self.frames += 1
        for line in bytes(frame.data).split(b"\n"):
            self._messages.append(json.loads(line))
        self._more.set()

    def _flush(self) -> None:
        for out in self._protocol.data_to_send():
            if out:
                self._writer.write(out)
            elif self._writer.can_write_eof():
                with suppress(OSError):
                    self._writer.write_eof()

    async def carry(self, reader: asyncio.StreamReader) -> None:
        """Reads until it is closed."""
        try:
            while True:
                for event in self._protocol.events_received():
                    if isinstance(event, Frame) and event.opcode is Opcode.TEXT:
                        self._take(event)
                self._flush()
                text = await reader.read(65536)
                if not text:
                    break
                self._protocol.receive_data(text)
        except OSError:
            pass
        finally:
            received = self._protocol.close_rcvd
            self.close_code = None if received is None else int(received.code)
            self.closed.set()
            self._more.set()


class ScriptedServer:
    """Accepts what comes; a test takes each WebSocket and plays the server's part on it."""

    def __init__(self) -> None:
        self.refuse: Answer | None = None
        """Answers the next attempts to open a WebSocket with this, while it is set."""
        self.refuse_next: Answer | None = None
        """Answers one attempt with this."""
        self.asked: list[Asked] = []
        self.dials = 0
        self._responses: dict[tuple[str, str], Respond] = {}
        self._sockets: asyncio.Queue[Socket] = asyncio.Queue()
        self._open: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._more = asyncio.Event()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listens; on the port that it had before, if it had one."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuses connections, and drops those that are open."""
        assert self._server is not None
        self._server.close()
        for writer in tuple(self._open):
            writer.transport.abort()
        await self._server.wait_closed()

    async def socket(self) -> Socket:
        """The next WebSocket that a client opens."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._sockets.get()

    async def welcomed(self, heartbeat_s: float = 15, **fields: Any) -> Socket:
        """The next WebSocket, greeted."""
        socket = await self.socket()
        await socket.welcome(heartbeat_s, **fields)
        return socket

    def on(self, method: str, path: str, respond: Respond | Answer) -> None:
        """Answers such requests like this from now on."""
        if isinstance(respond, Answer):
            self.on_each(method, path, respond)
        else:
            self._responses[method, path] = respond

    def on_each(self, method: str, path: str, *answers: Answer) -> None:
        """Answers such requests with these, one after the other; the last one stays."""
        left = deque(answers)
        self.on(method, path, lambda asked: left.popleft() if len(left) > 1 else left[0])

    async def has_been_asked(self, count: int, method: str = "", path: str = "") -> list[Asked]:
        """The requests like this, when there are so many."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                found = [
                    asked
                    for asked in self.asked
                    if method in ("", asked.method) and path in ("", asked.path)
                ]
                if len(found) >= count:
                    return found
                self._more.clear()
                await self._more.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            while await self._serve_one(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").rstrip().split("\r\n")
        method, target, _ = first.split(" ")
        pairs = (line.partition(":") for line in lines)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        if headers.get("upgrade", "").lower() == "websocket":
            self.dials += 1
            refusal, self.refuse_next = self.refuse_next or self.refuse, None
            if refusal is None:
                await self._upgrade(head, reader, writer)
            else:
                await _write(writer, refusal)
            return False
        if headers.get("transfer-encoding") == "chunked":
            content = await _chunks(reader)
        else:
            content = await reader.readexactly(int(headers.get("content-length", 0)))
        parts = urlsplit(target)
        asked = Asked(method, unquote(parts.path), parse_qs(parts.query), headers, content)
        self.asked.append(asked)
        self._more.set()
        respond = self._responses.get((method, asked.path))
        answer = problem(404, "not_found") if respond is None else respond(asked)
        if isinstance(answer, Awaitable):
            answer = await answer
        if answer.cut:
            writer.transport.abort()
            return False
        await _write(writer, answer)
        return True

    async def _upgrade(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        protocol = ServerProtocol(subprotocols=[Subprotocol("runstream.v1")], max_size=None)
        protocol.receive_data(head)
        (request,) = protocol.events_received()
        assert isinstance(request, Request)
        protocol.send_response(protocol.accept(request))
        socket = Socket(request, protocol, writer)
        socket._flush()
        self._sockets.put_nowait(socket)
        await socket.carry(reader)


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    content = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        content += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readexactly(2)
    return content


async def _write(writer: asyncio.StreamWriter, answer: Answer) -> None:
    body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
    if answer.body is None:
        body = b""
    headers = {"Content-Type": "application/json", **answer.headers}
    lines = [f"HTTP/1.1 {answer.status} Said", *(f"{n}: {v}" for n, v in headers.items())]
    lines += [f"Content-Length: {len(body)}", "", ""]
    writer.write("\r\n".join(lines).encode("latin-1") + body)
    await writer.drain()
