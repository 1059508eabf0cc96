"""Outlets: where a connection's messages go, under our own protocol class or any ASGI server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from realtime.hub.connection import Connection
from realtime.hub.packing import Packing

Send = Callable[[Any], Awaitable[None]]


class Link(Protocol):
    """What our protocol class gives: see `realtime.frames`."""

    resumed: Callable[[], None]
    blocked: Callable[[], None]

    @property
    def writable(self) -> bool: ...

    def write(self, frame: bytes) -> None: ...

    def file(self) -> int | None: ...

    def taken(self) -> int: ...

    def close(self, code: int, reason: str) -> None: ...

    def abort(self) -> None: ...

    def carry(self, take: Callable[[Any], Awaitable[None]]) -> None: ...


class FrameOutlet:
    """Writes finished frames to the transport; the same bytes to all who are owed the same."""

    __slots__ = ("_link",)

    def __init__(self, link: Link) -> None:
        self._link = link

    def attach(self, connection: Connection) -> None:
        """Whose messages go here."""
        self._link.resumed = connection.writable
        self._link.blocked = connection.step_out

    @property
    def writable(self) -> bool:
        return self._link.writable

    def write(self, lines: Sequence[bytes], packing: Packing) -> None:
        self._link.write(packing.frame(lines))

    def file(self) -> int | None:
        return self._link.file()

    def finish_frame(self, frame: bytes, written: int) -> None:
        self._link.write(frame[written:])

    def progress(self) -> int:
        return self._link.taken()

    def close(self, code: int, reason: str) -> None:
        self._link.close(code, reason)

    def abort(self) -> None:
        self._link.abort()

    def carry(self, take: Callable[[Any], Awaitable[None]]) -> None:
        """From now on `take` is awaited for each message that comes; nobody else receives."""
        self._link.carry(take)


class TaskOutlet:
    """Sends one message at a time, in a task of its own: `run`. A subclass says how."""

    def __init__(self) -> None:
        self._connection: Connection | None = None
        self._waiting: Any = None
        self._woken = asyncio.Event()
        self._sent = 0
        self._closing: tuple[int, str] | None = None
        self._task: asyncio.Task[Any] | None = asyncio.current_task()
        self.aborted = False

    def attach(self, connection: Connection) -> None:
        """Whose messages go here."""
        self._connection = connection

    @property
    def writable(self) -> bool:
        return self._waiting is None and self._closing is None

    def write(self, lines: Sequence[bytes], packing: Packing) -> None:
        self._waiting = self.pack(lines, packing)
        self._woken.set()

    def file(self) -> None:
        return None

    def finish_frame(self, frame: bytes, written: int) -> None:
        raise AssertionError("it has no file that frames were written to")

    def progress(self) -> int:
        return self._sent

    def close(self, code: int, reason: str) -> None:
        self._closing = (code, reason)
        self._woken.set()

    def abort(self) -> None:
        # The task that was begun by the server: it returns, whatever it waits for.
        if not self.aborted and self._task is not None:
            self.aborted = True
            self._task.cancel()

    async def run(self) -> None:
        """Sends, until it is closed."""
        try:
            await self._run()
        finally:
            # The connection has this one in turn.
            self._connection = None

    async def _run(self) -> None:
        while True:
            await self._woken.wait()
            self._woken.clear()
            while self._waiting is not None:
                await self.send(self._waiting)
                self._waiting = None
                self._sent += 1
                if self._connection is not None:
                    self._connection.writable()
            if self._closing is not None:
                await self.finish(*self._closing)
                return

    def pack(self, lines: Sequence[bytes], packing: Packing) -> Any:
        """The lines as one message."""
        raise NotImplementedError

    async def send(self, message: Any) -> None:
        """Sends what `pack` made."""
        raise NotImplementedError

    async def finish(self, code: int, reason: str) -> None:
        """Says that it is over."""
        raise NotImplementedError


class WebSocketOutlet(TaskOutlet):
    """Sends as ASGI has it; works under any server."""

    def __init__(self, send: Send) -> None:
        super().__init__()
        self._send = send

    def pack(self, lines: Sequence[bytes], packing: Packing) -> str:
        return packing.message(lines).decode()

    async def send(self, message: Any) -> None:
        await self._send({"type": "websocket.send", "text": message})

    async def finish(self, code: int, reason: str) -> None:
        await self._send({"type": "websocket.close", "code": code, "reason": reason})
