"""A terminal with a program in it: a real pseudo-terminal, and what a person would see on it."""

from __future__ import annotations

import asyncio
import copy
import fcntl
import os
import pty
import re
import signal
import struct
import sys
import termios
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import pyte

from clients.python.tests.scripted import PATIENCE_S

_ALTERNATE: Final = 1049 << 5  # as pyte numbers the private modes

# All that our own drawing says to a terminal: modes, clearing, places, colours.
_OURS: Final = re.compile(
    "\x1b\\[\\?(?:1049|7|25|2026)[hl]|\x1b\\[2J|\x1b\\[[KJ]|\x1b\\[\\d+;1H|\x1b\\[[\\d;]*m"
)
_CONTROLS: Final = re.compile(
    "[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f]"
)


class Screen(pyte.Screen):
    """A screen with a second one beside it, as terminals have, which pyte lacks."""

    is_alternate = False
    kept: Any = None

    def set_mode(self, *modes: int, **kwargs: Any) -> None:
        super().set_mode(*modes, **kwargs)
        if 1049 in modes and kwargs.get("private"):
            self.kept = copy.deepcopy(self.buffer), copy.copy(self.cursor)
            self.is_alternate = True

    def reset_mode(self, *modes: int, **kwargs: Any) -> None:
        super().reset_mode(*modes, **kwargs)
        if 1049 in modes and kwargs.get("private") and self.is_alternate:
            self.buffer, self.cursor = self.kept
            self.is_alternate = False


class Terminal:
    """One program in one terminal."""

    def __init__(self, columns: int, rows: int) -> None:
        self.screen = Screen(columns, rows)
        self.raw = b""
        self._stream = pyte.ByteStream(self.screen)
        self._more = asyncio.Event()
        self._is_closed = False
        self.pid = self._fd = -1

    def start(self, argv: list[str], environment: Mapping[str, str]) -> None:
        """Starts the program, with the terminal as its input and output."""
        size = struct.pack("HHHH", self.screen.lines, self.screen.columns, 0, 0)
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            # In the child nothing may be raised into the test.
            try:
                fcntl.ioctl(1, termios.TIOCSWINSZ, size)
                os.execve(argv[0], argv, {**environment, "TERM": "xterm-256color"})
            finally:
                os._exit(127)
        asyncio.get_running_loop().add_reader(self._fd, self._read)

    @property
    def lines(self) -> list[str]:
        """What stands on it, less the empty lines at the end."""
        return "\n".join(row.rstrip() for row in self.screen.display).rstrip().split("\n")

    @property
    def text(self) -> str:
        """The same as one text."""
        return "\n".join(self.lines)

    @property
    def modes(self) -> list[Any]:
        """How the terminal treats what is typed."""
        return termios.tcgetattr(self._fd)

    async def shows(self, *words: str) -> str:
        """What stands on it, once all of this does."""
        await self.until(lambda: all(word in self.text for word in words), " and ".join(words))
        return self.text

    async def until(self, holds: Any, what: str) -> None:
        """Waits for a condition on what it shows."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not holds():
                    self._more.clear()
                    await self._more.wait()
        except TimeoutError:
            raise AssertionError(f"{what} never came; there is:\n{self.text}") from None

    def resize(self, columns: int, rows: int) -> None:
        """Makes it this large."""
        self.screen.resize(rows, columns)
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        """Types these."""
        os.write(self._fd, keys)

    async def end(self) -> int:
        """The program's exit code, once it is over and all that it wrote is shown."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not self._is_closed:
                    self._more.clear()
                    await self._more.wait()
        except TimeoutError:
            raise AssertionError(f"it does not end; there is:\n{self.text}") from None
        _, status = await asyncio.to_thread(os.waitpid, self.pid, 0)
        self.pid = -1
        return os.waitstatus_to_exitcode(status)

    def assert_nothing_acted(self) -> None:
        """No other sequence came than those that the drawing is made of, and no lone control."""
        rest = _OURS.sub("", self.raw.decode())
        assert not _CONTROLS.search(rest), repr(rest)

    def keep_picture(self, name: str) -> None:
        """Keeps what stands on it as an SVG, if RUNSTREAM_PICTURES names a folder for it."""
        if folder := os.environ.get("RUNSTREAM_PICTURES"):
            Path(folder, f"{name}.svg").write_text(svg_of(self.screen), encoding="utf-8")

    def hang_up(self) -> None:
        """Closes the terminal, as a lost connection to it would."""
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)
        self._fd = -1

    def close(self) -> None:
        """Ends the program, if it has not ended."""
        if self._fd >= 0 and not self._is_closed:
            asyncio.get_running_loop().remove_reader(self._fd)
        if self.pid > 0:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        if self._fd >= 0:
            os.close(self._fd)

    def _read(self) -> None:
        try:
            written = os.read(self._fd, 65536)
        except OSError:
            written = b""  # Linux says so when the last program has let go of it.
        if written:
            self.raw += written
            # pyte knows no dim text; a grey comes near.
            self._stream.feed(written.replace(b"\x1b[2m", b"\x1b[90m"))
        else:
            asyncio.get_running_loop().remove_reader(self._fd)
            self._is_closed = True
        self._more.set()


@asynccontextmanager
async def terminal(
    *args: str, url: str, columns: int = 100, rows: int = 24, **environment: str
) -> AsyncIterator[Terminal]:
    """`runstream …` in a terminal."""
    mine = {
        key: value
        for key, value in os.environ.items()
        if "RUNSTREAM" not in key and key not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")
    }
    mine |= {"RUNSTREAM_URL": url, "LC_ALL": "C.UTF-8", **environment}
    found = Terminal(columns, rows)
    try:
        found.start([sys.executable, "-m", "runstream.cli", *args], mine)
        yield found
    finally:
        found.close()


_COLOURS: Final = {
    "default": "#d8dee4",
    "red": "#ff7b72",
    "green": "#56d364",
    "brown": "#e3b341",
    "blue": "#79c0ff",
    "magenta": "#d2a8ff",
    "cyan": "#76e3ea",
    "brightblack": "#8b949e",
}
_CELL: Final = 8.4
_ROW: Final = 18


def svg_of(screen: Screen) -> str:
    """The screen as an SVG, each text at its place and as wide as its cells."""
    parts: list[str] = []
    last = 0
    for row in range(screen.lines):
        cells = [screen.buffer[row][column] for column in range(screen.columns)]
        column = 0
        for (colour, bold), some in groupby(cells, key=lambda cell: (cell.fg, cell.bold)):
            group = [cell.data for cell in some]
            text = "".join(group)
            begin, column = column, column + len(group)
            blank = len(text) - len(text.lstrip())
            if not text.strip():
                continue
            last = row
            wide = len(group) - blank - (len(text) - len(text.rstrip()))
            weight = ' font-weight="bold"' if bold else ""
            parts.append(
                f'<text x="{12 + (begin + blank) * _CELL:.1f}" y="{24 + row * _ROW}"'
                f' textLength="{wide * _CELL:.1f}" lengthAdjust="spacingAndGlyphs"'
                f' fill="{_COLOURS.get(colour, _COLOURS["default"])}"{weight}>'
                # Spaces that are kept by whatever draws it.
                f"{escape(text.strip()).replace(' ', chr(0xA0))}</text>"
            )
    width, height = 24 + screen.columns * _CELL, 20 + (last + 1) * _ROW
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" font-family="ui-monospace, Menlo, Consolas, monospace" '
        f'font-size="14" xml:space="preserve">\n'
        f'<rect width="100%" height="100%" rx="8" fill="#0d1117"/>\n{body}\n</svg>\n'
    )
