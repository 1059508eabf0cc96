"""A gateway reads: when that begins, when it has what it read, and what comes between."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from tests.oracle.actions.action import Actions, any_gateway

if TYPE_CHECKING:
    from tests.oracle.world import World

ACTIONS: Final = Actions()


@ACTIONS.add(8)
async def wake_tail(world: World, chance: random.Random) -> None:
    """It is time for the tail to read."""
    any_gateway(world, chance).hub.suspect(chance.choice([None, *world.projects]), "test")


@ACTIONS.add(16)
async def begin_read(world: World, chance: random.Random) -> None:
    """A read that waits is made; its result is had later."""
    waiting = [each for each in any_gateway(world, chance).gated.flights if not each.begin.is_set()]
    if waiting:
        flight = chance.choice(waiting)
        flight.begin.set()
        await flight.done.wait()


@ACTIONS.add(16)
async def end_read(world: World, chance: random.Random) -> None:
    """The result of a read is had."""
    done = [each for each in any_gateway(world, chance).gated.flights if each.done.is_set()]
    if done:
        chance.choice(done).end.set()


@ACTIONS.add(6)
async def land(world: World, chance: random.Random) -> None:
    """All reads that wait are made."""
    await world.land(chance)


@ACTIONS.add(1)
async def fail_read(world: World, chance: random.Random) -> None:
    """The database is away for one read."""
    if chance.random() < 0.5:
        return
    waiting = [each for each in any_gateway(world, chance).gated.flights if not each.begin.is_set()]
    if waiting:
        flight = chance.choice(waiting)
        flight.fails = True
        flight.begin.set()
