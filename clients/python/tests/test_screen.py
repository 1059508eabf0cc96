"""The keys of a terminal that is taken over: reading them never waits."""

from __future__ import annotations

import os
import pty
import select
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from clients.python.tests.scripted import PATIENCE_S
from runstream.cli.screen import Screen

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are POSIX's")


@contextmanager
def taken_over() -> Iterator[tuple[Screen, int, int]]:
    """A screen, the terminal that it has taken over, and whoever sits before that."""
    person, terminal = pty.openpty()
    with ExitStack() as stack:
        for fd in (person, terminal):
            stack.enter_context(suppress(OSError))
            stack.callback(os.close, fd)
        stack.enter_context(suppress(OSError))
        stdout = stack.enter_context(open(terminal, "w", closefd=False))
        stdin = stack.enter_context(open(terminal, closefd=False))
        yield stack.enter_context(Screen(stdout, stdin)), terminal, person


def read(screen: Screen) -> list[bytes | None]:
    """What reading gives; nothing if it waits."""
    found: list[bytes | None] = []
    reading = threading.Thread(target=lambda: found.append(screen.typed()), daemon=True)
    reading.start()
    reading.join(PATIENCE_S / 4)
    return found


def is_readable(terminal: int) -> bool:
    return bool(select.select([terminal], [], [], PATIENCE_S)[0])


def test_what_is_typed_is_read() -> None:
    with taken_over() as (screen, terminal, person):
        os.write(person, b"ab")
        assert is_readable(terminal)
        assert read(screen) == [b"ab"]


@pytest.mark.parametrize("key", [b"\x03", b"\x1a"])
def test_keys_that_a_ctrl_c_takes_back_are_not_waited_for(key: bytes) -> None:
    """The terminal drops what was typed before it, also what the loop was told of just now.

    To wait for more then is to hear nothing any more, the Ctrl-C itself included: its signal
    is looked at when the read returns.
    """
    with taken_over() as (screen, terminal, person):
        os.write(person, b"ab")
        assert is_readable(terminal)
        os.write(person, key)
        deadline = time.monotonic() + PATIENCE_S
        while select.select([terminal], [], [], 0)[0] and time.monotonic() < deadline:
            time.sleep(0.001)  # Taken back by the terminal, which tells nobody.
        assert read(screen) == [b""]


def test_a_terminal_that_is_gone_is_told_from_one_where_nothing_is_typed() -> None:
    """The loop is told again and again of one that is gone."""
    with taken_over() as (screen, terminal, person):
        os.close(person)
        assert is_readable(terminal)
        assert read(screen) == [None]


def test_the_terminal_s_modes_are_given_back() -> None:
    person, terminal = pty.openpty()
    try:
        with open(terminal, "w", closefd=False) as stdout, open(terminal, closefd=False) as stdin:
            before = termios.tcgetattr(terminal)
            with Screen(stdout, stdin):
                assert termios.tcgetattr(terminal) != before
            assert termios.tcgetattr(terminal) == before
    finally:
        os.close(person)
        os.close(terminal)
