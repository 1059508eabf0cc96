"""Two servers' stores on one database, and what both stand on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from store import RunStore, open_broker
from store.broker import Broker, BrokerState, Hint
from store.broker.redis import RedisBroker
from store.commands import Submission
from store.engine import Database, open_database
from store.errors import Unavailable
from tests.oracle.gates import TamperingBroker
from tests.servers import Postgres, Valkey
from tests.store.broker.doubles import HURRIED

T = TypeVar("T")


@dataclass(frozen=True)
class SetUp:
    """What there is: a database, and perhaps Redis."""

    name: str
    database: str
    redis: str | None = None
    postgres: Postgres | None = None
    """The servers of both, for faults; without them there are none of theirs."""
    valkey: Valkey | None = None


class Place:
    """Two server processes' stores on one database; it serves many worlds, one after another."""

    def __init__(self, set_up: SetUp) -> None:
        self.set_up = set_up
        self.loop = asyncio.new_event_loop()
        self.worlds = 0
        self.stores: list[RunStore] = []
        self.brokers: list[TamperingBroker] = []
        self._inner: list[Broker] = []
        self.aside: Database
        """For transactions that are slow."""

    def __enter__(self) -> Place:
        self.run(self._open())
        return self

    def __exit__(self, *exc: object) -> None:
        self.run(self._close())
        self.loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    async def _open(self) -> None:
        set_up = self.set_up
        for _ in range(2):
            inner = (
                open_broker(None)
                if set_up.redis is None
                else RedisBroker(
                    set_up.redis,
                    namespace="oracle",
                    tuning=replace(HURRIED, inline_bytes=1_500),
                )
            )
            broker = TamperingBroker(inner)
            self._inner.append(inner)
            self.brokers.append(broker)
            self.stores.append(await RunStore.open(set_up.database, broker=broker))
        self.aside = await open_database(set_up.database)

    async def _close(self) -> None:
        for store in self.stores:
            await store.close()
        for broker in self._inner:
            await broker.close()
        await self.aside.close()

    @property
    def is_postgres(self) -> bool:
        return self.aside.dialect == "postgresql"

    async def commit(self, gateway: int, *submissions: Submission, dies: bool = False) -> None:
        """Through a gateway's writer, and until its hints have come as far as they will."""
        store, broker = self.stores[gateway], self.brokers[gateway]
        broker.dies = dies
        try:
            await asyncio.gather(
                *(store.execute(each) for each in submissions), return_exceptions=True
            )
        finally:
            broker.dies = False
        await self.arrive()

    async def arrive(self) -> None:
        """Waits, for a moment, until what was published has arrived wherever it is followed."""
        hints: list[Hint] = []
        for broker in self.brokers:
            hints += broker.out
            broker.out.clear()
        await turn(2)
        if self.set_up.redis is None:
            return
        wanted = {(hint.change.run_id, hint.change.version): hint.change.project for hint in hints}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.25):
                while not all(
                    broker.state is not BrokerState.OK
                    or all(
                        key in broker.arrived
                        for key, project in wanted.items()
                        if project in broker.followed
                    )
                    for broker in self.brokers
                ):
                    await asyncio.sleep(0.0005)

    def thaw(self) -> None:
        """Redis, if it was stopped, goes on."""
        if self.set_up.valkey is not None:
            self.set_up.valkey.thaw()


async def turn(times: int) -> None:
    """Whatever is ready to go on does so, that often."""
    for _ in range(times):
        await asyncio.sleep(0)


async def again(work: Callable[[], Awaitable[T]]) -> T:
    """Done once more if the database had cut its connection off."""
    for _ in range(5):
        with contextlib.suppress(Unavailable):
            return await work()
    return await work()
