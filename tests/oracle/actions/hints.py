"""Hints come to a gateway in any way that there is, or not at all."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from tests.oracle.actions.action import Actions, any_gateway
from tests.oracle.place import turn

if TYPE_CHECKING:
    from tests.oracle.world import World

ACTIONS: Final = Actions()


@ACTIONS.add(10)
async def deliver(world: World, chance: random.Random) -> None:
    """Some hints arrive: late, doubled, out of order, with their ids only, or not at all."""
    broker = any_gateway(world, chance).broker
    for _ in range(chance.choice([1, 1, 2, 5])):
        if not broker.waiting:
            return
        index = 0 if chance.random() < 0.6 else chance.randrange(len(broker.waiting))
        if chance.random() < 0.1:
            del broker.waiting[index]
            continue
        broker.deliver(index, keep=chance.random() < 0.1, slim=chance.random() < 0.1)
        if chance.random() < 0.5:
            await turn(1)


@ACTIONS.add(2)
async def lose(world: World, chance: random.Random) -> None:
    """All that is on the way to one gateway is lost."""
    any_gateway(world, chance).broker.waiting.clear()


@ACTIONS.add(1)
async def break_broker(world: World, chance: random.Random) -> None:
    """The broker goes away, or comes back."""
    broker = any_gateway(world, chance).broker
    broker.away(not broker.is_away)
