"""Redis behind TLS."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme

from tests.servers import Valkey
from tests.store.broker.doubles import carries, eventually, is_degraded, running
from tests.store.broker.redis.conftest import Make


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


async def test_both_connections_are_encrypted_and_checked(
    valkey: Valkey, make: Make, authority: trustme.CA, tmp_path: Path
) -> None:
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    async with tls_in_front_of(valkey, authority, "localhost") as port:
        url = f"rediss://localhost:{port}"
        here, there = (make(f"{url}?ssl_ca_certs={ca}") for _ in range(2))
        async with running(here), running(there, "default") as listener:
            await carries(here, listener)
        unchecked = make(f"{url}?ssl_cert_reqs=none")
        async with running(unchecked):
            pass
        untrusting = make(url)
        async with running(untrusting, wait=False):
            await eventually(lambda: "certificate" in untrusting._link._complaint.lower())
            assert is_degraded(untrusting)()


async def test_a_certificate_that_is_not_there_is_told_at_once(make: Make) -> None:
    with pytest.raises(OSError, match="No such file"):
        make("rediss://localhost?ssl_ca_certs=/nowhere/ca.pem")


@contextlib.asynccontextmanager
async def tls_in_front_of(valkey: Valkey, authority: trustme.CA, host: str) -> AsyncIterator[int]:
    """A port that speaks TLS; the Valkey of the wheel has none of its own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host).configure_cert(context)
    tasks: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(65_536):
                writer.write(piece)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", valkey.port)
        try:
            await asyncio.gather(pump(reader, up_writer), pump(up_reader, writer))
        finally:
            writer.transport.abort()
            up_writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
