"""Clients ask for streams, and have seen enough of them."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from tests.oracle.actions.action import Actions, any_client, any_gateway
from tests.oracle.place import turn
from tests.oracle.stream import Stream
from tests.oracle.wishes import wish

if TYPE_CHECKING:
    from tests.oracle.world import World

ACTIONS: Final = Actions()


@ACTIONS.add(10)
async def subscribe(world: World, chance: random.Random) -> None:
    """A new stream, of any kind."""
    client = any_client(world, chance)
    if len(client.live_streams) >= 4:
        return
    ask = wish(world, client, chance)
    if ask is not None:
        await client.subscribe(ask)


@ACTIONS.add(5)
async def subscribe_alike(world: World, chance: random.Random) -> None:
    """Clients ask for the same, by the same id and for nothing else: they are told together."""
    gateway = any_gateway(world, chance)
    ask = wish(world, world.alike[0], chance)
    there: list[Stream] = [stream for client in world.alike for stream in client.live_streams]
    id = max(client.next_id for client in world.alike)
    if there and chance.random() < 0.8:
        ask, id = there[0].ask, there[0].id
    if not there and chance.random() < 0.6:
        ask = {"type": "subscribeToRuns", "skip": chance.choice([[], ["payload"]])}
    if ask is None:
        return
    ask = ask | {"delivery": "every"}
    for client in world.alike:
        if client.connection is None:
            await client.connect(gateway.hub)
        if not client.live_streams and client.next_id <= id:
            await client.subscribe(ask, id)
    if chance.random() < 0.6:
        # Nobody is told together with others until a statement of the tail has passed.
        for _ in range(3):
            gateway.hub.suspect(world.projects[0], "test")
            await turn(3)
            await world.land(chance)


@ACTIONS.add(5)
async def trouble_alike(world: World, chance: random.Random) -> None:
    """One of those that are told together goes its own way."""
    client = chance.choice(world.alike)
    streams = client.live_streams
    if client.connection is None:
        if streams:
            await client.connect(any_gateway(world, chance).hub)
        return
    what = [
        "cut",
        "stall",
        "stall",
        "read",
        "read",
        "read",
        "leave",
        "more",
        "less",
        "less",
        "ping",
    ]
    match chance.choice(what):
        case "cut":
            await client.cut(leave=chance.randint(0, client.unread))
        case "stall":
            client.lags = True
            client.outlet.writable = chance.random() < 0.3
        case "read":
            await client.read_on()
        case "leave" if streams:
            await client.unsubscribe(chance.choice(streams))
        case "less" if len(streams) > 1:
            await client.unsubscribe(streams[-1])
        case "more" if len(streams) == 1:
            ask = wish(world, client, chance)
            if ask is not None:
                await client.subscribe(ask)
        case "ping":
            await client.ping()


@ACTIONS.add(1)
async def unsubscribe(world: World, chance: random.Random) -> None:
    """A client has seen enough of one stream."""
    client = any_client(world, chance)
    streams = client.live_streams
    if streams and client.connection is not None:
        await client.unsubscribe(chance.choice(streams))
