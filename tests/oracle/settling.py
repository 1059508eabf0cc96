"""Everything comes to rest, and every stream is compared with what the database says."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final

from tests.oracle.place import turn

if TYPE_CHECKING:
    from tests.oracle.world import World

ROUNDS: Final = 400
"""How often it is looked whether all has settled."""


async def settle(world: World, chance: random.Random) -> None:
    """Raises AssertionError with what is still wrong once all has had its time."""
    world.place.thaw()
    while world.slow:
        # Those first that others would wait for.
        slow = min(world.slow, key=lambda each: not each.holds_locks)
        slow.rolls_back = chance.random() < 0.3
        while not await world.go_on(slow):
            pass
    await _let_hints_come(world, chance)
    await world.refresh()
    problem: str | None = None
    for round in range(ROUNDS):
        for gateway in world.gateways:
            gateway.hub.suspect(None, "test")
        for client in world.everybody:
            await client.read_on()
            if client.connection is None:
                await client.connect(chance.choice(world.gateways).hub)
        await turn(3)
        await world.land(chance)
        world.check_log()
        for client in world.everybody:
            await client.read()
        problem = _problem(world)
        if problem is None and round:
            break
        if round > 40:
            await asyncio.sleep(0.01)
    assert problem is None, problem
    for client in world.everybody:
        client.verify(world.ledgers[client.project])


async def _let_hints_come(world: World, chance: random.Random) -> None:
    heals = chance.random() < 0.7
    for gateway in world.gateways:
        broker = gateway.broker
        if heals:
            broker.away(False)
            while broker.waiting:
                broker.deliver(chance.randrange(len(broker.waiting)))
                if chance.random() < 0.3:
                    await turn(1)
        else:
            broker.waiting.clear()  # the tail finds them all


def _problem(world: World) -> str | None:
    for client in world.everybody:
        found = client.problem(world.ledgers[client.project], world.known.committed)
        if found is not None:
            return found
    return None
