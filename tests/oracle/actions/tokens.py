"""Tokens are replaced and revoked under their streams."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from tests.oracle.actions.action import Actions, any_client
from tests.oracle.commands import TASKS

if TYPE_CHECKING:
    from tests.oracle.world import World

ACTIONS: Final = Actions()


@ACTIONS.add(1)
async def regrant(world: World, chance: random.Random) -> None:
    """A client hands in another token on its connection."""
    client = chance.choice(world.clients[3:])
    runs, batches = world.known.newest(client.project), world.known.batches_of(client.project)
    scope = f"read:tags:{chance.choice('ab')}"
    match chance.choice(["tags", "tags", "tasks", "runs", "batch"]):
        case "tasks":
            scope = f"read:tasks:{chance.choice(TASKS)}"
        case "runs" if runs:
            scope = f"read:runs:{chance.choice(runs).id}"
        case "batch" if batches:
            scope = f"read:batch:{chance.choice(batches)}"
    scopes = frozenset({scope}) | (client.scopes if chance.random() < 0.3 else frozenset())
    forced = client.forced
    if chance.random() < 0.3:
        forced = chance.choice([frozenset[str](), frozenset({"metadata"}), frozenset({"payload"})])
    if client.connection is not None:
        await client.authenticate(scopes, forced)
    else:
        client.scopes, client.forced = scopes, forced


@ACTIONS.add(1)
async def revoke(world: World, chance: random.Random) -> None:
    """A token is revoked under its streams."""
    client = any_client(world, chance)
    if client.connection is None or client.hub is None or chance.random() < 0.5:
        return
    grant = client.connection.session.grant
    client.hub.revoked(lambda each: each is not grant)
