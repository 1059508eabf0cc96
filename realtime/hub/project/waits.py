"""Who waits for a statement of the tail."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from realtime.session import Member


@dataclass
class Composed:
    """Who waits for the statement that is under way."""

    joined: list[Member] = field(default_factory=list)
    over: list[Member] = field(default_factory=list)
    behind: list[asyncio.Future[None]] = field(default_factory=list)

    def wake(self) -> None:
        """The tail has come as far as was asked for."""
        _wake(self.behind)


class Waits:
    """Each waits for a statement that begins after they came, until all its rows have been handed
    on; whoever comes while one is under way waits for the next."""

    def __init__(self, wake_tail: Callable[[], None]) -> None:
        self._wake_tail = wake_tail
        self.joined: list[Member] = []
        """Those that went live, and remember what their joining has shown until then."""
        self._over: dict[Member, None] = {}
        """Those that seem over, and are when the rows of such a statement have shown no more."""
        self._behind: list[asyncio.Future[None]] = []
        self._composed = Composed()

    def __bool__(self) -> bool:
        return bool(self.joined or self._over or self._behind)

    def over(self, member: Member) -> None:
        """It seems over."""
        self._over[member] = None
        self._wake_tail()

    async def caught_up(self) -> None:
        """Until a statement of the tail has passed that began after this was asked for."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._behind.append(future)
        self._wake_tail()
        await future

    def anew(self, member: Member) -> None:
        """It remembers more than before: of what the next statement, and not this one, passes."""
        if member in self._composed.joined:
            self._composed.joined.remove(member)
        if member not in self.joined:
            self.joined.append(member)

    def forget(self, member: Member) -> None:
        """It waits for nothing any more."""
        self._over.pop(member, None)
        for waiting in (self.joined, self._composed.joined, self._composed.over):
            if member in waiting:
                waiting.remove(member)

    def compose(self) -> None:
        """A statement is about to begin."""
        self._composed = Composed(self.joined, list(self._over), self._behind)
        self.joined, self._behind = [], []

    def passed(self) -> Composed:
        """It has passed, and these have waited for it."""
        composed, self._composed = self._composed, Composed()
        for member in composed.over:
            self._over.pop(member, None)
        return composed

    def missed(self) -> None:
        """It came to nothing: who waited for it waits for the next."""
        self.joined.extend(self._composed.joined)
        self._behind.extend(self._composed.behind)
        self._composed = Composed()

    def clear(self) -> None:
        """The log goes on as another one: nobody waits any more."""
        self.joined.clear()
        self._over.clear()
        _wake(self._behind)
        self._behind = []
        self._composed = Composed()


def _wake(waiting: Sequence[asyncio.Future[None]]) -> None:
    for future in waiting:
        if not future.done():
            future.set_result(None)
