"""Commands are committed, in transactions of every pace."""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING, Final

from sqlalchemy.engine import Connection

from store.writer.group import run_group
from tests.oracle.actions.action import Actions
from tests.oracle.commands import LIMITS
from tests.oracle.place import again
from tests.oracle.slow import RolledBack, Slow

if TYPE_CHECKING:
    from tests.oracle.world import World

ACTIONS: Final = Actions()


@ACTIONS.add(14)
async def write(world: World, chance: random.Random) -> None:
    """Some commands are committed, in one transaction or several."""
    submissions = [world.commands.submission(chance) for _ in range(chance.choice([1, 1, 1, 3]))]
    fit = [each for each in submissions if world.is_free(each)]
    gateway = chance.randrange(2)
    await world.place.commit(gateway, *fit, dies=chance.random() < 0.1)


@ACTIONS.add(2)
async def roll_back(world: World, chance: random.Random) -> None:
    """A transaction comes to nothing at its very end."""
    submission = world.commands.submission(chance)
    if not world.is_free(submission):
        return

    def work(connection: Connection) -> None:
        run_group(connection, [submission], LIMITS)
        raise RolledBack

    with contextlib.suppress(RolledBack):
        await again(lambda: world.place.aside.write(work))


@ACTIONS.add(4)
async def begin_slowly(world: World, chance: random.Random) -> None:
    """A transaction takes its id, and no more for now."""
    if not world.place.is_postgres or len(world.slow) >= 3:
        return
    submission = world.commands.submission(chance)
    early = chance.random() < 0.6
    if not early and not world.is_free(submission):
        return
    slow = Slow(world.place.aside, submission, early=early)
    world.slow.append(slow)
    await slow.is_waiting.wait()


@ACTIONS.add(6)
async def go_on_slowly(world: World, chance: random.Random) -> None:
    """It locks its rows, commits or is rolled back."""
    if not world.slow:
        return
    slow = chance.choice(world.slow)
    if not slow.holds_locks:
        if not world.is_free(slow.submission):
            return
    else:
        slow.rolls_back = chance.random() < 0.2
    await world.go_on(slow, dies=chance.random() < 0.4)


@ACTIONS.add(1)
async def fire_timers(world: World, chance: random.Random) -> None:
    """What is due becomes QUEUED."""
    if not world.held():
        await again(world.place.stores[0].timers.fire)
        await world.place.arrive()
