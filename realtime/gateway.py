"""The WebSocket endpoint: carries messages between socket and session."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from functools import partial
from typing import Any, Final

from starlette.types import Receive, Scope, Send

from realtime.bearer import Authority, address_of, asks, bearer
from realtime.hub import Connection, Hub
from realtime.outlets import FrameOutlet, TaskOutlet, WebSocketOutlet
from realtime.protocol import SUBPROTOCOL, CloseCode

log = logging.getLogger(__name__)

FRAMES: Final = "runstream.frames"


class WebSocketEndpoint:
    """`GET /v1/realtime`, as a raw ASGI callable: `WebSocketRoute(path, endpoint)`.

    The task that the server begins for a connection is its reader: it always reads, so that the
    protocol's own messages get through. Writing is up to the hub.
    """

    def __init__(self, hub: Hub, authority: Authority) -> None:
        self._hub = hub
        self._authority = authority

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        if message["type"] != "websocket.connect":
            return
        offered = SUBPROTOCOL in scope.get("subprotocols", ())
        await send({"type": "websocket.accept", "subprotocol": SUBPROTOCOL if offered else None})
        link = scope.get("extensions", {}).get(FRAMES)
        outlet = WebSocketOutlet(send) if link is None else FrameOutlet(link)
        connection = self._hub.connect(
            outlet, asks(self._authority, scope), kind="websocket", address=address_of(scope)
        )
        outlet.attach(connection)
        if isinstance(outlet, FrameOutlet):
            # Neither task, scope nor headers are kept for a connection that is open.
            if await self._open(connection, scope):
                outlet.carry(partial(self._take, connection))
            return
        writer = asyncio.create_task(outlet.run(), name="WebSocket writer")
        # One that can't write is lost, also if its reader still waits for something to read.
        writer.add_done_callback(lambda _: _heard(writer, connection))
        try:
            await self._carry(connection, scope, receive)
            if not outlet.aborted and not writer.done():
                writer.cancel()
        except asyncio.CancelledError:
            if not _was_aborted(outlet):
                raise
        finally:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    async def _open(self, connection: Connection, scope: Scope) -> bool:
        """Whether it can go on."""
        return await _borne(connection, connection.open(bearer(scope)))

    async def _take(self, connection: Connection, message: Any) -> None:
        """What came, the end included."""
        await _borne(connection, _hear(connection, message))

    async def _carry(self, connection: Connection, scope: Scope, receive: Receive) -> None:
        try:
            if not await self._open(connection, scope):
                return
            while True:
                message = await receive()
                await self._take(connection, message)
                if message["type"] == "websocket.disconnect":
                    return
        finally:
            connection.lost()


async def _hear(connection: Connection, message: Any) -> None:
    if message["type"] == "websocket.disconnect":
        connection.lost()
        return
    text: Any = message.get("text")
    if text is None:
        connection.close(CloseCode.BAD_MESSAGE, "messages are text")
    else:
        await connection.received(text)


async def _borne(connection: Connection, work: Awaitable[None]) -> bool:
    """Whether the work was done. A connection bears its own failures, and does not outlive them."""
    try:
        await work
    except asyncio.CancelledError:
        connection.lost()
        raise
    except Exception as error:
        log.exception("a connection failed")
        connection.broke(error)
        connection.lost()
        return False
    return True


def _heard(writer: asyncio.Task[None], connection: Connection) -> None:
    if not writer.cancelled() and (error := writer.exception()) is not None:
        # Under ASGI the peer's going away is an OSError here, and `receive` will say it too.
        log.debug("could not write to a WebSocket: %s", error)
        connection.lost()


def _was_aborted(outlet: TaskOutlet) -> bool:
    """Whether it was we who cancelled the server's task; it then ends as if it had returned."""
    task = asyncio.current_task()
    if outlet.aborted and task is not None:
        task.uncancel()
        return True
    return False
