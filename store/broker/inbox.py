"""Hands what came to the listener, once in a turn of the loop."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from store.broker import Hint, Listener, Suspicion, Told, tell_nobody
from store.broker.metrics import BrokerMetrics

log = logging.getLogger(__name__)

TURN_BYTES: Final = 131_072
TURN_SHARE: Final = 4
"""In one turn of the loop so many bytes of messages are read, or a fourth of those that wait if
that is more: a flood leaves others their turn, and a backlog still shrinks as fast as the processor
can make it. (With the first bound alone, which is less than a socket brings in one turn, a fast
reader of a faster publisher threw away what it had all the time in the world to read.)"""

Reading = tuple[str | None, Sequence[Hint], Suspicion | None]
"""The project that a message is about (None: not followed any more), the hints in it, and what
its coming tells."""


class Inbox:
    """What waits for the listener: this process's hints, others' messages, suspicions.

    A publisher or a socket only appends. The listener is called by the loop's next callback, and
    so never inside a writer; or at once by whoever is such a callback himself, as a socket's
    reader is, which saves a turn of the loop.
    """

    def __init__(
        self,
        metrics: BrokerMetrics,
        read: Callable[[bytes, bytes], Reading],
        *,
        of_others: Told = tell_nobody,
        max_messages: int = 100_000,
        max_bytes: int = 32_000_000,
    ) -> None:
        """`read(origin, message)` decodes what `receive` was given; it does not raise."""
        self._metrics = metrics
        self._of_others = of_others
        self._read = read
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._listener: Listener | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._followed: set[str] = set()
        self._own: list[Hint] = []
        self._messages: deque[tuple[bytes, bytes]] = deque()
        self._bytes = 0
        self._suspicions: dict[tuple[str | None, Suspicion], None] = {}
        self._due: asyncio.Handle | None = None

    def open(self, listener: Listener) -> None:
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        if self._suspicions:
            self._soon()

    def close(self) -> None:
        """From here on the listener is not called any more."""
        self._listener = None
        self._own.clear()
        self._messages.clear()
        self._bytes = 0
        self._suspicions.clear()
        if self._due is not None:
            self._due.cancel()
            self._due = None

    @property
    def followed(self) -> frozenset[str]:
        return frozenset(self._followed)

    def follow(self, project: str) -> bool:
        """Whether that is new."""
        if project in self._followed:
            return False
        self._followed.add(project)
        return True

    def unfollow(self, project: str) -> bool:
        if project not in self._followed:
            return False
        self._followed.discard(project)
        return True

    def publish(self, hints: Sequence[Hint]) -> None:
        """This process's own hints."""
        if self._listener is None:
            return
        followed = self._followed
        mine = [hint for hint in hints if hint.change.project in followed]
        if mine:
            self._own += mine
            self._soon()

    def receive(self, origin: bytes, message: bytes) -> None:
        """A message of another process, to be read later."""
        self._messages.append((origin, message))
        self._bytes += len(message)
        if self._bytes > self._max_bytes or len(self._messages) > self._max_messages:
            self._overflow()
        if self._due is None:
            self._soon()

    def suspect(self, project: str | None, reason: Suspicion) -> None:
        self._suspicions[project, reason] = None
        self._soon()

    def _soon(self) -> None:
        if self._due is None and self._listener is not None and self._loop is not None:
            self._due = self._loop.call_soon(self._hand_over)

    def hand_over(self) -> None:
        """Calls the listener with what there is; only from a callback of the loop's own."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
            self._hand_over()

    def _hand_over(self) -> None:
        self._due = None
        listener = self._listener
        if listener is None:
            return
        followed = self._followed
        hints = [hint for hint in self._own if hint.change.project in followed]
        self._own.clear()
        if self._messages:
            received = self._read_some()
            self._metrics.received(len(received))
            hints += received
            if received:
                try:
                    self._of_others(received)
                except Exception:
                    log.exception("whoever waits for others' hints failed")
        suspicions = tuple(self._suspicions)
        self._suspicions.clear()
        if self._messages:
            self._soon()
        # From here on the listener may call us back, or close us.
        if hints:
            try:
                listener.hinted(hints)
            except Exception:
                log.exception("the listener failed on %d hints", len(hints))
        for project, reason in suspicions:
            self._metrics.suspected(reason)
            if self._listener is not listener:
                return
            try:
                listener.suspect(project, reason)
            except Exception:
                log.exception("the listener failed on a suspicion: %s", reason)

    def _read_some(self) -> list[Hint]:
        hints: list[Hint] = []
        left = max(TURN_BYTES, self._bytes // TURN_SHARE)
        while self._messages and left > 0:
            origin, message = self._messages.popleft()
            self._bytes -= len(message)
            left -= len(message)
            project, some, suspicion = self._read(origin, message)
            if project in self._followed:
                hints += some
                if suspicion is not None:
                    self._suspicions[project, suspicion] = None
        return hints

    def _overflow(self) -> None:
        # A listener that is this far behind is helped by one read of the log, not by more of
        # the same. That their counters go unread too makes the next message of each publisher
        # a hole, which says once more what is said here.
        log.warning("%d messages that waited were thrown away", len(self._messages))
        self._messages.clear()
        self._bytes = 0
        self.suspect(None, Suspicion.OVERFLOW)
