"""Messages and frames, each built once for all connections that are owed the same."""

from __future__ import annotations

from collections.abc import Sequence


def text_frame(message: bytes) -> bytes:
    """The message as one WebSocket frame of a server: text, unmasked, whole."""
    size = len(message)
    if size < 126:
        return bytes((0x81, size)) + message
    if size < 65_536:
        return b"\x81\x7e" + size.to_bytes(2, "big") + message
    return b"\x81\x7f" + size.to_bytes(8, "big") + message


class Packing:
    """What is sent in one pass over the connections."""

    def __init__(self) -> None:
        # Lines are shared objects, which makes comparing such keys cheap.
        self._messages: dict[tuple[bytes, ...], bytes] = {}
        self._frames: dict[tuple[bytes, ...], bytes] = {}

    def message(self, lines: Sequence[bytes]) -> bytes:
        """The lines as one message."""
        if len(lines) == 1:
            return lines[0]
        key = tuple(lines)
        found = self._messages.get(key)
        if found is None:
            found = self._messages[key] = b"\n".join(key)
        return found

    def frame(self, lines: Sequence[bytes]) -> bytes:
        """The lines as one frame."""
        key = tuple(lines)
        found = self._frames.get(key)
        if found is None:
            found = self._frames[key] = text_frame(b"\n".join(key))
        return found
