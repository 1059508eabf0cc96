"""`python -m tests.soak --minutes 10 --seed 1`: real servers, a steady load, a fault every few seconds.

Two gateways, PostgreSQL, Redis, 500 changes a second, 200 subscriptions of every kind. Nothing may
be missing, out of order or wrongly ended; who was not touched is never left without news for long
(each time that it took more than a second is told, with what went on then); the gateway that is
never killed must not grow, and neither gateway is left with a socket, file or task of its clients.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time

import click

from tests.soak.faults import Faults
from tests.soak.world import World


@click.command(help=__doc__)
@click.option("--minutes", default=10.0)
@click.option("--seed", default=0, help="0: another one each time.")
@click.option("--rate", default=500, help="Changes a second.")
@click.option("--every", "every_s", default=5.0, help="Seconds from one fault to the next.")
@click.option("--only", multiple=True, help="Only faults of that name; may be repeated.")
@click.option("--silence", "silence_s", default=1.5, help="The longest that is allowed, in s.")
def main(
    minutes: float, seed: int, rate: int, every_s: float, only: tuple[str, ...], silence_s: float
) -> None:
    seed = seed or random.randrange(1, 1_000_000)
    print(f"seed {seed}", flush=True)
    found = asyncio.run(soak(minutes, seed, rate, every_s, only, silence_s))
    for line in found:
        print(f"FOUND: {line}")
    sys.exit(1 if found else 0)


async def soak(
    minutes: float, seed: int, rate: int, every_s: float, only: tuple[str, ...], silence_s: float
) -> list[str]:
    """What was found; nothing, if all is well."""
    chance = random.Random(seed)
    async with World.made(chance, rate) as world:
        faults = Faults(world, chance, only)
        until = time.monotonic() + minutes * 60
        said = time.monotonic()
        while time.monotonic() < until:
            begun = time.monotonic()
            await faults.next()
            if time.monotonic() - said > 60:
                said = time.monotonic()
                print(world.line(), flush=True)
            await asyncio.sleep(max(0.0, every_s - (time.monotonic() - begun)))
        print(f"faults: {dict(faults.counts)}")
        return await world.verdict(silence_s)


if __name__ == "__main__":
    main()
