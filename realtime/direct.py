"""A transport that is written to past its queue, as long as its socket takes what is written."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from typing import Any

_write = os.write


def _nothing() -> None:
    pass


class DirectTransport:
    """Stands between a protocol and its transport.

    asyncio's transports check much before each write, and uvloop's keep what is written until
    the end of the turn. While nothing waits in the transport, the socket can be written to as well:
    by this, and by whoever asks for its `file` and listens to `blocked`.
    """

    __slots__ = ("_file", "_transport", "blocked")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.blocked: Callable[[], None] = _nothing
        """Called when the file must not be written to any more, until it is asked for again."""
        self._file: int | None = None
        socket = transport.get_extra_info("socket")
        # Under TLS the socket takes other bytes than those, and on Windows it is no file.
        if (
            socket is not None
            and transport.get_extra_info("sslcontext") is None
            and sys.platform != "win32"
        ):
            self._file = socket.fileno()

    def file(self) -> int | None:
        """The file descriptor of the socket, if nothing waits to be written to it."""
        transport = self._transport
        if transport.is_closing() or transport.get_write_buffer_size():
            return None
        return self._file

    def write(self, data: bytes) -> None:
        """Sends it now, if the socket takes it, or else later."""
        file = self.file()
        if file is not None and data:
            try:
                sent = _write(file, data)
            except OSError:
                sent = 0  # it takes nothing now, or never again: the transport finds out
            if sent == len(data):
                return
            data = data[sent:]
        self._transport.write(data)
        if self._transport.get_write_buffer_size():
            self.blocked()

    def close(self) -> None:
        """Closes after what was written."""
        self.blocked()
        self._transport.close()

    def abort(self) -> None:
        """Drops the connection, and what waits."""
        self.blocked()
        self._transport.abort()

    def lost(self) -> None:
        """The socket is about to be closed: its file descriptor may be another one's soon."""
        self._file = None
        self.blocked()
        self.blocked = _nothing

    def is_closing(self) -> bool:
        """Whether it is closed, or will be."""
        return self._transport.is_closing()

    def get_write_buffer_size(self) -> int:
        """How many bytes wait for the socket."""
        return self._transport.get_write_buffer_size()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
