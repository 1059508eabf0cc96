"""Peers that carry messages between their processes over Redis: Socket.IO and Centrifuge.

Centrifuge is the library that Centrifugo is made of; the program itself comes from no registry.
"""

from __future__ import annotations

import asyncio
import functools
import os
import shutil
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from bench.peers.installing import run
from tests.processes import Process, free_port, make_folder
from tests.servers import Valkey

SOURCES: Final = Path(__file__).parent
SOCKET_IO: Final = ("socket.io@4.8.4", "@socket.io/redis-adapter@8.3.0", "redis@6.3.1")
CENTRIFUGE: Final = "github.com/centrifugal/centrifuge@v0.40.1"


class WithRedis(Process):
    """One server of it on loopback, and a Redis server of its own, which is not counted."""

    path = "/"
    reader = ""
    """What a reader sends; it is ready when it is answered with `ready`."""
    ready = ""

    def __init__(self) -> None:
        super().__init__()
        self.publish_port = free_port()
        self.valkey = Valkey()
        self._program = self.installed()

    @staticmethod
    def installed() -> Sequence[str]:
        """The command, less its ports. Raises NotHad."""
        raise NotImplementedError

    def launch(self) -> None:
        self.valkey.start()
        super().launch()

    def close(self) -> None:
        self.kill()
        super().close()
        self.valkey.close()

    def command(self) -> Sequence[str]:
        ports = (self.port, self.publish_port, self.valkey.port)
        return [*self._program, *map(str, ports)]

    def environment(self) -> Mapping[str, str]:
        return os.environ

    def answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class SocketIo(WithRedis):
    name = "Socket.IO"
    path = "/socket.io/?EIO=4&transport=websocket"
    reader = "40"
    ready = '40{"sid"'

    @staticmethod
    @functools.cache
    def installed() -> Sequence[str]:
        folder = make_folder("socketio")
        quiet = ["--no-audit", "--no-fund", "--silent", "--ignore-scripts"]
        run("Socket.IO", ["npm", "install", *quiet, "--prefix", str(folder), *SOCKET_IO], folder)
        shutil.copy(SOURCES / "socketio.js", folder)
        return ["node", str(folder / "socketio.js")]


class Centrifuge(WithRedis):
    name = "Centrifuge"
    reader = r'{"id":1,"connect":{}}'
    ready = '"connect":{'

    @staticmethod
    @functools.cache
    def installed() -> Sequence[str]:
        folder = make_folder("centrifuge")
        shutil.copy(SOURCES / "centrifuge" / "main.go", folder)
        run("Centrifuge", ["go", "mod", "init", "peer"], folder)
        # The toolchain that is there, or none: another one would have to be fetched.
        run("Centrifuge", ["go", "get", CENTRIFUGE], folder, GOTOOLCHAIN="local")
        run("Centrifuge", ["go", "build", "-o", "peer", "."], folder, GOTOOLCHAIN="local")
        return [str(folder / "peer")]


class LinePublisher:
    """Publishes lines over a connection of its own."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> LinePublisher:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        return cls(writer)

    async def publish(self, lines: Sequence[str]) -> None:
        self._writer.write("".join(f"{line}\n" for line in lines).encode())
        await self._writer.drain()

    def close(self) -> None:
        self._writer.close()
