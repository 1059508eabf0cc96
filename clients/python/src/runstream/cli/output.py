"""What a program writes: its progress lines, and the end of the rest."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from typing import Final

MARK: Final = b"::progress "
MAX_LINE: Final = 4096
TAIL_LINES: Final = 40
TAIL_BYTES: Final = 4096

_PROGRESS: Final = re.compile(rb"::progress\s+(\d+(?:\.\d*)?|\.\d+)(%?)(?:\s+(.*))?\s*$")
_CONTROL: Final = re.compile("[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f]")
_ESCAPE: Final = re.compile("\x1b(?:\\[[0-?]*[ -/]*[@-~]|[@-Z\\\\-_])?")


@dataclass(frozen=True)
class Progress:
    """How far the program says it is: from 0 to 1."""

    fraction: float | None
    message: str


class Splitter:
    """Takes progress lines out of what passes, and holds back nothing else.

    Only what may still become a progress line waits for its end; a prompt, say, does not.
    """

    def __init__(self, *, keep: bool) -> None:
        self._keep = keep
        self._at_line_start = True
        self._held = b""

    def split(self, chunk: bytes) -> tuple[bytes, list[Progress]]:
        """What of it is to be shown now, and the progress that it tells."""
        shown = bytearray()
        told: list[Progress] = []
        rest = self._held + chunk
        self._held = b""
        while rest:
            if not self._at_line_start or not _may_be_progress(rest):
                line, newline, rest = rest.partition(b"\n")
                shown += line + newline
                self._at_line_start = bool(newline)
                continue
            line, newline, after = rest.partition(b"\n")
            if not newline and len(line) <= MAX_LINE:
                self._held = rest
                break
            progress = parse(line) if newline else None
            if progress is not None:
                told.append(progress)
            if progress is None or self._keep:
                shown += line + newline
            self._at_line_start = bool(newline)
            rest = after
        return bytes(shown), told

    def rest(self) -> tuple[bytes, list[Progress]]:
        """What was held back, when nothing follows any more."""
        held, self._held = self._held, b""
        progress = parse(held)
        if progress is None:
            return held, []
        return held if self._keep else b"", [progress]


def parse(line: bytes) -> Progress | None:
    """The progress that a line tells; None if it is another line."""
    found = _PROGRESS.match(line.rstrip(b"\r"))
    if found is None:
        return None
    fraction = float(found[1]) / (100 if found[2] else 1)
    message = (found[3] or b"").decode("utf-8", "replace").strip()
    return Progress(min(1.0, fraction), clean(message))


class Tail:
    """The last lines of what was written, as text."""

    def __init__(self) -> None:
        self.is_news = False
        self._lines: deque[bytes] = deque(maxlen=TAIL_LINES)
        self._open = b""

    def add(self, chunk: bytes) -> None:
        """Takes what was written."""
        self.is_news = True
        *lines, rest = (self._open + chunk).split(b"\n")
        self._lines.extend(line[-TAIL_BYTES:] for line in lines[-TAIL_LINES:])
        self._open = rest[-TAIL_BYTES:]

    def text(self) -> str:
        """The last lines; what follows is news again."""
        self.is_news = False
        lines = [*self._lines, self._open] if self._open else list(self._lines)
        # A line that was written over shows what it was last.
        written = b"\n".join(line.rstrip(b"\r").rpartition(b"\r")[2] for line in lines)
        return clean(written[-TAIL_BYTES:].decode("utf-8", "replace"))


def clean(text: str) -> str:
    """The text without colours and without what no store takes."""
    return _CONTROL.sub("", _ESCAPE.sub("", text))


def _may_be_progress(line: bytes) -> bool:
    return line.startswith(MARK) or MARK.startswith(line[: len(MARK)])
