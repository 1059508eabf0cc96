"""An outlet that records, and what it has recorded by its type."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from realtime import protocol
from realtime.hub.packing import Packing


@dataclass
class RecordingOutlet:
    """Keeps what is sent to it; takes nothing while `writable` is False."""

    writable: bool = True
    lines: list[bytes] = field(default_factory=list)
    messages: list[bytes] = field(default_factory=list)
    closed: tuple[int, str] | None = None
    aborted: bool = False

    def write(self, lines: Sequence[bytes], packing: Packing) -> None:
        assert self.closed is None
        assert not self.aborted
        self.lines += lines
        self.messages.append(packing.message(lines))

    def file(self) -> None:
        return None

    def finish_frame(self, frame: bytes, written: int) -> None:
        raise AssertionError("it has no file")

    def progress(self) -> int:
        return len(self.lines)

    def close(self, code: int, reason: str) -> None:
        self.closed = (code, reason)

    def abort(self) -> None:
        self.aborted = True

    def said(self) -> list[dict[str, Any]]:
        """Everything that was sent, read as JSON."""
        return [msgspec.json.decode(line) for line in self.lines]

    def types(self) -> list[str]:
        return [protocol.type_of(line) for line in self.lines]


def of_type(messages: Iterable[dict[str, Any]], type_: str) -> list[dict[str, Any]]:
    """Those of one type."""
    return [message for message in messages if message["type"] == type_]
