"""What can happen in a world, and how often."""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.oracle.client import Client
    from tests.oracle.gateway import Gateway
    from tests.oracle.world import World

Action = Callable[["World", random.Random], Coroutine[Any, Any, None]]


class Actions(dict[str, tuple[int, Action]]):
    """Actions by their names, each with how often it happens."""

    def add(self, weight: int) -> Callable[[Action], Action]:
        """Another one."""

        def known(do: Action) -> Action:
            self[do.__name__] = (weight, do)
            return do

        return known


def any_gateway(world: World, chance: random.Random) -> Gateway:
    """One of them."""
    return chance.choice(world.gateways)


def any_client(world: World, chance: random.Random, *, connected: bool | None = None) -> Client:
    """Any of them; one of those that are connected, or are not, if there is one."""
    some = [each for each in world.clients if (each.connection is not None) is connected]
    return chance.choice(some or world.clients)
