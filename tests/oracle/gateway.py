"""One server process: a hub over its own store and broker."""

from __future__ import annotations

import asyncio
import random

from realtime.hub import Hub
from tests.oracle.bounds import Bounds
from tests.oracle.gates import GatedStore
from tests.oracle.place import Place, turn


class Gateway:
    """A hub that can be killed and begun again; what it reads and hears comes when it is let."""

    def __init__(self, place: Place, index: int, bounds: Bounds) -> None:
        self.broker = place.brokers[index]
        self._store = place.stores[index]
        self._bounds = bounds
        self.begin()

    def begin(self) -> None:
        """A process starts, and knows nothing."""
        self.gated = GatedStore(self._store, self._bounds.pages_of)
        self.hub = Hub(self.gated, self.broker, settings=self._bounds.hub)
        self._task = asyncio.get_running_loop().create_task(self.hub.run())

    async def kill(self) -> None:
        """Its process dies; what it held in memory is gone."""
        self.broker.forget()
        self._task.cancel()
        await asyncio.wait([self._task])
        for flight in self.gated.flights:
            flight.begin.set()
            flight.end.set()

    async def land(self, chance: random.Random, what: str | None = None) -> None:
        """All its reads that wait are made, or all of one kind."""
        for flight in [each for each in self.gated.flights if what in {None, each.what}]:
            flight.begin.set()
            await flight.done.wait()
            flight.end.set()
            if chance.random() < 0.5:
                await turn(1)
