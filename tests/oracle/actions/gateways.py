"""Gateways end, and others begin in their place."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from tests.oracle.actions.action import Actions, any_gateway

if TYPE_CHECKING:
    from tests.oracle.world import World

ACTIONS: Final = Actions()


@ACTIONS.add(1)
async def kill_gateway(world: World, chance: random.Random) -> None:
    """A gateway dies, and another begins in its place."""
    if chance.random() < 0.5:
        return
    gateway = any_gateway(world, chance)
    for client in world.everybody:
        if client.hub is gateway.hub:
            await client.cut(leave=chance.choice([0, 0, 3]))
    await gateway.kill()
    gateway.begin()


@ACTIONS.add(1)
async def drain_gateway(world: World, chance: random.Random) -> None:
    """A gateway sends its clients away and ends, and another begins in its place."""
    if chance.random() < 0.5:
        return
    gateway = any_gateway(world, chance)
    await gateway.hub.drain(0.06)
    for client in world.everybody:
        if client.hub is gateway.hub:
            await client.cut()
    await gateway.kill()
    gateway.begin()
