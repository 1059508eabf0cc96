"""One answer over HTTP: the body of its request, if it is there, and its head with its body."""

from __future__ import annotations

import asyncio
from weakref import ref

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


def whole_body(of: ref[RequestResponseCycle]) -> bytes | None:
    """The body, as `receive` would give it, if all of it has come and none of it was taken."""
    cycle = of()
    if (
        cycle is None
        or cycle.more_body
        or cycle.waiting_for_100_continue
        or cycle.disconnected
        or cycle.response_complete
    ):
        return None
    body = bytes(cycle.body)
    cycle.body = bytearray()
    cycle.message_event.clear()
    return body


class OneWrite:
    """The transport of one answer: its head goes out with the first part of its body.

    A head that nothing follows in the same turn of the loop goes out alone.
    """

    __slots__ = ("_begun", "_flush", "_head", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head: bytes | None = None
        self._begun = False
        self._flush: asyncio.Handle | None = None

    def write(self, data: bytes) -> None:
        if not self._begun:
            self._begun = True
            self._head = data
            self._flush = self._loop.call_soon(self.flush)
        elif self._head is None:
            self._transport.write(data)
        else:
            head = self._head
            self._forget()
            self._transport.write(head + data)

    def flush(self) -> None:
        """Sends the head, if it waits."""
        if self._head is not None:
            head = self._head
            self._forget()
            if not self._transport.is_closing():
                self._transport.write(head)

    def _forget(self) -> None:
        self._head = None
        if self._flush is not None:
            self._flush.cancel()
            # It holds this one in turn, for longer than it is needed.
            self._flush = None

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        self.flush()
        self._transport.close()
