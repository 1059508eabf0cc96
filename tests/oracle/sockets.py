"""Sockets that take finished frames, in place of the system's."""

from __future__ import annotations

from dataclasses import dataclass

from tests.doubles import RecordingOutlet
from tests.oracle.stream import Broken


@dataclass
class PlainOutlet(RecordingOutlet):
    """One whose socket takes finished frames past it, as long as its client reads."""

    number: int = 0

    def file(self) -> int | None:  # type: ignore[override]
        return self.number if self.writable and self.closed is None else None

    def finish_frame(self, frame: bytes, written: int) -> None:
        # What its transport has is on the way like all that comes after it.
        assert written < len(frame)
        self.lines += _message_of(frame).split(b"\n")


class Sockets:
    """The sockets of such outlets, in place of the system's."""

    def __init__(self) -> None:
        self._outlets: dict[int, PlainOutlet] = {}
        self._writes = 0

    def open(self) -> PlainOutlet:
        """Another one."""
        outlet = PlainOutlet(number=len(self._outlets) + 1_000_000)
        self._outlets[outlet.number] = outlet
        return outlet

    def write(self, number: int, frame: bytes) -> int:
        """Takes the frame, but now and then only a part of it."""
        outlet = self._outlets[number]
        if outlet.closed is not None or outlet.aborted:
            raise Broken("a frame was written to a socket that is closed")
        if not outlet.writable:
            raise BlockingIOError
        self._writes += 1
        if self._writes % 7 == 0:
            return len(frame) // 2
        outlet.lines += _message_of(frame).split(b"\n")
        return len(frame)


def _message_of(frame: bytes) -> bytes:
    """What a server's text frame holds."""
    start = {126: 4, 127: 10}.get(frame[1], 2)
    return frame[start:]
