"""What came from a WebSocket whose application has returned."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from realtime.frames.link import Take

if TYPE_CHECKING:
    from realtime.frames.websocket import FramesProtocol


class Inbox:
    """What came from one WebSocket and was not taken: in the place of uvicorn's queue, once the
    application has returned. There is a task only while there is something to be taken."""

    __slots__ = ("_is_over", "_messages", "_protocol", "_take", "_task")

    def __init__(self, protocol: FramesProtocol, take: Take) -> None:
        self._protocol = protocol
        self._take = take
        self._messages: list[Any] = []
        self._is_over = False
        self._task: asyncio.Task[None] | None = None

    def put_nowait(self, message: Any) -> None:
        if self._is_over:
            return
        self._messages.append(message)
        if self._task is None:
            protocol = self._protocol
            self._task = protocol.loop.create_task(self._run(), name="WebSocket reader")
            protocol.tasks.add(self._task)
            self._task.add_done_callback(protocol.on_task_complete)

    async def _run(self) -> None:
        protocol = self._protocol
        try:
            while self._messages:
                message = self._messages.pop(0)
                if not self._messages and protocol.read_paused:
                    protocol.read_paused = False
                    protocol.transport.resume_reading()
                await self._take(message)
                if message["type"] == "websocket.disconnect":
                    self._messages.clear()
                    if protocol.close_timer is None:
                        protocol.transport.close()
        finally:
            self._task = None
            if protocol.disconnected:
                # Nothing more comes, and the connection, which this keeps, keeps this.
                self._is_over = True
                del self._protocol, self._take


class Flag:
    """An event that nobody waits for."""

    __slots__ = ("_is_set",)

    def __init__(self, is_set: bool) -> None:
        self._is_set = is_set

    def set(self) -> None:
        self._is_set = True

    def clear(self) -> None:
        self._is_set = False

    def is_set(self) -> bool:
        return self._is_set
