"""One WebSocket under uvicorn."""

from __future__ import annotations

import asyncio
from traceback import clear_frames
from typing import Any, Final, cast

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState
from websockets.frames import CloseCode
from websockets.http11 import Request

from realtime.direct import DirectTransport
from realtime.frames.inbox import Flag, Inbox
from realtime.frames.link import Link, Take, nothing
from realtime.frames.refusals import OTHER_VERSION

EXTENSION: Final = "runstream.frames"
LINGER_S: Final = 2.0
"""So long a peer that broke the rules may take to hear of it."""


class FramesProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, with a `Link`, and which never waits for a stalled reader.

    Its many attributes have slots: a dictionary of so many costs five times as much, for each
    connection. uvicorn closes a connection whose ping was not answered by `transport.close()`,
    which waits until the buffer is empty: for a reader that reads nothing that is never.
    """

    _has_failed = False
    """Whether the peer broke the rules: nothing of it is looked at any more."""
    __slots__ = (
        "_abort_timer",
        "_is_carried",
        "_link",
        "app",
        "app_state",
        "asgi_version",
        "client",
        "close_sent",
        "close_timeout",
        "close_timer",
        "config",
        "conn",
        "connections",
        "curr_msg_data_type",
        "default_headers",
        "disconnected",
        "frames",
        "handshake_complete",
        "handshake_initiated",
        "initial_response",
        "last_ping_rtt",
        "logger",
        "loop",
        "pending_ping_payload",
        "ping_interval",
        "ping_sent_at",
        "ping_timeout",
        "ping_timer",
        "pong_timer",
        "queue",
        "read_paused",
        "request",
        "response",
        "root_path",
        "scheme",
        "scope",
        "server",
        "tasks",
        "transport",
        "writable",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._link: Link | None = None
        self._abort_timer: asyncio.TimerHandle | None = None
        self._is_carried = False
        super().__init__(*args, **kwargs)

    def carry(self, take: Take) -> None:
        """What `Link.carry` says; lets go of what only the handshake took."""
        waiting = self.queue
        self.queue = cast("asyncio.Queue[Any]", Inbox(self, take))
        self.writable = cast("asyncio.Event", Flag(self.writable.is_set()))
        self._is_carried = True
        # The parser, which lives as long as the connection, has the request too.
        for message in (self.request, self.response):
            message.headers.clear()
        del self.scope, self.request, self.response
        while not waiting.empty():
            self.queue.put_nowait(waiting.get_nowait())

    async def run_asgi(self) -> None:
        try:
            await self.app(self.scope, self.receive, self.send)
        except ClientDisconnected:
            pass
        except BaseException:
            self.logger.exception("Exception in ASGI application")
            if self._is_carried:
                self.transport.abort()
            else:
                self.send_500_response()
        else:
            if not self.handshake_complete:
                self.logger.error("the application returned without completing the handshake")
                self.send_500_response()
        if self.close_timer is None and not self._is_carried:
            self.transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport = cast(
            asyncio.Transport, DirectTransport(cast(asyncio.Transport, transport))
        )

    @property
    def is_over(self) -> bool:
        """Whether nothing more may be written."""
        return self.close_sent or self.disconnected or self.transport.is_closing()

    def handle_connect(self, event: Request) -> None:
        if "13" not in event.headers.get_all("Sec-WebSocket-Version"):
            # RFC 6455, 4.4: whoever speaks another version is told which is spoken here.
            self.handshake_complete = self.close_sent = True
            self.transport.write(OTHER_VERSION)
            self.transport.close()
            return
        super().handle_connect(event)
        if self.response.status_code == 101:
            # The task that runs the application has not begun yet.
            self._link = Link(self)
            extensions = cast("dict[str, object]", self.scope["extensions"])
            extensions[EXTENSION] = self._link

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if self.initial_response is not None and self.close_sent:
            # It was refused over HTTP; uvicorn else takes it for one that was forgotten, and
            # says so in the log.
            self.handshake_complete = True

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
            self._say_last()
            self.close_timer = self.loop.call_later(self.close_timeout, self.transport.close)
        self._abort_soon()

    def _say_last(self) -> None:
        """Writes the close frame that the parser has ready, and reads on: an answer has to come."""
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.stop_keepalive()
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()

    def send_receive_event_to_app(self) -> None:
        if self.curr_msg_data_type == "text" and not self.close_sent:
            # uvicorn writes a traceback to the log for text that is none, which is for peers to
            # choose.
            data = b"".join(self.frames)
            self.frames = [data]
            try:
                data.isascii() or data.decode()
            except UnicodeDecodeError:
                self.frames = []
                self.conn.fail(CloseCode.INVALID_DATA, "text is UTF-8")
                self.handle_parser_exception()
                return
        super().send_receive_event_to_app()

    def data_received(self, data: bytes) -> None:
        if not self._has_failed:
            super().data_received(data)

    def handle_ping(self) -> None:
        # One that came in the same packet as what broke the rules is not answered: the last word
        # has been said.
        if not self._has_failed:
            super().handle_ping()

    def handle_parser_exception(self) -> None:
        """The peer broke the rules: says so, and closes."""
        if self._has_failed or self.transport.is_closing():
            return
        self._has_failed = True
        # To close while something is still coming is to reset, which takes along what was said:
        # it is read, and dropped, until the peer has closed too.
        said = self.conn.close_sent
        code, reason = (1006, "") if said is None else (said.code, said.reason)
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self._say_last()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.close_timer = self.loop.call_later(LINGER_S, self.transport.close)
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
        cast("DirectTransport", self.transport).lost()
        super().connection_lost(exc)
        if self._link is not None:
            self._link.resumed = nothing
            self._link = None
        # The parser is a generator, and it and the errors that it met hold what it works for: only
        # the garbage collector, which looks seldom, would find out that nobody needs it any more.
        self.conn.parser.close()
        for error in (self.conn.parser_exc, self.conn.handshake_exc):
            if error is not None:
                clear_frames(error.__traceback__)
        self.conn.parser_exc = self.conn.handshake_exc = None
        if not self._is_carried and self.handshake_initiated:
            self.request._exception = None

    def _abort_soon(self) -> None:
        if self._abort_timer is None and not self.disconnected:
            self._abort_timer = self.loop.call_later(self.close_timeout, self.transport.abort)
