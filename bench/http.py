"""A plain HTTP caller on one connection: as little between the benchmark and the server as goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from tests.processes import API_KEY


class Refused(Exception):
    """The server answered with something else than success."""


class Caller:
    """One call after the other."""

    def __init__(
        self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._port = port
        self._reader = reader
        self._writer = writer

    @classmethod
    @asynccontextmanager
    async def open(cls, port: int) -> AsyncIterator[Caller]:
        """A caller with the tests' API key; gone with the block."""
        caller = cls(port, *await asyncio.open_connection("127.0.0.1", port, limit=2**26))
        try:
            yield caller
        finally:
            caller._writer.close()

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        """What is answered. Raises Refused."""
        data = b"" if body is None else msgspec.json.encode(body)
        if self._reader.at_eof():  # idle for longer than the server keeps a connection
            self._writer.close()
            streams = await asyncio.open_connection("127.0.0.1", self._port, limit=2**26)
            self._reader, self._writer = streams
        self._writer.write(request(method, path, data))
        answer = await read_answer(self._reader)
        return msgspec.json.decode(answer) if answer else None


def request(method: str, path: str, body: bytes = b"") -> bytes:
    """One request as bytes."""
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {API_KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def read_answer(reader: asyncio.StreamReader) -> bytes:
    """The body of an answer that is a success. Raises Refused."""
    head = await reader.readuntil(b"\r\n\r\n")
    size = 0
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            size = int(line[15:])
    body = await reader.readexactly(size)
    if not head.startswith(b"HTTP/1.1 2"):
        raise Refused(f"{head[:40]!r} {body[:500]!r}")
    return body
