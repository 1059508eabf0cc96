"""Between a hub and what it is built on: reads that wait to be let on, hints that go astray."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from msgspec.structs import replace

from store import RunStore
from store.broker import Broker, BrokerState, Hint, Listener, Suspicion
from store.errors import Unavailable
from store.model import Batch, Horizon, ListKey, LogPage, Selection, SnapshotPage
from store.tail import Commits

T = TypeVar("T")


class Flight:
    """One read of a hub: it begins when it is let, and its result is had when that is let too."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.begin = asyncio.Event()
        self.done = asyncio.Event()
        self.end = asyncio.Event()
        self.fails = False


class GatedStore:
    """A hub's store: the real one, whose reads happen between two moments of the test's choice."""

    def __init__(self, store: RunStore, pages_of: int | None) -> None:
        self._store = store
        self._pages_of = pages_of
        self.flights: list[Flight] = []
        self.reads = 0

    async def _gated(self, what: str, read: Callable[[], Awaitable[T]]) -> T:
        flight = Flight(what)
        self.flights.append(flight)
        try:
            await flight.begin.wait()
            if flight.fails:
                raise Unavailable("away")
            self.reads += 1
            try:
                return await read()
            finally:
                flight.done.set()
                await flight.end.wait()
        finally:
            flight.done.set()
            if flight in self.flights:
                self.flights.remove(flight)

    def _at_most(self, limit: int) -> int:
        return limit if self._pages_of is None else min(limit, self._pages_of)

    async def horizon(self, project: str) -> tuple[str, Horizon]:
        return await self._gated("horizon", lambda: self._store.horizon(project))

    async def snapshot(
        self, selection: Selection, *, after: ListKey | None = None, limit: int
    ) -> SnapshotPage:
        limit = self._at_most(limit)
        return await self._gated(
            "snapshot", lambda: self._store.snapshot(selection, after=after, limit=limit)
        )

    async def read_log(
        self,
        project: str,
        since: Horizon,
        *,
        epoch: str | None,
        after: str | None = None,
        limit: int,
        selection: Selection | None = None,
        batches: Sequence[str] = (),
        payloads: bool = False,
    ) -> LogPage:
        return await self._gated(
            "log",
            lambda: self._store.read_log(
                project,
                since,
                epoch=epoch,
                after=after,
                limit=self._at_most(limit),
                selection=selection,
                batches=batches,
                payloads=payloads,
            ),
        )

    async def payloads(self, project: str, run_ids: Sequence[str]) -> dict[str, Any]:
        return await self._gated("payloads", lambda: self._store.payloads(project, run_ids))

    async def get_batches(self, project: str, batch_ids: Sequence[str]) -> dict[str, Batch]:
        return await self._gated("batch", lambda: self._store.get_batches(project, batch_ids))

    async def witnesses(self, xmaxes: Sequence[int]) -> dict[int, int]:
        return await self._gated("witnesses", lambda: self._store.witnesses(xmaxes))

    async def commits(self) -> Commits | None:
        seen = await self._gated("look", self._store.commits)
        # Its hints may be lost here, this process's own as well: as if another had committed.
        return None if seen is None else Commits(seen.anybody, seen.anybody)


class Sent(NamedTuple):
    """What no other change has, of this history or of another."""

    run_id: str
    version: int
    xid: int
    at: datetime


def _sent(hint: Hint) -> Sent:
    change = hint.change
    return Sent(change.run_id, change.version, change.xid, change.at)


class TamperingBroker:
    """A real broker whose hints wait on the way to the hub, until they are told to arrive.

    The real one is started once and outlives the hubs that listen through this one.
    """

    def __init__(self, inner: Broker) -> None:
        self._inner = inner
        self._started = False
        self._listener: Listener | None = None
        self.is_away = False
        self.waiting: list[Hint] = []
        self.arrived: set[tuple[str, int]] = set()
        self.followed: set[str] = set()
        self.dies = False
        """The process that publishes dies between its commit and its hints."""
        self.published: Callable[[Sequence[Hint]], None] = lambda hints: None
        self.out: list[Hint] = []
        """What has been published since somebody last looked."""
        self.sent: set[Sent] = set()
        """All that was published of this history."""
        self.taken_back: set[Sent] = set()
        """What was published of others."""

    # What the store and the hub ask for.

    @property
    def state(self) -> BrokerState:
        return BrokerState.DEGRADED if self.is_away else self._inner.state

    async def start(self, listener: Listener) -> None:
        self._listener = listener
        if not self._started:
            self._started = True
            await self._inner.start(self)

    async def close(self) -> None:
        """The hub's broker; the real one is closed by who made it."""

    def publish(self, hints: Sequence[Hint]) -> None:
        self.published(hints)
        if not self.dies:
            self.out += hints
            self.sent.update(map(_sent, hints))
            self._inner.publish(hints)

    def follow(self, project: str) -> None:
        self.followed.add(project)
        self._inner.follow(project)

    def unfollow(self, project: str) -> None:
        self.followed.discard(project)
        self._inner.unfollow(project)

    # What the real one tells.

    def hinted(self, hints: Sequence[Hint]) -> None:
        hints = [hint for hint in hints if _sent(hint) not in self.taken_back]
        self.arrived.update((hint.change.run_id, hint.change.version) for hint in hints)
        if not self.is_away:
            self.waiting += hints

    def suspect(self, project: str | None, reason: str) -> None:
        if self._listener is not None:
            self._listener.suspect(project, reason)

    # What the test does.

    def forget(self) -> None:
        """Its process has died."""
        self._listener = None
        self.waiting.clear()
        for project in list(self.followed):
            self.unfollow(project)

    def take_back(self, sent: set[Sent]) -> None:
        """What was sent so far is of another history: with the servers that sent it and those that
        would have heard it, whatever is on its way has gone."""
        self.taken_back |= sent
        self.sent.clear()

    def deliver(self, index: int, *, keep: bool = False, slim: bool = False) -> None:
        """One of the hints arrives; with `keep` it will come again, `slim` brings ids only."""
        hint = self.waiting[index] if keep else self.waiting.pop(index)
        if slim:
            hint = Hint(replace(hint.change, changed={}), None, False)
        if self._listener is not None and hint.change.project in self.followed:
            self._listener.hinted([hint])

    def away(self, away: bool) -> None:
        """The server of the broker goes away, with all that is on the way, or comes back."""
        if away is self.is_away:
            return
        self.is_away = away
        if away:
            self.waiting.clear()
        self.suspect(None, Suspicion.LOST if away else Suspicion.SUBSCRIBED)
