"""Finished frames under uvicorn: written straight to the transport, past the per-message path.

    uvicorn.Config(app, ws="realtime.frames:FramesProtocol", http="realtime.frames:HttpProtocol")

The application finds a `Link` in `scope["extensions"]["runstream.frames"]`; without one, under
any other server, it sends as ASGI has it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, TypeAlias, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState
from websockets.frames import CloseCode
from websockets.http11 import Request

from realtime.direct import DirectTransport
from realtime.limits import Handshakes

EXTENSION: Final = "runstream.frames"
ABORT_EXTENSION: Final = "runstream.abort"
BODY_EXTENSION: Final = "runstream.body"
BUFFER_BYTES: Final = 256 * 1024
"""So much may wait in the transport before no more is written to it."""
LINGER_S: Final = 2.0
"""So long a peer that broke the rules may take to hear of it."""


def _problem(status: int, code: str, title: str, detail: str, head: str = "") -> bytes:
    """A whole answer, to what never became a request of the application."""
    body = json.dumps(
        {
            "type": f"urn:runstream:problem:{code}",
            "title": title,
            "status": status,
            "detail": detail,
            "code": code,
        }
    )
    return (
        f"HTTP/1.1 {status} {title}\r\n"
        "content-type: application/problem+json\r\n"
        f"content-length: {len(body)}\r\n"
        "cache-control: no-store\r\n"
        "x-content-type-options: nosniff\r\n"
        f"{head}"
        "connection: close\r\n\r\n"
        f"{body}"
    ).encode()


_OTHER_VERSION: Final = _problem(
    426,
    "bad_request",
    "Upgrade Required",
    "WebSockets of version 13 are spoken here",
    "upgrade: websocket\r\nsec-websocket-version: 13\r\n",
)
_NO_HTTP: Final = _problem(400, "bad_request", "Bad Request", "this is not a request of HTTP/1.1")
_TOO_LARGE: Final = _problem(
    431, "head_too_large", "Request Header Fields Too Large", "the head of the request is too long"
)


Take: TypeAlias = Callable[[Any], Awaitable[None]]
"""Takes one message, as ASGI has it. Raises nothing."""


def _nothing() -> None:
    pass


class Link:
    """The application's way to one WebSocket's transport. Nothing of it waits."""

    __slots__ = ("_protocol", "_transport", "_written", "resumed")

    def __init__(self, protocol: FramesProtocol) -> None:
        self._protocol = protocol
        self._written = 0
        self._transport = cast("DirectTransport", protocol.transport)
        self.resumed: Callable[[], None] = _nothing
        """Called when it is writable again."""

    @property
    def blocked(self) -> Callable[[], None]:
        """Called when nothing may be written to its file any more."""
        return self._transport.blocked

    @blocked.setter
    def blocked(self, call: Callable[[], None]) -> None:
        self._transport.blocked = call

    def file(self) -> int | None:
        """The file to which finished frames may be written past it; None if not just now."""
        protocol = self._protocol
        if protocol.close_sent or protocol.disconnected:
            return None
        return self._transport.file()

    @property
    def writable(self) -> bool:
        """Whether it takes another frame just now."""
        protocol = self._protocol
        transport = protocol.transport
        # This is asked for each frame and reader: `is_over` is written out.
        return (
            transport.get_write_buffer_size() < BUFFER_BYTES
            and not protocol.close_sent
            and not protocol.disconnected
            and not transport.is_closing()
            and protocol.writable.is_set()
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

    def carry(self, take: Take) -> None:
        """From now on `take` is awaited for each message that comes, one after the other, the last
        of which is `websocket.disconnect`; the application returns, and the connection lives on.
        """
        self._protocol.carry(take)


class _Inbox:
    """What came from one WebSocket and was not taken: in the place of uvicorn's queue, once the
    application has returned. There is a task only while there is something to be taken."""

    __slots__ = ("_messages", "_protocol", "_take", "_task")

    def __init__(self, protocol: FramesProtocol, take: Take) -> None:
        self._protocol = protocol
        self._take = take
        self._messages: list[Any] = []
        self._task: asyncio.Task[None] | None = None

    def put_nowait(self, message: Any) -> None:
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


class _Flag:
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


class FramesProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, with a `Link`, and which never waits for a stalled reader.

    Its many attributes have slots: a dictionary of so many costs five times as much, for each
    connection. uvicorn closes a connection whose ping was not answered by `transport.close()`, which waits
    until the buffer is empty: for a reader that reads nothing that is never.
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
        self.queue = cast("asyncio.Queue[Any]", _Inbox(self, take))
        self.writable = cast("asyncio.Event", _Flag(self.writable.is_set()))
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
            self.transport.write(_OTHER_VERSION)
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
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.close_sent = True
            self.stop_keepalive()
            if self.read_paused:
                # The peer's answer has to be read.
                self.read_paused = False
                self.transport.resume_reading()
            self.close_timer = self.loop.call_later(self.close_timeout, self.transport.close)
        self._abort_soon()

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
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.stop_keepalive()
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
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
            self._link.resumed = _nothing
            self._link = None

    def _abort_soon(self) -> None:
        if self._abort_timer is None and not self.disconnected:
            self._abort_timer = self.loop.call_later(self.close_timeout, self.transport.abort)


class Config(uvicorn.Config):
    """uvicorn's configuration, and what its protocols share here."""

    def __init__(self, app: ASGIApp, *, handshakes: Handshakes, **given: Any) -> None:
        super().__init__(app, **given)
        self.handshakes = handshakes


HEADERS_MAX: Final = 128
"""Header lines of one request; the WebSocket library takes as many."""
WEBSOCKET_LINE_BYTES: Final = 8_000
"""The longest line of a WebSocket's handshake; its library gives up on longer ones."""


def _whole_body(cycle: RequestResponseCycle) -> bytes | None:
    """The body, as `receive` would give it, if all of it has come and none of it was taken."""
    if (
        cycle.more_body
        or cycle.waiting_for_100_continue
        or cycle.disconnected
        or cycle.response_complete
    ):
        return None
    body = bytes(cycle.body)
    cycle.body = bytearray()
    cycle.message_event.clear()
    return body


class _OneWrite:
    """The transport of one answer: its head goes out with the first part of its body.

    A head that nothing follows in the same turn of the loop goes out alone.
    """

    __slots__ = ("_flush", "_head", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head: bytes | None = None
        self._flush: asyncio.Handle | None = None

    def write(self, data: bytes) -> None:
        if self._flush is None:
            self._head = data
            self._flush = self._loop.call_soon(self.flush)
        elif self._head is None:
            self._transport.write(data)
        else:
            self._flush.cancel()
            head, self._head = self._head, None
            self._transport.write(head + data)

    def flush(self) -> None:
        """Sends the head, if it waits."""
        if self._head is not None:
            head, self._head = self._head, None
            if not self._transport.is_closing():
                self._transport.write(head)

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        self.flush()
        self._transport.close()


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, with bounds on what comes before a request is known.

    A head takes only so long, and is only so long; a request that was answered before its end
    gets no longer to end. Also a way to drop a reader of server-sent events that reads nothing:
    `scope["extensions"]["runstream.abort"]()`; and a request's body without waiting for it, if
    it is there: `scope["extensions"]["runstream.body"]()` is it, or None.
    """

    _head_bytes = 0
    """How much has come of a head that is not complete."""
    _in_head = True
    _is_refused = False
    _is_refusal_due = False
    """Whether it is told so once what came before is answered."""
    _is_too_large = False
    _is_upgraded = False
    """Whether the connection is another protocol's by now."""
    _message_is_open = False
    """Whether a request has begun that has not been read to its end."""
    _has_host = False
    _is_carried_out = False
    """Whether that request is the application's already, for all but its body."""

    def __init__(self, config: uvicorn.Config, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self._handshakes: Handshakes | None = getattr(config, "handshakes", None)
        self._is_waited_for = False
        self._unanswered: list[RequestResponseCycle] = []
        """Requests that came one after the other without waiting for an answer."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_no_more()
        # uvicorn tells the last one only, and the others would write to what is closed.
        for cycle in self._unanswered:
            cycle.disconnected = True
            cycle.message_event.set()
        self._unanswered.clear()
        self.pipeline.clear()
        super().connection_lost(exc)
        # After a reset uvicorn leaves it running, for a minute, with all that hangs on it.
        self._unset_keepalive_if_required()

    def _wait(self) -> None:
        """From now on it has only so long."""
        if self._handshakes is not None and not self._is_waited_for:
            self._is_waited_for = True
            address = self.client[0] if self.client else ""
            self._handshakes.enter(self, address, self.transport.abort)

    def _wait_no_more(self) -> None:
        if self._is_waited_for and self._handshakes is not None:
            self._is_waited_for = False
            self._handshakes.leave(self)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        super().data_received(data)
        if self._handshakes is None or not self._expects_http():
            return
        if self._in_head:
            # The parser keeps what it has of a line to itself, so this is counted here.
            self._head_bytes += len(data)
            if self._head_bytes > self._handshakes.head_bytes:
                self._is_too_large = True
                self._refuse()
                return
            self._wait()
        elif not self._message_is_open and self.cycle.response_complete:
            # Blank lines, or the end of a body that was not waited for. uvicorn's own timer for
            # idle connections is gone with the first byte.
            self._wait()

    def _expects_http(self) -> bool:
        """Whether what comes next is still read as requests."""
        return not (self._is_upgraded or self._is_refused or self.transport.is_closing())

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._message_is_open = True
        self._is_carried_out = False
        self._has_host = False
        self._head_bytes = 0
        extensions = {ABORT_EXTENSION: self.transport.abort}
        self.scope["extensions"] = extensions  # type: ignore[typeddict-item]

    def on_header(self, name: bytes, value: bytes) -> None:
        # What follows a chunked body comes this way too, and is of no use to anybody.
        if not self._in_head:
            return
        if len(self.headers) >= HEADERS_MAX:
            self._is_too_large = True
            raise ValueError("too many headers")
        if name.lower() == b"host":
            if self._has_host:
                # RFC 9112, 3.2. Who looks at the first and who at the last would see two servers.
                raise ValueError("more than one Host")
            self._has_host = True
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._wait_no_more()
        if self._handshakes is not None:
            size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            if size > self._handshakes.head_bytes:
                self._is_too_large = True
                raise ValueError("too long a head")
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is not before:
            self._is_carried_out = True
            if self._unanswered:
                self._unanswered = [one for one in self._unanswered if not one.response_complete]
            self._unanswered.append(self.cycle)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        extensions = cast("dict[str, object]", cycle.scope["extensions"])
        extensions[BODY_EXTENSION] = partial(_whole_body, cycle)
        if cycle.scope["method"] != "HEAD":  # its head is all of it
            cycle.transport = cast(asyncio.Transport, _OneWrite(cycle.transport, self.loop))
        super()._start_asgi_task(cycle, app)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._message_is_open = False
        self._wait_no_more()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._is_refusal_due:
            if all(one.response_complete or one.disconnected for one in self._unanswered):
                self._tell_refusal()
        elif self._message_is_open and not self.transport.is_closing():
            self._wait()

    def handle_websocket_upgrade(self) -> None:
        lines = [len(self.url), *(len(name) + len(value) for name, value in self.headers)]
        if max(lines) > WEBSOCKET_LINE_BYTES:
            self._is_too_large = True
            self._refuse()
            return
        if any(not one.response_complete for one in self._unanswered):
            # The answer to what was asked before would get in between.
            self._wait_no_more()
            self.transport.abort()
            return
        self._wait_no_more()
        self._is_upgraded = True
        super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        self._refuse()

    def _refuse(self) -> None:
        """Answers what is no request, and closes; what comes after it is not read."""
        self._wait_no_more()
        self._is_refused = True
        before = [one for one in self._unanswered if not one.response_complete]
        if self._message_is_open and self._is_carried_out:
            # What is wrong is the body of the newest. Its answer may be there already.
            if not before or before.pop() is not self.cycle:
                self.transport.close()
                return
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if before:
                self.pipeline.popleft()
        if before:
            # An answer now would be taken for the answer to these, which are being carried out.
            self._is_refusal_due = True
            self.flow.pause_reading()
            return
        self._tell_refusal()

    def _tell_refusal(self) -> None:
        self._is_refusal_due = False
        self.transport.write(_TOO_LARGE if self._is_too_large else _NO_HTTP)
        if self._handshakes is None or not self.transport.can_write_eof():
            self.transport.close()
            return
        # To close while something is still coming is to reset, which takes along the answer: it
        # is read, and dropped, until the peer has closed too or its time for a head is over.
        self.flow.resume_reading()
        self.transport.write_eof()
        self._wait()
