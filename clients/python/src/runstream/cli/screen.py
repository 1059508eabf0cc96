"""A terminal taken over: draws what changed of a picture, and gives all back as it was."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final, Self, TextIO

from rich.console import Console
from rich.text import Text

if sys.platform != "win32":
    import termios

# A screen of its own, lines cut off at the edge and not folded, no cursor.
_ENTER: Final = "\x1b[?1049h\x1b[?7l\x1b[?25l\x1b[2J"
_LEAVE: Final = "\x1b[?2026l\x1b[0m\x1b[?25h\x1b[?7h\x1b[?1049l"
# Terminals that know this show a picture when it is whole; others ignore it.
_BEGIN: Final = "\x1b[?2026h"
_END: Final = "\x1b[?2026l"

Line = Text

# What to draw with where an encoding has only ASCII; each is as wide as what it stands for.
_PLAIN: Final = str.maketrans("━─█·●○■✓✗├└│…", "=-#.*o#+x|`|.")


class Screen:
    """The terminal at `stdout`, while it is entered.

    Each picture replaces the one before; only lines that differ are written, each at its
    place, so that neither a resize nor a character of unexpected width can shift the rest.
    What is typed is not shown meanwhile. Leaving gives the terminal back as it was found,
    with its earlier content, whatever ends the block.
    """

    def __init__(self, stdout: TextIO | None = None, stdin: TextIO | None = None) -> None:
        self._stdout = stdout or sys.stdout
        self._stdin = stdin or sys.stdin
        # Colours as the terminal can, none with NO_COLOR.
        self._console = Console(file=self._stdout, highlight=False, markup=False, emoji=False)
        self._shown: list[str] | None = None
        self._size = (0, 0)
        self._modes: list[Any] | None = None
        self._is_entered = False

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows, as they are now."""
        try:
            columns, rows = os.get_terminal_size(self._stdout.fileno())
        except (OSError, ValueError):
            columns, rows = 0, 0
        # What has no size, as a serial line, is taken for the usual one.
        return columns or 80, rows or 24

    @property
    def is_plain(self) -> bool:
        """Whether it can show only what ASCII has."""
        try:
            "━█…●".encode(self._stdout.encoding or "ascii")
        except (UnicodeError, LookupError):
            return True
        return False

    def __enter__(self) -> Self:
        self._is_entered = True
        self._hush()
        self._write(_ENTER)
        self._shown = None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._is_entered:
            return
        self._is_entered = False
        try:
            self._write(_LEAVE)
        except OSError:
            pass  # The terminal is gone; there is nothing to give back.
        finally:
            self._unhush()

    def draw(self, lines: Sequence[Line]) -> None:
        """Shows these lines, from the top; what does not fit is left out."""
        size = columns, rows = self.size
        if size != self._size:
            # The terminal has moved or cut what was there as it saw fit.
            self._size, self._shown = size, None
        encoded = self._encoded(lines[:rows], columns)
        out = [] if self._shown is not None else ["\x1b[0m\x1b[2J"]
        before = self._shown or []
        for row, line in enumerate(encoded):
            if row >= len(before) or before[row] != line:
                out.append(f"\x1b[{row + 1};1H{line}\x1b[K")
        if len(before) > len(encoded):
            out.append(f"\x1b[{len(encoded) + 1};1H\x1b[J")
        self._shown = encoded
        if out:
            self._write("".join((_BEGIN, *out, _END)))

    def print(self, lines: Sequence[Line]) -> None:
        """Leaves these lines on the terminal as it is otherwise, above the next prompt."""
        self._write("".join(f"{line}\n" for line in self._encoded(lines, self.size[0])))

    def suspend(self, stop: Callable[[], None]) -> None:
        """Gives the terminal back while `stop` stops the process, and takes it again after."""
        self.__exit__(None, None, None)
        stop()
        self.__enter__()

    def typed(self) -> bytes | None:
        """The keys that were pressed, perhaps none; None once the terminal is gone. Never waits."""
        fd = self._stdin.fileno()
        try:
            keys = os.read(fd, 1024)
        except OSError:
            return None
        if keys:
            return keys
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        is_gone = any(events & (select.POLLHUP | select.POLLERR) for _, events in poll.poll(0))
        return None if is_gone else b""

    def _encoded(self, lines: Sequence[Line], columns: int) -> list[str]:
        if not lines:
            return []
        for line in lines:
            line.truncate(columns)
            line.rstrip()
        joined = Text("\n").join(lines)
        with self._console.capture() as captured:
            self._console.print(
                joined, end="", no_wrap=True, overflow="ignore", crop=False, soft_wrap=True
            )
        text = captured.get()
        return (text.translate(_PLAIN) if self.is_plain else text).split("\n")

    def _write(self, text: str) -> None:
        # The bytes themselves: what an encoding lacks becomes a question mark, and no error.
        encoding = self._stdout.encoding or "utf-8"
        self._stdout.flush()
        self._stdout.buffer.write(text.encode(encoding, "replace"))
        self._stdout.buffer.flush()

    def _hush(self) -> None:
        if sys.platform == "win32" or not self._stdin.isatty():
            return
        # Keys are neither shown nor held back for a line's end. Ctrl-C and Ctrl-Z stay.
        self._modes = termios.tcgetattr(self._stdin)
        modes = termios.tcgetattr(self._stdin)
        modes[3] &= ~(termios.ECHO | termios.ICANON)
        # A read gives what there is: a Ctrl-C takes back what was typed before it, and who then
        # waited for more would not hear the Ctrl-C either.
        modes[6][termios.VMIN] = modes[6][termios.VTIME] = 0
        termios.tcsetattr(self._stdin, termios.TCSANOW, modes)

    def _unhush(self) -> None:
        modes, self._modes = self._modes, None
        if sys.platform == "win32" or modes is None:
            return
        try:
            # What was typed meanwhile was not meant for the next prompt.
            termios.tcsetattr(self._stdin, termios.TCSAFLUSH, modes)
        except (OSError, termios.error):
            pass
