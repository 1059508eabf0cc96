"""The application's way to a WebSocket's transport."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from realtime.direct import DirectTransport

if TYPE_CHECKING:
    from realtime.frames.websocket import FramesProtocol

BUFFER_BYTES: Final = 256 * 1024
"""So much may wait in the transport before no more is written to it."""

Take: TypeAlias = Callable[[Any], Awaitable[None]]
"""Takes one message, as ASGI has it. Raises nothing."""


def nothing() -> None:
    """Stands where nobody wants to be called."""


class Link:
    """The application's way to one WebSocket's transport. Nothing of it waits."""

    __slots__ = ("_protocol", "_transport", "_written", "resumed")

    def __init__(self, protocol: FramesProtocol) -> None:
        self._protocol = protocol
        self._written = 0
        self._transport = cast("DirectTransport", protocol.transport)
        self.resumed: Callable[[], None] = nothing
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
