"""Clients connect, read, stall and are lost."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from tests.oracle.actions.action import Actions, any_client, any_gateway
from tests.oracle.actions.subscriptions import subscribe
from tests.oracle.actions.writers import write
from tests.oracle.place import turn

if TYPE_CHECKING:
    from tests.oracle.world import World

ACTIONS: Final = Actions()


@ACTIONS.add(5)
async def connect(world: World, chance: random.Random) -> None:
    """A client connects to any gateway, and goes on from its cursors."""
    client = any_client(world, chance, connected=False)
    if client.connection is None:
        await client.connect(any_gateway(world, chance).hub)


@ACTIONS.add(3)
async def cut(world: World, chance: random.Random) -> None:
    """A connection is lost, with what was on the way."""
    client = any_client(world, chance, connected=True)
    leave = chance.choice([0, 1, 5])
    if chance.random() < 0.6 and client.connection is not None:
        # Some of what it was owed all the while comes through, and no more.
        client.outlet.writable = True
        client.connection.writable()
        leave = chance.randint(0, client.unread)
    await client.cut(leave=leave)


@ACTIONS.add(2)
async def connect_amid(world: World, chance: random.Random) -> None:
    """A client goes on from its cursors, or asks for more, while hints arrive turn by turn."""
    gateway = any_gateway(world, chance)
    client = any_client(world, chance, connected=False)
    if client.connection is None:
        await client.connect(gateway.hub)
    else:
        await subscribe(world, chance)
    for _ in range(chance.randint(1, 6)):
        if gateway.broker.waiting:
            gateway.broker.deliver(0)
        await turn(1)


@ACTIONS.add(2)
async def lose_while_owed(world: World, chance: random.Random) -> None:
    """A client reads nothing for a while, and is lost in the midst of what it is owed."""
    client = any_client(world, chance, connected=True)
    gateway = world.gateway_of(client)
    if client.connection is None or gateway is None:
        return
    client.lags, client.outlet.writable = True, False
    for _ in range(chance.randint(2, 4)):
        await write(world, chance)
        while gateway.broker.waiting:
            gateway.broker.deliver(0)
        if chance.random() < 0.7:
            gateway.hub.suspect(None, "test")
            await turn(3)
            await world.land(chance)
    client.outlet.writable = True
    client.connection.writable()
    await client.cut(leave=chance.randint(0, client.unread))
    client.lags = False


@ACTIONS.add(3)
async def stall(world: World, chance: random.Random) -> None:
    """A client reads nothing any more: its socket's buffers are full."""
    client = any_client(world, chance, connected=True)
    client.lags = True
    client.outlet.writable = chance.random() < 0.3


@ACTIONS.add(5)
async def read_on(world: World, chance: random.Random) -> None:
    """It reads again: all there is, or some lines of it."""
    client = any_client(world, chance)
    if chance.random() < 0.7:
        await client.read_on()
    else:
        await client.read(most=chance.randint(1, 4))
