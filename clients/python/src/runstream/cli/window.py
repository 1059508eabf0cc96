"""A view on a terminal, while a subscription lasts: drawn when something has changed, not more often."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Final

from runstream.cli.pictures.parts import Frame, Lines, Standing, heading, line
from runstream.cli.screen import Screen
from runstream.cli.server import Server, plainly
from runstream.cli.text import clean, duration, fit
from runstream.cli.views import View
from runstream.client import Runstream
from runstream.effects import CONNECTED
from runstream.models import AnyRun
from runstream.subscription import Subscription

PAUSE_S: Final = 0.1
"""From one picture to the next at least, however much changes."""
TICK_S: Final = 1.0
"""And at most: times go on by themselves."""
AT_ONCE: Final = 200
"""After so many changes in a row others have a turn, the picture too."""


class Window:
    """Shows one view of one subscription."""

    def __init__(
        self,
        client: Runstream,
        server: Server,
        subscription: Subscription[AnyRun],
        view: View,
        screen: Screen | None = None,
    ) -> None:
        self._client = client
        self._address = clean(server.url)
        self._subscription = subscription
        self._view = view
        self._screen = screen or Screen()
        self._wanted = asyncio.Event()
        self._was_live = False
        self._stale_since: float | None = None
        self._note = ""

    async def show(self) -> None:
        """Shows it until the subscription is over; raises what ends it otherwise.

        The last picture stays on the terminal, whatever it was that ended it.
        """
        stop_states = self._client.on_state(lambda state: self._wanted.set())
        screen = self._screen
        try:
            with screen, _signals(self._wanted.set, screen), self._keys(), self._log_shown():
                taking = asyncio.create_task(self._take())
                tasks = {
                    taking,
                    asyncio.create_task(self._draw()),
                    asyncio.create_task(self._view.prepare(self._wanted.set)),
                }
                try:
                    await _first_end(tasks, taking)
                    await self._view.settle()
                finally:
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            stop_states()
            with suppress(OSError):
                screen.print(self._last_picture())

    async def _take(self) -> None:
        taken = 0
        async for change in self._subscription.changes():
            self._view.take(change)
            self._wanted.set()
            taken += 1
            if taken % AT_ONCE == 0:
                await asyncio.sleep(0)

    async def _draw(self) -> None:
        while True:
            self._wanted.clear()
            self._screen.draw(self._picture())
            await asyncio.sleep(PAUSE_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(TICK_S - PAUSE_S):
                    await self._wanted.wait()

    def _frame(self, less: int = 1) -> Frame:
        columns, rows = self._screen.size
        return Frame(columns, max(1, rows - less), datetime.now(UTC))

    def _picture(self) -> Lines:
        frame = self._frame()
        head = heading(self._standing(), self._view.title, self._address, frame.width)
        lines = [head, *self._view.draw(frame)]
        if self._note:
            # In the last row, over whatever is there.
            lines = lines[: frame.height]
            lines.append(line((fit(self._note, frame.width).rstrip(), "yellow")))
        return lines

    def _last_picture(self) -> Lines:
        # Less the first line and the prompt; what is no longer live has no state.
        frame = self._frame(less=2)
        lines = self._view.leave(frame)
        if not len(self._view.board):
            return []
        return [line(fit(self._view.title, frame.width).rstrip()), *lines]

    def _standing(self) -> Standing:
        client, subscription = self._client, self._subscription
        if subscription.is_over:
            return Standing("ended")
        if subscription.is_live and client.state in CONNECTED and not client.is_stale:
            self._was_live, self._stale_since = True, None
            return Standing("live")
        now = asyncio.get_running_loop().time()
        reason = plainly(client.last_error or "")
        if not self._was_live:
            return Standing("connecting", f"{self._address}: {reason}" if reason else "")
        if self._stale_since is None:
            self._stale_since = now
        if client.is_stale:
            reason = "the server cannot read its store"
        since = f"for {duration(max(1.0, now - self._stale_since))}"
        return Standing("stale", f"{since}: {reason}" if reason else since)

    @contextmanager
    def _keys(self) -> Iterator[None]:
        # q leaves, as people expect of a screen; it is a Ctrl-C by another name.
        stdin = sys.stdin
        if sys.platform == "win32" or not stdin.isatty():
            yield
            return
        loop, fd = asyncio.get_running_loop(), stdin.fileno()

        def read() -> None:
            typed = self._screen.typed()
            if typed is None:
                loop.remove_reader(fd)
            elif typed and typed[-1:] in b"qQ" and b"\x1b" not in typed:
                os.kill(os.getpid(), signal.SIGINT)

        loop.add_reader(fd, read)
        try:
            yield
        finally:
            loop.remove_reader(fd)

    @contextmanager
    def _log_shown(self) -> Iterator[None]:
        # What the client logs would run over the picture; it becomes a part of it.
        log = logging.getLogger("runstream")
        before = log.handlers[:]
        log.handlers[:] = [_Noting(self._noted)]
        try:
            yield
        finally:
            log.handlers[:] = before

    def _noted(self, text: str) -> None:
        self._note = clean(text)
        self._wanted.set()


class _Noting(logging.Handler):
    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__()
        self._note = note

    def emit(self, record: logging.LogRecord) -> None:
        self._note(record.getMessage())


async def _first_end(tasks: set[asyncio.Task[None]], taking: asyncio.Task[None]) -> None:
    """Waits until the changes are over, or anything fails."""
    waiting = set(tasks)
    while not taking.done():
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    taking.result()


@contextmanager
def _signals(resized: Callable[[], None], screen: Screen) -> Iterator[None]:
    """The size of the terminal, and Ctrl-Z: the shell gets its terminal back meanwhile."""
    if sys.platform == "win32":
        yield
        return
    loop = asyncio.get_running_loop()

    def stop() -> None:
        screen.suspend(lambda: os.kill(os.getpid(), signal.SIGSTOP))
        resized()

    loop.add_signal_handler(signal.SIGWINCH, resized)
    loop.add_signal_handler(signal.SIGTSTP, stop)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGWINCH)
        loop.remove_signal_handler(signal.SIGTSTP)
