"""Finished frames under uvicorn: written straight to the transport, past the per-message path.

    uvicorn.Config(app, ws="realtime.frames:FramesProtocol", http="realtime.frames:HttpProtocol")

The application finds a `Link` in `scope["extensions"]["runstream.frames"]`; without one, under
any other server, it sends as ASGI has it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState
from websockets.http11 import Request

EXTENSION: Final = "runstream.frames"
ABORT_EXTENSION: Final = "runstream.abort"
BUFFER_BYTES: Final = 256 * 1024
"""So much may wait in the transport before no more is written to it."""


def _nothing() -> None:
    pass


class Link:
    """The application's way to one WebSocket's transport. Nothing of it waits."""

    def __init__(self, protocol: FramesProtocol) -> None:
        self._protocol = protocol
        self._written = 0
        self.resumed: Callable[[], None] = _nothing
        """Called when it is writable again."""

    @property
    def writable(self) -> bool:
        """Whether it takes another frame just now."""
        protocol = self._protocol
        return (
            protocol.writable.is_set()
            and not protocol.is_over
            and protocol.transport.get_write_buffer_size() < BUFFER_BYTES
        )

    def write(self, frame: bytes) -> None:
        """Sends a finished frame: from the server, so unmasked, and not compressed."""
        protocol = self._protocol
        if not protocol.is_over:
            self._written += len(frame)
            protocol.transport.write(frame)

    def taken(self) -> int:
        """How many bytes the peer's side of the network has taken, of all that was written."""
        return self._written - self._protocol.transport.get_write_buffer_size()

    def close(self, code: int, reason: str) -> None:
        """Closes after what was written; aborts if that does not get through."""
        self._protocol.finish(code, reason)

    def abort(self) -> None:
        """Drops the connection, and what waits in its buffer."""
        self._protocol.transport.abort()


class FramesProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, with a `Link`, and which never waits for a stalled reader.

    uvicorn closes a connection whose ping was not answered by `transport.close()`, which waits
    until the buffer is empty: for a reader that reads nothing that is never.
    """

    _link: Link | None = None
    _abort_timer: asyncio.TimerHandle | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing more may be written."""
        return self.close_sent or self.disconnected or self.transport.is_closing()

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:
            # The task that runs the application has not begun yet.
            self._link = Link(self)
            extensions = cast("dict[str, object]", self.scope["extensions"])
            extensions[EXTENSION] = self._link

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._link is not None:
            self._link.resumed()

    def finish(self, code: int, reason: str) -> None:
        """What `websocket.close` does, at once."""
        if self.is_over or not self.handshake_complete:
            return
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        try:
            self.conn.send_close(code, reason)
        except InvalidState:
            self.transport.close()
        else:
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.close_sent = True
            self.stop_keepalive()
            if self.read_paused:
                # The peer's answer has to be read.
                self.read_paused = False
                self.transport.resume_reading()
            self.close_timer = self.loop.call_later(self.close_timeout, self.transport.close)
        self._abort_soon()

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self._abort_soon()

    def shutdown(self) -> None:
        super().shutdown()
        self._abort_soon()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._abort_timer is not None:
            self._abort_timer.cancel()
            self._abort_timer = None
        super().connection_lost(exc)
        if self._link is not None:
            self._link.resumed = _nothing
            self._link = None

    def _abort_soon(self) -> None:
        if self._abort_timer is None and not self.disconnected:
            self._abort_timer = self.loop.call_later(self.close_timeout, self.transport.abort)


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, with a way to drop a reader of server-sent events that reads
    nothing: `scope["extensions"]["runstream.abort"]()`."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        extensions = {ABORT_EXTENSION: self.transport.abort}
        self.scope["extensions"] = extensions  # type: ignore[typeddict-item]
