"""A hub over a store of memory, and counts of all that it does."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from realtime.hub import Hub, HubSettings
from realtime.hub.connection import Connection
from realtime.hub.measures import NoMeasures
from realtime.subscription import Grant
from tests.doubles import FakeBroker, FakeGrant, FakeStore, RecordingOutlet
from tests.realtime.serving import until
from tests.realtime.watching import turns


class Counting:
    """One counter, gauge or histogram, and one for each of its labels."""

    def __init__(self) -> None:
        self.total = 0.0
        self.by: Counter[str] = Counter()

    def inc(self, amount: float = 1, /) -> None:
        self.total += amount

    def set(self, value: float, /) -> None:
        self.total = value

    def observe(self, amount: float, /) -> None:
        self.total += 1

    def labels(self, **labels: str) -> _Labelled:
        return _Labelled(self, next(iter(labels.values())))


class _Labelled:
    def __init__(self, counting: Counting, label: str) -> None:
        self.counting = counting
        self.label = label

    def inc(self, amount: float = 1, /) -> None:
        self.counting.by[self.label] += int(amount)

    def set(self, value: float, /) -> None:
        self.counting.by[self.label] = int(value)


class CountingMeasures:
    """Counts everything that the hub counts."""

    def __init__(self) -> None:
        for name in vars(NoMeasures):
            if not name.startswith("_"):
                setattr(self, name, Counting())

    def __getattr__(self, name: str) -> Counting:
        raise AttributeError(name)


class Setting:
    """A hub over a store of memory."""

    def __init__(self, store: FakeStore | None = None, **how: Any) -> None:
        self.store = store or FakeStore()
        self.broker = FakeBroker()
        self.store.publish = self.broker.publish
        self.measures: Any = CountingMeasures()
        settings = HubSettings(**({"tail_s": 1_000.0} | how))
        self.hub = Hub(self.store, self.broker, settings=settings, measures=self.measures)

    async def connect(
        self, *asked: dict[str, Any], live: bool = True, grants: Iterable[Grant] = ()
    ) -> RecordingOutlet:
        """A connection that has asked for these; its tokens give the grants, one after another."""
        given = iter(grants)

        async def authenticate(token: str | None) -> Grant:
            return next(given, FakeGrant())

        outlet = RecordingOutlet()
        connection = self.hub.connect(outlet, authenticate)
        await connection.open(None)
        for number, each in enumerate(asked):
            await connection.received(protocol_line({"id": number + 1} | each))
        if live:
            await until(lambda: outlet.types().count("live") == len(asked), "live")
        return outlet

    def connection(self, outlet: RecordingOutlet) -> Connection:
        """The connection that writes to it."""
        return next(each for each in self.hub.connections if each.outlet is outlet)

    async def ask(self, outlet: RecordingOutlet, message: dict[str, Any]) -> None:
        """Something more, of the connection that writes to it."""
        await self.connection(outlet).received(protocol_line(message))

    def tail(self) -> None:
        self.hub.suspect(None, "test")

    async def settled(self) -> None:
        """Until a statement of the tail has passed and nothing remembers its joining."""
        project = next(iter(self.hub.projects.values()))
        while not all(member.is_settled for member in project.index):
            self.tail()
            await turns(5)


class Held:
    """The next read of that kind: it has seen what it sees, and returns when it is let go."""

    def __init__(self, store: FakeStore, what: str) -> None:
        self.reached = asyncio.Event()
        self._store = store
        self._what = what
        self._go = asyncio.Event()
        store.meanwhile = self._meanwhile

    async def _meanwhile(self, read: str) -> None:
        if read != self._what:
            self._store.meanwhile = self._meanwhile
            return
        self.reached.set()
        await self._go.wait()

    def let_go(self) -> None:
        self._go.set()


def protocol_line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode()


@asynccontextmanager
async def setting(**how: Any) -> AsyncIterator[Setting]:
    made = Setting(**how)
    running = asyncio.create_task(made.hub.run())
    await made.hub.ready.wait()
    try:
        yield made
    finally:
        running.cancel()
        await asyncio.wait([running])
        assert len(asyncio.all_tasks()) == 1, asyncio.all_tasks()


RUNS = {"type": "subscribeToRuns"}
ANOTHER_TOKEN = {"type": "authenticate", "token": "another"}
