"""A whole server in a thread of this process: the sockets, the protocol classes, the lot."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from websockets.asyncio.client import connect

from realtime.app import Runtime
from realtime.auth import key_hash, new_key
from realtime.serve import Server, bind, run_server
from realtime.settings import Settings
from store.access import Access, SigningSecret
from store.engine import open_database
from tests.realtime.bearer import Bearer
from tests.realtime.serving import Reader, Response

KEY = "a-key-for-the-tests-0123456789"
LONG_S = 30.0

_TLS = ssl.create_default_context()
"""Not used by anybody; but a client of HTTP that is given none makes one, which takes long."""


@dataclass(frozen=True)
class Serving:
    """Where it is, and a way to its database beside it."""

    port: int
    database: str
    server: Server
    runtime: Runtime

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def file(self) -> str:
        """The SQLite file."""
        return self.database.partition(":///")[2]

    @asynccontextmanager
    async def access(self) -> AsyncIterator[Access]:
        """Keys and secrets, as `realtime key` sees them."""
        database = await open_database(self.database)
        try:
            yield Access(database)
        finally:
            await database.close()

    async def a_key(self, project: str, *, read_only: bool = False) -> str:
        """A new key of that project."""
        key = new_key()
        async with self.access() as access:
            await access.create_key(project, "test", key_hash(key), read_only=read_only)
        return key

    async def a_secret(self, project: str = "default") -> SigningSecret:
        """What tokens of the project are signed with."""
        async with self.access() as access:
            return await access.signing_secret(project)

    @asynccontextmanager
    async def caller(self, token: str | None = KEY) -> AsyncIterator[Caller]:
        """Somebody with that key or token, over HTTP."""
        async with httpx2.AsyncClient(base_url=self.url, timeout=LONG_S, verify=_TLS) as client:
            yield Caller(client, token)

    @asynccontextmanager
    async def reader(self, token: str | None = KEY, **how: Any) -> AsyncIterator[Reader]:
        """Somebody over a WebSocket, with the token in the header."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        headers |= how.pop("headers", {})
        how.setdefault("max_size", None)
        async with connect(
            f"ws://127.0.0.1:{self.port}/v1/realtime",
            additional_headers=headers,
            proxy=None,
            ping_interval=None,
            **how,
        ) as socket:
            yield Reader(socket)

    async def sse(
        self, path: str, token: str | None = KEY, headers: dict[str, str] | None = None
    ) -> Response:
        """The beginning of an answer to GET."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        lines = [f"GET {path} HTTP/1.1", "Host: localhost"]
        if token is not None:
            lines.append(f"Authorization: Bearer {token}")
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), LONG_S)
        return Response(head.decode(), reader, writer)

    async def raw(self, data: bytes, *, eof: bool = False) -> bytes:
        """All that comes back for these bytes, until the server closes or has answered."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            with contextlib.suppress(ConnectionError):
                writer.write(data)
                if eof:
                    writer.write_eof()
            got = b""
            with contextlib.suppress(ConnectionError):
                while part := await asyncio.wait_for(reader.read(65_536), LONG_S):
                    got += part
                    head, end, body = got.partition(b"\r\n\r\n")
                    length = head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]
                    if end and length.isdigit() and len(body) >= int(length):
                        break
            return got
        finally:
            writer.close()


class Caller(Bearer):
    """Somebody who calls the API."""

    async def made(self, path: str, json: Any = None, **how: Any) -> Any:
        """What the POST has made."""
        response = await self.post(path, json, **how)
        assert response.status_code in (200, 201), response.text
        return response.json()

    async def a_token(self, *scopes: str, **fields: Any) -> str:
        made = await self.made("/v1/tokens", {"scopes": list(scopes), **fields})
        token: str = made["token"]
        return token


@contextmanager
def serving(folder: Path, **settings: Any) -> Iterator[Serving]:
    """A server on a free port of loopback, and a SQLite file; stopped at the end."""
    settings.setdefault("api_key", KEY)
    settings.setdefault("database", f"sqlite:///{folder / 'runstream.db'}")
    settings.setdefault("drain_s", 0.0)
    made = Settings(port=0, **settings)
    sockets = bind(made.host, 0)
    port: int = sockets[0].getsockname()[1]
    started: Future[Server] = Future()
    servers: list[Server] = []

    def work() -> None:
        try:
            run_server(
                made,
                sockets,
                ready=lambda: started.set_result(servers[0]),
                serving=servers.append,
                signals=(),
            )
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    thread = threading.Thread(target=work, name="server")
    thread.start()
    try:
        server = started.result(LONG_S)
        yield Serving(port, made.database, server, server._runtime)
    finally:
        for server in servers:
            server.should_exit = server.force_exit = True
        thread.join(LONG_S)
        assert not thread.is_alive(), "the server did not end"
