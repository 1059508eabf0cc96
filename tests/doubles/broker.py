"""A broker that loses hints, or hands them on in another order."""

from __future__ import annotations

from collections.abc import Sequence

from store.broker import BrokerState, Hint, Listener


class FakeBroker:
    """Hands hints on when it is told to: at once, or one by one in any order, or never."""

    def __init__(self, *, at_once: bool = True) -> None:
        self.state = BrokerState.OK
        self.at_once = at_once
        self.waiting: list[Hint] = []
        self.followed: set[str] = set()
        self._listener: Listener | None = None

    async def start(self, listener: Listener) -> None:
        self._listener = listener

    async def close(self) -> None:
        self._listener = None

    def publish(self, hints: Sequence[Hint]) -> None:
        if self.at_once:
            self._hand(hints)
        else:
            self.waiting += hints

    def deliver(self, index: int, *, keep: bool = False) -> None:
        """Hands on one of the hints that wait; with `keep` it will come again."""
        hint = self.waiting[index] if keep else self.waiting.pop(index)
        self._hand([hint])

    def _hand(self, hints: Sequence[Hint]) -> None:
        followed = [hint for hint in hints if hint.change.project in self.followed]
        if self._listener is not None and followed:
            self._listener.hinted(followed)

    def follow(self, project: str) -> None:
        self.followed.add(project)

    def unfollow(self, project: str) -> None:
        self.followed.discard(project)
