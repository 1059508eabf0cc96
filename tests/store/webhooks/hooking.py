"""A store's webhooks at work, and what has become of their deliveries."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from store import RunStore
from store.tables.webhooks import deliveries as delivery_rows
from store.webhooks import AddressPolicy, Delivery, Endpoint, NewEndpoint, Webhooks
from store.webhooks.values import State
from tests.receiving import Receiver

LOCAL = AddressPolicy(loopback=True)


@asynccontextmanager
async def at_work(store: RunStore, **how: Any) -> AsyncIterator[Webhooks]:
    hooks = Webhooks(store.database, how.pop("policy", LOCAL), look_every_s=0.1, **how)
    store.webhooks = hooks
    working = asyncio.create_task(hooks.run())
    try:
        yield hooks
    finally:
        working.cancel()
        await asyncio.wait([working])


async def an_endpoint(
    hooks: Webhooks, receiver: Receiver, *events: str, path: str = "/", **more: Any
) -> Endpoint:
    return await hooks.create(
        "default", NewEndpoint(url=receiver.url(path), events=events or ("*",), **more)
    )


async def sent(hooks: Webhooks, endpoint: Endpoint) -> Sequence[Delivery]:
    """All deliveries of the endpoint, the oldest first."""
    return (await hooks.list_deliveries("default", endpoint.id, 1_000, None))[0][::-1]


async def is_tried(hooks: Webhooks, endpoint: Endpoint, times: int = 1) -> bool:
    return any(len(one.attempts) >= times for one in await sent(hooks, endpoint))


async def are_over(hooks: Webhooks, endpoint: Endpoint, count: int) -> bool:
    found = await sent(hooks, endpoint)
    return sum(one.state is State.DELIVERED for one in found) >= count


def make_due(connection: Connection, endpoint_id: str) -> None:
    """As if the waits were over."""
    connection.execute(
        sa.update(delivery_rows)
        .where(delivery_rows.c.webhook_id == endpoint_id, delivery_rows.c.next_at.is_not(None))
        .where(delivery_rows.c.claim.is_(None))
        .values(next_at=delivery_rows.c.created_at)
    )
