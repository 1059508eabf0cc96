"""One HTTP connection under uvicorn."""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from typing import Any, Final, cast
from weakref import ref

import uvicorn
from httptools import HttpParserUpgrade
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from realtime.frames.answer import OneWrite, whole_body
from realtime.frames.refusals import NO_HTTP, TOO_LARGE
from realtime.limits import Handshakes

ABORT_EXTENSION: Final = "runstream.abort"
BODY_EXTENSION: Final = "runstream.body"
HEADERS_MAX: Final = 128
"""Header lines of one request; the WebSocket library takes as many."""
_OF_UPGRADES: Final = frozenset({b"upgrade", b"http2-settings"})
"""What a request for an upgrade has more than others: two headers, and tokens of `Connection`."""
WEBSOCKET_LINE_BYTES: Final = 8_000
"""The longest line of a WebSocket's handshake; its library gives up on longer ones."""


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
    _came: bytes | memoryview = b""
    """What the parser is given just now."""
    _again: tuple[bytes, memoryview] | None = None
    """The head of a request for an upgrade that is not made, as if it asked for none; and what
    has come behind it."""
    _is_put_again = False
    """Whether the head that is parsed is such a one: the request is made of it the next time."""

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
        self._let_go()

    def _let_go(self) -> None:
        """Parts with what holds it in turn: only the garbage collector, which looks seldom, would
        find out that nobody needs them any more."""
        self.parser = None  # type: ignore[assignment]
        self.cycle = None  # type: ignore[assignment]
        self.scope = None  # type: ignore[assignment]

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
        self._parse(data)
        while self._again is not None and self._expects_http():
            head, rest = self._again
            self._parse(head)
            if self._expects_http():
                data = cast(bytes, rest)
                self._parse(data)
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

    def _parse(self, data: bytes) -> None:
        self._came, self._again = data, None
        super().data_received(data)
        self._came = b""

    def _unsupported_upgrade_warning(self) -> None:
        # It is a request like any other (RFC 9110, 7.8), and nothing to write into the log. But
        # the parser takes its body, and what follows, for another protocol's.
        stopped = sys.exception()
        if self._is_put_again and isinstance(stopped, HttpParserUpgrade):
            self._again = self._without_upgrade(), memoryview(self._came)[stopped.args[0] :]

    def _without_upgrade(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        for name, value in self.headers:
            if name == b"connection":
                tokens = (token.strip() for token in value.split(b","))
                value = b", ".join(one for one in tokens if one.lower() not in _OF_UPGRADES)
            if name not in _OF_UPGRADES:
                lines.append(b"%s: %s" % (name, value))
        return b"\r\n".join((*lines, b"", b""))

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
        upgrades = self.parser.should_upgrade() and not self._should_upgrade()
        self._is_put_again = upgrades and any(name == b"upgrade" for name, _ in self.headers)
        if self._is_put_again:
            return
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is not before:
            self._is_carried_out = True
            if self._unanswered:
                self._unanswered = [one for one in self._unanswered if not one.response_complete]
            self._unanswered.append(self.cycle)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        extensions = cast("dict[str, object]", cycle.scope["extensions"])
        # The cycle has the scope: one that the scope had too would outlive its answer.
        extensions[BODY_EXTENSION] = partial(whole_body, ref(cycle))
        if cycle.scope["method"] != "HEAD":  # its head is all of it
            cycle.transport = cast(asyncio.Transport, OneWrite(cycle.transport, self.loop))
        super()._start_asgi_task(cycle, app)

    def on_message_complete(self) -> None:
        if self._is_put_again:
            return
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
        self._let_go()

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
        self.transport.write(TOO_LARGE if self._is_too_large else NO_HTTP)
        if self._handshakes is None or not self.transport.can_write_eof():
            self.transport.close()
            return
        # To close while something is still coming is to reset, which takes along the answer: it
        # is read, and dropped, until the peer has closed too or its time for a head is over.
        self.flow.resume_reading()
        self.transport.write_eof()
        self._wait()
