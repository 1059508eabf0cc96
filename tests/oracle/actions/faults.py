"""Database and Redis fail, are cut, copied and restored."""

from __future__ import annotations

import contextlib
import copy
import random
import sqlite3
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from store import Retention
from store.engine import Sqlite
from store.housekeeping import Housekeeping
from store.schema import new_epoch
from tests.faults import client_kill, terminate_backends
from tests.oracle.actions.action import Actions
from tests.oracle.gates import Sent
from tests.oracle.place import again

if TYPE_CHECKING:
    from tests.oracle.world import World

ACTIONS: Final = Actions()


@ACTIONS.add(1)
async def cut_off(world: World, chance: random.Random) -> None:
    """Database or Redis cut off whoever is connected, or Redis starts anew, or stops for a while."""
    postgres, valkey = world.place.set_up.postgres, world.place.set_up.valkey
    if chance.random() < 0.5:
        return
    if valkey is not None and (postgres is None or chance.random() < 0.5):
        match chance.choice(["clients", "restart", "freeze", "thaw", "thaw"]):
            case "clients":
                world.place.thaw()
                client_kill(valkey)
            case "restart":
                world.place.thaw()
                valkey.restart()
            case "freeze":
                valkey.freeze()
            case _:
                world.place.thaw()
    elif postgres is not None:
        for slow in world.slow:
            slow.is_cut_off = True
        terminate_backends(postgres, world.place.set_up.database)


@ACTIONS.add(1)
async def change_epoch(world: World, chance: random.Random) -> None:
    """Somebody has restored a backup and said so."""
    if chance.random() < 0.3:
        await again(lambda: new_epoch(world.place.aside))


@ACTIONS.add(1)
async def cut_log(world: World, chance: random.Random) -> None:
    """Retention takes all of the log, under whoever holds a cursor."""
    if world.slow or chance.random() < 0.5:
        return
    await world.refresh()
    store = world.place.stores[0]
    keep = Retention(changes=timedelta(days=-1 if world.place.is_postgres else 0))
    housekeeping = Housekeeping(store.database, store.execute, keep, detach_after_s=0.0)
    await again(housekeeping.keep)
    await again(housekeeping.prepare)


@ACTIONS.add(1)
async def back_up(world: World, chance: random.Random) -> None:
    """Somebody copies the database, to restore it some day."""
    database = world.place.aside
    if isinstance(database, Sqlite) and chance.random() < 0.5:
        if world.copy is not None:
            world.copy.close()
        world.copy = sqlite3.connect(":memory:")
        with contextlib.closing(sqlite3.connect(database.path)) as file:
            file.backup(world.copy)
        await world.refresh()
        world.copied = copy.deepcopy(world.ledgers)


@ACTIONS.add(1)
async def restore(world: World, chance: random.Random) -> None:
    """All servers stop, the copy takes the database's place, and they start: another history."""
    database = world.place.aside
    if not isinstance(database, Sqlite) or world.copy is None:
        return
    await world.refresh()
    # Also those that nothing is asked of any more: they may have been shown what is taken back.
    for client in [*world.clients, *world.alike]:
        await client.cut()
        client.verify(world.ledgers[client.project])
    for gateway in world.gateways:
        await gateway.kill()
    sent = set[Sent]().union(*(broker.sent for broker in world.place.brokers))
    for broker in world.place.brokers:
        broker.take_back(sent)
    with contextlib.closing(sqlite3.connect(database.path)) as file:
        world.copy.backup(file)
    if chance.random() < 0.4:
        await new_epoch(database)
    else:
        # Without a word about it: whoever has kept what they had with its cursor is told, but
        # what came after the cursor was nobody's to take back.
        for client in world.everybody:
            client.go_back(world.ledgers[client.project])
            # Of what the copy does not know there is nothing to be told, not even that.
            known = world.copied[client.project]
            client.streams = [
                each
                for each in client.streams
                if (each.target is None or each.target in known.states)
                and each.ask.get("batchId") in {None, *known.batch_ids}
            ]
    await world.begin_again()
    for gateway in world.gateways:
        gateway.begin()
