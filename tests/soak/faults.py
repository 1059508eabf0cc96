"""The faults of the soak: one after the other, by chance, each over when the next begins."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from tests.faults import BOTH, Cut, client_kill, open_transaction, terminate_backends
from tests.soak.silences import Fault
from tests.soak.world import World

LASTS_S = 4.0
OUTAGES = ("backends terminated", "postgresql restarted")


class Faults:
    """Chooses and plays them; the gateway `steady` is never killed, so that its memory tells."""

    def __init__(self, world: World, chance: random.Random, only: Sequence[str]) -> None:
        self.counts: Counter[str] = Counter()
        self._world = world
        self._chance = chance
        known: dict[str, Callable[[], Awaitable[None]]] = {
            "readers cut": self._cut_readers,
            "readers stalled": self._stall_readers,
            "subscribers killed": self._kill_subscribers,
            "redis restarted": self._restart_redis,
            "redis frozen": self._freeze_redis,
            "redis half open": self._half_open,
            "redis cut": self._cut_redis,
            "redis slow": self._delay_redis,
            "gateway killed": self._kill_gateway,
            "gateway drained": self._drain_gateway,
            "backends terminated": self._terminate,
            "postgresql restarted": self._restart_postgres,
            "transaction held open": self._hold_transaction,
        }
        self._known = {name: each for name, each in known.items() if not only or name in only}

    async def next(self) -> None:
        """Plays one, and returns when it is over."""
        name = self._chance.choice(list(self._known))
        self.counts[name] += 1
        fault = Fault(name, time.monotonic(), is_outage=name in OUTAGES)
        self._world.course.faults.append(fault)
        await self._known[name]()
        fault.ended = time.monotonic()

    async def _cut_readers(self) -> None:
        for reader in self._chance.sample(self._world.readers, 30):
            reader.cut()

    async def _stall_readers(self) -> None:
        stalled = self._chance.sample(self._world.readers, 10)
        for reader in stalled:
            reader.pause()
        await asyncio.sleep(LASTS_S)
        for reader in stalled:
            reader.resume()

    async def _kill_subscribers(self) -> None:
        await asyncio.to_thread(client_kill, self._world.valkey)

    async def _restart_redis(self) -> None:
        await asyncio.to_thread(self._world.valkey.kill)
        await asyncio.sleep(self._chance.random())
        await asyncio.to_thread(self._world.valkey.start)

    async def _freeze_redis(self) -> None:
        with self._world.valkey.frozen_meanwhile():
            await asyncio.sleep(LASTS_S)

    async def _half_open(self) -> None:
        with self._world.redis.stalled(*BOTH):
            await asyncio.sleep(LASTS_S)

    async def _cut_redis(self) -> None:
        self._world.redis.refuse(self._chance.randrange(3))
        self._world.redis.cut(self._chance.choice(list(Cut)))

    async def _delay_redis(self) -> None:
        self._world.redis.delay(self._chance.uniform(0.05, 0.5))
        await asyncio.sleep(LASTS_S)
        self._world.redis.delay(0)

    async def _kill_gateway(self) -> None:
        gateway = self._world.other
        await asyncio.to_thread(gateway.kill)
        await asyncio.to_thread(gateway.start)

    async def _drain_gateway(self) -> None:
        gateway = self._world.other
        await asyncio.to_thread(gateway.stop)
        await asyncio.to_thread(gateway.start)

    async def _terminate(self) -> None:
        await asyncio.to_thread(terminate_backends, self._world.postgres)

    async def _restart_postgres(self) -> None:
        await asyncio.to_thread(self._world.postgres.restart)

    async def _hold_transaction(self) -> None:
        async with open_transaction(self._world.postgres.url):
            await asyncio.sleep(LASTS_S)
