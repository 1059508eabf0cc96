"""Several things right after each other, which chance alone would rarely bring together."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from store.commands import Command, DeleteRun, SealBatch, Submission, UpdateRun
from store.lifecycle import FINAL, NEXT
from store.model import Run
from tests.oracle.actions.action import Actions, any_client
from tests.oracle.commands import TAGS
from tests.oracle.place import turn
from tests.oracle.wishes import wish

if TYPE_CHECKING:
    from tests.oracle.gateway import Gateway
    from tests.oracle.world import World

ACTIONS: Final = Actions()

PAD: Final = "x" * 1_500
"""Three of these are more than a small mailbox holds."""


async def _committed(world: World, command: Command, through: int) -> bool:
    """Whether it could be, through that gateway, without waiting for a slow transaction."""
    submission = Submission(project=command.project, commands=(command,), atomic=False)
    if not world.is_free(submission):
        return False
    await world.place.commit(through, submission)
    return True


def _tell(gateway: Gateway) -> None:
    while gateway.broker.waiting:
        gateway.broker.deliver(0)


@ACTIONS.add(2)
async def subscribe_over_pages(world: World, chance: random.Random) -> None:
    """A stream is asked for, and between the pages of its snapshot runs change and leave."""
    client = any_client(world, chance, connected=True)
    gateway = world.gateway_of(client)
    ask = wish(world, client, chance)
    if "read:runs" in client.scopes and chance.random() < 0.6:
        ask = {"type": "subscribeToRunsWithTag", "tags": [chance.choice(TAGS)], "match": "all"}
    if gateway is None or ask is None or len(client.live_streams) >= 4:
        return
    await client.subscribe(ask)
    await turn(3)
    for _ in range(chance.randint(1, 3)):
        await gateway.land(chance, "snapshot")
        await turn(3)
        runs = world.known.newest(client.project)
        if not runs:
            return
        await _change_and_leave(world, chance, gateway, chance.choice(runs))
    if chance.random() < 0.7:
        await world.land(chance)


async def _change_and_leave(
    world: World, chance: random.Random, gateway: Gateway, run: Run
) -> None:
    first = UpdateRun(project=run.project, run_id=run.id, metadata={"n": run.version})
    then: Command = world.commands.update(chance, run)
    if run.tags and chance.random() < 0.6:
        then = UpdateRun(project=run.project, run_id=run.id, remove_tags=run.tags)
    elif run.status in FINAL:
        then = DeleteRun(project=run.project, run_id=run.id)
    for command in (first, then):
        if not await _committed(world, command, world.gateways.index(gateway)):
            return
        _tell(gateway)
        await turn(1)


@ACTIONS.add(2)
async def complete_batch(world: World, chance: random.Random) -> None:
    """What is left of a batch is done, and somebody follows; not all of it is told by a hint."""
    client = any_client(world, chance, connected=True)
    batches = world.known.batches_of(client.project)
    if not batches:
        return
    id = chance.choice(batches)
    if len(client.live_streams) < 4 and "read:runs" in client.scopes:
        await client.subscribe({"type": "subscribeToBatch", "batchId": id})
        await turn(3)
        await world.land(chance)
    left: list[Command] = [
        UpdateRun(
            project=run.project,
            run_id=run.id,
            status=chance.choice(sorted(NEXT[run.status] & FINAL)),
        )
        for run in world.known.runs.values()
        if run.batch_id == id and run.status not in FINAL
    ]
    if id in world.known.open_batches(client.project):
        left.append(SealBatch(project=client.project, batch_id=id))
    chance.shuffle(left)
    for command in left:
        if not await _committed(world, command, chance.randrange(2)):
            return
        for gateway in world.gateways:
            if chance.random() < 0.5:
                gateway.broker.waiting.clear()
            else:
                _tell(gateway)
        await turn(1)
    if chance.random() < 0.7:
        await world.land(chance)


@ACTIONS.add(2)
async def overwhelm(world: World, chance: random.Random) -> None:
    """A client with several streams is owed more than it may be while it reads nothing."""
    client = any_client(world, chance, connected=True)
    gateway = world.gateway_of(client)
    runs = world.known.newest(client.project)
    if gateway is None or not runs:
        return
    if len(client.live_streams) < 3 and "read:runs" in client.scopes:
        for skip in ([], ["tags"]):
            await client.subscribe({"type": "subscribeToRuns", "skip": skip})
        await turn(3)
        await world.land(chance)
        await client.read_on()
    if client.connection is None:
        return
    client.lags, client.outlet.writable = True, False
    run = chance.choice(runs)
    for each in range(chance.randint(2, 4)):
        update = UpdateRun(
            project=run.project, run_id=run.id, metadata={"n": each, "pad": f"{each}{PAD}"}
        )
        if not await _committed(world, update, chance.randrange(2)):
            break
        _tell(gateway)
        await turn(1)
    if chance.random() < 0.7:
        await client.read_on()
