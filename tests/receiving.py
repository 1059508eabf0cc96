"""A receiver of webhooks on loopback, which answers as it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from standardwebhooks import Webhook


@dataclass
class Message:
    """One request that came."""

    path: str
    headers: dict[str, str]
    body: str

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def said(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found

    @property
    def type(self) -> str:
        return str(self.said["type"])

    def is_signed_with(self, secret: str) -> bool:
        """Whether the reference implementation of Standard Webhooks takes it."""
        try:
            Webhook(secret).verify(self.body, self.headers)
        except Exception:
            return False
        return True


Behave = Callable[[Message, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Receiver:
    """Keeps every message that came, and answers by path: 200 where nothing else was said."""

    port: int = 0
    messages: list[Message] = field(default_factory=list)
    behaviour: dict[str, Behave] = field(default_factory=dict)
    at_once: int = 0
    most_at_once: int = 0
    serving: set[asyncio.Task[Any]] = field(default_factory=set)

    def url(self, path: str = "/") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def at(self, path: str) -> list[Message]:
        return [message for message in self.messages if message.path == path]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.serving.add(task)
        task.add_done_callback(self.serving.discard)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            message = await _read(reader)
            self.messages.append(message)
            await self.behaviour.get(message.path, answering(200))(message, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.at_once -= 1
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


async def _read(reader: asyncio.StreamReader) -> Message:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {
        name.lower(): value.strip()
        for name, _, value in (line.partition(":") for line in head[1:] if line)
    }
    body = await reader.readexactly(int(headers["content-length"]))
    return Message(head[0].split(" ")[1], headers, body.decode())


def answering(status: int, body: str = "", **headers: str) -> Behave:
    """Answers so, and closes."""

    async def behave(_message: Message, writer: asyncio.StreamWriter) -> None:
        more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        writer.write(
            f"HTTP/1.1 {status} X\r\nconnection: close\r\n{more}"
            f"content-length: {len(body)}\r\n\r\n{body}".encode()
        )
        await writer.drain()

    return behave


def in_turn(*behaviours: Behave) -> Behave:
    """Behaves as the first, then as the second …, and as the last for ever."""
    left = list(behaviours)

    async def behave(message: Message, writer: asyncio.StreamWriter) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(message, writer)

    return behave


async def hang(_message: Message, writer: asyncio.StreamWriter) -> None:
    """Never answers."""
    await writer.wait_closed()


async def reset(_message: Message, writer: asyncio.StreamWriter) -> None:
    """Cuts the connection off."""
    writer.transport.abort()


class Endless:
    """Takes the message, and answers with more than anybody would read: 1 GB."""

    def __init__(self) -> None:
        self.written = 0

    async def __call__(self, _message: Message, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n")
        for _ in range(10_000):
            writer.write(b"x" * 100_000)
            await writer.drain()
            self.written += 100_000


async def nonsense(_message: Message, writer: asyncio.StreamWriter) -> None:
    """Speaks another protocol."""
    writer.write(b"220 mail ready\r\n")
    await writer.drain()


@contextlib.asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """A receiver on a free port."""
    receiver = Receiver()
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        left = list(receiver.serving)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
