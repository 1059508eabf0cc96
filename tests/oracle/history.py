"""Histories: what a seed makes happen, and how that is played."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from typing import Final

from tests.oracle.actions import ACTIONS
from tests.oracle.place import Place
from tests.oracle.world import Step, World

OFTEN: Final = 8.0
"""How many times as often as else something happens of which there is to be more."""


def plan(seed: int, steps: int, often: Collection[str] = ()) -> Iterator[Step]:
    """What the seed makes happen, settling now and then; more of some things, if that is asked."""
    chance = random.Random(seed)
    names = list(ACTIONS)
    weights = [float(ACTIONS[name][0]) for name in names]
    # Each history leaves some things out and has more of others.
    weights = [weight * chance.choice([0.0, 0.5, 1.0, 1.0, 2.0]) for weight in weights]
    for name in ("write", "subscribe", "connect", "begin_read", "end_read"):
        weights[names.index(name)] = float(ACTIONS[name][0])
    for name in often:
        weights[names.index(name)] = ACTIONS[name][0] * OFTEN
    for step in range(steps):
        if step % 100 == 99:
            yield "settle", chance.randrange(2**16)
        else:
            yield chance.choices(names, weights)[0], chance.randrange(2**16)
    yield "settle", 0


def play(place: Place, seed: int, history: Iterator[Step]) -> World:
    """Plays a history from its beginning; raises what was found, with `history` so far noted."""
    world = World(place, seed)
    try:
        for name, number in history:
            if name == "settle":
                world.settle(number)
            else:
                world.do(name, number)
    except BaseException as error:
        error.add_note(f"{place.set_up.name}, seed {seed}, step {len(world.history)}")
        raise
    finally:
        world.close()
    return world


def kept_in(error: BaseException) -> str:
    """The history that led to a finding, as it is kept in `seeds/`."""
    return next(note for note in error.__notes__ if note.startswith('{"setUp"'))
